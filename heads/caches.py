"""What is kept to save time: converted networks, boundary caches, results, trials; shown, and removed if asked."""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import psutil

from onepass.extract import TRIALS, cache_folder, downloads_folder, stored_networks, stored_sources
from onepass.features.errors import DataError, OptionError, opt
from onepass.features.tables import Record, command_line, fitted_table, html_table

KINDS = ("networks", "int8", "boundaries", "comparisons", "trials", "downloads")
"""networks are made again when they are needed; int8 ones only from the images that they were calibrated on."""

_DEPTH = 3
_MOST_FOLDERS = 20_000
_DAY = 24 * 3600.0


@dataclass(frozen=True)
class Cached:
    """One thing that is kept.

    Attributes:
        kind: One of `KINDS`.
        path: File or folder.
        what: What it is, in words.
        made_for: The network, feature file or model that it saves time for.
        bytes: Its size.
        days: Since it was last written.
        in_use: Whether a running process has it open.
    """

    kind: str
    path: Path
    what: str
    made_for: str
    bytes: int
    days: float
    in_use: bool = False

    def row(self) -> list[str]:
        """Cells of a table."""
        age = f"{self.days:.0f} days" if self.days >= 2 else f"{24 * self.days:.0f} h"
        return [self.made_for, self.kind, self.what, _size(self.bytes), age, "in use" if self.in_use else ""]


@dataclass(frozen=True)
class Caches:
    """What `cache` found, and removed.

    Attributes:
        folder: Where converted networks lie.
        below: Where the other kinds were looked for.
        kept: What is there.
        cleared: What was removed.
        cut: Whether there were too many folders to look into all.
    """

    folder: Path
    below: Path
    kept: list[Cached]
    cleared: list[Cached] = field(default_factory=list)
    cut: bool = False

    @property
    def bytes(self) -> int:
        """Size of all that is there."""
        return sum(one.bytes for one in self.kept)

    @property
    def next_command(self) -> str:
        """What to do next, as it is typed; nothing where nothing is kept."""
        largest = max(self.kept, key=lambda one: one.bytes, default=None)
        return command_line("onepass", "cache", self.below, "--clear", largest.kind) if largest else ""

    def _rows(self) -> list[list[str]]:
        return [["for", "kind", "what", "size", "age"], *(one.row() for one in self.kept)]

    def __str__(self) -> str:
        lines = [f"networks in {self.folder}", f"the others below {self.below}"]
        if self.cut:
            lines.append(f"only {_MOST_FOLDERS:,} folders were looked into; name one further down")
        lines += [fitted_table(self._rows(), columns=(0, 2))] if self.kept else []
        if self.cleared:
            lines.append(f"{len(self.cleared)} removed, {_size(sum(one.bytes for one in self.cleared))}")
        return "\n".join([*lines, f"{len(self.kept)} kept, {_size(self.bytes)}"])

    def _repr_html_(self) -> str:
        return html_table(self._rows(), title=f"{len(self.kept)} kept, {_size(self.bytes)}")

    def record(self) -> Record:
        """The same as plain values, for JSON."""
        kept, cleared = ([{**asdict(one), "path": str(one.path)} for one in some] for some in (self.kept, self.cleared))
        return {
            "folder": str(self.folder),
            "below": str(self.below),
            "bytes": self.bytes,
            "kept": kept,
            "cleared": cleared,
            "cut": self.cut,
        }


def cache(folder: str | Path = ".", *, clear: str | None = None, older: float | None = None) -> Caches:
    """Shows what is kept to save time, and removes it if asked; nothing that a running process has open.

    Args:
        folder: Where the other kinds are looked for, three folders deep; they lie beside feature files and fine-tuned
            models, or where `choose` was called.
        clear: What to remove: networks, int8, boundaries, comparisons, trials, downloads or all. Heads and feature
            files of int8 rows need the int8 networks, which only the images they were calibrated on can give again.
        older: Remove only what is older than so many days.

    Raises:
        OptionError: There is no such kind, or the days are negative.
        DataError: There is no such folder.

    >>> cache("photos").bytes  # doctest: +SKIP
    98304512
    """
    if clear is not None and clear not in (*KINDS, "all"):
        raise OptionError(f"{opt.clear} is {clear!r}; needed: one of {', '.join(KINDS)} or all.", clear=clear)
    if older is not None and (clear is None or not 0 <= older < float("inf")):
        raise OptionError(
            f"{opt.older} is {older}; needed: days, 0 or more, with {opt.clear('all')} or one kind.", older=older
        )
    below = Path(folder)
    if not below.is_dir():
        raise DataError(f"{below} is no folder; name one with feature files in it.", folder=below)
    folders, cut = _folders_below(below)
    open_now = _open_elsewhere()
    found = [
        replace(one, in_use=any(_within(file, place) for place in (one.path, *places) for file in open_now))
        for one, *places in (
            *_networks(),
            *_boundaries(folders),
            *_comparisons(folders),
            *_trials(folders),
            *_downloads(),
        )
    ]
    gone = [one for one in found if clear in (one.kind, "all") and one.days >= (older or 0) and not one.in_use]
    cleared = [one for one in gone if _removed(one.path)]
    return Caches(cache_folder(), below, [one for one in found if one not in cleared], cleared, cut)


def _networks() -> Iterator[tuple[Cached, *tuple[Path, ...]]]:
    """What is kept, and other files that a process which needs it has open; so the next two."""
    for one in stored_networks():
        kind = "int8" if one.calibration else "networks"
        what = f"{one.image_size} px, {one.pooling}" + (f", {one.calibration[:8]}" if one.calibration else "")
        yield (_cached(kind, one.folder, what, one.backbone),)
    for folder, backbone, what in stored_sources():
        yield (_cached("networks", folder, what, backbone),)


def _boundaries(folders: list[Path]) -> Iterator[tuple[Cached, *tuple[Path, ...]]]:
    for folder in folders:
        if folder.suffix == ".work":
            for file in sorted(folder.glob("boundary-*.h5")):
                yield _cached("boundaries", file, file.stem.removeprefix("boundary-"), folder.stem), folder


def _comparisons(folders: list[Path]) -> Iterator[tuple[Cached, *tuple[Path, ...]]]:
    for folder in folders:
        if folder.suffix == ".cells" and folder.parent.suffix != TRIALS and any(folder.glob("*.safetensors")):
            features = folder.with_suffix(".h5")
            gone = "" if features.exists() else ", which is gone"
            count = len(list(folder.glob("*.safetensors")))
            yield _cached("comparisons", folder, f"{count} results", f"{features.name}{gone}"), features


def _trials(folders: list[Path]) -> Iterator[tuple[Cached, *tuple[Path, ...]]]:
    for folder in folders:
        files = sorted(folder.glob("*.h5")) if folder.suffix == TRIALS else []
        if files or (folder.suffix == TRIALS and any(folder.glob("*.json"))):
            yield (_cached("trials", folder, f"rows of {len(files)} backbones", folder.stem),)


def _downloads() -> Iterator[tuple[Cached, *tuple[Path, ...]]]:
    if (folder := downloads_folder()).is_dir():
        count = sum(path.is_file() for path in folder.glob("*/*"))
        yield (_cached("downloads", folder, f"{count} files", "buckets and the web"),)


def _cached(kind: str, path: Path, what: str, made_for: str) -> Cached:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    sizes, times = [0], [path.stat().st_mtime]
    for file in files:
        with contextlib.suppress(OSError):
            status = file.stat()
            sizes.append(status.st_size)
            times.append(status.st_mtime)
    days = max(time.time() - max(times), 0.0) / _DAY
    return Cached(kind, path, what, made_for, sum(sizes), days)


def _within(file: str, place: Path) -> bool:
    real = os.path.realpath(place)
    return file == real or file.startswith(real + os.sep)


def _open_elsewhere() -> set[str]:
    """Files that other processes have open or mapped, as far as this user may know."""
    found: set[str] = set()
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.Error, OSError, AttributeError, NotImplementedError):
            found.update(one.path for one in process.open_files())
            found.update(one.path for one in process.memory_maps())
    return found


def _folders_below(folder: Path) -> tuple[list[Path], bool]:
    """The folder and those in it, three deep, and whether there were more than can be looked into."""
    found, level = [folder], [folder]
    for _ in range(_DEPTH):
        level = [Path(entry) for one in level for entry in _subfolders(one)]
        found += level
        if len(found) > _MOST_FOLDERS:
            return found[:_MOST_FOLDERS], True
    return found, False


def _subfolders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(one.path for one in entries if one.is_dir(follow_symlinks=False) and one.name[0] != ".")
    except OSError:
        return []


def _removed(path: Path) -> bool:
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
            with contextlib.suppress(OSError):  # other files may lie there
                path.parent.rmdir()
    except OSError:
        return False
    return True


def _size(count: int) -> str:
    unit, name = (1e9, "GB") if count >= 1e9 else (1e6, "MB") if count >= 1e6 else (1e3, "kB")
    return f"{count / unit:.1f} {name}"
