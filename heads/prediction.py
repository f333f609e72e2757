"""Image files in, classes with probabilities out, through a backbone that is handed in."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from features import SkippedImage, Spec
from features.drift import Drift, measure_drift, require_no_drift
from features.errors import OptionError
from features.spec import require_equal_specs
from heads.file import SavedHead


class ImageBackbone(Protocol):
    """What prediction needs of a backbone; `extract.Backbone` is one."""

    spec: Spec

    @property
    def environment(self) -> dict[str, Any]: ...

    def golden_rows(self) -> np.ndarray: ...

    def stream(
        self,
        files: Iterable[tuple[Any, Path]],
        *,
        on_skip: Callable[[Any, str], None],
        workers: int | None = None,
        views: Sequence[int] = (0,),
        augmentation: str | None = None,
    ) -> Iterator[tuple[Any, np.ndarray]]: ...


@dataclass(frozen=True)
class Prediction:
    """One image's answer.

    Attributes:
        path: The image as it was named.
        top: (class, probability) pairs, the most probable first.
    """

    path: str
    top: list[tuple[str, float]]


@dataclass(frozen=True)
class Predictions:
    """Answers in the order the images were given.

    Attributes:
        predicted: One per image that could be read.
        skipped: The others.
        drift: How far golden rows computed here lie from the head's; None if there was no need to look.
    """

    predicted: list[Prediction]
    skipped: list[SkippedImage]
    drift: Drift | None = None


def predict_images(
    head: SavedHead,
    backbone: ImageBackbone,
    images: Sequence[Path],
    *,
    top: int = 3,
    views: int = 1,
    augment: str | None = None,
    accept_drift: bool = False,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Classifies image files.

    Args:
        head: From `load_head`.
        backbone: Of the head's spec.
        images: Files; unreadable ones end up in `skipped`.
        top: Classes to name per image; all of them if there are fewer.
        views: Views of each image that the probabilities are averaged over; 1 is the plain image.
        augment: Recipe of the other views; by default the one the head was trained on, else classic.
        accept_drift: Go on although this machine computes other rows than the head was trained on.
        workers: Decoding threads.
        progress: Called with (images done, images in all).

    Raises:
        SpecMismatchError: The backbone computes other rows than the head was trained on.
        DriftError: So it does in spite of equal specs, and that is not accepted.
        OptionError: `top` or `views` is below 1.
    """
    if top < 1 or not 1 <= views <= 1000:
        raise OptionError(f"--top is {top}, --views is {views}; needed: at least 1 each, and at most 1000 views.")
    if augment and views == 1:
        raise OptionError("--augment needs --views, how many views of each image to average, such as --views 8.")
    drift = check_rows(head, backbone, accept_drift=accept_drift)
    reasons: dict[int, str] = {}
    answers: dict[int, Prediction] = {}
    recipe = augment or str(head.trained_on.get("augment") or "classic")
    stream = backbone.stream(
        enumerate(images),
        on_skip=reasons.__setitem__,
        workers=workers,
        views=range(views),
        augmentation=recipe if views > 1 else None,
    )
    for position, rows in stream:
        probabilities = head.predict_proba(rows[None])[0]
        order = np.argsort(-probabilities, kind="stable")[:top]
        named = [(head.class_names[i], float(probabilities[i])) for i in order]
        answers[position] = Prediction(str(images[position]), named)
        if progress:
            progress(len(answers), len(images))
    return Predictions(
        [answers[i] for i in sorted(answers)],
        [SkippedImage(str(images[i]), reasons[i]) for i in sorted(reasons)],
        drift,
    )


def check_rows(head: SavedHead, backbone: ImageBackbone, *, accept_drift: bool = False) -> Drift | None:
    """Makes sure that a backbone computes the rows that a head was trained on.

    The golden rows are recomputed unless engine, processor and versions are those of the training.

    Returns:
        How far the golden rows lie; None if there was no need to look.

    Raises:
        SpecMismatchError: The specs differ.
        DriftError: The golden rows differ beyond the tolerance and that is not accepted.
    """
    require_equal_specs(
        backbone.spec,
        head.spec,
        left_name="the backbone",
        right_name=str(head.path),
        remedy="Use the backbone that the head was trained with.",
    )
    here = backbone.environment
    known = head.trained_on.get("environments")
    for environment in known if isinstance(known, list) else []:
        if isinstance(environment, dict) and {name: environment.get(name) for name in here} == here:
            return None
    drift = measure_drift(head.golden, backbone.golden_rows(), head.spec.precision, head=head)
    if not accept_drift:
        remedy = "Or go on with --accept-drift, if these labels will do, or extract and train anew."
        require_no_drift(drift, name=str(head.path), remedy=remedy)
    return drift


def as_records(predictions: Predictions) -> dict[str, Any]:
    """The plain form that goes into JSON."""
    return {
        "predictions": [
            {
                "path": p.path,
                "class": p.top[0][0],
                "probability": p.top[0][1],
                "top": [{"class": name, "probability": value} for name, value in p.top],
            }
            for p in predictions.predicted
        ],
        "skipped": [{"path": s.path, "reason": s.reason} for s in predictions.skipped],
        "drift": predictions.drift.record() if predictions.drift else None,
    }


def check_table_path(path: Path) -> None:
    """Refuses, before any work, a place that `write_table` would refuse.

    Raises:
        OptionError: The name ends in neither .csv nor .json, or the file exists.
    """
    if path.suffix.lower() not in (".csv", ".json"):
        raise OptionError(f"--out {path} ends in neither .csv nor .json; give it one of these endings.")
    if path.exists():
        raise OptionError(f"{path} exists and is not overwritten. Choose another name with --out, or delete it.")
    if not path.absolute().parent.is_dir():
        raise OptionError(f"the folder of --out {path} does not exist.")


def write_table(predictions: Predictions, path: Path) -> None:
    """Writes predictions as `.csv` (unreadable images with their reason in the last column) or `.json`."""
    check_table_path(path)
    try:
        if path.suffix.lower() == ".json":
            path.write_text(json.dumps(as_records(predictions), indent=1), encoding="utf-8")
            return
        ranks = max((len(p.top) for p in predictions.predicted), default=1)
        with open(path, "x", newline="", encoding="utf-8", errors="surrogateescape") as file:
            table = csv.writer(file)
            further = [f"{what}_{i}" for i in range(2, ranks + 1) for what in ("class", "probability")]
            table.writerow(["path", "class", "probability", *further, "skipped"])
            for p in predictions.predicted:
                table.writerow([p.path, *(cell for pair in p.top for cell in pair), ""])
            for s in predictions.skipped:
                table.writerow([s.path, *[""] * (2 * ranks), s.reason])
    except OSError as error:
        raise OptionError(f"cannot write {path}: {error.strerror}. Choose another place with --out.") from None
