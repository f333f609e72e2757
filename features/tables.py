"""How results show themselves: as plain values, as aligned text, and as HTML for notebooks."""

from collections.abc import Mapping, Sequence
from html import escape
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
