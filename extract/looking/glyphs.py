"""Names as a font can draw them."""

from functools import cache
from pathlib import Path

from onepass.extract.frameworks import import_matplotlib
from onepass.features.names import shown
from onepass.features.tables import shortened


@cache
def font_file() -> Path:
    """DejaVu Sans, which comes with Matplotlib: Latin, Greek, Cyrillic, Arabic and more."""
    return Path(import_matplotlib().get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@cache
def _drawn() -> frozenset[int]:
    """Code points that the font has."""
    import_matplotlib()
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(font_file())).get_charmap())


def drawable(name: object, most: int = 40) -> str:
    """A name on one line of at most so many characters, with a box for each that the font lacks.

    >>> drawable("ants"), drawable("a" + chr(10) + "b"), drawable(chr(0x4E2D))
    ('ants', 'a\\\\x0ab', '\u25a1')
    """
    text = shortened(shown(str(name)), most)
    return "".join(letter if ord(letter) in _drawn() else "\u25a1" for letter in text)
