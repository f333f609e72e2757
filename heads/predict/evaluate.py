"""Scores a head on labelled images: those of a feature file, or of a folder."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from onepass.extract import Backbone, check_running, is_source, rows_of_folder, rows_of_images
from onepass.features import CLASSES, FeatureFile, SkippedImage, only_feature_file
from onepass.features.errors import FileKindError, OptionError, TrainingError, opt
from onepass.features.names import shown
from onepass.features.splits import require_part_name
from onepass.features.tables import Record, command_line
from onepass.heads.evaluation import Answers, Classifier, Evaluation, match_labels, score
from onepass.heads.file_kinds import FileKind, classifier_file, file_kind
from onepass.heads.head_options import LEARNED
from onepass.heads.predict.classify import BackboneOptions, load_classifier
from onepass.heads.saved_head import SavedHead, load_head
from onepass.heads.tasks.label_evaluation import LabelsEvaluation
from onepass.heads.tasks.number_evaluation import NumberEvaluation
from onepass.heads.tasks.score import Score
from onepass.heads.tasks.task import TASKS, evaluate_rows, task_of

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class _Report(Score):
    """A score with the images that it is about.

    Attributes:
        head: The head file.
        target: The feature file or folder.
        skipped: Images that could not be read, with the reason.
    """

    head: str
    target: str
    skipped: list[SkippedImage] = field(default_factory=list)

    def __str__(self) -> str:
        confused = self.confusions()
        return "\n".join(
            [
                f"{shown(self.head)} on {shown(self.target)} ({self.measured_on}): {self.headline()}",
                self.details(),
                *(["", confused] if confused else []),
            ]
        )

    @property
    def next_command(self) -> str:
        """What to do next, as it is typed."""
        return command_line("onepass", "export", Path(self.head), "--to", "onnx")

    def record(self) -> Record:
        """The same as plain values, for JSON."""
        facts = super().record()
        del facts["head"], facts["target"]
        return facts


@dataclass(frozen=True, kw_only=True)
class EvaluationReport(_Report, Evaluation):
    """An evaluation of classes, with the images that it is about."""


@dataclass(frozen=True, kw_only=True)
class NumberReport(_Report, NumberEvaluation):
    """An evaluation of numbers, with the images that it is about."""


@dataclass(frozen=True, kw_only=True)
class LabelsReport(_Report, LabelsEvaluation):
    """An evaluation of several labels per image, with the images that it is about."""


_REPORTS: dict[type[Score], type[_Report]] = {
    Evaluation: EvaluationReport,
    LabelsEvaluation: LabelsReport,
    NumberEvaluation: NumberReport,
}


def _report(scored: Score, **facts: Any) -> Score:
    return _REPORTS[type(scored)](**{one.name: getattr(scored, one.name) for one in fields(scored)}, **facts)


class EvaluationOptions(BackboneOptions, total=False):
    """How images of a folder are turned into rows.

    Attributes:
        workers: Decoding threads; by default one per processor.
        progress: Called with (images done, images to do).
    """

    workers: int | None
    progress: Progress | None


def evaluate(
    head: str | Path | SavedHead | Classifier,
    target: str | Path | FeatureFile | None = None,
    *,
    split: str = "auto",
    rows: np.ndarray | None = None,
    trained: np.ndarray | None = None,
    **options: Unpack[EvaluationOptions],
) -> Score:
    """Scores a head on labelled images, with a 95 % interval, and without copies of training images.

    Args:
        head: Head file, model that `fine_tune` or `export` wrote, its certificate, what `load_head` returned, or any
            fitted classifier, which needs `rows`.
        target: Feature file, or folder or archive of class folders; by default the feature file in the current folder.
            A model runs on the image files that a feature file knows.
        split: train, val, test, all, unseen, or auto: what was held out.
        rows: (n,) positions of the images of a feature file to score, instead of a split.
        trained: (m,) positions of the images that a classifier was trained on, to look for copies of them.
        **options: See `EvaluationOptions`; they count for folders.

    Raises:
        TrainingError: There are no images to score, or they have a class that the head does not know.
        OptionError: An option is wrong.
        UserError: Head, feature file, folder or backbone cannot be used; the message says what to do.

    >>> from onepass import evaluate, train_head
    >>> trained = train_head("pets.mine.h5", out="pets.head")
    >>> evaluate("pets.head", "pets/", split="test").measured_on
    'test'
    """
    if rows is not None:
        return _on_rows(head, target, rows, trained)
    require_part_name(split)
    check_running(engine=options.get("engine"), workers=options.get("workers"), weights=options.get("weights"))
    if isinstance(head, str | Path):
        path, kind = classifier_file(head)
        if kind is not FileKind.HEAD:
            return _of_model(path, target, split, options)
        head = load_head(path)
    if not isinstance(head, SavedHead):
        raise OptionError(f"a {type(head).__name__} is scored on rows of a feature file; needed: {opt.rows}.")
    if isinstance(target, FeatureFile):
        return _on_file(head, target, split)
    on = _target(target)
    if _is_labelled(on):
        backbone = head.load_backbone(**_of_backbone(options))
        return _on_folder(head, backbone, on, split, options)
    with FeatureFile(on) as file:
        return _on_file(head, file, split)


def _of_backbone(options: EvaluationOptions) -> Any:
    return {name: value for name, value in options.items() if name in BackboneOptions.__annotations__}


def _is_labelled(target: Path) -> bool:
    """True for a folder, or what else holds images with labels and is no feature file."""
    return target.is_dir() or is_source(target)


def _target(target: str | Path | None) -> Path:
    """The feature file or folder to score on.

    Raises:
        FileKindError: It is another kind of file.
    """
    path = Path(target) if target is not None else only_feature_file()
    if _is_labelled(path):
        return path
    kind = file_kind(path)
    if kind in (FileKind.FEATURES, FileKind.FOLDER, FileKind.MISSING):
        return path  # whoever opens it says that it is missing
    raise FileKindError(
        f"{path} is {kind}; needed to score on: a feature file, or a folder of class folders.", path=path
    )


def _of_model(path: Path, target: Any, split: str, options: EvaluationOptions) -> Score:
    """A fine-tuned or exported model, from image files: of a folder, or those that a feature file knows."""
    if not isinstance(target, FeatureFile):
        on = _target(target)
        if not _is_labelled(on):
            with FeatureFile(on) as file:
                return _of_model(path, file, split, options)
        return _on_folder(*load_classifier(path, **_of_backbone(options)), on, split, options)
    model, backbone = load_classifier(path, **_of_backbone(options))
    _require_task(model, target)
    positions, part = target.rows_to_score(split, seen=model.seen)
    found, read = rows_of_images(
        target, positions, backbone, part=part, workers=options.get("workers"), progress=options.get("progress")
    )
    scored = _scored(model, target, read, Answers.of(model, [found.x], TASKS[model.task].named), part)
    return _report(scored, head=str(path), target=str(target.path), skipped=found.skipped)


def _on_rows(head: Any, target: Any, rows: np.ndarray, trained: np.ndarray | None) -> Score:
    if isinstance(target, FeatureFile):
        return evaluate_rows(
            load_head(head) if isinstance(head, str | Path) else head, target, rows=rows, trained=trained
        )
    with FeatureFile(target if target is not None else only_feature_file()) as file:
        return _on_rows(head, file, rows, trained)


def _on_file(head: SavedHead, file: FeatureFile, split: str) -> Score:
    _require_task(head, file)
    head.require_rows_of(file)
    file.require_complete()
    positions, part = file.rows_to_score(split, seen=head.seen)
    answers = Answers.of(head, file.pieces(positions), TASKS[head.task].named)
    return _report(_scored(head, file, positions, answers, part), head=str(head.path), target=str(file.path))


def _require_task(head: SavedHead, file: FeatureFile) -> None:
    """Refuses labels of another kind than the head gives."""
    task_of(file)
    if file.task != head.task:
        raise TrainingError(
            f"{head.path} gives {LEARNED[head.task]}, and the images of {file.path} have {LEARNED[file.task]}. Needed: "
            "a head trained on such a file.",
            task=head.task,
        )


def _scored(head: SavedHead, file: FeatureFile, positions: np.ndarray, answers: Answers, part: str) -> Score:
    """What a head said of images of a feature file, scored with and without copies of its training images."""
    task, copies = task_of(file), head.copies_in(file, positions)
    labels = task.matched(file.wanted(positions), file.class_names, head.class_names)
    weights = file.weights(positions)
    return task.score(answers, labels, head.class_names, measured_on=part, copies=copies, weights=weights)


def _on_folder(head: SavedHead, backbone: Backbone, folder: Path, split: str, options: EvaluationOptions) -> Score:
    if head.task != CLASSES:
        raise TrainingError(
            f"{head.path} gives {LEARNED[head.task]}, and the folders of {folder} name classes. Needed: a feature "
            "file of images with such labels."
        )
    found = rows_of_folder(
        folder,
        backbone,
        part=split,
        seen=head.seen,
        class_names=head.class_names,
        seed=int(head.trained_on.get("seed") or 0),
        workers=options.get("workers"),
        progress=options.get("progress"),
    )
    labels = match_labels(found.y, found.class_names, head.class_names)
    scored = score(Answers.of(head, [found.x]), labels, head.class_names, measured_on=found.part)
    return _report(scored, head=str(head.path), target=str(folder), skipped=found.skipped)
