"""Images in, classes with probabilities or numbers out: a few at once, or a stream of any length."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TypedDict, TypeVar, Unpack, overload

import numpy as np

from onepass.extract import (
    Backbone,
    ImageFile,
    SourceOptions,
    check_running,
    format_names,
    load_backbone,
    named_images,
    require_drawable,
)
from onepass.features import SkippedImage
from onepass.features.errors import OptionError, UnreadableImageError, opt
from onepass.features.progress import phase
from onepass.features.tables import Record, html_table
from onepass.heads.file_kinds import FileKind, classifier_file
from onepass.heads.finetune.model_file import as_head, logits_of, tuned_model
from onepass.heads.inference.out_of_distribution import require_alpha
from onepass.heads.predict.exported import (
    certificate_of,
    certified_head,
    exported_classifier,
    legacy_classifier,
)
from onepass.heads.predict.told import Told, teller
from onepass.heads.saved_head import SavedHead, load_head

Answer = Told | SkippedImage
"""What is said of an image, or why nothing is."""

Said = TypeVar("Said")


@dataclass(frozen=True)
class Predictions(Sequence[Told]):
    """Answers to some images, in their order; those that could not be read are left out.

    Attributes:
        answers: One for each image that could be read.
        skipped: The others, with the reason.
    """

    answers: list[Told]
    skipped: list[SkippedImage] = field(default_factory=list)

    @overload
    def __getitem__(self, place: int) -> Told: ...
    @overload
    def __getitem__(self, place: slice) -> list[Told]: ...
    def __getitem__(self, place: int | slice) -> Told | list[Told]:
        return self.answers[place]

    def __len__(self) -> int:
        return len(self.answers)

    def __str__(self) -> str:
        return "\n".join(map(str, self.answers))

    def _repr_html_(self) -> str:
        rows = [[answer.path, *answer.words().split("  ")] for answer in self]
        ranks = max((len(row) - 1 for row in rows), default=1)
        return html_table([["image", "answer", *map(str, range(2, ranks + 1))], *rows])

    def record(self) -> Record:
        """The same as plain values, for JSON."""
        return {
            "predictions": [answer.record() for answer in self],
            "skipped": [asdict(image) for image in self.skipped],
        }


class PredictionOptions(TypedDict, total=False):
    """How images are classified; what is left out has its default.

    Attributes:
        top: Classes to name per image, 3 by default; all of them if there are fewer.
        views: Views of each image that the probabilities are averaged over; 1, the plain image, by default.
        augment: Recipe of the other views; by default the one the head was trained on, else classic.
        unknown: Share of the images of each class that may be called unknown, between 0 and 1, promised for one
            view. By default every image belongs to one of the classes.
        workers: Decoding threads; by default one per processor.
    """

    top: int
    views: int
    augment: str | None
    unknown: float | None
    workers: int | None


class BackboneOptions(TypedDict, total=False):
    """How the backbone of a head is found and run.

    Attributes:
        weights: Where its weights or `.keras` file lie now, if not where they were.
        engine: openvino, tensorflow or auto.
        accept_drift: Warn, and go on, where this machine computes other rows than the head was trained on.
    """

    weights: str | None
    engine: str
    accept_drift: bool


class NamingOptions(TypedDict, total=False):
    """How images are found that a table names.

    Attributes:
        images_in: Where they lie; by default beside the table.
        path: Column that names them, or a pattern such as `{id}.jpg`; guessed where one column alone can be meant.
    """

    images_in: str | None
    path: str | None


class PredictOptions(PredictionOptions, BackboneOptions, NamingOptions, total=False):
    """What `predict` takes: how images are classified, how the backbone is found, and how tables name images."""


def predict(
    head: str | Path | SavedHead, images: str | Path | Iterable[str | Path], **options: Unpack[PredictOptions]
) -> Predictions:
    """Classifies images with a trained head or a fine-tuned model, which bring their backbone along.

    Args:
        head: Head file, model that `fine_tune` or `export` wrote, its certificate, or what `load_head` returned.
        images: Image files, folders of them, archives, and tables that name images or hold them.
        **options: See `PredictionOptions`, `BackboneOptions` and `NamingOptions`.

    Raises:
        UnreadableImageError: None of the images can be read.
        OptionError: An option is wrong, or the head cannot tell what is unknown.
        HeadFileError, TrainingError: It is no head and no model.
        BackboneError, WeightsError, SpecMismatchError, DriftError: The backbone cannot be had as it was.

    >>> from onepass import predict, train_head
    >>> trained = train_head("pets.mine.h5", out="pets.head")
    >>> print(predict("pets.head", ["new.png", "more/"]))
    new.png  cats ...  dogs ...
    more/0.png  dogs ...  cats ...
    """
    some = [images] if isinstance(images, str | Path) else images
    found = Predictions([])
    for answer in predict_stream(head, some, **options):
        if isinstance(answer, SkippedImage):
            found.skipped.append(answer)
        else:
            found.answers.append(answer)
    if found.skipped and not found.answers:
        raise UnreadableImageError(none_readable(found.skipped), skipped=found.skipped)
    return found


def none_readable(skipped: Sequence[SkippedImage]) -> str:
    """What to say where no image at all could be read."""
    one = f"{skipped[0].path}: {skipped[0].reason}" if skipped else "there are none"
    return f"no image could be read ({one}). Needed: {format_names('or')} files."


def predict_stream(
    head: str | Path | SavedHead, images: Iterable[str | Path], **options: Unpack[PredictOptions]
) -> Iterator[Answer]:
    """`predict` for any number of images: each answer comes while later images are still being read.

    Returns:
        An answer, or a `SkippedImage` with the reason, for each image in the order of the images.

    >>> from onepass import predict_stream, train_head
    >>> trained = train_head("pets.mine.h5", out="pets.head")
    >>> [str(answer.path) for answer in predict_stream("pets.head", ["new.png", "more/"])]
    ['new.png', 'more/0.png']
    """
    saved, backbone, settings = ready(head, options)
    return answers(saved, backbone, images_named(images, options), settings)


def images_named(images: Iterable[str | Path], options: PredictOptions) -> Iterator[ImageFile | SkippedImage]:
    """Every image that is named, as `predict` takes them."""
    return named_images(map(Path, images), images=options.get("images_in"), path=options.get("path"))


def ready(head: str | Path | SavedHead, options: PredictOptions) -> tuple[SavedHead, Backbone, "Settings"]:
    """The options of `predict`, checked, then the head with its backbone, which takes long; errors as `predict`."""
    given: Record = dict(options)
    naming = {name: given.pop(name, None) for name in NamingOptions.__annotations__}
    SourceOptions(path=naming["path"])  # refuses what cannot be a column
    of_backbone: Record = {name: given.pop(name) for name in BackboneOptions.__annotations__ if name in given}
    settings = Settings(**given)
    check_running(
        engine=of_backbone.get("engine"),
        workers=settings.workers,
        data=naming["images_in"],
        weights=of_backbone.get("weights"),
    )
    with phase("preparing the backbone"):
        return *load_classifier(head, **of_backbone), settings


def load_classifier(head: str | Path | SavedHead, **options: Unpack[BackboneOptions]) -> tuple[SavedHead, Backbone]:
    """A head with its backbone: a head file, a fine-tuned or exported model, or what certifies one.

    Raises:
        OptionError: Weights are given for a whole model.
        HeadFileError, TrainingError, CertificateError: It is no head and no model, or damaged.
        ExportError: The runtime of an exported model cannot load it.
        BackboneError, WeightsError, SpecMismatchError, DriftError: The backbone cannot be had as it was.
    """
    if isinstance(head, SavedHead):
        return head, head.load_backbone(**options)
    path, kind = classifier_file(head)
    if kind is FileKind.HEAD:
        saved = load_head(path)
        return saved, saved.load_backbone(**options)
    if options.get("weights"):
        raise OptionError(f"{opt.weights} does not go with a whole model, which brings its own weights.", head=head)
    if path.suffix == ".keras":
        backbone = load_backbone(**logits_of(path), engine=options.get("engine", "auto"))
        found = as_head(path, backbone)
        found.check_rows_of(backbone, accept_drift=options.get("accept_drift", False))
        return found, backbone
    if path.suffix == ".h5":
        return legacy_classifier(path)
    return exported_classifier(path)


def describe_classifier(head: str | Path | SavedHead) -> SavedHead:
    """What is known of a head or a whole model, without loading what computes; errors as `load_classifier`."""
    if isinstance(head, SavedHead):
        return head
    path, kind = classifier_file(head)
    if kind is FileKind.HEAD:
        return load_head(path)
    return tuned_model(path) if path.suffix in (".keras", ".h5") else certified_head(path, certificate_of(path))


def predict_images(
    head: SavedHead, backbone: Backbone, images: Iterable[Path], **options: Unpack[PredictionOptions]
) -> Iterator[Answer]:
    """`predict_stream` with head and backbone at hand, for files alone.

    Args:
        head: From `load_head`.
        backbone: Of the head's spec, such as `head.backbone`.
        images: Files.
        **options: See `PredictionOptions`.

    Raises:
        OptionError: An option is wrong, or the head cannot tell what is unknown.
        SpecMismatchError, DriftError: The backbone computes other rows than the head was trained on.
    """
    settings = Settings(**options)
    head.check_rows_of(backbone)
    return answers(head, backbone, images, settings)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`PredictionOptions` with their defaults, checked."""

    top: int = 3
    views: int = 1
    augment: str | None = None
    unknown: float | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.top < 1:
            raise OptionError(f"{opt.top} is {self.top}; needed: 1 or more.", top=self.top)
        if not 1 <= self.views <= 1000:
            raise OptionError(f"{opt.views} is {self.views}; needed: 1 to 1000.", views=self.views)
        if self.augment and self.views == 1:
            raise OptionError(
                f"{opt.augment} needs {opt.views}, how many views of each image to average, such as {opt.views(8)}.",
                augment=self.augment,
            )
        require_drawable(self.augment, fixed=True)
        if self.unknown is not None:
            require_alpha(self.unknown)


def answers(
    head: SavedHead, backbone: Backbone, images: Iterable[ImageFile | SkippedImage], settings: Settings
) -> Iterator[Answer]:
    """`predict_images` for checked settings and a checked backbone; what is skipped already stays in its place."""
    is_unknown = None if settings.unknown is None else head.unknown_at(settings.unknown)

    tell = teller(head, top=settings.top)

    def classify(path: ImageFile, rows: np.ndarray) -> Told:
        outputs = head.outputs(rows[None])
        unknown = None if is_unknown is None else bool(is_unknown(rows[:1], outputs)[0])
        return tell(str(path), outputs[0], unknown)

    views = range(settings.views)
    recipe = settings.augment or str(head.trained_on.get("augment") or "classic")
    augmentation = recipe if len(views) > 1 else None
    stream = partial(backbone.stream, workers=settings.workers, views=views, augmentation=augmentation)
    return in_order(images, stream, classify)


def in_order(
    images: Iterable[ImageFile | SkippedImage],
    stream: Callable[..., Iterator[tuple[int, np.ndarray]]],
    classify: Callable[[ImageFile, np.ndarray], Said],
) -> Iterator[Said | SkippedImage]:
    """What is said of each image in the order of the images, whatever order their rows come in."""
    ready: dict[int, Said | SkippedImage] = {}
    paths: dict[int, ImageFile] = {}

    def numbered() -> Iterator[tuple[int, ImageFile]]:
        for position, image in enumerate(images):
            if isinstance(image, SkippedImage):
                ready[position] = image
            else:
                paths[position] = image
                yield position, image

    def skip(position: int, reason: str) -> None:
        ready[position] = SkippedImage(str(paths.pop(position)), reason)

    following = 0
    for position, rows in stream(numbered(), on_skip=skip):
        ready[position] = classify(paths.pop(position), rows)
        while following in ready:
            yield ready.pop(following)
            following += 1
    yield from (ready[position] for position in sorted(ready))
