"""When an exported model does what the head did: the same classes; or numbers that lie as near as no matter."""

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from onepass.features import CLASSES, NUMBER

MAY_MOVE = 0.01
"""Share of the standard deviation of the held-out images' numbers by which one may move and still count as the same."""


class Judged(ABC):
    """What of k outputs matters, by task.

    Attributes:
        what: Differs, in a message: "1 label differs".
    """

    what: ClassVar[str]

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

    what = "label"

    def changed(self, found: np.ndarray, expected: np.ndarray) -> np.ndarray:
        return np.asarray(found.argmax(axis=1) != expected.argmax(axis=1))

    def gaps(self, found: np.ndarray, expected: np.ndarray) -> np.ndarray:
        each, was, now = np.arange(len(found)), expected.argmax(axis=1), found.argmax(axis=1)
        return np.asarray(np.maximum(expected[each, was] - expected[each, now], found[each, now] - found[each, was]))

    def says(self, outputs: np.ndarray, names: tuple[str, ...]) -> str:
        return names[int(outputs.argmax())]


class JudgedNumbers(Judged):
    """The number, up to a hundredth of the standard deviation of those expected."""

    what = "number"

    def changed(self, found: np.ndarray, expected: np.ndarray) -> np.ndarray:
        away = np.abs(found - expected)[:, 0]
        return np.asarray(away > MAY_MOVE * float(np.std(expected)) + 1e-5 * np.abs(expected)[:, 0])

    def gaps(self, found: np.ndarray, expected: np.ndarray) -> np.ndarray:
        return np.asarray(np.abs(found - expected)[:, 0])

    def says(self, outputs: np.ndarray, names: tuple[str, ...]) -> str:  # noqa: ARG002
        return f"{outputs[0]:.6g}"


JUDGED: dict[str, Judged] = {CLASSES: JudgedClasses(), NUMBER: JudgedNumbers()}
"""By task."""
