"""An inspection in words and tables, for people."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from onepass.features.duplicates import describe_duplicates

if TYPE_CHECKING:
    from onepass.heads.audit.inspect import Inspection

SHOWN = 10
"""Findings of each kind that are named."""


def describe(found: "Inspection") -> str:
    """The whole inspection, at most ten findings of each kind."""
    sections = [_counts(found), _unreadable(found), _copies(found), _near(found), _labels(found), _outliers(found)]
    return "\n".join(line for section in sections for line in section)


def _counts(found: "Inspection") -> Iterator[str]:
    classes = list(next(iter(found.counts.values())))
    images = sum(sum(counts.values()) for counts in found.counts.values())
    yield f"{found.path}: {images} images, {len(classes)} classes, the largest {found.imbalance:.1f} times the smallest"
    if found.pending:
        one = found.pending == 1
        yield (
            f"{found.pending} further image{'' if one else 's'} {'has' if one else 'have'} no row yet and "
            f"{'was' if one else 'were'} not looked at"
        )
    rows = [["class", *found.counts]]
    rows += [[name, *(str(counts[name]) for counts in found.counts.values())] for name in classes]
    yield from _table(rows)


def _unreadable(found: "Inspection") -> Iterator[str]:
    yield f"unreadable: {len(found.unreadable) or 'none'}"
    yield from _some([image.path, image.reason] for image in found.unreadable)


def _copies(found: "Inspection") -> Iterator[str]:
    yield f"exact copies: {describe_duplicates(found.copies) if found.copies else 'none'}"


def _near(found: "Inspection") -> Iterator[str]:
    pairs = found.near_duplicates
    if not pairs:
        yield f"near duplicates (cosine {found.threshold:.2f} or more): none"
        return
    splits, classes = sum(pair.across_splits for pair in pairs), sum(pair.across_classes for pair in pairs)
    yield (
        f"near duplicates (cosine {found.threshold:.2f} or more): {len(pairs)} pairs, {splits} across splits, "
        f"{classes} across classes"
    )
    harmful_first = sorted(pairs, key=lambda pair: (not pair.across_classes, not pair.across_splits))
    yield from _some([f"{pair.cosine:.3f}", str(pair.image), str(pair.other)] for pair in harmful_first)


def _labels(found: "Inspection") -> Iterator[str]:
    errors = found.label_errors
    if errors is None:
        yield f"labels: not looked at; {found.labels_by}"
        return
    yield f"labels that are probably wrong: {len(errors) or 'none'}"
    if found.labels_by == "confidence":
        yield (
            "  cleanlab is not installed, so only labels are listed against which another class has 0.9 or more; "
            "`pip install 'onepass[labels]'` finds more"
        )
    yield from _some(
        [
            str(e.image),
            f"{e.image.label} {e.confidence:.3f}",
            f"rather {e.suggested} {e.suggested_confidence:.3f}",
        ]
        for e in errors
    )


def _outliers(found: "Inspection") -> Iterator[str]:
    yield f"outliers: {len(found.outliers) or 'none'}"
    yield from _some([f"{outlier.score:.1f}", str(outlier.image)] for outlier in found.outliers)


def _some(rows: Iterable[list[str]]) -> Iterator[str]:
    every = list(rows)
    yield from _table(every[:SHOWN])
    if len(every) > SHOWN:
        yield f"  ... and {len(every) - SHOWN} more"


def _table(rows: list[list[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
