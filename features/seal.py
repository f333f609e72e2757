"""Checksums for what is written once and read back: facts as JSON, and whole files."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ENTRY = "sha256"
_MARK = b"\nonepass-sha256 "
PLACE = _MARK + b"0" * 64 + b"\n"
"""The end of a sealed file before its checksum is known."""


def facts_digest(facts: Mapping[str, Any]) -> str:
    """SHA-256, hexadecimal, of facts as JSON takes them; neither order nor spacing counts."""
    return hashlib.sha256(json.dumps(json.loads(json.dumps(facts)), sort_keys=True).encode()).hexdigest()


def sealed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts with their checksum among them.

    >>> unsealed(sealed({"n": 3}))
    ({'n': 3}, True)
    """
    return {**facts, _ENTRY: facts_digest(facts)}


def unsealed(facts: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Facts without their checksum, and whether they had one; those of onepass 0.1 have none.

    Raises:
        ValueError: They do not match it.
    """
    rest = {name: value for name, value in facts.items() if name != _ENTRY}
    if _ENTRY not in facts:
        return rest, False
    if facts[_ENTRY] != facts_digest(rest):
        raise ValueError("what it says does not match its checksum")
    return rest, True


def file_digest(path: Path) -> str:
    """SHA-256, hexadecimal, of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal_file(path: Path) -> None:
    """Turns the `PLACE` that a file ends with into the checksum of all before it.

    A zip archive has it as its comment; what reads HDF5 takes no notice of bytes behind the end.
    """
    with open(path, "r+b") as file:
        end = os.fstat(file.fileno()).st_size - len(PLACE)
        digest = _digest_up_to(file.fileno(), end)
        file.seek(end + len(_MARK))
        file.write(digest.encode())


def is_sealed(path: Path) -> bool:
    """True if a file ends as `seal_file` leaves it."""
    with open(path, "rb") as file:
        return _seal_of(file.fileno()) is not None


def matches_seal(path: Path) -> bool:
    """True if a file is as it was sealed, or never was; reads all of it."""
    with open(path, "rb") as file:
        found = _seal_of(file.fileno())
        return found is None or found == _digest_up_to(file.fileno(), os.fstat(file.fileno()).st_size - len(PLACE))


def _seal_of(descriptor: int) -> str | None:
    """The checksum that a file ends with."""
    end = os.pread(descriptor, len(PLACE), max(os.fstat(descriptor).st_size - len(PLACE), 0))
    if len(end) < len(PLACE) or not end.startswith(_MARK) or not end.endswith(b"\n"):
        return None
    return end[len(_MARK) : -1].decode("ascii", "replace")


def _digest_up_to(descriptor: int, end: int) -> str:
    digest = hashlib.sha256()
    for start in range(0, end, 2**20):
        digest.update(os.pread(descriptor, min(2**20, end - start), start))
    return digest.hexdigest()
