"""What the benchmarks share: where results go, and what machine and versions they belong to."""

import json
import statistics
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def write_result(name: str, result: dict[str, Any]) -> None:
    """Writes benchmarks/results/<name>.json."""
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def versions(*packages: str) -> dict[str, str]:
    return {name: version(name) for name in packages}


def ratios(reference: list[float], taken: list[float]) -> dict[str, float]:
    """How many times faster, round by round: neighbours in time met the same machine."""
    per_round = [a / b for a, b in zip(reference, taken, strict=True)]
    return {
        "median": round(statistics.median(per_round), 2),
        "min": round(min(per_round), 2),
        "max": round(max(per_round), 2),
    }


def results_so_far(name: str, result: dict[str, Any]) -> dict[str, Any]:
    """A result with the parts, dicts themselves, that benchmarks/results/<name>.json has of earlier runs."""
    path = RESULTS / f"{name}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    return result | {part: {**known.get(part, {}), **own} for part, own in result.items() if part in PARTS}


PARTS = ("heads", "many labels")
