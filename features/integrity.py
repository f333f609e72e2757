"""Looks through a whole feature file for damage, down to the single image."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onepass.features.errors import DamagedHeaderError
from onepass.features.file import FeatureFile
from onepass.features.layout import entry_checksums, entry_columns
from onepass.features.names import shown


@dataclass(frozen=True)
class Damage:
    """One thing that is not as it was written.

    Attributes:
        part: row, entry (of the image tables), thumbnail, skip record, committed flag, class names, checksum of the
            tables, or header.
        image: Path of the image; as damaged as its entry is. Empty for what concerns no single image.
        position: Of the image in the file; -1 for what concerns no single image.
        view: Of the row or flag; None for the others.
    """

    part: str
    image: str
    position: int
    view: int | None = None

    def __str__(self) -> str:
        view = f", view {self.view}" if self.view else ""
        return f"{self.part} of image {self.position}, {shown(self.image)}{view}" if self.image else self.part


@dataclass(frozen=True)
class Integrity:
    """What a look through a feature file found.

    Attributes:
        path: The file.
        images: Entries in it.
        views: Views per image.
        committed: Images whose rows are all there.
        pending: Images still to be computed.
        skipped: Images that could not be read.
        damage: Everything that is not as it was written.
    """

    path: Path
    images: int
    views: int
    committed: int
    pending: int
    skipped: int
    damage: list[Damage]

    @property
    def header_damaged(self) -> bool:
        return any(found.part == "header" for found in self.damage)

    @property
    def tables_damaged(self) -> bool:
        return any(found.part in ("entry", "class names", "checksum of the tables") for found in self.damage)


def check_file(path: Path) -> Integrity:
    """Checks every checksum, flag and count of a feature file; reads all of it once.

    Raises:
        FeatureFileError: It is no feature file.
    """
    try:
        file = FeatureFile(path)
    except DamagedHeaderError:
        return Integrity(path, 0, 0, 0, 0, 0, [Damage("header", "", -1)])
    with file:
        table = file.unchecked_table()
        entries = entry_checksums({name: file.stored(name) for name in entry_columns(file.extents)})
        bad_entries = np.flatnonzero((entries != file.stored("entry_checksums")) | table.out_of_range())
        damage = [Damage("entry", table.paths[i], i) for i in bad_entries.tolist()]
        if not file.intact("classes_sha256"):
            damage.append(Damage("class names", "", -1))
        elif not file.intact("tables_sha256") and not damage:
            damage.append(Damage("checksum of the tables", "", -1))
        bad_rows = file.damaged(np.arange(len(file)))
        bad_flags = file.stored("committed") > 1
        for part, found in (("row", bad_rows), ("committed flag", bad_flags)):
            damage += [Damage(part, table.paths[i], i, view) for i, view in np.argwhere(found).tolist()]
        bad = np.flatnonzero(file.damaged_thumbnails())
        damage += [Damage("thumbnail", table.paths[i], i) for i in bad.tolist()]
        records = file.skip_records()
        damage += [Damage("skip record", table.paths[i], i) for i in np.flatnonzero(records == -1).tolist()]
        return Integrity(
            path=path,
            images=len(file),
            views=file.views,
            committed=int((file.committed & ~bad_rows.any(axis=1)).sum()),
            pending=len(file.pending()),
            skipped=int((records == 1).sum()),
            damage=damage,
        )
