"""k nearest neighbours by cosine, with weighted votes or means."""

from collections.abc import Iterator

import numpy as np

from onepass.heads.classifiers.base import Fit, Head, TrainingRows
from onepass.heads.classifiers.tuning import best_trial
from onepass.heads.head_options import ClassWeight
from onepass.heads.inference.neighbour_table import VOTES, NeighbourTable, nearest_first, unit_length

_COUNTS = (1, 3, 5, 10, 20, 50)
_DECAYS = (0.02, 0.05, 0.1, 0.3)


class KNNHead(Head):
    """Votes of the nearest training images, or the mean of their numbers, the nearer the heavier.

    Tuning leaves each image out in turn, with all its views and its group: exact, since all that
    changes is who may vote.

    Args:
        neighbours: How many vote; found if None.
        decay: Cosine over which a vote loses a factor e; found if None.
        class_weight: Factors on the votes.
        tune, time_limit, seed, task: As for every `Head`.

    >>> rows, labels = np.array([[0.0, 1], [0, 2], [5, 1], [5, 2]]), ["cat", "cat", "dog", "dog"]
    >>> KNNHead(neighbours=1).fit(rows, labels).predict([[4.0, 1]]).tolist()
    ['dog']
    """

    kind = "knn"

    def __init__(
        self,
        *,
        neighbours: int | None = None,
        decay: float | None = None,
        class_weight: ClassWeight = None,
        tune: str = "fast",
        time_limit: float | None = None,
        seed: int = 0,
        task: str = "classes",
    ) -> None:
        self.neighbours = neighbours
        self.decay = decay
        self.class_weight = class_weight
        self.tune = tune
        self.time_limit = time_limit
        self.seed = seed
        self.task = task

    def _fit(self, rows: TrainingRows) -> Fit:
        components = rows.components
        memory = unit_length(components.standardised)
        votes = np.repeat(rows.objective.votes(rows.y, rows.importance), rows.views, axis=0)
        best = None
        if rows.scored.any():
            best = best_trial(rows, self._trials(memory, votes, rows))
        count, decay = best.setting if best else (self.neighbours or 10, self.decay or 0.1)
        count = min(count, len(memory))
        network = NeighbourTable(
            components.mean, components.scale, memory, votes, count, decay, output=rows.objective.output
        )
        return Fit(network, {"neighbours": count, "decay": decay}, best.scores if best else None)

    def _trials(
        self, memory: np.ndarray, votes: np.ndarray, rows: TrainingRows
    ) -> Iterator[tuple[tuple[int, float], np.ndarray]]:
        """((neighbours, decay), held-out scores)."""
        others = len(memory) - int(np.bincount(rows.groups).max()) * rows.views
        counts = sorted({min(c, others) for c in ([self.neighbours] if self.neighbours else _COUNTS)})
        decays = [self.decay] if self.decay else _DECAYS
        told = VOTES[rows.objective.output]
        cosines, nearest = _nearest_of_others(memory, rows, max(counts))
        for count in counts:
            for decay in decays:
                yield (count, decay), told(cosines[:, :count], votes[nearest[:, :count]], decay)


def _nearest_of_others(memory: np.ndarray, rows: TrainingRows, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, count) cosines and positions of the rows nearest to each plain row, its own group left out."""
    plain, belongs = memory[:: rows.views], np.repeat(rows.groups, rows.views)
    cosines = np.empty((len(plain), count), np.float32)
    nearest = np.empty((len(plain), count), np.int64)
    for start in range(0, len(plain), 1024):
        some = slice(start, start + 1024)
        found = plain[some] @ memory.T
        found[rows.groups[some, None] == belongs] = -np.inf
        nearest[some] = nearest_first(found, count)
        cosines[some] = np.take_along_axis(found, nearest[some], axis=1)
    return cosines, nearest
