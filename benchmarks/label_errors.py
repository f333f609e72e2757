"""Which of the labels that are made wrong `inspect` calls worth a look, and how many others.

    python benchmarks/label_errors.py FEATURES... --seeds 5

Some labels of a feature file are made wrong, any other class ("any") or the class that heads find most probable beside
the true one ("alike", as people err), and each rule calls images by the same held-out probabilities: ours; cleanlab's
default and the one of its rules that ours is (`pip install cleanlab`); and that another class has 0.9 or more. Images
of inspection_judged.json are wrong as they are and never called falsely; who looked at no others counts the rest as
right, so the true precision is higher. Writes benchmarks/results/label-errors-<file>.json.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from cleanlab.filter import find_label_issues
from common import versions, write_result

from onepass.extract.machine import machine
from onepass.features import FeatureFile
from onepass.heads.audit.label_errors import out_of_fold, suspects

WRONG = Path(__file__).parent / "inspection_judged.json"
Rule = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(n, k) held-out probabilities and (n,) labels -> positions called, the surest first."""


def confident(probabilities: np.ndarray, y: np.ndarray) -> np.ndarray:
    called = np.flatnonzero((probabilities.max(axis=1) >= 0.9) & (probabilities.argmax(axis=1) != y))
    return called[np.argsort(-probabilities[called].max(axis=1), kind="stable")]


RULES: dict[str, Rule] = {
    "onepass": lambda probabilities, y: suspects(probabilities, y).positions,
    "cleanlab": lambda probabilities, y: find_label_issues(
        y, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1
    ),
    "cleanlab low_self_confidence": lambda probabilities, y: find_label_issues(
        y, probabilities, filter_by="low_self_confidence", return_indices_ranked_by="self_confidence", n_jobs=1
    ),
    "another class has 0.9": confident,
}


def main(
    features: Annotated[list[Path], typer.Argument(help="Feature files.")],
    seeds: int = 5,
    rates: Annotated[str, typer.Option(help="Shares of labels made wrong, in percent.")] = "2,5,10,20",
) -> None:
    for path in features:
        result = {
            "features": path.stem,
            "seeds": seeds,
            "machine": machine(),
            "versions": versions("onepass", "cleanlab", "numpy", "scikit-learn"),
            **measured(path, seeds, [int(rate) for rate in rates.split(",")]),
        }
        write_result(f"label-errors-{path.stem}", result)
        print(json.dumps(result, indent=1))


def measured(path: Path, seeds: int, rates: list[int]) -> dict[str, Any]:
    """What is called in the data as they are, and of planted errors."""
    with FeatureFile(path) as file:
        positions = np.flatnonzero(file.committed)
        x, y = file.read(positions)
        paths = [file.table.paths[i] for i in positions]
        groups = file.group_ids()[positions]
    known = json.loads(WRONG.read_text()).get(path.stem.split(".")[0], [])
    wrong = np.isin(paths, known)
    untouched = out_of_fold(x, y, groups)
    rounds = []
    for noise in ("any", "alike"):
        for rate in rates:
            for seed in range(seeds):
                labels = planted(untouched, y, rate / 100, noise, np.random.default_rng(seed))
                probabilities = out_of_fold(x, labels, groups)
                rounds += [
                    {"noise": noise, "percent": rate, "rule": name, **scored(rule, probabilities, labels, y, wrong)}
                    for name, rule in RULES.items()
                ]
    return {
        "images": len(y),
        "untouched": {name: len(called(rule, untouched, y)) for name, rule in RULES.items()},
        "table": means(rounds),
    }


def planted(
    probabilities: np.ndarray, y: np.ndarray, rate: float, noise: str, generator: np.random.Generator
) -> np.ndarray:
    """(n,) labels, some of them wrong."""
    chosen = generator.choice(len(y), round(rate * len(y)), replace=False)
    labels, k = y.copy(), probabilities.shape[1]
    others = np.nan_to_num(probabilities[chosen])
    if noise == "any":
        others = generator.random((len(chosen), k))
    others[np.arange(len(chosen)), y[chosen]] = -1
    labels[chosen] = others.argmax(axis=1)
    return labels


def called(rule: Rule, probabilities: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Positions that a rule calls, of the images that can be judged."""
    judged = np.flatnonzero(np.isfinite(probabilities).all(axis=1))
    return judged[rule(probabilities[judged], y[judged])]


def scored(
    rule: Rule, probabilities: np.ndarray, labels: np.ndarray, y: np.ndarray, wrong: np.ndarray
) -> dict[str, Any]:
    """Share of the planted errors that are called, and of the called (and their first half) that are errors."""
    found, false = called(rule, probabilities, labels), (labels == y) & ~wrong
    return {
        "called": len(found),
        "recall": float(np.isin(np.flatnonzero(labels != y), found).mean()),
        "precision": float(1 - false[found].mean()) if len(found) else 1.0,
        "precision_of_first_half": float(1 - false[found[: -(-len(found) // 2)]].mean()) if len(found) else 1.0,
    }


def means(rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rounds of one noise, rate and rule averaged."""
    keys = ("noise", "percent", "rule")
    lines = []
    for key in dict.fromkeys(tuple(one[name] for name in keys) for one in rounds):
        some = [one for one in rounds if tuple(one[name] for name in keys) == key]
        values = {name: round(float(np.mean([one[name] for one in some])), 3) for name in some[0] if name not in keys}
        lines.append({**dict(zip(keys, key, strict=True)), **values})
    return lines


if __name__ == "__main__":
    typer.run(main)
