"""What a fine-tuning came to: before and after on the same images, and which of the two is kept."""

import csv
import importlib.util
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from onepass.features.errors import OptionError, opt
from onepass.features.tables import Record, html_table, text_table
from onepass.heads.finetune.joined import Agreement
from onepass.heads.stats.intervals import Difference, wilson_interval
from onepass.heads.stats.paired_tests import paired_accuracy


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to.

    Attributes:
        stage: Number of the stage, from 1; 0 for the start.
        unfreeze: What trained.
        epoch: Number in its stage, from 1.
        lr: Learning rate at its end.
        loss, accuracy: Of the training batches, while they were learnt from.
        val_loss, val_accuracy: Of the validation images afterwards; the loss at the best temperature.
        seconds: Duration, validation included.
    """

    stage: int
    unfreeze: str
    epoch: int
    lr: float
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    seconds: float


@dataclass(frozen=True)
class ClassChange:
    """Scores of one class before and after.

    Attributes:
        n: Images.
        before, after: Share classified correctly.
        corrected, broken: Images that only the fine-tuned, or only the frozen model gets right.
    """

    n: int
    before: float
    after: float
    corrected: int
    broken: int


@dataclass(frozen=True)
class FineTuned:
    """The report of a fine-tuning.

    Attributes:
        head: Kind of the head it started from.
        measured_on: test, or val where there is no test part (it also stopped the training).
        n: Images there.
        before, after: Accuracy and its 95 % interval of the frozen head and of the fine-tuned model.
        gain: Of the fine-tuned model, paired.
        per_class: By name.
        agreement: Of the joined model with the head before the first step; None from scratch.
        history: The start and all epochs.
        advice: Why training ended early, and what to do; empty if it did not.
        kept: fine-tuned or frozen.
        path: The model file; None if nothing was kept.
        boundary: What was kept of the trunk, and where; empty end to end.
        seconds: Duration of the training.
    """

    head: str
    measured_on: str
    n: int
    before: tuple[float, tuple[float, float]]
    after: tuple[float, tuple[float, float]]
    gain: Difference
    per_class: dict[str, ClassChange]
    agreement: Agreement | None
    history: list[Epoch]
    advice: str
    kept: str
    path: Path | None
    boundary: str
    seconds: float

    @property
    def better(self) -> bool:
        """Whether the gain is real: above 0 and significant."""
        return self.gain.difference > 0 and self.gain.interval[0] > 0

    def __str__(self) -> str:
        gain, (low, high) = 100 * self.gain.difference, (100 * bound for bound in self.gain.interval)
        verdict = "better" if self.better else "worse" if self.gain.interval[1] < 0 else "no proven difference"
        trained = [epoch for epoch in self.history if epoch.stage]
        lines = [
            f"before: frozen backbone with {self.head}, {self.measured_on} {_score(self.before)}, n={self.n}",
            f"after:  {len(trained)} epochs in {self.seconds:.0f} s, {self.measured_on} {_score(self.after)}",
            f"gain:   {gain:+.1f} points ({low:+.1f} to {high:+.1f}), p = {self.gain.p:.2g}: {verdict}",
        ]
        if self.measured_on == "val":
            lines.append("note:   these images also said when to stop, which flatters the gain; add a test part")
        if self.advice:
            lines.append(f"stopped early: {self.advice}")
        lines.append(f"kept:   the {self.kept} model" + (f", {self.path}" if self.path else "; no file written"))
        return "\n".join([*lines, text_table(self._rows())])

    def _rows(self) -> list[list[str]]:
        lines = [
            [name, str(one.n), f"{one.before:.3f}", f"{one.after:.3f}", str(one.corrected), str(one.broken)]
            for name, one in self.per_class.items()
        ]
        return [["class", "n", "before", "after", "corrected", "broken"], *lines]

    def _repr_html_(self) -> str:
        return html_table(self._rows(), title=str(self).partition("\nclass ")[0])

    def record(self) -> Record:
        """As JSON takes it."""
        return {**asdict(self), "better": self.better, "path": str(self.path) if self.path else None}

    def write_history(self, path: Path) -> None:
        """Writes one line per epoch as CSV."""
        with open(path, "w", newline="") as file:
            table = csv.DictWriter(file, list(asdict(self.history[0])))
            table.writeheader()
            table.writerows(asdict(epoch) for epoch in self.history)

    def draw_history(self, path: Path) -> None:
        """Draws accuracy and loss of training and validation over the epochs as PNG."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 3.6), layout="constrained")
        epochs = range(len(self.history))
        for axes, measure in zip(figure.subplots(1, 2), ("accuracy", "loss"), strict=True):
            axes.plot(epochs, [getattr(epoch, measure) for epoch in self.history], "o-", label="training")
            axes.plot(epochs, [getattr(epoch, f"val_{measure}") for epoch in self.history], "s-", label="validation")
            axes.set(xlabel="epoch", ylabel=measure)
            axes.grid(alpha=0.3)
            axes.legend()
        figure.savefig(path, dpi=120, format="png")


def compared(
    frozen: np.ndarray, tuned: np.ndarray, y: np.ndarray, class_names: Sequence[str]
) -> tuple[Difference, dict[str, ClassChange]]:
    """The gain of the tuned model over the frozen one on the same images, over all and by class.

    Args:
        frozen, tuned: (n,) predicted classes.
        y: (n,) true ones.
        class_names: k.
    """
    before, after = frozen == y, tuned == y
    changes = {}
    for i, name in enumerate(class_names):
        own = y == i
        n = int(own.sum())
        changes[name] = ClassChange(
            n=n,
            before=float(before[own].mean()) if n else 0.0,
            after=float(after[own].mean()) if n else 0.0,
            corrected=int((own & after & ~before).sum()),
            broken=int((own & before & ~after).sum()),
        )
    return paired_accuracy(after, before), changes


def score_of(right: np.ndarray) -> tuple[float, tuple[float, float]]:
    """(n,) bool -> accuracy and its 95 % interval."""
    return float(right.mean()), wilson_interval(float(right.sum()), len(right))


def _score(score: tuple[float, tuple[float, float]]) -> str:
    accuracy, (low, high) = score
    return f"accuracy {accuracy:.3f} ({low:.3f} to {high:.3f})"


def require_tensorboard() -> None:
    """Refuses logs that nothing here can write, before anything is trained.

    Raises:
        OptionError: TensorBoard is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise OptionError(
            f'{opt.tensorboard} needs TensorBoard. Run: pip install "onepass[tensorboard]", or leave it out.'
        )


def log_epochs(epochs: Sequence[Epoch], folder: Path) -> None:
    """Writes loss and accuracy of training and validation; the start has no training loss."""
    import tensorflow as tf

    for part, prefix in (("train", ""), ("validation", "val_")):
        with tf.summary.create_file_writer(str(folder / part)).as_default():
            for step, epoch in enumerate(epochs):
                for measure in ("loss", "accuracy"):
                    tf.summary.scalar(f"epoch_{measure}", getattr(epoch, prefix + measure), step=step)
