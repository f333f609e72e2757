"""Which columns of a table mean what: as the user says it, or guessed where there is one candidate."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self, TypedDict

from onepass.extract.data.records import Records, texts
from onepass.features.errors import DataError, OptionError, Parameter, opt

_ENDINGS = (".jpg", ".jpeg", ".png", ".tif", ".webp")
"""That are tried behind names without one."""
_FIELD = r"{([^{}]+)}"
_LABELS = ("label", "class")
"""Names of a column that say, in small letters, what it is."""
_TRIED = 50
"""Rows that a guess is made by."""


class SourceSettings(TypedDict, total=False):
    """Settings of `SourceOptions`, which has their meaning."""

    images: str | None
    path: str | None
    label: str | None
    label_separator: str | None
    target: str | None
    split: str | None
    group: str | None
    weight: str | None
    unlabelled: bool
    every: str | None


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """What of a table means what.

    Attributes:
        images: Where the images lie that a table names; by default beside it.
        path: Column with the names of the images, or a pattern such as `{id}.jpg` or `{folder}/{name}`.
        label: Column with the class of each image; or several columns of 0 and 1 with commas between them, one per
            label.
        label_separator: What stands between the labels of an image that has several, such as a space.
        target: Column with a number per image, to be predicted.
        split: Column that says train, val or test; or `COLUMN=VALUE`, whose rows are the test part.
        group: Column with what must stay on one side of a split, such as a patient.
        weight: Column with how much an image counts.
        unlabelled: Whether the images have no labels, or none that count.
        every: Time between two frames of a video, such as `1s`, for folders of videos.
    """

    images: str | None = None
    path: str | None = None
    label: str | None = None
    label_separator: str | None = None
    target: str | None = None
    split: str | None = None
    group: str | None = None
    weight: str | None = None
    unlabelled: bool = False
    every: str | None = None

    def __post_init__(self) -> None:
        said = [name for name in ("label", "target", "unlabelled") if getattr(self, name)]
        if len(said) > 1:
            one, other = (getattr(opt, name) for name in said[:2])
            raise OptionError(f"{one} and {other} were both given; needed: one of them.")
        if self.label_separator is not None and not self.label_separator:
            raise OptionError(f"{opt.label_separator} is empty; needed: what stands between two labels.")
        for name in ("images", "path", "label", "target", "split", "group", "weight"):
            if getattr(self, name) == "":
                raise OptionError(f"{Parameter(name)} is empty; needed: a name.")
        if self.label_separator is not None and (self.target or self.unlabelled):
            raise OptionError(f"{opt.label_separator} was given without {opt.label}; needed: the column of the labels.")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """Those of some settings that have a value."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: settings[name] for name in names if settings.get(name) not in (None, False)})

    def fitting(self, columns: Collection[str]) -> Self:
        """Those that name columns of a table that has these; where its images lie is another matter."""

        def fits(name: str, value: Any) -> bool:
            if name == "path":
                return value in columns or ("{" in value and set(re.findall(_FIELD, value)) <= set(columns))
            if name == "label":
                return value in columns or {part.strip() for part in value.split(",")} <= set(columns)
            return name not in ("split", "target", "group", "weight") or value.partition("=")[0] in columns

        given = self.given()
        kept = {name: given[name] for name in given if name not in ("images", "unlabelled") and fits(name, given[name])}
        if "label" not in kept:
            kept.pop("label_separator", None)
        return type(self).of(kept)

    def given(self) -> dict[str, Any]:
        """Those that say something, as plain values."""
        return {name: value for name, value in asdict(self).items() if value not in (None, False)}


@dataclass(frozen=True)
class Meaning:
    """What the columns of a table mean, all said.

    Attributes:
        names: n names of images, as they stand in the table.
        path: What they were made of: a column or a pattern; empty if the table holds the images.
        label, target, split, group, weight: Columns; None if there is none.
        guessed: What was not said by the user, for a note.
    """

    names: list[str]
    path: str
    label: str | None
    target: str | None
    split: str | None
    group: str | None
    weight: str | None
    guessed: tuple[str, ...]


def meaning_of(records: Records, options: SourceOptions, there: Callable[[str], bool]) -> Meaning:
    """Finds out which column means what.

    Args:
        records: The table.
        options: As the user gave them.
        there: Whether an image of a name is there.

    Raises:
        DataError: A column is not there, or one has to be said and is not.
    """
    guessed: list[str] = []
    usual = options.path or records.usual.get("path")
    path = usual or ("" if records.images else _guessed_path(records, there))
    if not usual and path:
        guessed.append(f"{path} names the images")
    names = _names(records, path) if path else []
    split = options.split.partition("=")[0] if options.split else records.usual.get("split")
    used = {*_columns_in(records, path), *filter(None, (split, options.group, options.weight))}
    for name, column in (("split", split), ("group", options.group), ("weight", options.weight)):
        if column:
            _require_column(records, column, name)
    label, target = options.label, options.target
    if target:
        _require_column(records, target, "target")
    for column in (label or "").split(",") if label and label not in records.columns else ():
        _require_column(records, column.strip(), "label")
    if not (label or target or options.unlabelled):
        label = records.usual.get("label")
    if not (label or target or options.unlabelled):
        label = _guessed_label(records, used)
        guessed.append(f"{label} is their label")
    return Meaning(names, path, label, target, split, options.group, options.weight, tuple(guessed))


def _columns_in(records: Records, path: str) -> list[str]:
    return re.findall(_FIELD, path) if path not in records.columns and "{" in path else [path]


def _names(records: Records, path: str) -> list[str]:
    """Names of the images by a column or a pattern."""
    used = _columns_in(records, path)
    for column in used:
        _require_column(records, column, "path")
    if used == [path]:
        return texts(records.columns[path])
    parts = [texts(records.columns[column]) for column in used]
    pieces = re.split(_FIELD, path)[::2]
    return [
        "".join(piece + value for piece, value in zip(pieces, (*row, ""), strict=True))
        for row in zip(*parts, strict=True)
    ]


def _require_column(records: Records, column: str, option: str) -> None:
    if column not in records.columns:
        there = ", ".join(records.columns)
        raise DataError(
            f"{getattr(opt, option)} is {column}, and {records.path} has no such column; it has {there[:200]}."
        )


def _guessed_path(records: Records, there: Callable[[str], bool]) -> str:
    """The one column whose values, or these with an ending, name images that are there."""
    found = []
    for column, values in records.columns.items():
        some = [value for value in texts(values[:_TRIED]) if value]
        for ending in ("", *_ENDINGS):
            if some and sum(there(value + ending) for value in some) * 2 > len(some):
                found.append(f"{{{column}}}{ending}" if ending else column)
                break
    if len(found) == 1:
        return found[0]
    listed = ", ".join(records.columns)[:200]
    if found:
        raise DataError(
            f"{', '.join(found)} of {records.path} all name images that are there. Say by {opt.path} which is meant."
        )
    raise DataError(
        f"no column of {records.path} names images that are there; it has {listed}. Say with {opt.images} where the "
        f"images lie, and with {opt.path} which column names them from there on, such as {opt.path('{id}.jpg')}."
    )


def _guessed_label(records: Records, used: set[str]) -> str:
    free = [name for name in records.columns if name not in used and name and not name.endswith(".path")]
    plain = [name for name in free if name.casefold() in _LABELS]
    for found in (free, plain):
        if len(found) == 1:
            return found[0]
    which = f"one of {', '.join(free)[:200]}" if free else "but no column is left"
    raise DataError(
        f"nobody says what the labels in {records.path} are: {which}. Name the column by {opt.label}, or by "
        f"{opt.target} if it is a number to predict, or say {opt.unlabelled}."
    )


def described(values: Sequence[str], most: int = 3) -> str:
    """A few of some values."""
    return ", ".join(values[:most]) + (f" and {len(values) - most} more" if len(values) > most else "")
