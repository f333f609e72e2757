"""Images in, heat maps of a head's scores out: exact where the head is linear and rows are means, else by hiding."""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePath
from typing import Unpack

import numpy as np

from onepass.extract import (
    Backbone,
    ImageFile,
    MapGrid,
    check_choices,
    check_running,
    named_images,
    with_maps,
)
from onepass.features import SkippedImage
from onepass.features.atomic import folder_beside, move
from onepass.features.errors import BackboneError, OptionError, OutputError, UnreadableImageError, cannot_write, opt
from onepass.features.names import shown
from onepass.features.places import require_place
from onepass.features.progress import phase
from onepass.heads.predict.classify import (
    BackboneOptions,
    describe_classifier,
    in_order,
    load_classifier,
    none_readable,
)
from onepass.heads.predict.exported import WholeImages
from onepass.heads.saved_head import SavedHead
from onepass.heads.why.explanation import PICTURES, Explanation, Explanations, write_picture
from onepass.heads.why.linear_scores import LinearScores
from onepass.heads.why.occlusion import OccludingEngine, passes

METHODS = ("auto", "exact", "occlusion")
_MOST_PLACES = 32


def explain(
    head: str | Path | SavedHead,
    images: str | Path | Iterable[str | Path],
    *,
    out: str | Path | None = None,
    label_class: str | None = None,
    method: str = "auto",
    places: int = 7,
    picture: str = "png",
    data: str | Path | Sequence[str | Path] = (),
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
    **options: Unpack[BackboneOptions],
) -> Explanations:
    """Shows where in each image the score of a class comes from.

    A linear head (logreg, svm, ridge, lda, centroid, linear, text) on rows that are means over the positions of a
    feature map gives a score that is a sum over these positions: exact, without gradients, in the pass that gives the
    row. What is explained is the score that softmax or sigmoid takes, the temperature of the calibration included.
    All other heads, rows and models are explained by occlusion: a grey patch is slid over the image, and the heat of a
    place is how much the probability falls where it is hidden.

    Only the plain image is looked at, no further views.

    Args:
        head: Head file, model that `fine_tune` or `export` wrote, its certificate, or what `load_head` returned.
        images: Image files, folders of them and archives.
        out: Folder for a picture of each image, which must not be there yet. By default none is written.
        label_class: The class to explain; by default the one that is predicted for each image.
        method: exact, occlusion, or auto: exact where it can be.
        places: occlusion: places along each side; an image goes places ** 2 + 1 times through the network.
        picture: png or webp.
        data: Folders in which names are looked up that are not found from here, such as those of a feature file.
        workers: Decoding threads.
        progress: Called with (images done, images to do).
        say: Called before the work with what it will take, where that is more than one pass an image.
        **options: See `BackboneOptions`; the engine is openvino unless another one is named, which has no exact way.

    Raises:
        OptionError: An option is wrong, or the model takes whole image files.
        BackboneError: The exact way is asked for, and there is none for this head or these rows.
        UnreadableImageError: None of the images can be read.
        OutputError: The pictures cannot be written.
        UserError: As `predict`.

    >>> from onepass import explain, train_head
    >>> trained = train_head("pets.mine.h5", out="pets.head")
    >>> found = explain("pets.head", "new.png")[0]
    >>> found.method, found.heat.shape, bool(abs(found.heat.sum() + found.intercept - found.logit) < 1e-4)
    ('exact', (16, 16), True)
    """
    _require_options(method, places, picture)
    check_running(engine=options.get("engine"), workers=workers, weights=options.get("weights"), data=data)
    if out is not None:
        require_place(out, fresh=True)
    described = describe_classifier(head)
    label = None if label_class is None else _position(described, label_class)
    named = list(named_images(_looked_up([images] if isinstance(images, str | Path) else images, data)))
    _require_some(named)
    options.setdefault("engine", "openvino")
    with phase("preparing the backbone"):
        saved, backbone = load_classifier(head, **options)
        way = _way(saved, backbone, method, places)
    if say and way.passes > 1:
        total = way.passes * len(named)
        say(f"by occlusion, because {way.reason}: {way.passes} passes an image, {total} in all")
    done, skipped = list[Explanation](), list[SkippedImage]()
    stream, told = partial(way.backbone.stream, workers=workers), partial(_explained, saved, way, label)
    with _pictures(None if out is None else Path(out), picture) as write:
        for count, one in enumerate(in_order(named, stream, told), 1):
            if isinstance(one, SkippedImage):
                skipped.append(one)
            else:
                done.append(write(one))
            if progress:
                progress(count, len(named))
        if not done:
            raise UnreadableImageError(none_readable(skipped), skipped=skipped)
    return Explanations(done, way.name, way.reason, way.passes, skipped, None if out is None else Path(out))


@dataclass(frozen=True)
class _Way:
    """How images are explained.

    Attributes:
        name: exact or occlusion.
        backbone: What gives its engine's output for each image.
        passes: Through the network, for each image.
        reason: Why not exactly.
        scores, grid: exact: the head, and where in the output the map stands.
        places: occlusion: along each side.
    """

    name: str
    backbone: Backbone
    passes: int = 1
    reason: str = ""
    scores: LinearScores | None = None
    grid: MapGrid | None = None
    places: int = 0


def _way(head: SavedHead, backbone: Backbone, method: str, places: int) -> _Way:
    """The exact way where there is one and it is wanted, else the other.

    Raises:
        BackboneError: The exact way is asked for, and there is none.
        OptionError: The model takes no pixels.
    """
    if isinstance(backbone, WholeImages):
        raise OptionError(
            f"{head.path} takes whole images, of which no part can be hidden; explain the head file that it was "
            "exported from."
        )
    reason = "that was asked for"
    if method != "occlusion":
        scores = LinearScores.of(head.network)
        reason = f"{head.path} ({head.kind}) is not linear"
        try:
            if scores:
                mapped, grid = with_maps(backbone)
                return _Way("exact", mapped, scores=scores, grid=grid)
        except BackboneError as error:
            reason = str(error).rstrip(".")
        if method == "exact":
            raise BackboneError(f"there is no exact explanation: {reason}. Needed: {opt.method('occlusion')}, or auto.")

    def make() -> OccludingEngine:
        return OccludingEngine(backbone.engine, places)

    return _Way("occlusion", backbone.through(make), passes(places), reason, places=places)


def _explained(head: SavedHead, way: _Way, label: int | None, image: ImageFile, rows: np.ndarray) -> Explanation:
    """One image; `rows` is what the engine of the way gave for it, (1, ...)."""
    if way.scores and way.grid:
        row, cells = way.grid.apart(rows[0])
        outputs = head.outputs(row[None])[0]
        chosen = int(outputs.argmax()) if label is None else label
        heat, constant = way.scores.heat(row, cells, way.grid, chosen)
        intercept: float | None = float(way.scores.bias[chosen])
        logit = float(heat.sum() + constant + intercept)
    else:
        every = head.outputs(rows[0])
        outputs, constant, intercept = every[0], 0.0, None
        chosen = int(outputs.argmax()) if label is None else label
        heat = (outputs[chosen] - every[1:, chosen]).reshape(way.places, way.places)
        logit = float(head.network.scores(rows[0][:1])[0, chosen])
    return Explanation(
        path=str(image),
        class_name=head.class_names[chosen],
        output=float(outputs[chosen]),
        logit=logit,
        heat=heat,
        method=way.name,
        intercept=intercept,
        constant=constant,
        task=head.task,
        spec=head.spec,
        image=image,
    )


@contextlib.contextmanager
def _pictures(out: Path | None, ending: str) -> Iterator[Callable[[Explanation], Explanation]]:
    """What writes a picture of each explanation, under a name of its own; the folder is there once all are written.

    Raises:
        OutputError: They cannot be written.
    """
    if out is None:
        yield lambda one: one
        return
    taken: set[str] = set()
    try:
        with folder_beside(out) as beside:
            folder = beside / out.name
            folder.mkdir()

            def write(one: Explanation) -> Explanation:
                name = f"{_free_name(one.path, taken)}.{ending}"
                write_picture(one.overlay(), folder / name, out / name)
                return replace(one, picture=out / name)

            yield write
            move(folder, out)
    except OSError as error:
        raise OutputError(cannot_write(out, error, opt.out), path=out) from None


def _free_name(path: str, taken: set[str]) -> str:
    """The stem of an image's name, with a number behind it where another image has it."""
    stem = shown(PurePath(path).stem).replace("\\", "_")[:80] or "image"
    names = (f"{stem}-{number}" if number > 1 else stem for number in itertools.count(1))
    name = next(name for name in names if name.lower() not in taken)
    taken.add(name.lower())
    return name


def _require_options(method: str, places: int, picture: str) -> None:
    check_choices(method=(method, METHODS), picture=(picture, tuple(ending[1:] for ending in PICTURES)))
    if not 2 <= places <= _MOST_PLACES:
        raise OptionError(f"{opt.places} is {places}; needed: 2 to {_MOST_PLACES}.", places=places)


def _position(head: SavedHead, name: str) -> int:
    if name not in head.class_names:
        raise OptionError(
            f"{opt.label_class} is {name!r}; {head.path} knows {', '.join(head.class_names)}.", label_class=name
        )
    return head.class_names.index(name)


def _looked_up(images: Iterable[str | Path], data: str | Path | Sequence[str | Path]) -> Iterator[Path]:
    folders = [Path(data)] if isinstance(data, str | Path) else [Path(one) for one in data]
    for name in map(Path, images):
        places = [name, *(folder / name for folder in folders)]
        yield next((place for place in places if place.exists()), name)


def _require_some(named: Sequence[ImageFile | SkippedImage]) -> None:
    """Refuses images none of which is there, before a network is loaded."""
    missing = [
        one if isinstance(one, SkippedImage) else SkippedImage(str(one), "no such file or directory")
        for one in named
        if isinstance(one, SkippedImage) or (isinstance(one, Path) and not one.exists())
    ]
    if len(missing) == len(named):
        raise UnreadableImageError(none_readable(missing), skipped=missing)
