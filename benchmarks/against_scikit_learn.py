"""A head and its counterpart on the same rows and folds with equal grids: who is better, and how long each takes.

Both have one BLAS thread: beside other work scikit-learn is several times as slow with two, whose waiting is busy.
"""

import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import ratios
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from onepass.features import FeatureFile
from onepass.heads.classifiers.base import Head
from onepass.heads.fitting.memory import some_of
from onepass.heads.stats.metrics import metric
from onepass.heads.stats.paired_tests import paired_test

Scores = Callable[[np.ndarray], np.ndarray]
"""(m, d) rows -> (m, k) numbers, or scores of labels of any size."""


def drawn(file: FeatureFile, images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of at most so many training images, and of a fifth of all images."""
    train, test = file.split(seed=seed)
    return some_of(train, file.table.labels[train], images, seed=seed), test


def photos_of(file: FeatureFile) -> list[Path]:
    return [Path(str(file.provenance["data"])) / path for path in file.paths]


class Duel:
    """Rounds of ours and theirs in turn, each on other images or for other numbers.

    Args:
        measure: Metric that is tested: mae or map.
        ours: Makes an unfitted head.
        theirs: Rows and what is true -> scores, by a search of scikit-learn's.
    """

    def __init__(self, measure: str, ours: Callable[[], Head], theirs: Callable[..., Scores]) -> None:
        self.measure, self.ours, self.theirs = measure, ours, theirs
        self.seconds: dict[str, list[float]] = {"onepass": [], "scikit-learn": []}
        self.rounds: list[dict[str, Any]] = []

    def round(self, name: str, train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> None:
        """Fits both on (n, d) rows and what is true of them, and scores both on others."""
        told = {}
        for who, fit in (("onepass", self._fit), ("scikit-learn", self.theirs)):
            started = time.perf_counter()
            with warnings.catch_warnings(), threadpool_limits(1):
                warnings.simplefilter("ignore", ConvergenceWarning)
                scores = fit(*train)
            self.seconds[who].append(round(time.perf_counter() - started, 3))
            told[who] = scores(test[0]).reshape(len(test[0]), -1)
        y = test[1].reshape(len(test[1]), -1)
        gap = paired_test(self.measure, list(told.values()), y).difference(0, 1, 0.05)
        self.rounds.append(
            {
                "round": name,
                **{who: round(metric(self.measure, one, y), 4) for who, one in told.items()},
                "n": len(y),
                "p": round(gap.p, 4),
            }
        )
        print(self.rounds[-1], {who: taken[-1] for who, taken in self.seconds.items()}, flush=True)

    def _fit(self, x: np.ndarray, y: np.ndarray) -> Scores:
        return self.ours().fit(x, y).outputs

    def record(self) -> dict[str, Any]:
        """Medians, their spread, and whether any round says that ours is worse."""
        worse = (lambda one: one["onepass"] > one["scikit-learn"]) if self.measure == "mae" else None
        worse = worse or (lambda one: one["onepass"] < one["scikit-learn"])
        return {
            "median_seconds": {who: round(statistics.median(taken), 3) for who, taken in self.seconds.items()},
            "times_faster": ratios(self.seconds["scikit-learn"], self.seconds["onepass"]),
            "significantly_worse": [one["round"] for one in self.rounds if worse(one) and one["p"] <= 0.05],
            "significantly_better": [one["round"] for one in self.rounds if not worse(one) and one["p"] <= 0.05],
            "rounds": self.rounds,
            "seconds": self.seconds,
        }
