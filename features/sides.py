"""Gives every class a train and a test side, although a group may hold images of several classes."""

from collections.abc import Iterator, Sequence

import numpy as np

STEPS = 2000
"""Moves that the search tries before it settles for the best it has seen."""


def give_both_sides(
    side: np.ndarray, classes: Sequence[Sequence[int]], *, distance: np.ndarray, fixed: np.ndarray
) -> np.ndarray:
    """Moves groups to the other side until no class of two or more groups lacks a side, if that can be.

    First whatever can be moved without harm to another class, the nearest group first. What is left is the
    problem of set splitting, which is hard in general: a depth-first search, which finds an answer if there is
    one and it is within reach, else leaves as few classes lacking as it has seen.

    Args:
        side: (g,) bool, True for the groups on the test side.
        classes: The groups that each class has images in.
        distance: (g,) float, how far each group is from the other side; near ones move first.
        fixed: (g,) bool, True for the groups that stay where they are.

    Returns:
        (g,) bool.
    """
    sides = _Sides(side, classes, distance, fixed)
    for label in list(sides.lacking):
        if label in sides.lacking:
            unit = next((unit for unit in sides.candidates(label) if not sides.harm(unit)), None)
            if unit is not None:
                sides.move(unit)
    _search(sides, STEPS)
    return sides.side


def _search(sides: "_Sides", steps: int) -> None:
    """Depth first: each level mends one class by one move, and no group moves twice on the way down.

    If there is an answer, some group of the class at hand lies on its other side, so one branch of each level
    leads there; a group moved on that branch is where the answer has it and need not move again.
    """
    lacking, best = len(sides.lacking), []
    moved: dict[int, None] = {}
    levels: list[Iterator[int]] = []
    for _ in range(steps):
        if not sides.lacking:
            return
        if len(levels) == len(moved):
            label = next(iter(sides.lacking))
            levels.append(iter([unit for unit in sides.candidates(label) if unit not in moved]))
        unit = next(levels[-1], None)
        if unit is not None:
            moved[unit] = None
            sides.move(unit)
            if len(sides.lacking) < lacking:
                lacking, best = len(sides.lacking), list(moved)
            continue
        levels.pop()
        if not levels:
            break
        sides.move(moved.popitem()[0])
    for unit in set(moved).symmetric_difference(best):
        sides.move(unit)


class _Sides:
    """Which side each group is on, and which classes lack one; both kept up to date as groups move."""

    def __init__(
        self, side: np.ndarray, classes: Sequence[Sequence[int]], distance: np.ndarray, fixed: np.ndarray
    ) -> None:
        self.side = side.copy()
        self._distance = distance
        # A class that has no two groups, or none that may move, cannot be helped.
        self._classes = [list(units) if len(units) > 1 and not fixed[units].all() else [] for units in classes]
        self._fixed = fixed
        self._tests = [int(side[units].sum()) if units else 0 for units in self._classes]
        self._labels: dict[int, list[int]] = {}
        for label, units in enumerate(self._classes):
            for unit in units:
                self._labels.setdefault(unit, []).append(label)
        self.lacking = dict.fromkeys(label for label, tests in enumerate(self._tests) if self._lacks(label, tests))

    def _lacks(self, label: int, tests: int) -> bool:
        return bool(self._classes[label]) and tests in (0, len(self._classes[label]))

    def _after(self, unit: int) -> list[tuple[int, int]]:
        """(class, its groups on the test side) for each class of a group, if that moved."""
        change = -1 if self.side[unit] else 1
        return [(label, self._tests[label] + change) for label in self._labels[unit]]

    def harm(self, unit: int) -> int:
        """Classes that would lack a side if a group moved."""
        return sum(self._lacks(label, tests) for label, tests in self._after(unit))

    def candidates(self, label: int) -> list[int]:
        """Groups of a class that may move: the least harmful first, of these the nearest."""
        units = [unit for unit in self._classes[label] if not self._fixed[unit]]
        return sorted(units, key=lambda unit: (self.harm(unit), self._distance[unit]))

    def move(self, unit: int) -> None:
        """Puts a group on the other side."""
        for label, tests in self._after(unit):
            self._tests[label] = tests
            if self._lacks(label, tests):
                self.lacking[label] = None
            else:
                self.lacking.pop(label, None)
        self.side[unit] = not self.side[unit]
