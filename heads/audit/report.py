"""What an inspection finds, as values, as text and as a table."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from textwrap import indent

import numpy as np

from onepass.features import DuplicateGroup, SkippedImage
from onepass.features.atomic import replacing
from onepass.features.duplicates import describe_duplicates, describe_equal_rows
from onepass.features.errors import OutputError, cannot_write
from onepass.features.names import shown
from onepass.features.places import require_place
from onepass.features.tables import WIDTH, command_line, fitted_table, text_table
from onepass.features.thumbnails import LEAST

SHOWN = 10
"""Findings of each kind that the text names."""


@dataclass(frozen=True)
class InspectedImage:
    """An image of the data set.

    Attributes:
        path: Relative to the image folder.
        split: train, val or test.
        label: Its class.
    """

    path: str
    split: str
    label: str

    def __str__(self) -> str:
        return f"{shown(self.path)} ({self.split})"


@dataclass(frozen=True)
class NearDuplicate:
    """Two images that are copies of one picture, though not byte for byte.

    Attributes:
        image, other: The two.
        cosine: Of their whitened rows or of their thumbnails, see `near_duplicates`.
        found_by: rows, or thumbnails where the rows differ: a copy that was turned or has other colours, say.
    """

    image: InspectedImage
    other: InspectedImage
    cosine: float
    found_by: str = "rows"

    @property
    def across_splits(self) -> bool:
        return self.image.split != self.other.split

    @property
    def across_classes(self) -> bool:
        return self.image.label != self.other.label


@dataclass(frozen=True)
class LabelError:
    """An image whose label is worth a look.

    Attributes:
        image: With the label that it has.
        suggested: The most probable class, by heads that were not trained on the image.
        confidence: Probability of the label that it has.
        suggested_confidence: Probability of the suggested one.
        nearest: How many images most like it were looked at, its own group left out.
        nearest_suggested: How many of these have the suggested label.
        nearest_own: How many have its label.
    """

    image: InspectedImage
    suggested: str
    confidence: float
    suggested_confidence: float
    nearest: int
    nearest_suggested: int
    nearest_own: int

    @property
    def reason(self) -> str:
        """Why it is worth a look, in words."""
        return (
            f"{self.suggested} {self.suggested_confidence:.3f}, {self.image.label} {self.confidence:.3f} by heads that "
            f"did not see it; {self.like_it}"
        )

    @property
    def like_it(self) -> str:
        """What the images most like it are labelled, in words."""
        own = f"{self.nearest_own or 'none'} {self.image.label}"
        return f"of the {self.nearest} most like it {self.nearest_suggested or 'none'} are {self.suggested}, {own}"

    @property
    def value(self) -> str:
        """What findings are told by, in digits."""
        return f"{self.confidence:.4f}"

    def cells(self) -> list[str]:
        """A line for people."""
        now = f"{self.image.label} {self.confidence:.3f}"
        return [str(self.image), now, f"rather {self.suggested} {self.suggested_confidence:.3f}", self.like_it]


@dataclass(frozen=True, kw_only=True)
class OneLabelError(LabelError):
    """An image of several labels or none, of which one is worth a look; `suggested` are all that it probably has.

    Attributes:
        about: The least probable label, or the one that is missing.
        has: Whether the image has it; `confidence` is the probability that this is right.
    """

    about: str
    has: bool

    @property
    def reason(self) -> str:
        so = f"{'without' if self.has else 'with'} {self.about} {self.suggested_confidence:.3f}"
        return f"{so} by heads that did not see it; {self.like_it}"

    @property
    def like_it(self) -> str:
        having = self.nearest_own if self.has else self.nearest_suggested
        return f"of the {self.nearest} most like it {having or 'none'} {'has' if having == 1 else 'have'} {self.about}"

    def cells(self) -> list[str]:
        rather = f"rather {'without' if self.has else 'with'} {self.about} {self.suggested_confidence:.3f}"
        return [str(self.image), self.image.label or "no label", rather, self.like_it]


@dataclass(frozen=True)
class SurprisingNumber:
    """An image whose number is far from what is predicted.

    Attributes:
        image: With the number that it has.
        predicted: By heads that were not trained on the image.
        score: How far off the number is, in robust standard deviations of such errors.
        nearest: Between which half of the numbers of the images most like it lie; None if there are no others.
    """

    image: InspectedImage
    predicted: float
    score: float
    nearest: tuple[float, ...] | None

    @property
    def suggested(self) -> str:
        return f"{self.predicted:.4g}"

    @property
    def value(self) -> str:
        """What findings are told by, in digits."""
        return f"{self.score:.2f}"

    @property
    def like_it(self) -> str:
        """What the images most like it have, in words."""
        return "half of those most like it have {:.4g} to {:.4g}".format(*self.nearest) if self.nearest else ""

    @property
    def reason(self) -> str:
        """Why it is worth a look, in words."""
        told = f"{self.suggested} by heads that did not see it, {self.score:.1f} robust standard deviations away"
        return f"{told}; {self.like_it}" if self.nearest else told

    def cells(self) -> list[str]:
        """A line for people."""
        return [str(self.image), self.image.label, f"rather {self.suggested} ({self.score:.1f} away)", self.like_it]


@dataclass(frozen=True)
class Outlier:
    """An image that is far from all others.

    Attributes:
        image: Which.
        distance: Mean cosine distance to the 10 nearest training images.
        score: How unusual that is, in robust standard deviations of the log distance.
    """

    image: InspectedImage
    distance: float
    score: float


@dataclass(frozen=True)
class Inspection:
    """Everything that an inspection found, the most certain findings first.

    Attributes:
        path: The feature file.
        counts: Split -> class -> images with a row.
        pending: Images that have no row yet.
        unreadable: Images without a row, with the reason.
        copies: Images that are exact copies of each other.
        near_duplicates: Pairs that are nearly the same picture, exact copies not counted.
        threshold: Lowest cosine of such a pair.
        label_errors: Images whose label, labels or number are worth a look, the likeliest errors first; None if they
            were not checked.
        labels_by: What decided on them, "confident learning" or "robust deviations", or why they were not checked.
        outliers: Images far from all others.
        equal_rows: True if all images have one and the same row, so that nothing can be learnt from them.
        examined: Images with a row; by default as many as `counts` says.
        what: The images are labelled with, in a few words; by default so many classes.
    """

    path: Path
    counts: dict[str, dict[str, int]]
    pending: int
    unreadable: list[SkippedImage]
    copies: list[DuplicateGroup]
    near_duplicates: list[NearDuplicate]
    threshold: float
    label_errors: Sequence[LabelError | SurprisingNumber] | None
    labels_by: str
    outliers: list[Outlier]
    equal_rows: bool = False
    examined: int = 0
    what: str = ""

    @property
    def images(self) -> int:
        """How many were examined; with several labels per image `counts` says nothing of that."""
        return self.examined or sum(sum(counts.values()) for counts in self.counts.values())

    @property
    def imbalance(self) -> float:
        """Images of the largest class per image of the smallest, over all splits."""
        sizes = np.sum([list(counts.values()) for counts in self.counts.values()], axis=0)
        return float(sizes.max() / max(int(sizes.min()), 1))

    @property
    def next_command(self) -> str:
        """What to do next, as it is typed: list all findings in a table, or train where there are none."""
        if any(True for _ in self.findings()):
            return command_line("onepass", "inspect", self.path, "--csv", "findings.csv")
        return command_line("train-head", self.path)

    def record(self) -> dict[str, object]:
        """The same as plain values, for JSON."""
        labels = self.label_errors
        return {
            **asdict(self),
            "path": str(self.path),
            "imbalance": round(self.imbalance, 3),
            "label_errors": None if labels is None else [{**asdict(one), "reason": one.reason} for one in labels],
        }

    def __str__(self) -> str:
        """At most ten findings of each kind, for people."""
        sections = [_counts(self), _unreadable(self), _copies(self), _near(self), _labels(self), _outliers(self)]
        return "\n".join(line for section in sections for line in section)

    def findings(self) -> Iterator[tuple[str, str, str, str, str, str, str]]:
        """(kind, path, split, class, other path or suggested class, value, reason) of everything found.

        The value is the cosine of near duplicates, the probability of the label that an image has, and the score of
        outliers and of numbers. A reason is given for labels; that of unreadable images stands in the fifth place.
        """
        if self.equal_rows:
            yield "equal rows", "", "", "", "", "", describe_equal_rows(self.images)
        for skipped in self.unreadable:
            yield "unreadable", skipped.path, "", "", skipped.reason, "", ""
        for group in self.copies:
            for path in group.paths[1:]:
                yield "copy", path, "+".join(group.splits), "+".join(group.classes), group.paths[0], "1", ""
        for pair in self.near_duplicates:
            yield "near duplicate", *_columns(pair.image), pair.other.path, f"{pair.cosine:.4f}", ""
        for error in self.label_errors or []:
            yield "label", *_columns(error.image), error.suggested, error.value, error.reason
        for outlier in self.outliers:
            yield "outlier", *_columns(outlier.image), "", f"{outlier.score:.2f}", ""

    def write_csv(self, path: str | Path) -> None:
        """Writes one line per finding, see `findings`.

        Raises:
            OptionError: The file exists already.
            OutputError: It cannot be written.
        """
        require_place(path, option="csv", fresh=True)
        try:
            with replacing(Path(path)) as beside, open(beside, "x", newline="", encoding="utf-8") as file:
                table = csv.writer(file)
                table.writerow(["kind", "path", "split", "class", "other", "value", "reason"])
                table.writerows(map(shown, line) for line in self.findings())
        except OSError as error:
            raise OutputError(cannot_write(path, error), path=path) from None


def _columns(image: InspectedImage) -> tuple[str, str, str]:
    return image.path, image.split, image.label


def _counts(found: Inspection) -> Iterator[str]:
    classes = list(next(iter(found.counts.values())))
    largest = f", the largest {found.imbalance:.1f} times the smallest" if len(classes) > 1 else ""
    yield f"{shown(found.path)}: {found.images} images, {found.what or f'{len(classes)} classes'}{largest}"
    if found.pending:
        one = found.pending == 1
        yield (
            f"{found.pending} further image{'' if one else 's'} {'has' if one else 'have'} no row yet and "
            f"{'was' if one else 'were'} not looked at"
        )
    if found.equal_rows:
        yield describe_equal_rows(found.images)
    rows = [["class", *found.counts]]
    rows += [[name, *(str(counts[name]) for counts in found.counts.values())] for name in classes]
    yield from _table(rows)


def _unreadable(found: Inspection) -> Iterator[str]:
    yield f"unreadable: {len(found.unreadable) or 'none'}"
    yield from _some([image.path, image.reason] for image in found.unreadable)


def _copies(found: Inspection) -> Iterator[str]:
    yield f"exact copies: {describe_duplicates(found.copies) if found.copies else 'none'}"


def _near(found: Inspection) -> Iterator[str]:
    pairs = found.near_duplicates
    limits = f"cosine of rows {found.threshold:.2f} or more, of thumbnails {LEAST}"
    if not pairs:
        yield f"near duplicates ({limits}): none"
        return
    splits, classes = sum(pair.across_splits for pair in pairs), sum(pair.across_classes for pair in pairs)
    yield (f"near duplicates ({limits}): {len(pairs)} pairs, {splits} across splits, {classes} across classes")
    harmful_first = sorted(pairs, key=lambda pair: (not pair.across_classes, not pair.across_splits))
    found_pairs = ([f"{pair.cosine:.3f}", pair.found_by, str(pair.image), str(pair.other)] for pair in harmful_first)
    yield from _some(found_pairs, (3,))


def _labels(found: Inspection) -> Iterator[str]:
    errors = found.label_errors
    if errors is None:
        yield f"labels: not looked at; {found.labels_by}"
        return
    yield f"labels worth a look, the likeliest errors first: {len(errors) or 'none'}"
    yield from _some([error.cells() for error in errors], (1, 3))


def _outliers(found: Inspection) -> Iterator[str]:
    yield f"outliers: {len(found.outliers) or 'none'}"
    yield from _some([f"{outlier.score:.1f}", str(outlier.image)] for outlier in found.outliers)


def _some(rows: Iterable[list[str]], breaks: Sequence[int] = (1,)) -> Iterator[str]:
    """The first rows; where they are too wide, each is broken before some of its cells."""
    every = list(rows)
    some = every[:SHOWN]
    table = indent(text_table(some), "  ")
    if max(map(len, table.splitlines()), default=0) > WIDTH:
        ends = [*breaks, len(some[0])]
        parts = [[row[start:end] for row in some] for start, end in pairwise((0, *ends))]
        lines = [fitted_table(part, width=WIDTH - 4, columns=(len(part[0]) - 1,), heading=False) for part in parts]
        table = "\n".join("\n    ".join(one) for one in zip(*(part.splitlines() for part in lines), strict=True))
        table = indent(table, "  ", lambda line: line[0] != " ")
    if table:
        yield table
    if len(every) > SHOWN:
        yield f"  ... and {len(every) - SHOWN} more"


def _table(rows: list[list[str]]) -> Iterator[str]:
    if rows:
        yield indent(fitted_table(rows, width=WIDTH - 2), "  ")
