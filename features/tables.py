"""How results show themselves: as plain values, as aligned text, and as HTML for notebooks."""

import os
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from onepass.features.names import safe_lines, shown

Record = dict[str, Any]
"""Plain values by name, as JSON takes them."""


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines with aligned columns; rows may differ in length, and names are escaped (see `shown`).

    >>> print(text_table([["class", "n"], ["cats", "12"]]))
    class  n
    cats   12
    """
    rows = [[shown(cell) for cell in row] for row in rows]
    columns = max((len(row) for row in rows), default=0)
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(columns)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows
    )


WIDTH = 80
"""Characters of a line that every terminal shows."""


def fitted_table(
    rows: Sequence[Sequence[str]], *, width: int = WIDTH, columns: Sequence[int] = (0,), heading: bool = True
) -> str:
    """`text_table` that is no wider than a terminal, if that can be.

    Where it is, the words of its heading are put below each other, and then the cells of some columns shortened in
    their middle, as long as they stay different.

    Args:
        rows: The heading first, if there is one.
        width: Characters.
        columns: Those whose cells may be shortened.
        heading: Whether there is one.

    >>> print(fitted_table([["name", "log loss"], ["a_long_name_of_a_class", "12"]], width=16))
                log
    name        loss
    a_lon…lass  12
    """
    rows = [[shown(cell) for cell in row] for row in rows]
    if _width(rows) <= width:
        return text_table(rows)
    head = _stacked(rows) if heading else []
    rows = [*head, *rows[len(head) > 0 :]]
    for i, column in enumerate(columns):
        if (excess := _width(rows) - width) > 0:
            share = -(-excess // (len(columns) - i))
            longest = max(len(row[column]) for row in rows)
            cells = _shortened([row[column] for row in rows], max(longest - share, 8))
            rows = [[*row[:column], cell, *row[column + 1 :]] for row, cell in zip(rows, cells, strict=True)]
    return text_table(rows)


def facts_table(rows: Sequence[Sequence[str]], *, width: int = WIDTH) -> str:
    """Names and values, one below the other, with long values wrapped in a column of their own.

    >>> print(facts_table([["classes", "cats, dogs, emus"], ["rows", "12"]], width=20))
    classes  cats, dogs,
             emus
    rows     12
    """
    indent = max((len(shown(row[0])) for row in rows), default=0) + 2
    lines = [f"{shown(name).ljust(indent)}{shown(value)}" for name, value in rows]
    return "\n".join(wrapped(line, indent=indent, width=width) if len(line) > width else line for line in lines)


def _width(rows: Sequence[Sequence[str]]) -> int:
    return max((len(line) for line in text_table(rows).splitlines()), default=0)


def _stacked(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """The heading as lines, broken between words where it is wider than what stands below."""
    broken = []
    for i, heading in enumerate(rows[0]):
        below = max((len(row[i]) for row in rows[1:] if i < len(row)), default=0)
        words = heading.replace("/", "/ ")
        broken.append(textwrap.wrap(words, max(below, *map(len, words.split()), 1), break_on_hyphens=False) or [""])
    most = max(map(len, broken))
    return [[lines[i - most + len(lines)] if i >= most - len(lines) else "" for lines in broken] for i in range(most)]


def _shortened(cells: Sequence[str], most: int) -> list[str]:
    for share in (0.5, 0.75, 0.25):
        found = [shortened(cell, most, share) for cell in cells]
        if len(set(found)) == len(set(cells)):
            return found
    return list(cells)


def shortened(text: str, most: int, share: float = 0.5) -> str:
    """A text with its middle left out where it is longer than `most` characters; a share of those are its beginning.

    >>> shortened("photos/2026/cats/0001.jpg", 15)
    'photos/…001.jpg'
    """
    if len(text) <= most:
        return text
    end = round((most - 1) * (1 - share))
    return f"{text[: most - 1 - end]}…{text[len(text) - end :]}"


def wrapped(text: str, *, indent: int = 0, width: int = 80) -> str:
    """A line broken between words where it is too wide, the rest of it indented.

    >>> print(wrapped("better: yes, it is", indent=8, width=14))
    better: yes,
            it is
    """
    return textwrap.fill(text, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)


def html_table(rows: Sequence[Sequence[str]], *, title: str = "") -> str:
    """The same as an HTML table, its first row the heading.

    >>> html_table([["class"], ["cats & dogs"]])
    '<table><tr><th>class</th></tr><tr><td>cats &amp; dogs</td></tr></table>'
    """
    lines = [
        "<tr>" + "".join(f"<{tag}>{escape(shown(cell))}</{tag}>" for cell in row) + "</tr>"
        for tag, row in zip(["th"] + ["td"] * len(rows), rows, strict=False)
    ]
    caption = f"<caption>{escape(safe_lines(title))}</caption>" if title else ""
    return f"<table>{caption}{''.join(lines)}</table>"


def plain(value: object) -> str:
    """A value of JSON in words: lists with commas, objects as names and values.

    >>> plain({"hidden": [256, 128], "seed": 0})
    'hidden 256,128, seed 0'
    """
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items())
    return str(value)


def command_line(*words: object) -> str:
    """A command as it is typed into a shell in the current folder; a path that begins with a dash is no option then.

    >>> command_line("onepass", "predict", Path("my pets.head"), "IMAGES")
    "onepass predict 'my pets.head' IMAGES"
    """
    return " ".join(_quoted(_from_here(word) if isinstance(word, Path) else str(word)) for word in words)


def _from_here(path: Path) -> str:
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return f"./{path}" if str(path)[0] == "-" else str(path)


def _quoted(word: str) -> str:
    if shown(word) == word:
        return shlex.quote(word)
    escaped = (chr(byte) if 31 < byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}" for byte in os.fsencode(word))
    return f"$'{''.join(escaped)}'"
