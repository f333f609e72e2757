"""How results show themselves: as plain values, as aligned text, and as HTML for notebooks."""

import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

Record = dict[str, Any]
"""Plain values by name, as JSON takes them."""


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines with aligned columns; rows may differ in length.

    >>> print(text_table([["class", "n"], ["cats", "12"]]))
    class  n
    cats   12
    """
    columns = max((len(row) for row in rows), default=0)
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(columns)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows
    )


def fitted_table(rows: Sequence[Sequence[str]], *, width: int = 80, column: int = 0) -> str:
    """`text_table` with the cells of one column shortened in their middle where lines would be too wide.

    >>> print(fitted_table([["name", "n"], ["a_long_name_of_a_class", "12"]], width=14))
    name        n
    a_lon…class  12
    """
    table = text_table(rows)
    excess = max((len(line) for line in table.splitlines()), default=0) - width
    if excess <= 0:
        return table
    most = max(max(len(row[column]) for row in rows) - excess, 8)
    return text_table([[*row[:column], shortened(row[column], most), *row[column + 1 :]] for row in rows])


def shortened(text: str, most: int) -> str:
    """A text with its middle left out where it is longer than `most` characters.

    >>> shortened("photos/2026/cats/0001.jpg", 15)
    'photos/…001.jpg'
    """
    if len(text) <= most:
        return text
    end = (most - 1) // 2
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
        "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) + "</tr>"
        for tag, row in zip(["th"] + ["td"] * len(rows), rows, strict=False)
    ]
    caption = f"<caption>{escape(title)}</caption>" if title else ""
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
