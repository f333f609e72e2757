"""What machine this is, for records of what was computed on it, and where its user keeps caches."""

import os
import platform
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path


def processor() -> str:
    """Model name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """Processor and number of cores."""
    return {"processor": processor(), "cores": os.cpu_count()}


def cache_folder() -> Path:
    """Where converted backbones lie: $ONEPASS_CACHE, or the system's folder for caches."""
    if chosen := os.environ.get("ONEPASS_CACHE"):
        return Path(chosen)
    return user_cache_path("onepass")
