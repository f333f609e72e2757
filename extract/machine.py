"""What machine this is, for records of what was computed on it, how much of it may be used, and its caches' place."""

import os
import platform
from pathlib import Path
from typing import Any

import psutil
from platformdirs import user_cache_path

_CGROUP = Path("/sys/fs/cgroup")
_TELLING = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm")
"""Instruction sets that decide how fast a network runs, as Linux calls them."""


def processor() -> str:
    """Model name of this machine's processor."""
    return _of_processor("model name") or platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """Processor and number of cores."""
    return {"processor": processor(), "cores": os.cpu_count()}


def instruction_sets() -> list[str]:
    """Those of the processor that decide how fast a network runs; none where the system does not tell."""
    known = (_of_processor("flags") or _of_processor("Features")).split()
    return [name for name in _TELLING if name in known]


def usable_cores() -> float:
    """Cores that this process may use: by its affinity and the quota of its control group."""
    allowed = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    quota, _, period = _read(_CGROUP / "cpu.max").strip().partition(" ")
    return min(allowed, int(quota) / int(period)) if quota.isdigit() and period.isdigit() else allowed


def free_memory() -> int:
    """Bytes this process may still take: what the machine has free, or its control group allows if that is less."""
    free = int(psutil.virtual_memory().available)
    limit, used = _read(_CGROUP / "memory.max").strip(), _read(_CGROUP / "memory.current").strip()
    return min(free, int(limit) - int(used)) if limit.isdigit() and used.isdigit() else free


def _of_processor(name: str) -> str:
    lines = _read(Path("/proc/cpuinfo")).splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), "")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def cache_folder() -> Path:
    """Where converted backbones lie: $ONEPASS_CACHE, or the system's folder for caches."""
    if chosen := os.environ.get("ONEPASS_CACHE"):
        return Path(chosen)
    return user_cache_path("onepass")
