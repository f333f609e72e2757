"""Names of files and classes as text that is safe to print: one reversible escape for terminal, CSV, JSON, Parquet."""

import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Any

# What moves a cursor, starts a line or turns the direction of writing, and bytes that are no UTF-8 (U+DC80 to U+DCFF).
_SPECIAL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_ESCAPE = re.compile(r"\\(\\|x[0-9a-f]{2}|u[0-9a-f]{4})")


def shown(name: str | PurePath) -> str:
    r"""A name as it is printed and written: on one line, valid as UTF-8, and still the name.

    Names of the usual kind stay as they are. In others, control characters and bytes that are no UTF-8 become `\x1b`
    and `\xff`, characters that break lines or turn the direction of writing `\u202e`, and a backslash `\\`; the same
    is done to names that would read as if it had been.

    >>> shown("cats/Käthe 1.jpg"), shown("a\nb.jpg"), shown("caf\udce9.jpg")
    ('cats/Käthe 1.jpg', 'a\\x0ab.jpg', 'caf\\xe9.jpg')
    >>> unshown(shown("a\nb.jpg"))
    'a\nb.jpg'
    """
    text = str(name)
    if not (_SPECIAL.search(text) or _ESCAPE.search(text)):
        return text
    return _SPECIAL.sub(lambda found: _escaped(ord(found[0])), text.replace("\\", "\\\\"))


def printable(text: str) -> str:
    r"""A text for people, such as a message with names in it, on one line and without control characters.

    Unlike `shown` it does not tell a name with a backslash from an escaped one.

    >>> printable("there is no file a\nb.jpg")
    'there is no file a\\x0ab.jpg'
    """
    return _SPECIAL.sub(lambda found: _escaped(ord(found[0])), text)


def unshown(text: str) -> str:
    """The name that `shown` made a text of.

    >>> unshown("cats/Käthe 1.jpg")
    'cats/Käthe 1.jpg'
    """
    return _ESCAPE.sub(lambda found: _unescaped(found[1]), text)


def _escaped(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:  # a byte that Python could not decode
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"


def _unescaped(escape: str) -> str:
    if escape == "\\":
        return escape
    code = int(escape[1:], 16)
    return chr(code + 0xDC00 if escape[0] == "x" and code >= 0x80 else code)


class Lines(str):
    """A text whose line ends are its own, and no part of a name."""

    __slots__ = ()


def shown_in(values: Any) -> Any:
    """Plain values as JSON takes them, with all texts in them, and the names of objects, as `shown`."""
    if isinstance(values, str):
        return safe_lines(values) if isinstance(values, Lines) else shown(values)
    if isinstance(values, dict):
        return {shown(str(name)): shown_in(value) for name, value in values.items()}
    return [shown_in(value) for value in values] if isinstance(values, list | tuple) else values


def safe_lines(text: str) -> str:
    """A text of several lines without control characters; what stands in it was `shown` where it was put together."""
    return "\n".join(map(printable, text.split("\n")))


def spellings(name: str) -> Iterator[str]:
    """What a name that somebody listed may stand for, the likeliest first: as it is, or as another system writes it.

    Lists come from this program (escaped), from Windows (backslashes, code page 1252), from a Mac (decomposed accents)
    or from a spreadsheet that composed them.

    >>> list(spellings("cats/1.jpg"))
    ['cats/1.jpg']
    >>> list(spellings("cats" + chr(92) + "1.jpg"))
    ['cats\\\\1.jpg', 'cats/1.jpg']
    """
    seen: set[str] = set()
    for first in (name, unshown(name), from_windows(name)):
        for slashed in (first, first.replace("\\", "/")):
            for form in _FORMS:
                if (found := form(slashed)) not in seen:
                    seen.add(found)
                    yield found


def from_windows(name: str) -> str:
    """A name whose bytes are no UTF-8, in code page 1252."""
    data = name.encode("utf-8", "surrogateescape")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")
    return name


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _decomposed(name: str) -> str:
    return unicodedata.normalize("NFD", name)


_FORMS: tuple[Callable[[str], str], ...] = (str, _composed, _decomposed)
