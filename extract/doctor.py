"""What of this machine and installation onepass can use, and what to do about what it cannot."""

import importlib.metadata
import os
import re
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from onepass.extract.backbones.engines import choose_engine, choose_precision
from onepass.extract.frameworks import import_keras, quiet_stderr
from onepass.extract.machine import cache_folder, free_memory, instruction_sets, processor, usable_cores
from onepass.features.tables import Record, command_line, facts_table, html_table, text_table

PACKAGES = ("onepass", "keras", "tensorflow", "openvino", "numpy", "scikit-learn", "h5py", "pillow")
"""Distributions whose versions matter."""

WEIGHTS = (
    "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
    "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
)
"""One of the files that Keras downloads."""

_PATIENCE = 3.0
_ENOUGH_DISK, _ENOUGH_MEMORY = 10**9, 2 * 10**9


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What it is.
        value: What was found.
        works: False if something will not work because of it.
        advice: What to do about it; empty if there is nothing to do.
    """

    name: str
    value: str
    works: bool = True
    advice: str = ""

    def told(self) -> str:
        """What was found, and what to do about it."""
        return f"{self.value}. {self.advice}" if self.advice else self.value


@dataclass(frozen=True)
class Diagnosis:
    """What `doctor` found.

    Attributes:
        findings: One for each thing that was looked at.
    """

    findings: list[Finding]

    @property
    def healthy(self) -> bool:
        """Whether everything works; an extra that is not installed is no fault."""
        return all(one.works for one in self.findings)

    def __str__(self) -> str:
        faults = [one.name for one in self.findings if not one.works]
        table = facts_table([[one.name, one.told()] for one in self.findings])
        return "\n".join([table, f"will not work: {', '.join(faults)}" if faults else "everything works"])

    @property
    def next_command(self) -> str:
        """What to do next, as it is typed."""
        return command_line("extract", "FOLDER")

    def _repr_html_(self) -> str:
        return html_table([["", "", "to do"], *([one.name, one.value, one.advice] for one in self.findings)])

    def record(self) -> Record:
        """The same as plain values, for JSON."""
        return {"healthy": self.healthy, "findings": [asdict(one) for one in self.findings]}


@dataclass(frozen=True)
class Versions:
    """Versions of what matters for the numbers that come out; None for what is not installed."""

    versions: dict[str, str | None]

    def __str__(self) -> str:
        return text_table([[name, version or "not installed"] for name, version in self.versions.items()])

    def record(self) -> dict[str, str | None]:
        """The same as plain values, for JSON."""
        return self.versions


def versions() -> Versions:
    """Versions of onepass, Python and the packages that its results depend on; loads none of them."""
    own, *others = PACKAGES
    return Versions({own: _version(own), "Python": sys.version.split()[0], **{name: _version(name) for name in others}})


def doctor(*, offline: bool = False, gpu: bool = False) -> Diagnosis:
    """Looks what of this machine and installation can be used.

    Nothing is written, and nothing sent but one request for the size of a file with weights, to the host that Keras
    downloads them from.

    Args:
        offline: Leave that request out.
        gpu: Ask TensorFlow for GPUs, for which it is loaded; that takes seconds.

    >>> doctor(offline=True).healthy  # doctest: +SKIP
    True
    """
    return Diagnosis([*_machine(), *_compute(gpu=gpu), *_room(), *_installation(), _reachable(offline=offline)])


def _machine() -> Iterator[Finding]:
    cores, limits = usable_cores(), os.cpu_count() or 1
    some = "" if cores == limits else f" of {limits}, which is all that this process may use"
    yield Finding("processor", f"{processor()}; {', '.join(instruction_sets()) or 'its instruction sets are not told'}")
    yield Finding("cores", f"{cores:g}{some}")
    free = free_memory()
    few = free < _ENOUGH_MEMORY
    advice = "Close something, or train heads within a limit of memory." if few else ""
    yield Finding("memory", f"{_gigabytes(free)} free", advice=advice)


def _compute(*, gpu: bool) -> Iterator[Finding]:
    driver = Path("/dev/nvidiactl").exists()
    found = _gpus() if gpu else []
    if gpu:
        yield Finding("GPU", ", ".join(found) or "TensorFlow sees none")
    elif driver:
        yield Finding("GPU", "there is an NVIDIA driver", advice="`onepass doctor --gpu` asks TensorFlow what it sees.")
    if driver and not gpu:
        yield Finding("engine", "auto: tensorflow if it sees the GPU, else openvino")
        return
    try:
        engine = choose_engine("auto")
        precision = choose_precision("auto", engine)
    except Exception as error:
        advice = "Run: pip install --force-reinstall openvino"
        yield Finding("engine", f"openvino cannot be loaded: {type(error).__name__}: {error}", False, advice)
        return
    yield Finding("engine", f"auto: {engine}")
    yield Finding("precision", f"auto: {precision}")


def _gpus() -> list[str]:
    import_keras()
    with quiet_stderr():
        return [device.name for device in sys.modules["tensorflow"].config.list_physical_devices("GPU")]


def _room() -> Iterator[Finding]:
    cache = cache_folder()
    for name, folder in (("disk here", Path.cwd()), ("disk of the cache", _first_there(cache))):
        free, advice = shutil.disk_usage(folder).free, "Make room; `onepass cache` shows what can go."
        yield Finding(name, f"{_gigabytes(free)} free", advice=advice if free < _ENOUGH_DISK else "")
    size = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file()) if cache.is_dir() else 0
    found = f"{cache}, {_gigabytes(size)}"
    if os.access(_first_there(cache), os.W_OK | os.X_OK):
        yield Finding("cache", found)
    else:
        advice = "Set ONEPASS_CACHE to a folder that can be written."
        yield Finding("cache", f"{found}, which may not be written", False, advice)


def _installation() -> Iterator[Finding]:
    tested = _tested()
    for name, found in versions().versions.items():
        known = tested.get(name.lower(), found)
        if found is None:
            yield Finding(name, "not installed", False, f"Run: pip install {name}")
        else:
            yield Finding(name, found if found == known else f"{found}; tested with {known}")
    for extra, needed in _extras().items():
        missing = [name for name in needed if _version(name) is None]
        advice = f'If you need it, run: pip install "onepass[{extra}]"' if missing else ""
        found = f"not installed: {', '.join(missing)}" if missing else "installed"
        yield Finding(f"extra {extra}", found, advice=advice)


def _reachable(*, offline: bool) -> Finding:
    """Whether Keras could download pretrained weights."""
    name = "weights"
    advice = "Use the bundled backbone, a file of weights, or put Keras's download into ~/.keras/models."
    if offline:
        return Finding(name, "not looked for")
    try:
        with urllib.request.urlopen(urllib.request.Request(WEIGHTS, method="HEAD"), timeout=_PATIENCE):
            return Finding(name, f"can be downloaded from {WEIGHTS.split('/')[2]}")
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        return Finding(name, f"{WEIGHTS.split('/')[2]} cannot be reached: {reason}", advice=advice)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _tested() -> dict[str, str]:
    """Package -> the version that the tests passed with."""
    try:
        text = (Path(__file__).parents[1] / "constraints.txt").read_text()
    except OSError:
        return {}
    return {name.lower(): version for name, version in re.findall(r"(?m)^([\w.-]+)==(\S+)", text)}


def _extras() -> dict[str, list[str]]:
    """Extra -> the distributions that it installs; what developers alone need is left out."""
    found: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("onepass") or []:
        match = re.match(r"([\w.-]+)[^;]*;\s*extra\s*==\s*['\"](\w+)['\"]", line)
        if match and match[2] != "dev":
            found.setdefault(match[2], []).append(match[1])
    return found


def _first_there(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"
