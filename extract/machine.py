"""What machine this is, for records of what was computed or measured on it."""

import os
import platform
from pathlib import Path
from typing import Any


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
