"""What a fine-tuning came to: before and after on the same images, the decision, and which of the two is kept."""

import csv
import importlib.util
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onepass.features.errors import OptionError, OutputError, cannot_write, opt
from onepass.features.names import shown
from onepass.features.tables import Record, command_line, fitted_table, html_table
from onepass.heads.finetune.joined import Agreement
from onepass.heads.stats.decision import Decision, best_epoch, is_better
from onepass.heads.stats.intervals import Difference, weighted_interval, wilson_interval
from onepass.heads.stats.paired_tests import paired_accuracy, paired_test

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Score = tuple[float, tuple[float, float]]
"""An accuracy and its 95 % interval."""


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

    def shares(self) -> tuple[str, str]:
        """Both shares in words; nothing is known of a class without images."""
        return (f"{self.before:.3f}", f"{self.after:.3f}") if self.n else ("-", "-")


@dataclass(frozen=True)
class WithoutCopies:
    """Before and after on the images that are no copies of training images.

    Attributes:
        leaked: Images that are exact or near copies of training images.
        n: The others.
        before, after: Accuracy of the frozen head and of the fine-tuned model on these; 0 if there are none.
        gain: Of the fine-tuned model, paired.
    """

    leaked: int
    n: int
    before: Score
    after: Score
    gain: Difference

    def __str__(self) -> str:
        copies = "is a copy" if self.leaked == 1 else "are copies"
        found = f"{self.leaked} of these images {copies} of training images; without them n={self.n}"
        if not self.n:
            return found
        return f"{found}, before {_score(self.before)}, after {_score(self.after)}, gain {_points(self.gain)}"


@dataclass(frozen=True)
class FineTuned:
    """The report of a fine-tuning.

    Before and after are the frozen head and the best trained epoch, whether or not that was better than the start.

    Attributes:
        head: Kind of the head it started from.
        measured_on: test, or val where there is no test part (it also chose the epoch).
        n: Images there.
        before, after: Accuracy and its 95 % interval of the frozen head and of the fine-tuned model.
        gain: Of the fine-tuned model, paired.
        without_copies: The same without copies of training images; None if there are none.
        decision: Whether the fine-tuned model is better, by images that are not those reported, if possible.
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
    before: Score
    after: Score
    gain: Difference
    without_copies: WithoutCopies | None
    decision: Decision
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
        """Whether the fine-tuned model is better: an epoch beat the start, and the gain is significant."""
        return self.decision.better

    @property
    def caution(self) -> str:
        """What flatters the reported gain; empty where images report it that neither chose nor decided."""
        if self.measured_on == "val":
            return "these images also chose the epoch and decided, which flatters the gain; add a test part"
        if self.decision.part == "test":
            return "these images also decided, which flatters the gain; add validation images"
        return ""

    @property
    def verdict(self) -> str:
        """The decision in words."""
        start, best = self.history[0], self.history[self._best()]
        if best is start:
            return "no, the loss was no finite number in any epoch"
        if not is_better(best, start):
            return (
                f"no epoch was better than the start (best: {best.val_accuracy:.3f}): validation accuracy "
                f"{start.val_accuracy:.3f} and loss {start.val_loss:.3f} at the start, {best.val_accuracy:.3f} and "
                f"{best.val_loss:.3f} in the best epoch"
            )
        return str(self.decision)

    def _best(self) -> int:
        return best_epoch(self.history)

    def __str__(self) -> str:
        trained, best = len(self.history) - 1, self._best()
        epoch = f"epoch {best} of {trained}" if best else f"no epoch of {trained} gave finite numbers"
        caution = f"; {self.caution}" if self.caution else ""
        lines = [
            f"before: frozen backbone with {self.head}, {self.measured_on} {_score(self.before)}, n={self.n}",
            f"after:  {epoch}, {self.seconds:.0f} s, {self.measured_on} {_score(self.after)}",
            f"gain:   {_points(self.gain)}{caution}",
        ]
        if self.without_copies:
            lines.append(f"copies: {self.without_copies}")
        lines.append(f"better: {self.verdict}")
        if self.advice:
            lines.append(f"stopped early: {self.advice}")
        lines.append(f"kept:   the {self.kept} model" + (f", {shown(self.path)}" if self.path else "; no file written"))
        return "\n".join([*lines, fitted_table(self._rows())])

    def _rows(self) -> list[list[str]]:
        lines = [
            [name, str(one.n), *one.shares(), str(one.corrected), str(one.broken)]
            for name, one in self.per_class.items()
        ]
        return [["class", "n", "before", "after", "corrected", "broken"], *lines]

    def _repr_html_(self) -> str:
        return html_table(self._rows(), title=str(self).partition("\nclass ")[0])

    @property
    def next_command(self) -> str:
        """What to do next, as it is typed; nothing where no file was written."""
        return command_line("onepass", "export", self.path, "--to", "onnx") if self.path else ""

    def record(self) -> Record:
        """As JSON takes it."""
        return {
            **asdict(self),
            "better": self.better,
            "verdict": self.verdict,
            "caution": self.caution,
            "path": str(self.path) if self.path else None,
        }

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Accuracy of training and validation over the epochs; the start and the epoch that is kept are marked."""
        from onepass.heads.plots.charts import named
        from onepass.heads.plots.files import new_axes

        ax = ax or new_axes()
        _draw_measure(ax, self.history, "accuracy", self._best() if self.kept == "fine-tuned" else 0, None)
        gain = f"{self.measured_on} {self.before[0]:.3f} before, {self.after[0]:.3f} after, n={self.n}"
        ax.set_title(named(gain, 80), fontsize=10)
        return ax

    def write_history(self, path: Path) -> None:
        """Writes one line per epoch as CSV."""
        with open(path, "w", newline="") as file:
            table = csv.DictWriter(file, list(asdict(self.history[0])))
            table.writeheader()
            table.writerows(asdict(epoch) for epoch in self.history)

    def draw_history(self, path: Path, *, validated: int) -> None:
        """Draws accuracy and loss over the epochs as PNG.

        Args:
            path: The file.
            validated: Validation images, which the interval of their accuracy hangs on.
        """
        kept = self._best() if self.kept == "fine-tuned" else 0
        history_figure(self.history, kept=kept, validated=validated).savefig(path, dpi=120, format="png")


def history_figure(history: Sequence[Epoch], *, kept: int, validated: int) -> Any:
    """Accuracy and loss of training and validation over whole epochs, as a figure of matplotlib.

    The accuracy of validation comes with its 95 % interval, and the axis shows all of that, so that chance does not
    look like a trend; the axis of the loss begins at 0. Stages, the start and the kept epoch are marked.

    Args:
        history: The start and all epochs.
        kept: Position of the epoch that is kept; 0 for the start.
        validated: Validation images.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, measure in zip(figure.subplots(1, 2), ("accuracy", "loss"), strict=True):
        _draw_measure(axes, history, measure, kept, validated)
    return figure


def _draw_measure(axes: Any, history: Sequence[Epoch], measure: str, kept: int, validated: int | None) -> None:
    """Accuracy or loss over the epochs; without the number of validation images there is no interval."""
    from matplotlib.ticker import MaxNLocator

    validation = [getattr(epoch, f"val_{measure}") for epoch in history]
    axes.plot([getattr(epoch, measure) for epoch in history], "o-", label="training")
    (line,) = axes.plot(validation, "s-", label="validation")
    if measure == "accuracy" and validated is not None:
        _draw_interval(axes, validation, validated, line.get_color())
    elif measure == "loss":
        axes.set_ylim(bottom=0)
    _draw_stages(axes, history)
    axes.plot([0], validation[:1], "D", ms=9, color="black", label="start" + (", kept" if kept == 0 else ""))
    if kept:
        axes.plot([kept], [validation[kept]], "*", ms=14, color="black", label=f"epoch {kept}, kept")
    axes.set(xlabel="epoch", ylabel=measure, xlim=(-0.5, len(history) - 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()


def _draw_interval(axes: Any, accuracies: Sequence[float], images: int, color: Any) -> None:
    bounds = np.array([wilson_interval(accuracy * images, images) for accuracy in accuracies])
    axes.fill_between(range(len(bounds)), *bounds.T, alpha=0.2, color=color, lw=0, label="95 % interval")
    axes.set_ylim(min(bounds[:, 0].min(), 0.9) - 0.01, min(max(bounds[:, 1].max() + 0.01, axes.get_ylim()[1]), 1.01))


def _draw_stages(axes: Any, history: Sequence[Epoch]) -> None:
    """A line before the first epoch of each stage but the first, and what trains at the top of each."""
    from onepass.heads.plots.charts import named

    for i, epoch in enumerate(history):
        if i and epoch.stage != history[i - 1].stage:
            if epoch.stage > 1:
                axes.axvline(i - 0.5, color="grey", ls="--", lw=1)
            axes.annotate(
                named(epoch.unfreeze),
                (i - 0.45, 0.01),
                xycoords=("data", "axes fraction"),
                color="grey",
                fontsize=8,
            )


def class_changes(
    frozen: np.ndarray,
    tuned: np.ndarray,
    y: np.ndarray,
    class_names: Sequence[str],
    weights: np.ndarray | None = None,
) -> dict[str, ClassChange]:
    """What the tuned model changes in each class.

    Args:
        frozen, tuned: (n,) predicted classes.
        y: (n,) true ones.
        class_names: k.
        weights: (n,) how much each image counts in the shares; all alike by default.
    """
    before, after = frozen == y, tuned == y
    weights = np.ones(len(y)) if weights is None else weights
    changes = {}
    for i, name in enumerate(class_names):
        own = y == i
        n = int(own.sum())
        changes[name] = ClassChange(
            n=n,
            before=float(np.average(before[own], weights=weights[own])) if n else 0.0,
            after=float(np.average(after[own], weights=weights[own])) if n else 0.0,
            corrected=int((own & after & ~before).sum()),
            broken=int((own & before & ~after).sum()),
        )
    return changes


def gain_of(after: np.ndarray, before: np.ndarray, groups: np.ndarray, weights: np.ndarray | None = None) -> Difference:
    """Gain in accuracy on the same images, with an interval that knows which of them belong together.

    Images in groups are worth fewer than they are: whole groups are resampled, and the wider of that interval and
    the one for independent images is given, because resampling invents no mistakes where there were none.

    Args:
        after, before: (n,) bool, which images the two models classify correctly.
        groups: (n,) integers, equal for images that belong together.
        weights: (n,) how much each image counts; all alike by default. Images that do not are resampled.
    """
    answers = [np.stack([~right, right], axis=1).astype(np.float64) for right in (after, before)]
    if weights is not None and len(np.unique(groups)) > 1:
        every = np.ones(len(groups), np.int64)
        return paired_test("accuracy", answers, every, groups=groups, sample_weights=weights).difference(0, 1, 0.05)
    alone = paired_accuracy(after, before)
    units = len(np.unique(groups))
    if units == len(groups) or units < 2:
        return alone
    together = paired_test("accuracy", answers, np.ones(len(groups), np.int64), groups=groups).difference(0, 1, 0.05)
    low, high = (pick(alone.interval[i], together.interval[i]) for i, pick in enumerate((min, max)))
    return Difference(alone.difference, (low, high), max(alone.p, together.p))


def without_copies(
    before: np.ndarray,
    after: np.ndarray,
    groups: np.ndarray,
    copies: np.ndarray,
    weights: np.ndarray | None = None,
) -> WithoutCopies | None:
    """Scores and gain on the images that are no copies; None if all of them are none.

    Args:
        before, after: (n,) bool, which images the two models classify correctly.
        groups: (n,) integers, equal for images that belong together.
        copies: (n,) bool, True for copies of training images.
        weights: (n,) how much each image counts; all alike by default.
    """
    if not copies.any():
        return None
    rest, none = ~copies, (0.0, (0.0, 1.0))
    some, counted = bool(rest.any()), None if weights is None else weights[rest]
    return WithoutCopies(
        leaked=int(copies.sum()),
        n=int(rest.sum()),
        before=score_of(before[rest], counted) if some else none,
        after=score_of(after[rest], counted) if some else none,
        gain=gain_of(after[rest], before[rest], groups[rest], counted) if some else Difference(0.0, (-1.0, 1.0), 1.0),
    )


def score_of(right: np.ndarray, weights: np.ndarray | None = None) -> Score:
    """(n,) bool, and how much each image counts -> accuracy and its 95 % interval."""
    weights = np.ones(len(right)) if weights is None else weights
    return float(np.average(right, weights=weights)), weighted_interval(right, weights)


def _score(score: Score) -> str:
    accuracy, (low, high) = score
    return f"accuracy {accuracy:.3f} ({low:.3f} to {high:.3f})"


def _points(gain: Difference) -> str:
    points, (low, high) = 100 * gain.difference, (100 * bound for bound in gain.interval)
    return f"{points:+.1f} points ({low:+.1f} to {high:+.1f}), p = {gain.p:.2g}"


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
    """Writes loss and accuracy of training and validation; the start has no training loss.

    Raises:
        OutputError: The folder cannot be written.
    """
    import tensorflow as tf

    try:
        for part, prefix in (("train", ""), ("validation", "val_")):
            with tf.summary.create_file_writer(str(folder / part)).as_default():
                for step, epoch in enumerate(epochs):
                    for measure in ("loss", "accuracy"):
                        tf.summary.scalar(f"epoch_{measure}", getattr(epoch, prefix + measure), step=step)
    except (OSError, tf.errors.OpError) as error:
        raise OutputError(cannot_write(folder, error, opt.tensorboard), folder=folder) from None
