"""Names of images as somebody lists them: on stdin, or in a table that another system wrote."""

import codecs
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from onepass.features.names import spellings

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def listed_names(stream: BinaryIO) -> Iterator[Path]:
    """The names on the lines of a stream, each as soon as it is there, spelled as its file is.

    Args:
        stream: Of bytes: UTF-8 or what else this system's names are in, UTF-16 with its mark, or code page 1252; lines
            may end as on Windows.
    """
    first = stream.readline()
    if first.startswith(_UTF16):
        lines = iter(decoded_text(first + stream.read()).split("\n"))
    else:
        lines = map(decoded_text, itertools.chain([first], stream))
    for line in lines:
        if name := line.rstrip("\r\n"):
            yield Path(existing(name))


def existing(name: str) -> str:
    """A listed name as the file that is there is spelled, or as it is if none is."""
    return next((spelled for spelled in spellings(name) if os.path.lexists(spelled)), name)


def decoded_text(data: bytes) -> str:
    """A text by its byte order mark, else as file names are decoded, so that names that are not UTF-8 can be given.

    >>> decoded_text("Käthe".encode("utf-16")), decoded_text(b"\\xef\\xbb\\xbfpath"), decoded_text(b"caf\\xe9")
    ('Käthe', 'path', 'caf\\udce9')
    """
    if data.startswith(_UTF16):
        return data.decode("utf-16", "replace")
    return data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
