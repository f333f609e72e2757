"""A contact sheet: images as the network sees them, each with its label, so that a wrong one is seen at once."""

from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from onepass.extract.backbones.catalogue import BUNDLED
from onepass.extract.backbones.load import check_backbone
from onepass.extract.backbones.options import check_running
from onepass.extract.data.columns import SourceOptions, SourceSettings
from onepass.extract.data.folders import Folders
from onepass.extract.data.sources import open_source, store_of
from onepass.extract.looking.glyphs import drawable, font_file
from onepass.extract.looking.seen import Album, SeenImage, Sight
from onepass.extract.one_pass.resolve import DEFAULT_AUGMENT
from onepass.extract.pixels.random_layers import require_drawable
from onepass.features import FeatureFile, SkippedImage, only_feature_file
from onepass.features.atomic import replacing
from onepass.features.errors import OptionError, OutputError, UnreadableImageError, cannot_write, opt
from onepass.features.header import is_feature_file
from onepass.features.names import printable, shown
from onepass.features.places import require_place
from onepass.features.preprocess import Preprocess
from onepass.features.progress import phase
from onepass.features.tables import html_table, shortened

SHEET = "sheet.png"
_MOST_IMAGES = 1000
_SMALLEST = 112
"""Pixels below which a tile is enlarged, each pixel to a square of several."""
_WIDEST = 1800
"""Pixels across, beyond which images begin a new line."""
_GAP, _LINE = 8, 15
"""Between tiles, and height of a line of text, pixels."""


@dataclass(frozen=True, eq=False)
class ContactSheet:
    """Some images as a network sees them.

    Attributes:
        name: Where they come from.
        seen_by: Backbone, resize rule and size.
        images: Sorted by class.
        of: How many there are to choose from.
        class_names: k names, in the order of their positions.
        skipped: Images that were to be shown and cannot be read.
        path: The file, if one was written.
    """

    name: str
    seen_by: str
    images: list[SeenImage]
    of: int
    class_names: tuple[str, ...]
    skipped: list[SkippedImage] = field(default_factory=list)
    path: Path | None = None

    @property
    def pixels(self) -> np.ndarray:
        """(n, v, s, s, 3): exactly what goes into the graph."""
        return np.stack([one.pixels for one in self.images])

    @property
    def zoom(self) -> int:
        """Along each side, pixels of the picture for one of an image."""
        return max(1, -(-_SMALLEST // int(self.images[0].pixels.shape[1])))

    @property
    def tile(self) -> tuple[int, int]:
        """Width and height of an image with its views and its caption, pixels of the picture."""
        views, side = self.images[0].pixels.shape[:2]
        return views * side * self.zoom + _GAP, side * self.zoom + 2 * _LINE + _GAP

    def corner(self, position: int) -> tuple[int, int]:
        """Left and upper edge of an image in the picture."""
        width, height = self.tile
        columns = max(1, min(len(self.images), _WIDEST // width))
        row, column = divmod(position, columns)
        return _GAP + column * width, _GAP + 2 * _LINE + row * height

    @cached_property
    def picture(self) -> Image.Image:
        """All images with their captions; pixels are those of the graph, whole squares where they are enlarged."""
        width, height = self.tile
        ends = [self.corner(i) for i in range(len(self.images))]
        size = max(x for x, _ in ends) + width, max(y for _, y in ends) + height
        sheet = Image.new("RGB", size, "white")
        draw, font = ImageDraw.Draw(sheet), ImageFont.truetype(str(font_file()), 11)

        def write(place: tuple[int, int], text: str, room: int) -> None:
            letters = drawable(text, 200)
            while font.getlength(letters) > room and len(letters) > 1:
                letters = f"{letters[: -2 if letters.endswith('…') else -1]}…"
            draw.text(place, letters, fill="black", font=font)

        write((_GAP, _GAP // 2), f"{self.name}: {self.seen_by}", size[0] - 2 * _GAP)
        write((_GAP, _GAP // 2 + _LINE), self._classes(), size[0] - 2 * _GAP)
        for (x, y), one in zip(ends, self.images, strict=True):
            tiles = np.concatenate(list(one.pixels), axis=1).repeat(self.zoom, 0).repeat(self.zoom, 1)
            sheet.paste(Image.fromarray(np.rint(tiles).astype(np.uint8)), (x, y))
            below = y + tiles.shape[0] + 1
            write((x, below), " ".join((one.label or "no label", one.split)), width - _GAP)
            write((x, below + _LINE - 2), Path(one.path).name, width - _GAP)
        return sheet

    def _classes(self) -> str:
        named = ", ".join(f"{i} = {name}" for i, name in enumerate(self.class_names))
        return f"{len(self.images)} of {self.of} images" + (f"; classes: {named}" if named else "")

    def save(self, path: str | Path) -> None:
        """Writes the picture as PNG, or as WebP without loss; a file that is there is left alone.

        Raises:
            OptionError: The name has another ending, is taken, or its folder is not there.
            OutputError: It cannot be written.
        """
        path = Path(path)
        _require_sheet(path)
        picture = self.picture
        try:
            with replacing(path) as beside:
                picture.save(beside, lossless=True)  # which PNG is anyway
        except (OSError, ValueError) as error:  # WebP holds no more than 16383 pixels along a side
            raise OutputError(cannot_write(path, error, opt.out), path=path) from None

    def _repr_png_(self) -> bytes | None:
        return self.picture._repr_png_()

    def _repr_html_(self) -> str:
        return html_table([["image", "label", "split"], *([one.path, one.label, one.split] for one in self.images)])

    def __str__(self) -> str:
        lines = [f"{shown(self.name)}: {self.seen_by}", printable(shortened(self._classes(), 300))]
        return "\n".join([*lines, *([f"{shown(self.path)}: {len(self.images)} images drawn"] if self.path else [])])

    def record(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return {
            "name": self.name,
            "seen_by": self.seen_by,
            "of": self.of,
            "class_names": list(self.class_names),
            "images": [{"path": one.path, "label": one.label, "split": one.split} for one in self.images],
            "skipped": [asdict(image) for image in self.skipped],
            "path": str(self.path) if self.path else None,
        }


def show(
    source: Folders | None = None,
    *,
    count: int = 24,
    views: int = 1,
    seed: int = 0,
    backbone: str | Path | None = None,
    image_size: int | None = None,
    resize: str | None = None,
    preprocess: str | Path | Preprocess | None = None,
    depth: int | str | None = None,
    augment: str | None = None,
    data: Folders | None = None,
    **settings: Unpack[SourceSettings],
) -> ContactSheet:
    """Shows some images as the network sees them, with their labels; nothing is computed and no weights are read.

    The images are the same whenever the names are: of every class as many, drawn by a seeded hash of the path. Images
    of a feature file are shown as its rows were computed.

    Args:
        source: Class folders, archives, a table, or a feature file; by default the feature file in the current folder.
        count: How many images.
        views: Views of each, the plain image first.
        seed: Another seed, other images.
        backbone: Whose pixels to show, as for `run_extraction`; by default the bundled one.
        image_size, resize, preprocess, depth, augment: As for `run_extraction`.
        data: Where the images of a feature file lie now, if not where they were.
        **settings: What of a table means what, see `SourceOptions`.

    Raises:
        OptionError: An option is wrong, or is one of images and a feature file has its own.
        DataError: The images are not there, or cannot be meant.
        BackboneError: The backbone is unknown.
        UnreadableImageError: None of the images can be read.

    >>> sheet = show("pets/", count=4, backbone="mine.keras", resize="pad")
    >>> print(sheet)
    pets: mine, pad to 32 px
    4 of 30 images; classes: 0 = cats, 1 = dogs
    >>> sheet.pixels.shape, [one.label for one in sheet.images]
    ((4, 1, 32, 32, 3), ['0 cats', '0 cats', '1 dogs', '1 dogs'])
    """
    if not 1 <= count <= _MOST_IMAGES:
        raise OptionError(f"{opt.count} is {count}; needed: 1 to {_MOST_IMAGES}.", count=count)
    if not 1 <= views <= 1000:
        raise OptionError(f"{opt.views} is {views}; needed: 1 to 1000.", views=views)
    if not 0 <= seed < 2**32:
        raise OptionError(f"{opt.seed} is {seed}; needed: 0 to {2**32 - 1}.", seed=seed)
    check_running(data=data)
    if augment and views == 1:
        raise OptionError(f"{opt.augment} needs {opt.views}, how many views to show, such as {opt.views(4)}.")
    require_drawable(augment, fixed=True)
    own = {
        "backbone": backbone,
        "image_size": image_size,
        "resize": resize,
        "preprocess": preprocess,
        "depth": depth,
        "augment": augment,
    }
    file = _feature_file(source)
    if file is None:
        assert source is not None
        if data is not None:
            raise OptionError(f"{opt.data} goes with a feature file; name the images alone.")
        sight = _sight_of_backbone(own, views)
        album = Album.of_source(open_source(source, SourceOptions.of(settings), least_classes=1))
        return _sheet(album, sight, count, seed)
    given = {name: value for name, value in {**own, **settings}.items() if value not in (None, False)}
    if given:
        name, value = next(iter(given.items()))
        raise OptionError(
            f"{file} holds what its rows were computed with; leave {getattr(opt, name)(value)} out, or name the images."
        )
    with FeatureFile(file) as opened:
        album = Album.of_file(opened, store_of(opened, data))
        return _sheet(album, Sight.of_file(opened, views), count, seed)


def write_sheet(source: Folders | None = None, *, out: str | Path = SHEET, **settings: Any) -> ContactSheet:
    """`show`, written to a PNG or WebP file; arguments and errors as there and of `ContactSheet.save`.

    >>> write_sheet("pets/", count=4, out="look.png").path.name
    'look.png'
    """
    _require_sheet(Path(out))
    found = show(source, **settings)
    found.save(out)
    return ContactSheet(found.name, found.seen_by, found.images, found.of, found.class_names, found.skipped, Path(out))


def _require_sheet(path: Path) -> None:
    require_place(path, endings=(".png", ".webp"), fresh=True)


def _feature_file(source: Folders | None) -> Path | None:
    """The feature file that is named, if it is one."""
    if source is None:
        return only_feature_file()
    named = [Path(source)] if isinstance(source, str | Path) else [Path(one) for one in source]
    return named[0] if len(named) == 1 and named[0].is_file() and is_feature_file(named[0]) else None


def _sight_of_backbone(own: dict[str, Any], views: int) -> Sight:
    given = {name: value for name, value in own.items() if value is not None}
    name, augment = str(given.pop("backbone", BUNDLED)), given.pop("augment", DEFAULT_AUGMENT)
    check_backbone(name, **given)
    wanted = {"image_size": None, "resize": None, "preprocess": None, "depth": 16, **given}
    return Sight.of_backbone(name, views=views, augment=augment, **wanted)


def _sheet(album: Album, sight: Sight, count: int, seed: int) -> ContactSheet:
    with phase("reading the images"):
        images, skipped = album.look(sight, count, seed)
    if not images:
        one = f"{skipped[0].path}: {skipped[0].reason}" if skipped else "there are none"
        raise UnreadableImageError(f"no image of {album.name} could be read ({one}).", skipped=skipped)
    return ContactSheet(album.name, str(sight), images, int(album.usable.sum()), album.table.class_names, skipped)
