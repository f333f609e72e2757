"""A sample of the images in a folder, to try something on before all of them are worth the time."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onepass.extract.data.folders import Folders, FolderScan, check_folder, image_folders, scan_folder
from onepass.extract.data.groups import GroupRule, Groups
from onepass.features import SPLITS
from onepass.features.errors import DataError
from onepass.features.progress import phase
from onepass.features.sampling import stratified_sample


@dataclass(frozen=True)
class FolderSample:
    """A sample of the images outside the test part.

    Attributes:
        data: The image folders.
        found: The images of the sample.
        images: Contents in the folders, those of the test part included.
    """

    data: Folders
    found: FolderScan
    images: int

    @property
    def contents(self) -> dict[bytes, Path]:
        """Content hash -> file, of each image of the sample."""
        return dict(self.found.images())


def draw_sample(
    data: Folders, size: int, *, groups: Groups | None = None, group_pattern: str | None = None
) -> FolderSample:
    """Draws a stratified sample of the images that are no test images, see `stratified_sample`.

    Where there are no split folders, the test part is the one that an extraction will draw, but for copies of
    pictures that are not equal byte for byte, which nobody knows before the rows are there.

    Args:
        data: The image folder, or several.
        size: Images wanted.
        groups: As for the pass.
        group_pattern: As for the pass.

    Raises:
        DataError: The folder cannot be used, or all images of a class are in its test part.
        OptionError: The groups are given twice, or the pattern is none.
    """
    with phase("looking through the folder"):
        check_folder(data, groups=groups, group_pattern=group_pattern)
        scan = scan_folder(data, groups=GroupRule.of(groups, group_pattern))
    table = scan.table
    usable = np.flatnonzero((table.splits != SPLITS.index("test")) & table.content_hashes.any(axis=1))
    counts = np.bincount(table.labels[usable], minlength=len(table.class_names)).tolist()
    if missing := [name for name, count in zip(table.class_names, counts, strict=True) if not count]:
        raise DataError(
            f"{' and '.join(map(str, image_folders(data)[0]))} holds no image of {', '.join(missing)} outside its test "
            "part, so nothing can be tried on that class. Move some there.",
            classes=missing,
        )
    chosen = stratified_sample(
        table.content_hashes[usable], table.labels[usable], size, groups=[table.groups[i] for i in usable.tolist()]
    )
    kept = np.zeros(len(table), bool)
    kept[usable[chosen]] = True
    return FolderSample(data, scan.part(kept), len(scan.images()))
