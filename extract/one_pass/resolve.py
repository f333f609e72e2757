"""What a pass has to do: the user's options and the file that is there already become one value."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from onepass.extract.backbones.backbone import BATCH_SIZE, Backbone
from onepass.extract.backbones.catalogue import BackboneName
from onepass.extract.backbones.quantisation import calibrated
from onepass.extract.data.groups import GroupRule, Groups
from onepass.extract.data.source import Scan, Source, scan_source
from onepass.extract.pixels.decode import require_views
from onepass.extract.pixels.views import Augmentation, view_recipe
from onepass.features import FeatureFile, Spec
from onepass.features.errors import FeatureFileError, OptionError, opt
from onepass.features.layout import ROW_DTYPES, keeps_precision
from onepass.features.places import require_place
from onepass.features.progress import log, phase
from onepass.features.spec import require_equal_specs

DEFAULT_AUGMENT = "classic"


class PassSettings(TypedDict, total=False):
    """Settings of `PassOptions`, which has their meaning and their defaults."""

    out: str | Path | None
    seed: int | None
    views: int | None
    augment: str | None
    groups: Groups | None
    group_pattern: str | None
    row_dtype: str | None
    base: Sequence[str | Path]
    rehash: bool
    accept_drift: bool
    batch_size: int
    workers: int | None


@dataclass(frozen=True, kw_only=True)
class PassOptions:
    """Settings of the pass itself.

    Attributes:
        out: The feature file; by default `<data>.<backbone>.h5` in the current folder.
        seed: Seed of the split that is drawn where the folder has none; by default the file's, else 0.
        views: Views per image, the plain one included; by default those that the file has, else 1.
        augment: Recipe of the other views, see `Augmentation.parse`.
        groups: Which images must stay on one side of a split, such as those of a patient: a CSV file with the
            columns path and group, or a mapping of paths to groups. Paths are those of the table, or names of
            files that occur once; every image must be named, and an empty group makes it a group of its own. By
            default images keep the groups that the file has.
        group_pattern: Instead, a regular expression that is searched in the path; what its first parentheses
            match is the group.
        row_dtype: What rows are stored as, float32 or float16 (half the disk); by default as in the file, else
            float32. From float32 to float16 rows are rounded, the other way they are computed anew.
        base: Feature files of the same spec whose rows are reused by content.
        rehash: Read every image to see whether it changed, whatever its size and time say, and try
            those again that could not be decoded.
        accept_drift: Continue although this machine computes other rows than the file's; it is recorded.
        batch_size: Rows committed together.
        workers: Decoding threads; by default one per processor.

    Raises:
        OptionError: A value is out of range, or does not go with another one.
    """

    out: str | Path | None = None
    seed: int | None = None
    views: int | None = None
    augment: str | None = None
    groups: Groups | None = None
    group_pattern: str | None = None
    row_dtype: str | None = None
    base: Sequence[str | Path] = ()
    rehash: bool = False
    accept_drift: bool = False
    batch_size: int = BATCH_SIZE
    workers: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{getattr(opt, name)} is {value}; needed: at least 1.", **{name: value})
        if self.views is not None and not 1 <= self.views <= 1000:
            raise OptionError(f"{opt.views} is {self.views}; needed: 1 to 1000.", views=self.views)
        if self.row_dtype not in (None, *ROW_DTYPES):
            raise OptionError(
                f"{opt.row_dtype} is {self.row_dtype!r}; needed: {' or '.join(ROW_DTYPES)}.", row_dtype=self.row_dtype
            )
        if self.augment:
            Augmentation.parse(self.augment)


@dataclass(frozen=True)
class ViewAxis:
    """The views of a feature file.

    Attributes:
        count: Views per image, the plain one included.
        augmentation: What the others are drawn from; None if there are no others.
    """

    count: int = 1
    augmentation: Augmentation | None = None

    @property
    def recipe(self) -> str:
        """How a spec names it."""
        return view_recipe(self.augmentation) if self.augmentation else "plain"


@dataclass(frozen=True, eq=False)
class Job:
    """What a pass has to do; its feature files are open as long as `resolve` is.

    Attributes:
        path: Where the feature file goes.
        backbone: What computes the rows; calibrated, if it is int8.
        scan: The images.
        axis: The views wanted.
        row_dtype: float32 or float16, what rows are stored as.
        groups: What gives the images their groups; None if they keep those that the file has.
        options: As the user gave them.
        old: The feature file that is at `path` already.
        bases: Feature files whose rows are reused.
    """

    path: Path
    backbone: Backbone
    scan: Scan
    axis: ViewAxis
    row_dtype: str
    groups: GroupRule | None
    options: PassOptions
    old: FeatureFile | None
    bases: tuple[FeatureFile, ...]

    @property
    def sources(self) -> tuple[FeatureFile, ...]:
        """The files that rows can be taken from."""
        return ((self.old,) if self.old else ()) + self.bases

    def held_views(self, source: FeatureFile) -> dict[bytes, int]:
        """How many of the wanted views of each of its contents a feature file has, precise enough for this one."""
        if not keeps_precision(source.row_dtype, self.row_dtype):
            return {}
        usable = self.axis.count if source.spec.views == self.axis.recipe else 1
        counts = source.flags[:, :usable].sum(axis=1).tolist()
        held: dict[bytes, int] = {}
        for content, count in zip(source.table.content_hashes, counts, strict=True):
            held[content.tobytes()] = max(count, held.get(content.tobytes(), 0))
        return held

    def missing_views(self, sources: Sequence[FeatureFile]) -> dict[bytes, int]:
        """How many views of each content in the image folders none of these files has."""
        held = [self.held_views(source) for source in sources]
        given_up = set() if self.options.rehash else {content for source in sources for content in source.given_up()}
        contents = {content.tobytes() for content in self.scan.table.content_hashes} - {bytes(32)} - given_up
        missing = {one: self.axis.count - max((have.get(one, 0) for have in held), default=0) for one in contents}
        return {content: count for content, count in missing.items() if count}

    def dropped(self) -> int:
        """Contents that the file has rows of and that are no longer in the image folders."""
        return len(_dropped_contents(self.old, self.scan)) if self.old else 0


def output_path(source: Source, backbone: str, out: str | Path | None, *, row_set: str = "") -> Path:
    """Where a feature file goes: `out`, or `<data>.<backbone>.h5` here; several folders' names are joined by +.

    Args:
        source: Of its images.
        backbone: How a spec calls it.
        out: As the user gave it.
        row_set: The pooling, if files of several are made: it goes before the ending.
    """
    if row_set:
        path = output_path(source, backbone, out)
        return path.with_name(f"{path.stem}.{row_set}{path.suffix}")
    if out:
        path = Path(out)
        return path.resolve() if path.is_symlink() else path  # or the link would be replaced, not the file
    return Path(f"{source.stem[:150]}.{backbone}.h5")


def row_sets(pooling: str | None) -> list[str]:
    """What the names of feature files say of their pooling: nothing, unless several are made."""
    return pooling.split(",") if pooling and "," in pooling else [""]


def require_possible(
    source: Source, backbone: str, options: PassOptions, resize: str, pooling: str | None = None
) -> None:
    """Refuses what needs neither a backbone nor an image to be refused.

    Args:
        source: Of the images.
        backbone: As for `load_backbone`.
        options: As the user gave them.
        resize: The resize rule.
        pooling: As the user gave it.

    Raises:
        OptionError: The options do not go with each other, or with the file that is there.
        OutputError: The feature file's folder may not be written.
        FeatureFileError: That file, or one to be reused, is missing or cannot be read.
    """
    _groups(None, options)
    for base in options.base:
        with FeatureFile(base):
            pass
    label = BackboneName.parse(backbone).label
    for path in [output_path(source, label, options.out, row_set=one) for one in row_sets(pooling)]:
        require_place(path)
        with FeatureFile(path) if path.exists() else contextlib.nullcontext() as old:
            require_views(resize, range(_views(old, options).count))


@contextlib.contextmanager
def resolve(
    source: Source, backbone: Backbone, options: PassOptions, *, row_set: str = "", found: Scan | None = None
) -> Iterator[Job]:
    """Works out what a pass has to do; nothing is written, and whatever can be refused is refused here.

    Args:
        source: Of the images.
        backbone: What computes the rows; an int8 one may still lack its calibration.
        options: As the user gave them.
        row_set: The pooling, if files of several are made.
        found: What to take of the source, if it was read already.

    Yields:
        The job.

    Raises:
        DataError: An image has no group.
        OptionError: The options do not go with the file that is there.
        SpecMismatchError: That file, or one to be reused, holds other rows.
        FeatureFileError: A file cannot be read, or holds rows of other images.
        BackboneError: NNCF is not installed, or the int8 graph of the file's rows is not to be had.
    """
    path = output_path(source, backbone.spec.backbone, options.out, row_set=row_set)
    with contextlib.ExitStack() as stack:
        bases = tuple(stack.enter_context(FeatureFile(base)) for base in options.base)
        old = stack.enter_context(FeatureFile(path)) if path.exists() else None
        axis = _views(old, options)
        rule = _groups(old, options)
        require_views(backbone.spec.resize, range(axis.count))
        _require_specs(old, bases, backbone.spec)
        with phase("reading the images' hashes"):
            images = found or _scan(source, old, options, rule)
        held = next(iter((*([old] if old else []), *bases)), None)
        ready = calibrated_for(backbone, images, held)
        _require_specs(old, bases, ready.spec)
        row_dtype = options.row_dtype or (old.row_dtype if old else "float32")
        log.info("rows of %s, %d views, stored as %s", ready.spec, axis.count, row_dtype)
        yield Job(path, ready, images, axis, row_dtype, rule, options, old, bases)


def _views(old: FeatureFile | None, options: PassOptions) -> ViewAxis:
    """The views that are asked for, given what the file holds already."""
    held = old.views if old else 1
    if old and held > 1 and options.views is not None and options.views < held:
        raise OptionError(
            f"{old.path} holds {held} views per image; none is dropped. Choose another {opt.out}.",
            views=options.views,
            held=held,
        )
    count = options.views or held
    if count == 1:
        if options.augment:
            raise OptionError(
                f"{opt.augment} needs {opt.views}, how many views each image shall have, such as {opt.views(8)}.",
                augment=options.augment,
            )
        return ViewAxis()
    text = options.augment or str((old.provenance.get("augment") if old else None) or DEFAULT_AUGMENT)
    axis = ViewAxis(count, Augmentation.parse(text))
    if old and held > 1 and old.spec.views != axis.recipe:
        raise OptionError(
            f"{old.path} holds views of the recipe {old.spec.views}; this command asks for {axis.recipe}. "
            f"Leave {opt.augment} out, or choose another {opt.out}.",
            augment=options.augment,
            held=old.spec.views,
        )
    return axis


def _groups(old: FeatureFile | None, options: PassOptions) -> GroupRule | None:
    """What gives the images their groups; None if they keep those that the file has."""
    pattern = options.group_pattern
    if old and options.groups is None and pattern is None:
        pattern = old.provenance.get("group_pattern")
    return GroupRule.of(options.groups, pattern)


def _scan(source: Source, old: FeatureFile | None, options: PassOptions, groups: GroupRule | None) -> Scan:
    """Scans a source with the help of what an old feature file knows."""
    drawn = bool(old and old.provenance.get("drawn_split"))
    drawn_with = int((old.provenance.get("seed") if old else None) or 0)
    seed = options.seed
    if old and drawn and seed not in (None, drawn_with):
        raise OptionError(
            f"the test split of {old.path} was drawn with seed {drawn_with}, and images keep their side; got {seed}. "
            f"Choose another file with {opt.out}; {opt.base} takes the rows over.",
            seed=seed,
        )
    # Elsewhere an image of the same name, size and time may still be another one.
    here = bool(old) and old.provenance.get("data") == source.record["data"]  # type: ignore[union-attr]
    images = scan_source(
        source,
        seed=drawn_with if seed is None else seed,
        known=old.table if old else None,
        known_drawn=drawn,
        rehash=options.rehash or not here,
        groups=groups,
        labelled=old.table if old and old.provenance.get("relabelled") else None,
    )
    if old and old.flags.any() and len(_dropped_contents(old, images)) == len(_held_contents(old)):
        raise FeatureFileError(
            f"{old.path} holds rows of {int(old.flags.any(axis=1).sum())} images from "
            f"{old.provenance.get('data')}, none of which is in {source.name}. "
            f"Choose another file with {opt.out}, or delete this one.",
            path=old.path,
        )
    return images


def _dropped_contents(old: FeatureFile, scan: Scan) -> set[bytes]:
    return _held_contents(old) - {content.tobytes() for content in scan.table.content_hashes}


def _held_contents(file: FeatureFile) -> set[bytes]:
    return {content.tobytes() for content in file.table.content_hashes[file.flags.any(axis=1)]}


def calibrated_for(backbone: Backbone, scan: Scan, like: FeatureFile | None) -> Backbone:
    """An int8 backbone calibrated on the training images, or as it was for the rows of a file; others as they are."""
    if backbone.spec.precision != "int8" or backbone.spec.calibration:
        return backbone
    calibration, name = (like.spec.calibration, str(like.path)) if like else ("", "")
    return calibrated(backbone, scan.images("train"), calibration=calibration, needed_by=name)


def _require_specs(old: FeatureFile | None, bases: Sequence[FeatureFile], spec: Spec) -> None:
    """Refuses rows of another spec, those at hand and those to be reused."""
    if old:
        _require_spec(old, spec, f"Repeat the settings of the file, or choose another file with {opt.out}.")
    for base in bases:
        _require_spec(base, spec, f"Repeat the settings of the file, or leave it out of {opt.base}.")


def _require_spec(file: FeatureFile, spec: Spec, remedy: str) -> None:
    if spec.precision == "int8" and not spec.calibration:
        spec = dataclasses.replace(spec, calibration=file.spec.calibration)
    require_equal_specs(file.spec, spec, left_name=str(file.path), right_name="this command", remedy=remedy)
