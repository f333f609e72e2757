"""Shards as WebDataset writes them: in tar archives, files of one key belong together, an image and its label."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onepass.extract.data.archives import Archive, bare_name
from onepass.extract.data.class_folders import SPLIT_FOLDERS
from onepass.extract.data.source import Source
from onepass.extract.data.stores import Store
from onepass.extract.pixels.formats import is_image_name
from onepass.features import SPLITS, ImageTable
from onepass.features.errors import DataError, UnreadableImageError

_LABELS = ("cls", "json", "txt")
"""Endings of files that hold the label of a key; the first that is there counts."""
_FIELDS = ("label", "cls", "class")
_LONGEST = 100_000
"""Bytes of a file with a label."""
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_SHARDS = 100_000


def expanded(path: Path) -> Iterator[Path]:
    """Shards that are named by a range, where the shell has left that to us.

    Raises:
        DataError: The range is too long.

    >>> [one.name for one in expanded(Path("train-{009..011}.tar"))]
    ['train-009.tar', 'train-010.tar', 'train-011.tar']
    """
    found = _RANGE.search(path.name)
    if not found or path.exists():
        yield path
        return
    first, last = map(int, found.groups())
    if not 0 <= last - first < _MOST_SHARDS:
        raise DataError(f"{path} names no shards; needed: a range such as {{000..009}}.")
    for number in range(first, last + 1):
        text = f"{number:0{len(found[1])}d}"
        yield from expanded(path.with_name(path.name[: found.start()] + text + path.name[found.end() :]))


def are_shards(archives: Iterable[Archive]) -> bool:
    """True if images lie beside files of the same key with a class; or with anything of them, and in no folder."""
    for archive in archives:
        for key, files in _by_key(archive).items():
            labelled = "cls" in files or ("/" not in key and any(ending in files for ending in _LABELS))
            if labelled and any(map(is_image_name, files.values())):
                return True
    return False


def shard_source(
    archives: Mapping[Path, Archive], store: Store, *, record: dict[str, Any], least_classes: int = 2
) -> Source:
    """Images in shards; a shard whose name begins as that of a split, such as train-000.tar, is of that split.

    The label of key.jpg is the text of key.cls, the field label, cls or class of key.json, or the text of key.txt.
    Numbers are positions in the lines of classes.txt, if that lies beside the shards.

    Args:
        archives: Path -> archive.
        store: Of them all.
        record: As for `Source`.
        least_classes: How many classes there must be.

    Raises:
        DataError: There are too few classes, or numbers without a line.
    """
    names = _class_names(next(iter(archives)))
    entries: list[tuple[str, str, str | None]] = []
    other: dict[str, str] = {}
    prefixes = ["" if len(archives) == 1 else f"{part}/" for part in getattr(store, "parts", [""])]
    for (path, archive), prefix in zip(archives.items(), prefixes, strict=True):
        split = _split(path)
        for files in _by_key(archive).values():
            images = [name for name in files.values() if is_image_name(name)]
            if not images:
                other |= {prefix + name: "no image beside it" for name in files.values()}
                continue
            try:
                label = _label(archive, files, names)
            except UnreadableImageError as error:
                other |= {prefix + name: str(error) for name in images}
                continue
            entries += [(prefix + name, label, split) for name in images]
    entries.sort()
    class_names = tuple(sorted({label for _, label, _ in entries}))
    called = " and ".join(str(archive) for archive in archives.values())
    if len(class_names) < least_classes:
        reason = next(iter(other.values()), "")
        raise DataError(
            f"{called} holds {len(class_names)} classes{f' ({reason}, for one)' if reason else ''}. Needed: "
            f"{least_classes} or more, each image beside its label, as 0001.jpg beside 0001.cls."
        )
    n, number = len(entries), {name: i for i, name in enumerate(class_names)}
    table = ImageTable(
        class_names,
        tuple(path for path, _, _ in entries),
        np.array([number[label] for _, label, _ in entries], np.int32),
        np.array([SPLITS.index(split or "train") for _, _, split in entries], np.uint8),
        np.zeros((n, 32), np.uint8),
        np.zeros(n, np.int64),
        np.zeros(n, np.int64),
    )
    return Source(
        name=called,
        stem=_stem(archives),
        store=store,
        table=table,
        are_images=np.ones(n, bool),
        record=record,
        said=not all(split in (None, "train") for _, _, split in entries),
        other=other,
    )


def _by_key(archive: Archive) -> dict[str, dict[str, str]]:
    """Key, which is a name up to the first dot -> ending -> name."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for name in archive.names():
        folder, slash, last = name.rpartition("/")
        stem, _, ending = last.partition(".")
        found[folder + slash + stem][ending.lower()] = name
    return found


def _label(archive: Archive, files: Mapping[str, str], names: list[str]) -> str:
    """The class that the files of a key say.

    Raises:
        UnreadableImageError: None, or not how it can be read.
    """
    ending = next((ending for ending in _LABELS if ending in files), None)
    if ending is None:
        raise UnreadableImageError(f"no label beside it ({', '.join('.' + one for one in _LABELS)})")
    if archive.stamp(files[ending]).size > _LONGEST:
        raise UnreadableImageError(f"its {files[ending]} is too long for a label")
    try:
        text = archive.read(files[ending]).decode().strip()
        label = _field(json.loads(text)) if ending == "json" else text
    except (ValueError, RecursionError):
        raise UnreadableImageError(f"its {files[ending]} cannot be read as a label") from None
    if names and label.isdecimal():
        if int(label) >= len(names):
            raise UnreadableImageError(f"its class {label} has no line in classes.txt")
        label = names[int(label)]
    if not label or "\n" in label or len(label) > 500:
        raise UnreadableImageError(f"its {files[ending]} holds no class")
    return label


def _field(facts: Any) -> str:
    """The label in what a JSON file says; empty if there is none."""
    value = next((facts[name] for name in _FIELDS if name in facts), "") if isinstance(facts, dict) else facts
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _class_names(shard: Path) -> list[str]:
    try:
        return [line.strip() for line in shard.with_name("classes.txt").read_text().splitlines()]
    except (OSError, ValueError):
        return []


def _split(path: Path) -> str | None:
    word = re.match(r"[A-Za-z]+", path.name)
    return SPLIT_FOLDERS.get(word[0].lower()) if word else None


def _stem(archives: Mapping[Path, Archive]) -> str:
    """What all shards are called, without their numbers.

    The folder that they lie in is called as the data set, more often than the shards are.
    """
    names = list(dict.fromkeys(re.sub(r"[-_.]?\d+$", "", bare_name(path)) for path in archives))
    return "+".join(name or "shards" for name in names)
