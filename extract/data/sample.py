"""A sample of the images in a folder, to try something on before all of them are worth the time."""

from dataclasses import dataclass

import numpy as np

from onepass.extract.data.groups import GroupRule, Groups
from onepass.extract.data.source import Scan, check_source, scan_source
from onepass.extract.data.sources import Data, open_source
from onepass.extract.pixels.image_bytes import ImageFile
from onepass.features import SPLITS
from onepass.features.errors import DataError
from onepass.features.progress import phase
from onepass.features.sampling import stratified_sample


@dataclass(frozen=True)
class FolderSample:
    """A sample of the images outside the test part.

    Attributes:
        found: The images of the sample.
        images: Contents in the source, those of the test part included.
    """

    found: Scan
    images: int

    @property
    def contents(self) -> dict[bytes, ImageFile]:
        """Content hash -> file, of each image of the sample."""
        return dict(self.found.images())


def draw_sample(
    data: Data, size: int, *, groups: Groups | None = None, group_pattern: str | None = None
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
        source = open_source(data)
        check_source(source, groups=groups, group_pattern=group_pattern)
        found = scan_source(source, groups=GroupRule.of(groups, group_pattern))
    table = found.table
    usable = np.flatnonzero((table.splits != SPLITS.index("test")) & table.content_hashes.any(axis=1))
    counts = np.bincount(table.labels[usable], minlength=len(table.class_names)).tolist()
    if missing := [name for name, count in zip(table.class_names, counts, strict=True) if not count]:
        raise DataError(
            f"{source.name} holds no image of {', '.join(missing)} outside its test "
            "part, so nothing can be tried on that class. Move some there.",
            classes=missing,
        )
    chosen = stratified_sample(
        table.content_hashes[usable], table.labels[usable], size, groups=[table.groups[i] for i in usable.tolist()]
    )
    kept = np.zeros(len(table), bool)
    kept[usable[chosen]] = True
    return FolderSample(found.part(kept), len(found.images()))
