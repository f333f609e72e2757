"""What is probably wrong with the images: copies, labels in doubt, outliers, unreadable files."""

from collections.abc import Iterator
from functools import partial

from onepass.features.names import shown
from onepass.heads.audit.report import InspectedImage, NearDuplicate
from onepass.heads.report.material import Material
from onepass.heads.report.page.parts import Card, Cards, Part, Section, Table
from onepass.heads.report.words import count_of, listed

_PAIRS, _SUSPECTS, _OUTLIERS, _UNREADABLE = 18, 24, 12, 50


def findings(material: Material) -> list[Section]:
    """One section of copies, and one of labels and outliers; what was not found is said too."""
    return [_duplicates(material), _doubts(material)]


def _duplicates(material: Material) -> Section:
    found, of = material.found, partial(_card, material)
    where = {path: i for i, path in enumerate(material.file.table.paths)}
    groups = sorted(found.copies, key=lambda one: (len(one.classes) < 2, len(one.splits) < 2))
    pairs = sorted(found.near_duplicates, key=lambda one: (not one.across_classes, not one.across_splits))
    exact = [
        Card(
            where[group.paths[0]],
            listed(group.paths),
            _harm(len(group.classes) > 1, len(group.splits) > 1),
            f"The same file{f', {len(group.paths)} times' if len(group.paths) > 2 else ''}: {listed(group.classes)}; "
            f"{listed(group.splits)}.",
            (of(where[group.paths[1]]),),
        )
        for group in groups[:_PAIRS]
    ]
    near = [
        Card(
            where[pair.image.path],
            f"{shown(pair.image.path)} and {shown(pair.other.path)}",
            _harm(pair.across_classes, pair.across_splits),
            f"{_both(pair)}; alike to {pair.cosine:.3f} by their {pair.found_by}.",
            (of(where[pair.other.path]),),
        )
        for pair in pairs[:_PAIRS]
    ]
    parts: list[Part] = []
    for cards, title, total in (
        (exact, "Exact copies", len(groups)),
        (near, "Nearly the same picture", len(pairs)),
    ):
        if cards:
            note = "" if total == len(cards) else f"The {len(cards)} that matter most, of {total}."
            parts.append(Cards(f"{title}: {total}", cards, note, rank=2, pairs=True))
    count = len(groups) + len(pairs)
    if not count:
        return Section("duplicates", "No picture appears twice", _words_of_copies(material), parts)
    title = f"{count_of(count, 'picture appears', 'pictures appear')} twice"
    unclear = sum(one.across_classes for one in pairs) + sum(len(one.classes) > 1 for one in groups)
    across = sum(one.across_splits for one in pairs) + sum(len(one.splits) > 1 for one in groups)
    harms = [f"{unclear} in two classes"] * bool(unclear) + [f"{across} on both sides of a split"] * bool(across)
    title = ", ".join([title, *harms])
    return Section("duplicates", title, _words_of_copies(material), parts)


def _words_of_copies(material: Material) -> tuple[str, ...]:
    words = (
        f"All {material.found.images:,} images were compared with one another by file, by row and by a small grey "
        "picture, so copies that were re-encoded, cropped, turned or mirrored are found too."
    )
    return (words,)


def _harm(classes: bool, splits: bool) -> str:
    where = ["in two classes"] * classes + ["on both sides of a split"] * splits
    return " and ".join(where)


def _of(image: InspectedImage) -> str:
    return f"{shown(image.label) or 'no label'} ({image.split})"


def _both(pair: NearDuplicate) -> str:
    if pair.across_classes or pair.across_splits:
        return f"{_of(pair.image)} and {_of(pair.other)}"
    return f"Both {_of(pair.image)}"


def _card(material: Material, position: int) -> Card:
    return Card(position, material.names[position], material.labels[position])


def _doubts(material: Material) -> Section:
    found = material.found
    parts = [*_suspects(material), *_outliers(material), *_unreadable(material)]
    suspects = found.label_errors
    told = [
        count_of(len(suspects or []), "label may be wrong", "labels may be wrong"),
        count_of(len(found.outliers), "image is unlike all others", "images are unlike all others"),
    ]
    if found.unreadable:
        told.append(count_of(len(found.unreadable), "file cannot be read", "files cannot be read"))
    title = listed(told)
    words = [] if suspects is not None else [f"Labels were not looked at: {found.labels_by}."]
    return Section("doubts", title[:1].upper() + title[1:], words, parts)


def _suspects(material: Material) -> Iterator[Part]:
    found = material.found.label_errors or []
    where = {path: i for i, path in enumerate(material.file.table.paths)}
    cards = [
        Card(
            where[one.image.path],
            shown(one.image.path),
            f"{shown(one.image.label) or 'no label'}, or {shown(one.suggested) or 'none'}?",
            f"{shown(one.reason)}.",
        )
        for one in found[:_SUSPECTS]
    ]
    if cards:
        more = "" if len(found) == len(cards) else f" The {len(cards)} likeliest of {len(found)}."
        note = f"The label each has, and what heads that were not trained on it make of it.{more}"
        yield Cards("Labels worth a look", cards, note, rank=3)


def _outliers(material: Material) -> Iterator[Part]:
    found = material.found.outliers
    where = {path: i for i, path in enumerate(material.file.table.paths)}
    cards = [
        Card(
            where[one.image.path],
            shown(one.image.path),
            _of(one.image),
            f"Farther from its neighbours than is usual, by {one.score:.1f} robust standard deviations.",
        )
        for one in found[:_OUTLIERS]
    ]
    if cards:
        yield Cards("Images unlike all others", cards, "Far from the training images nearest to them.", rank=3)


def _unreadable(material: Material) -> Iterator[Part]:
    found = material.found.unreadable
    if found:
        rows = [["file", "why"], *([shown(one.path), one.reason] for one in found[:_UNREADABLE])]
        note = "" if len(found) <= _UNREADABLE else f"The first {_UNREADABLE} of {len(found)}."
        yield Table("Files that could not be read", rows, note)
