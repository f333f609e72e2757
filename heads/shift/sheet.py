"""The new images that look newest, on one sheet, as the network sees them."""

from collections.abc import Sequence
from pathlib import Path

from onepass.extract import ContactSheet, SeenImage, Sight, read_bytes
from onepass.features import FeatureFile, SkippedImage
from onepass.features.errors import UnreadableImageError
from onepass.heads.shift.new_images import NewImages
from onepass.heads.shift.report import DifferentImage

SHOWN = 24
"""Images on a sheet."""


def write_most_different(
    images: Sequence[DifferentImage], new: NewImages, file: FeatureFile, path: str | Path
) -> ContactSheet:
    """Draws the first of some images and how far each lies from the training's.

    Args:
        images: The farthest first.
        new: Where they lie.
        file: Feature file whose network sees them.
        path: PNG or WebP file.

    Raises:
        DataError: The images are gone.
        UnreadableImageError: None of them can be read.
        OptionError, OutputError: The sheet cannot be written.
    """
    sight, store = Sight.of_file(file, 1), new.store()
    seen: list[SeenImage] = []
    skipped: list[SkippedImage] = []
    for one in images[:SHOWN]:
        try:
            pixels = sight.pixels(read_bytes(store.file(one.path)))
        except UnreadableImageError as error:
            skipped.append(SkippedImage(one.path, str(error)))
            continue
        seen.append(SeenImage(one.path, f"{one.score:+.1f} deviations", "", pixels))
    if not seen:
        raise UnreadableImageError(
            f"no image of {new.name} can be read any more, {skipped[0].path} for one: {skipped[0].reason}.",
            skipped=skipped,
        )
    sheet = ContactSheet(new.name, str(sight), seen, len(new.x), (), skipped, Path(path))
    sheet.save(path)
    return sheet
