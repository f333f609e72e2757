"""When an exported model does what the head did: the same classes or labels, or numbers as near as no matter."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onepass.features import CLASSES, LABELS, NUMBER

MAY_MOVE = 0.01
"""Share of the standard deviation of the held-out images' numbers by which one may move and still count as the same."""


class Judged(ABC):
    """What of k outputs matters, by task.

    Attributes:
        what: Differs, in a message: "1 label differs".
        tied: What is so near to each other that arithmetic may turn it around, in the same.
    """

    what: ClassVar[str]
    tied: ClassVar[str]

    @abstractmethod
    def changed(self, found: np.ndarray, expected: np.ndarray) -> np.ndarray:
        """(n, k) outputs by two ways -> (n,) bool, True where they say different things."""

    @abstractmethod
    def gaps(self, found: np.ndarray, expected: np.ndarray) -> np.ndarray:
        """(m, k) outputs of images that changed -> (m,) how far what was said lies from what is said, by either way."""

    @abstractmethod
    def says(self, outputs: np.ndarray, names: tuple[str, ...]) -> str:
        """(k,) outputs in a word."""


class JudgedClasses(Judged):
    """The most probable class."""

    what, tied = "label", "of two classes"

    def changed(self, found: np.ndarray, expected: np.ndarray) -> np.ndarray:
        return np.asarray(found.argmax(axis=1) != expected.argmax(axis=1))

    def gaps(self, found: np.ndarray, expected: np.ndarray) -> np.ndarray:
        each, was, now = np.arange(len(found)), expected.argmax(axis=1), found.argmax(axis=1)
        return np.asarray(np.maximum(expected[each, was] - expected[each, now], found[each, now] - found[each, was]))

    def says(self, outputs: np.ndarray, names: tuple[str, ...]) -> str:
        return names[int(outputs.argmax())]


@dataclass(frozen=True, eq=False)
class JudgedLabels(Judged):
    """All labels that are named.

    Attributes:
        thresholds: (k,) the probability from which on each is.
    """

    thresholds: np.ndarray

    what, tied = "answer", "with a threshold"

    def changed(self, found: np.ndarray, expected: np.ndarray) -> np.ndarray:
        return np.asarray(self._turned(found, expected).any(axis=1))

    def gaps(self, found: np.ndarray, expected: np.ndarray) -> np.ndarray:
        """Between the probabilities of having a label and of not having it, had both begun at a half."""
        away = 2 * np.maximum(np.abs(found - self.thresholds), np.abs(expected - self.thresholds))
        return np.asarray(np.where(self._turned(found, expected), away, 0).max(axis=1))

    def says(self, outputs: np.ndarray, names: tuple[str, ...]) -> str:
        named = [name for name, is_named in zip(names, outputs >= self.thresholds, strict=True) if is_named]
        return ", ".join(named) or "no label"

    def _turned(self, found: np.ndarray, expected: np.ndarray) -> np.ndarray:
        return np.asarray((found >= self.thresholds) != (expected >= self.thresholds))


class JudgedNumbers(Judged):
    """The number, up to a hundredth of the standard deviation of those expected."""

    what, tied = "number", "of two numbers"

    def changed(self, found: np.ndarray, expected: np.ndarray) -> np.ndarray:
        away = np.abs(found - expected)[:, 0]
        return np.asarray(away > MAY_MOVE * float(np.std(expected)) + 1e-5 * np.abs(expected)[:, 0])

    def gaps(self, found: np.ndarray, expected: np.ndarray) -> np.ndarray:
        return np.asarray(np.abs(found - expected)[:, 0])

    def says(self, outputs: np.ndarray, names: tuple[str, ...]) -> str:  # noqa: ARG002
        return f"{outputs[0]:.6g}"


JUDGED: dict[str, type[Judged]] = {CLASSES: JudgedClasses, LABELS: JudgedLabels, NUMBER: JudgedNumbers}
"""By task."""


def judged(task: str, thresholds: np.ndarray | None) -> Judged:
    """What matters for a task; thresholds are needed for labels alone."""
    return JudgedLabels(np.asarray(thresholds)) if task == LABELS else JUDGED[task]()
