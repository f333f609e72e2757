"""Image files in, classes with probabilities out, through a backbone that is handed in."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from onepass.features import SkippedImage, Spec
from onepass.features.drift import Drift, measure_drift, require_no_drift
from onepass.features.errors import OptionError, opt
from onepass.features.spec import require_equal_specs
from onepass.heads.saved_head import SavedHead


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
        unknown: Whether it belongs to none of the classes, as far as can be told; None if that was not asked.
    """

    path: str
    top: list[tuple[str, float]]
    unknown: bool | None = None

    def record(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        best, probability = self.top[0]
        return {
            "path": self.path,
            "class": best,
            "probability": probability,
            "top": [{"class": name, "probability": value} for name, value in self.top],
            **({} if self.unknown is None else {"unknown": self.unknown}),
        }


Answer = Prediction | SkippedImage
"""A prediction, or why there is none."""


def predict_images(
    head: SavedHead,
    backbone: ImageBackbone,
    images: Iterable[Path],
    *,
    top: int = 3,
    views: int = 1,
    augment: str | None = None,
    unknown: float | None = None,
    accept_drift: bool = False,
    workers: int | None = None,
) -> Iterator[Answer]:
    """Classifies image files, as many as there are: answers come while later images are still to be named.

    Args:
        head: From `load_head`.
        backbone: Of the head's spec.
        images: Files.
        top: Classes to name per image; all of them if there are fewer.
        views: Views of each image that the probabilities are averaged over; 1 is the plain image.
        augment: Recipe of the other views; by default the one the head was trained on, else classic.
        unknown: Share of the images of each class that may be called unknown, between 0 and 1,
            promised for one view. By default every image belongs to one of the classes.
        accept_drift: Go on although this machine computes other rows than the head was trained on.
        workers: Decoding threads.

    Returns:
        One answer per image, in the order of the images.

    Raises:
        SpecMismatchError: The backbone computes other rows than the head was trained on.
        DriftError: So it does in spite of equal specs, and that is not accepted.
        OptionError: `top` or `views` is below 1, or the head cannot tell what is unknown.
    """
    if top < 1 or not 1 <= views <= 1000:
        raise OptionError(
            f"{opt.top} is {top}, {opt.views} is {views}; needed: at least 1 each, and at most 1000 views."
        )
    if augment and views == 1:
        raise OptionError(
            f"{opt.augment} needs {opt.views}, how many views of each image to average, such as {opt.views(8)}."
        )
    is_unknown = None if unknown is None else head.unknown_at(unknown)
    check_rows(head, backbone, accept_drift=accept_drift)
    recipe = augment or str(head.trained_on.get("augment") or "classic")

    def classify(path: Path, rows: np.ndarray) -> Prediction:
        probabilities = head.predict_proba(rows[None])[0]
        order = np.argsort(-probabilities, kind="stable")[:top]
        pairs = [(head.class_names[i], float(probabilities[i])) for i in order]
        strange = None if is_unknown is None else bool(is_unknown(rows[:1], probabilities[None])[0])
        return Prediction(str(path), pairs, strange)

    augmentation = recipe if views > 1 else None
    stream = partial(backbone.stream, workers=workers, views=range(views), augmentation=augmentation)
    return _in_order(images, stream, classify)


def _in_order(
    images: Iterable[Path],
    stream: Callable[..., Iterator[tuple[int, np.ndarray]]],
    classify: Callable[[Path, np.ndarray], Prediction],
) -> Iterator[Answer]:
    """An answer per image in the order of the images, whatever order their rows come in."""
    ready: dict[int, Answer] = {}
    paths: dict[int, Path] = {}

    def numbered() -> Iterator[tuple[int, Path]]:
        for position, path in enumerate(images):
            paths[position] = path
            yield position, path

    def skip(position: int, reason: str) -> None:
        ready[position] = SkippedImage(str(paths.pop(position)), reason)

    following = 0
    for position, rows in stream(numbered(), on_skip=skip):
        ready[position] = classify(paths.pop(position), rows)
        while following in ready:
            yield ready.pop(following)
            following += 1
    yield from (ready[position] for position in sorted(ready))


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
        remedy = f"Or go on with {opt.accept_drift}, if these labels will do, or extract and train anew."
        require_no_drift(drift, name=str(head.path), remedy=remedy)
    return drift
