"""A model card, filled from what is known."""

from onepass.extract import FULL_DEPTH, depth_of
from onepass.features import CLASSES, LABELS, NUMBER
from onepass.heads.evaluation import Evaluation
from onepass.heads.export.certificate import Certificate
from onepass.heads.saved_head import SavedHead

_RULES = {
    "pixels": "whoever feeds the model does both.",
    "images": "resizing lies in the model; whoever feeds it decodes, turns by EXIF and lays alpha over white.",
    "bytes": "decoding and resizing lie in the model, which ignores EXIF orientation and drops alpha.",
}

_USE = (
    "Photos {of}taken like those it was trained on. Whether its errors are bearable in a use is to be judged from the "
    "scores below."
)

_LOADING = {
    "keras": 'keras.models.load_model("{name}", compile=False)(pixels)',
    "h5": 'keras.models.load_model("{name}", compile=False)(pixels)',
    "savedmodel": 'tf.saved_model.load("{name}").signatures["serving_default"]({takes})',
    "onnx": 'onnxruntime.InferenceSession("{name}").run(None, {{"images": images}})',
    "openvino": 'openvino.Core().compile_model("{name}", "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})(pixels)',
    "tflite": 'ai_edge_litert.interpreter.Interpreter("{name}")',
}


def model_card(head: SavedHead, certificate: Certificate, name: str) -> str:
    """Markdown with the usual sections.

    Args:
        head: What was exported.
        certificate: Of the export.
        name: Of the model's file or folder.

    Source of the sections: M. Mitchell et al. (2019), Model Cards for Model Reporting, FAT*.
    """
    sections = {
        "Model": _model(head, certificate),
        "Intended use": [_USE.format(of="of one of the classes above, " if head.task == CLASSES else "")],
        "Data": _data(head),
        "Scores": _scores(head),
        "Proof of this file": [
            f"Loaded again in its own runtime and run on {certificate}.",
            f"`onepass verify {name} {name}.certificate.json --data PHOTOS` repeats it.",
        ],
        "Limits": _limits(head, certificate),
        "How to load": [
            "```python",
            _LOADING[certificate.to].format(name=name, takes="files" if certificate.takes == "bytes" else "images"),
            "```",
        ],
    }
    lines = [
        f"# {name}",
        "",
        _purpose(head),
    ]
    for title, content in sections.items():
        lines += ["", f"## {title}", "", *content]
    return "\n".join(lines) + "\n"


_ANSWERS = {CLASSES: "one of the classes", LABELS: "a probability of each label", NUMBER: "a number"}


def _purpose(head: SavedHead) -> str:
    names = ", ".join(head.class_names)
    if head.task == NUMBER:
        return f"Gives a number for a photo: {names}."
    if head.task == LABELS:
        return (
            f"Gives the probability of each of {len(head.class_names)} labels for a photo, which may have several "
            f"or none: {names}. The table below says from which probability on each is named."
        )
    return f"Names one of {len(head.class_names)} classes for a photo: {names}."


def _model(head: SavedHead, certificate: Certificate) -> list[str]:
    settings = ", ".join(f"{name} {value}" for name, value in head.parameters.items() if value not in (None, [], {}))
    takes = f"{certificate.takes}, one image at a time" if certificate.one_by_one else certificate.takes
    gives = "numbers" if head.task == NUMBER else "probabilities"
    return [
        f"- Head: {head.kind}; {settings}",
        f"- Backbone: {head.spec}; weights {head.spec.weights_hash[:16]}…",
        f"- Licence of its weights: {head.spec.licence or 'unknown; ask where they come from'}",
        *([f"- Preprocessing: {head.spec.preprocess}"] if head.spec.preprocess else []),
        f"- Format: {certificate.to}, {certificate.precision}; takes {takes}, gives {gives}",
        f"- Written by onepass {certificate.versions['onepass']}",
    ]


def _data(head: SavedHead) -> list[str]:
    known = head.trained_on
    lines = [f"- Images: {known.get('data') or 'unknown'}"]
    if len(head.seen):
        lines.append(f"- Trained on {len(head.seen)} of them")
    drawn = f"drawn by content, seed {known.get('seed', 0)}" if known.get("drawn_split") else "by folders"
    return [*lines, f"- Split: {drawn}"]


def _scores(head: SavedHead) -> list[str]:
    scored = head.evaluation
    lines = [f"On {scored.n} images ({scored.measured_on}) that training did not see:", ""]
    if isinstance(scored, Evaluation):
        low, high = scored.interval
        lines.append(f"- Accuracy {scored.accuracy:.3f} (95 % interval {low:.3f} to {high:.3f})")
        if scored.log_loss is not None and scored.calibration_error is not None:
            lines.append(f"- Log loss {scored.log_loss:.3f}, expected calibration error {scored.calibration_error:.3f}")
    copies = scored.without_copies or "none were found among them, or nobody looked"
    lines.append(f"- Copies of training images: {copies}")
    if head.abstention:
        lines.append(f"- Unknown photos: {head.abstention}; `onepass predict` can abstain, this file cannot")
    if head.coverage:
        lines.append(f"- Intervals: {head.coverage}; `onepass predict` gives them, this file the number alone")
    if not isinstance(scored, Evaluation):
        heading, *rest = scored.rows()
        if head.thresholds is not None:
            heading = [*heading, "named from"]
            rest = [[*row, f"{start:.3f}"] for row, start in zip(rest, head.thresholds, strict=True)]
        table = [heading, ["---"] * len(heading), *rest]
        return [*lines, "", *("| " + " | ".join(map(_cell, row)) + " |" for row in table)]
    if scored.per_class:
        lines += ["", "| class | images | precision | recall | F1 |", "|---|---|---|---|---|"]
        lines += [
            f"| {_cell(label)} | {one.n} | {one.precision:.3f} | {one.recall:.3f} | {one.f1:.3f} |"
            for label, one in scored.per_class.items()
        ]
    return lines


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _limits(head: SavedHead, certificate: Certificate) -> list[str]:
    scored = head.evaluation
    per_class = scored.per_class if isinstance(scored, Evaluation) else {}
    fewest = min(per_class.items(), key=lambda pair: pair[1].n, default=None)
    rule = f"{certificate.decode}, {certificate.resize} to {certificate.image_size} px"
    lines = [
        f"- Every photo gets {_ANSWERS[head.task]}, whatever it shows.",
        "- The scores hold for photos like those of the test: of the same places, cameras and labellers.",
        f"- Files become pixels by the rule {rule}; {_RULES[certificate.takes]}",
    ]
    if (depth := depth_of(certificate.decode)) != FULL_DEPTH:
        lines.append(
            f"- Of 16-bit values the lower {depth} bits are in use: 0 to {2**depth - 1} become 0 to 255, and larger "
            "values 255. `onepass.extract.read_image` does it; elsewhere whoever feeds the model does."
        )
    if fewest and fewest[1].n < 30:
        lines.append(f"- The class {fewest[0]} was tested on {fewest[1].n} images only.")
    return lines
