"""Whether a fine-tuned model is better than the frozen one: which epoch stands for it, and the test that decides."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np

from onepass.heads.stats.intervals import ALPHA
from onepass.heads.stats.sign_flips import BestOfSeveral, best_of_several

FEWEST_ERRORS = math.ceil(math.log2(1 / ALPHA))
"""Errors that a model must make for another to be called better: with fewer, correcting all of them may be chance."""

_PROVEN = 2.8
"""Standard errors of a gain that is proven in about four of five cases.

Of one epoch that nobody chose it would be 2.5, the normal quantiles of 0.95 and 0.8. The test of the best of several
asks more, and the choice adds to the gain; benchmarks/fine_tuning_decision.py counts how often such a gain is proven.
"""


class Validated(Protocol):
    """An epoch, by its validation images."""

    @property
    def val_loss(self) -> float: ...
    @property
    def val_accuracy(self) -> float: ...


def best_epoch(history: Sequence[Validated]) -> int:
    """The epoch that stands for a training: the lowest validation loss, of those with the start's accuracy if any.

    A lower loss is no gain to whoever counts errors, if there are more of them than at the start.

    Args:
        history: The start and all epochs.

    Returns:
        Its position, 1 or more; 0 if no epoch has a finite loss.
    """
    least = history[0].val_accuracy
    trained = [i for i, epoch in enumerate(history) if i and math.isfinite(epoch.val_loss)]
    return min(trained, key=lambda i: (history[i].val_accuracy < least, history[i].val_loss), default=0)


def is_better(epoch: Validated, start: Validated) -> bool:
    """Whether an epoch has a lower validation loss than the start, and no lower accuracy."""
    return epoch.val_loss < start.val_loss and epoch.val_accuracy >= start.val_accuracy


@dataclass(frozen=True, eq=False)
class Hits:
    """Which images of one part the frozen model and the candidates classify correctly.

    Attributes:
        part: val or test.
        frozen: (n,) bool.
        tuned: (m, n) bool, of each epoch that could have been chosen.
        chosen: Position of the epoch that was chosen among the m.
        copies: (n,) bool, True for copies of training images.
        groups: (n,) integers, equal for images that belong together.
        weights: (n,) how much each image counts; None if all count alike.
    """

    part: str
    frozen: np.ndarray
    tuned: np.ndarray
    chosen: int
    copies: np.ndarray
    groups: np.ndarray
    weights: np.ndarray | None = None

    def differences(self) -> np.ndarray:
        """(m, n) of each candidate from the frozen model on each image, whose mean is the gain in accuracy."""
        found = self.tuned.astype(np.int8) - self.frozen
        return found if self.weights is None else np.asarray(found * (self.weights / self.weights.mean()))

    def without_copies(self) -> Self:
        rest = ~self.copies
        return replace(
            self,
            frozen=self.frozen[rest],
            tuned=self.tuned[:, rest],
            copies=self.copies[rest],
            groups=self.groups[rest],
            weights=None if self.weights is None else self.weights[rest],
        )

    def can_decide(self) -> bool:
        """Whether there are errors enough for any candidate to be called better."""
        return len(np.unique(self.groups[~self.frozen])) >= FEWEST_ERRORS


@dataclass(frozen=True)
class Decision:
    """Whether the fine-tuned model is better than the frozen one, and by which images.

    Attributes:
        part: val, or test where the validation images could prove nothing.
        n: Images that decided.
        errors: Those that the frozen model gets wrong.
        copies: Those that are copies of training images; 0 where there are enough others.
        epochs: Of which the best was chosen by these same images, which p accounts for; 1 where others chose it.
        gain: Accuracy of the fine-tuned model minus that of the frozen one on these images.
        p: One-sided p value of "no epoch is better than the frozen model".
        detectable: Gain that would have been called better in about four of five cases.
        able: Whether the frozen model errs often enough for any gain to be proven.
        better: Whether the fine-tuned model is better: an epoch was better than the start, and p is at most 0.05.
    """

    part: str
    n: int
    errors: int
    copies: int
    epochs: int
    gain: float
    p: float
    detectable: float
    able: bool
    better: bool

    def __str__(self) -> str:
        images = f"{self.n} {'validation' if self.part == 'val' else self.part} images"
        if self.copies:
            images += f" ({self.copies} of them copies of training images)"
        if not self.able:
            return (
                f"cannot be proven by {images}, of which the frozen model gets {self.errors} wrong; needed: "
                f"{FEWEST_ERRORS} that are not of one group"
            )
        found = f"{100 * self.gain:+.1f} points, p = {self.p:.2g}"
        if self.epochs > 1:
            found += f" for the best of {self.epochs} epochs"
        if self.better:
            return f"yes, by {images}: {found}"
        seen = f"a gain of {100 * self.detectable:.1f} points would be proven in about four of five cases"
        return f"not proven by {images}: {found}; {seen}"


def decide(val: Hits, test: Hits | None = None, *, improved: bool = True) -> Decision:
    """Decides by images that are not reported: those of validation, without copies of training images.

    The validation images also chose the epoch, for which the test accounts (see `best_of_several`). It is
    one-sided, because a model that is worse and one that is no better are treated alike. Where the frozen model makes
    fewer than `FEWEST_ERRORS` errors on them, no outcome could be significant, and the test images decide, then
    validation and test with their copies; if none of these can, nothing is better.

    Args:
        val: Validation images.
        test: Test images, if there are any.
        improved: Whether an epoch was better than the start; if not, nothing is better.
    """
    parts = [val] if test is None or not improved else [val, test]
    tried = [part.without_copies() for part in parts] + parts
    able = next((part for part in tried if part.can_decide()), None)
    deciding = able or (tried[0] if len(tried[0].frozen) else val)
    found = best_of_several(deciding.differences(), deciding.chosen, groups=deciding.groups)
    return Decision(
        part=deciding.part,
        n=len(deciding.frozen),
        errors=int((~deciding.frozen).sum()),
        copies=int(deciding.copies.sum()),
        epochs=len(deciding.tuned),
        gain=found.gain,
        p=found.p,
        detectable=_detectable(found, len(deciding.frozen)),
        able=able is not None,
        better=able is not None and improved and found.gain > 0 and found.p <= ALPHA,
    )


def _detectable(found: BestOfSeveral, n: int) -> float:
    """Gain that is proven in about four of five cases if as many images change sides as did, and no fewer than gain."""
    return min(max(_PROVEN * found.error, _PROVEN**2 / n), 1.0)
