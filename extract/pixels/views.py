"""Views: seeded variants of an image, the same on every run, machine and version of numpy."""

import dataclasses
import difflib
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from PIL import Image

from onepass.features.errors import OptionError, opt

VIEW_RULE = "affine-reflect-cubic-1"
"""Name of everything below that changes the pixels of a view. Count it up with any such change."""

ToSquare = Callable[[Image.Image, int], Image.Image]
"""The resize rule: an image and a side m in pixels -> the image, m x m."""

_RANGES = {
    "rotate": (0, 180, "degrees from 0 to 180"),
    "shift": (0, 1, "a fraction of the side from 0 to 1"),
    "shear": (0, 0.9, "a tangent from 0 to 0.9"),
    "zoom": (0, 0.9, "a fraction from 0 to 0.9"),
    "brightness": (0, 1, "a fraction of the full range from 0 to 1"),
    "crop": (0.01, 1, "the smallest share of the area kept, from 0.01 to 1"),
    "seed": (0, 2**32 - 1, f"a whole number from 0 to {2**32 - 1}"),
}


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """The recipe that views are drawn from; each setting that is not off is drawn evenly and by itself.

    Attributes:
        flip: Mirrors left and right in half of the views.
        rotate: Largest angle either way, degrees.
        shift: Largest shift along each axis either way, as a fraction of the side.
        shear: Largest tangent along each axis either way, as the factors of Keras 3's RandomShear.
        zoom: Largest change of the side seen, either way: 0.2 shows 0.8 to 1.2 of it.
        brightness: Largest value added to all channels either way, as a fraction of 255.
        crop: Smallest share of the area kept by a square cut out anywhere; 1 is off.
        seed: Another seed, other views.

    Raises:
        OptionError: A value is out of range.
    """

    flip: bool = False
    rotate: float = 0.0
    shift: float = 0.0
    shear: float = 0.0
    zoom: float = 0.0
    brightness: float = 0.0
    crop: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (low, high, needed) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise OptionError(f"{name} in {opt.augment} is {getattr(self, name)}; needed: {needed}.")

    def __str__(self) -> str:
        parts = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                parts.append(field.name if field.name == "flip" else f"{field.name}={value!r}".removesuffix(".0"))
        return ",".join(parts) or "plain"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `flip,rotate=20,shift=0.2,shear=0.2,zoom=0.2,brightness=0.1,crop=0.7,seed=3`, or a part of it.

        `classic` stands for `flip,rotate=20,shift=0.2,shear=0.2,zoom=0.2`, `plain` for nothing; what is
        named beside them replaces their values. `parse(str(a)) == a`.

        Raises:
            OptionError: A name is unknown or repeated, or a value is missing, no number or out of range.
        """
        recipe: str | None = None
        given: dict[str, float] = {}
        for item in text.split(","):
            name, equals, value = (part.strip() for part in item.partition("="))
            if name not in _NAMES:
                raise OptionError(f"unknown setting {name!r} in {opt.augment}. {_hint(name)}", augment=text)
            if name in given or (name in _RECIPES and recipe):
                raise OptionError(f"{name if name in given else 'a recipe'} stands in {opt.augment} twice: {text}")
            if name in _RECIPES:
                recipe = name
            if name not in _RANGES and equals:
                raise OptionError(f"{name} in {opt.augment} takes no value; found {item.strip()}.")
            if name == "flip":
                given[name] = True
            elif name in _RANGES:
                given[name] = _number(name, value)
        return cls(**{**_RECIPES[recipe or "plain"], **given})  # type: ignore[arg-type]

    def draw(self, content: bytes, view: int) -> "ViewParameters":
        """The parameters of one view; they depend on nothing but this recipe, the content and the number.

        Each parameter has a place of its own among the hash bytes, so that changing one setting leaves
        the draws of the others alone.

        Args:
            content: (32,) SHA-256 of the image file.
            view: Number of the view, from 1; view 0 is the plain image.
        """
        key = self.seed.to_bytes(8, "little") + view.to_bytes(8, "little")
        words = np.frombuffer(hashlib.blake2b(content, key=key).digest(), "<u4")[:11]
        flip, *places, area, brightness = (words / 2**32).tolist()
        angle, x, y, shear_x, shear_y, zoom, left, top = (2 * place - 1 for place in places)
        side = math.sqrt(1 - (1 - self.crop) * area)
        return ViewParameters(
            flip=self.flip and flip < 0.5,
            angle=self.rotate * angle,
            shift=(self.shift * x, self.shift * y),
            shear=(self.shear * shear_x, self.shear * shear_y),
            zoom=1 + self.zoom * zoom,
            side=side,
            centre=((1 - side) / 2 * left, (1 - side) / 2 * top),
            brightness=self.brightness * (2 * brightness - 1),
        )


_NUMBERS: dict[str, float] = {"rotate": 20, "shift": 0.2, "shear": 0.2, "zoom": 0.2}
_RECIPES: dict[str, dict[str, float]] = {"plain": {}, "classic": {"flip": True, **_NUMBERS}}
_NAMES = (*_RECIPES, "flip", *_RANGES)
_SETTINGS = f"classic, plain, or any of flip, {', '.join(f'{name}=' for name in _RANGES)} with commas between them"


@dataclass(frozen=True, kw_only=True)
class ViewParameters:
    """What one view does to the square image, in the order it is seen.

    Attributes:
        flip: Mirrored left and right, after all else.
        angle: Turn of the picture, degrees counterclockwise.
        shift: (x, y) of the part that is seen, right and down, as fractions of its side.
        shear: (x, y) tangents: how far x moves per y, and y per x.
        zoom: Side that is seen, as a fraction of the cut-out square; above 1 shows mirrored borders.
        side: Side of the cut-out square, as a fraction of the image's.
        centre: (x, y) of its centre from the image's centre, as fractions of the image's side.
        brightness: Added to all channels, as a fraction of 255.
    """

    flip: bool = False
    angle: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    shear: tuple[float, float] = (0.0, 0.0)
    zoom: float = 1.0
    side: float = 1.0
    centre: tuple[float, float] = (0.0, 0.0)
    brightness: float = 0.0

    def affine(self) -> np.ndarray:
        """Where the view looks: p = side (zoom R S q + shift) + centre, without the flip.

        q and p are points (x right, y down) of the view and of the image, measured from the centre in
        fractions of the side; R turns, S shears.

        Returns:
            (2, 3) float64, M with p = M @ (q_x, q_y, 1).
        """
        cos, sin = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
        turn, shear = np.array([[cos, -sin], [sin, cos]]), np.array([[1, self.shear[0]], [self.shear[1], 1]])
        offset = self.side * np.array(self.shift) + self.centre
        return np.column_stack([self.side * self.zoom * turn @ shear, offset])


def view_recipe(augmentation: Augmentation) -> str:
    """How a spec names views drawn from this recipe by the rule of this module."""
    return f"{VIEW_RULE}: {augmentation}"


def view_pixels(
    image: Image.Image,
    *,
    augmentation: Augmentation,
    content: bytes,
    view: int,
    image_size: int,
    to_square: ToSquare,
) -> np.ndarray:
    """One view of an image, drawn by the image's content and the view's number alone.

    Args:
        image: RGB, turned by its EXIF orientation already.
        augmentation: The recipe.
        content: (32,) SHA-256 of the image file.
        view: Number of the view, from 1.
        image_size: Side s, pixels.
        to_square: The resize rule.

    Returns:
        (s, s, 3) uint8 RGB.
    """
    return render_view(image, augmentation.draw(content, view), image_size=image_size, to_square=to_square)


def render_view(image: Image.Image, parameters: ViewParameters, *, image_size: int, to_square: ToSquare) -> np.ndarray:
    """`view_pixels` with the parameters at hand: one bicubic resampling, borders mirrored as in Keras 3."""
    matrix = parameters.affine()
    if np.array_equal(matrix, np.eye(2, 3)):
        square = to_square(image, image_size)
    else:
        # At this side one pixel of the view covers one of the square, so that a view that zooms in is
        # as sharp as the photo allows, and one that zooms out does not flicker.
        side = round(image_size / math.sqrt(abs(np.linalg.det(matrix[:, :2]))))
        square = to_square(image, max(1, min(side, max(image_size, *image.size))))
        square = _transformed(square, matrix, image_size)
    if parameters.flip:
        square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if parameters.brightness:
        values = np.rint(np.arange(256) + 255 * parameters.brightness).clip(0, 255).astype(int).tolist()
        square = square.point(values * 3)
    return np.asarray(square)


def _transformed(square: Image.Image, matrix: np.ndarray, size: int) -> Image.Image:
    """What the view sees of a square m px wide, as a square `size` px wide."""
    m = square.width
    # From fractions around the centre to pixels from the corner, as Pillow counts them.
    linear = matrix[:, :2] * m / size
    offset = m * (matrix[:, 2] + 0.5) - linear.sum(axis=1) * size / 2
    corners = np.array([[0, 0], [size, 0], [0, size], [size, size]]) @ linear.T + offset
    # Two pixels more on each side, which the cubic filter reads.
    low, high = np.floor(corners.min(axis=0)).astype(int) - 2, np.ceil(corners.max(axis=0)).astype(int) + 2
    if (low < 0).any() or (high > m).any():
        columns, rows = (_mirrored(np.arange(first, last), m) for first, last in zip(low, high, strict=True))
        square = Image.fromarray(np.asarray(square).take(rows, axis=0).take(columns, axis=1))
        offset = offset - low
    (a, b), (c, d) = linear.tolist()
    x, y = offset.tolist()
    if b == c == 0:
        # Upright views need the filter along rows and columns alone: a third of the time, equal but for rounding.
        return square.resize((size, size), Image.Resampling.BICUBIC, box=(x, y, x + a * size, y + d * size))
    return square.transform((size, size), Image.Transform.AFFINE, (a, b, x, c, d, y), Image.Resampling.BICUBIC)


def _mirrored(positions: np.ndarray, length: int) -> np.ndarray:
    """Positions beyond 0 to length - 1 folded back, the border pixel twice: d c b a | a b c d | d c b a."""
    folded = positions % (2 * length)
    return np.asarray(np.minimum(folded, 2 * length - 1 - folded))


def _number(name: str, value: str) -> float:
    try:
        return int(value) if name == "seed" else float(value)
    except ValueError:
        raise OptionError(f"{name} in {opt.augment} is {value!r}; needed: {_RANGES[name][2]}.") from None


def _hint(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), _NAMES, n=1, cutoff=0.7)
    return f"{f'Did you mean {near[0]}? ' if near else ''}Needed: {_SETTINGS}."
