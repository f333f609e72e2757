"""For mkdocstrings: the doctest that ends a docstring is its example, and not a quotation."""

import re
from typing import Any

import griffe

_DOCTEST = re.compile(r"(?:^|\n\n)(>>> .*)\Z", re.DOTALL)


class Doctests(griffe.Extension):
    """Puts the lines from the first `>>>` on under Examples."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe for every object that has been read."""
        if not obj.docstring or not (found := _DOCTEST.search(obj.docstring.value)):
            return
        indented = "\n".join(f"    {line}" if line else line for line in found[1].splitlines())
        obj.docstring.value = f"{obj.docstring.value[: found.start()]}\n\nExamples:\n{indented}\n"
