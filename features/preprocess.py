"""What happens to an image before the network, as data: a resize rule, and the arithmetic on its values."""

import dataclasses
import math
import re
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from onepass.features.errors import OptionError, opt

FILTERS = ("bilinear", "bicubic", "lanczos", "hamming")
"""Those of Pillow; all of them average what they reduce."""

_PLAIN = ("squash", "crop", "pad", "keras")
_RULE = re.compile(rf"(?:(squash|pad)|shortest(\d{{1,5}}))-({'|'.join(FILTERS)})(-even)?")


@dataclass(frozen=True)
class ResizeRule:
    """How an image becomes a square of side s.

    As text it is squash, crop, pad or keras, which are this project's own rules (their filter is Pillow's Hamming one,
    or the bicubic one where an image is enlarged); or it names what a network was trained with, `squash-bicubic`,
    `pad-bilinear`, `shortest256-bicubic`, which uses one filter whatever the size of the image is.

    Attributes:
        method: squash (the aspect ratio is given up), crop (the largest square in the middle), pad (black bars), keras
            (`image_dataset_from_directory`), or shortest (the shorter side is made `shortest` pixels long, then the
            square in the middle is taken).
        shortest: Pixels; 0 for the other methods.
        filter: One of `FILTERS`; empty for the project's own rules.
        even: Where the square cannot lie exactly in the middle, whether its start is rounded to the even pixel, as
            torchvision does, instead of down, as transformers does.

    >>> str(ResizeRule.parse("shortest256-bicubic")), ResizeRule.parse("shortest256-bicubic").shortest
    ('shortest256-bicubic', 256)
    """

    method: str
    shortest: int = 0
    filter: str = ""
    even: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads a rule.

        Raises:
            OptionError: There is no such rule.
        """
        if text in _PLAIN:
            return cls(text)
        found = _RULE.fullmatch(text)
        if not found or (found[4] and not found[2]) or found[2] == "0":
            raise OptionError(
                f"{opt.resize} is {text!r}; needed: one of {', '.join(_PLAIN)}, native (what the network was trained "
                "with, where that is known), or a rule such as squash-bicubic or shortest256-bilinear.",
                resize=text,
            )
        return cls(found[1] or "shortest", int(found[2] or 0), found[3], bool(found[4]))

    def __str__(self) -> str:
        length = str(self.shortest) if self.shortest else ""
        name = f"{self.method}{length}"
        return f"{name}-{self.filter}{'-even' if self.even else ''}" if self.filter else name

    def reduced(self, width: int, height: int, side: int) -> tuple[int, int]:
        """Width and height that an image has before the square of this side is cut out or bars are laid around it."""
        if self.method == "shortest":
            shorter = min(width, height)
            return int(self.shortest * width / shorter), int(self.shortest * height / shorter)
        return side, side

    def start(self, length: int, side: int) -> int:
        """First pixel of the square along an axis of this length."""
        return round((length - side) / 2) if self.even else (length - side) // 2

    def box(self, width: int, height: int, side: int) -> tuple[float, float, float, float]:
        """What of an image the square of this side shows: left, upper, right and lower edge in pixels of the image.

        Where bars are laid around it, the edges lie beyond the image.

        >>> ResizeRule.parse("crop").box(400, 200, 224)
        (100.0, 0.0, 300.0, 200.0)
        """
        left, right = self._edges(width, height, side)
        upper, lower = self._edges(height, width, side)
        return left, upper, right, lower

    def _edges(self, length: int, other: int, side: int) -> tuple[float, float]:
        """First and last edge of the square along an axis of this length; the other axis has `other` pixels."""
        if self.method == "crop":
            cut = (length - min(length, other)) / 2
            return cut, length - cut
        if self.method == "pad":
            made = side if length >= other else max(round(length / other * side), 1)
            first = -round((side - made) / 2)
        elif self.method == "shortest":
            made = self.reduced(length, other, side)[0]
            first = self.start(made, side)
        else:
            made, first = side, 0
        return first * length / made, (first + side) * length / made

    def scaled(self, before: int, after: int) -> Self:
        """The rule for squares of another side."""
        return replace(self, shortest=max(1, round(self.shortest * after / before))) if self.shortest else self


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """What happens to an image before the network; equal values, equal pixels into the network.

    Attributes:
        resize: The rule, see `ResizeRule`.
        size: Side s of the square, pixels.
        antialias: Whether what is reduced is averaged.
        channels: RGB or BGR.
        rescale: Factor on values of 0 to 255.
        mean, std: Of the three channels, in their order: the network sees (value * rescale - mean) / std.

    >>> Preprocess(resize="squash", size=224, rescale=1 / 255, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    Preprocess(squash to 224 px, RGB, (x / 255 - 0.5) / 0.5)
    """

    resize: str
    size: int
    antialias: bool = True
    channels: str = "RGB"
    rescale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def rule(self) -> ResizeRule:
        return ResizeRule.parse(self.resize)

    def resized(self, resize: str, size: int) -> Self:
        """The same arithmetic on pixels made by another rule."""
        return replace(self, resize=resize, size=size, antialias=resize != "keras")

    def normalised(self, pixels: np.ndarray) -> np.ndarray:
        """What the network sees of (..., 3) RGB pixels of 0..255, as float64."""
        values = np.asarray(pixels, np.float64)[..., :: -1 if self.channels == "BGR" else 1]
        return np.asarray((values * self.rescale - np.array(self.mean)) / np.array(self.std))

    @property
    def arithmetic(self) -> str:
        """What is done to each value x, as a formula."""
        scaled = "x" if self.rescale == 1 else f"x / {_short(1 / self.rescale)}"
        if self.mean == (0.0, 0.0, 0.0) and self.std == (1.0, 1.0, 1.0):
            return scaled
        text = f"{scaled} - {_each(self.mean)}"
        return text if self.std == (1.0, 1.0, 1.0) else f"({text}) / {_each(self.std)}"

    def __str__(self) -> str:
        return f"{self.resize} to {self.size} px, {self.channels}, {self.arithmetic}"

    def __repr__(self) -> str:
        return f"Preprocess({self})"

    @classmethod
    def from_facts(cls, facts: Any) -> Self:
        """Reads one back from what JSON made of it.

        Raises:
            ValueError: A field is missing, unknown or makes no sense; with which.
        """
        wanted = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(facts, dict) or set(facts) != wanted:
            raise ValueError(f"needed: {', '.join(sorted(wanted))}")
        try:
            rule = str(ResizeRule.parse(str(facts["resize"])))
            triples = {name: tuple(float(value) for value in facts[name]) for name in ("mean", "std")}
            rescale, size = float(facts["rescale"]), facts["size"]
        except (OptionError, TypeError, ValueError) as error:
            raise ValueError(str(error)) from None
        numbers = [rescale, *triples["mean"], *triples["std"]]
        sane = all(map(math.isfinite, numbers)) and rescale > 0 and all(value > 0 for value in triples["std"])
        if (
            not sane
            or [len(triple) for triple in triples.values()] != [3, 3]
            or type(size) is not int
            or not 1 <= size <= 8192
            or type(facts["antialias"]) is not bool
            or facts["channels"] not in ("RGB", "BGR")
        ):
            raise ValueError(f"these make no sense: {str(facts)[:200]}")
        return cls(
            resize=rule,
            size=size,
            antialias=facts["antialias"],
            channels=facts["channels"],
            rescale=rescale,
            mean=triples["mean"],  # type: ignore[arg-type]
            std=triples["std"],  # type: ignore[arg-type]
        )


def _each(values: tuple[float, float, float]) -> str:
    return _short(values[0]) if len(set(values)) == 1 else f"[{', '.join(map(_short, values))}]"


def _short(value: float) -> str:
    return f"{value:.6g}"
