"""What a net went through in training: loss and rate of what it learned from and of what was held out, by epoch."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from onepass.features import CLASSES, LABELS, NUMBER
from onepass.features.atomic import replacing
from onepass.features.errors import OutputError, cannot_write, opt
from onepass.features.tables import Record, html_table

RATE_OF = {CLASSES: "accuracy", LABELS: "labels_right", NUMBER: "mae"}
"""Task -> what is told of each epoch beside the loss: share of images or labels right, or mean absolute error."""

HELD_OUT = {
    "folds": "training images, each by the net of a fold that did not train on it; the head's own net trained on all",
    "part": "a seventh of the training images, by a net that did not train on them; the head's own net trained on all",
    "validation": "the validation rows, which the head's own net did not train on",
    "none": "",
}
"""How held-out rows were held out -> what the held-out figures were measured on."""

_COLUMNS = 5


@dataclass(frozen=True, eq=False)
class History:
    """The epochs of the fit that a head's weights come from.

    Attributes:
        values: (e, 5) float64, a line per epoch: loss and rate of the training rows while they were learned from,
            dropout included; loss and rate of held-out plain rows afterwards; and the held-out loss by which epochs
            are compared, at the best temperature. NaN where nothing is held out. Losses are what training minimises,
            class weights and label smoothing included: cross-entropy in nats, or of numbers the squared error.
        kept: The epoch, from 1, that the head's weights are those of.
        rate: One of `RATE_OF`; mae is in the unit of the numbers.
        held_out_by: A key of `HELD_OUT`.

    >>> history = History(np.array([[0.7, 0.5, 0.6, 0.6, 0.6], [0.4, 0.8, 0.5, 0.7, 0.5]]), 2, "accuracy", "folds")
    >>> history.columns["held_out_accuracy"].tolist(), len(history)
    ([0.6, 0.7], 2)
    """

    values: np.ndarray
    kept: int
    rate: str
    held_out_by: str

    def __len__(self) -> int:
        return len(self.values)

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """Name -> (e,) values: loss, accuracy, held_out_loss, held_out_accuracy, held_out_loss_at_best_temperature."""
        names = ("loss", self.rate, "held_out_loss", f"held_out_{self.rate}", "held_out_loss_at_best_temperature")
        return dict(zip(names, self.values.T, strict=True))

    @property
    def measured_on(self) -> str:
        """What the held-out figures were measured on; empty where nothing was held out."""
        return HELD_OUT[self.held_out_by]

    def __str__(self) -> str:
        loss, rate, held_out_loss, held_out_rate, _ = self.values[self.kept - 1]
        name = self.rate.replace("_", " ")
        told = (
            f"{len(self)} epoch{'s' if len(self) > 1 else ''}, kept the weights of epoch {self.kept}: while learning "
            f"loss {loss:.4g}, {name} {rate:.4g}"
        )
        if not self.measured_on:
            return f"{told}; nothing was held out"
        return f"{told}; held out loss {held_out_loss:.4g}, {name} {held_out_rate:.4g} ({self.measured_on})"

    def _repr_html_(self) -> str:
        lines = [[str(epoch), *(f"{value:.4g}" for value in line)] for epoch, line in enumerate(self.values, 1)]
        return html_table([["epoch", *self.columns], *lines], title=str(self))

    def record(self) -> Record:
        """The same as plain values, for JSON; what is not known is None."""
        columns = {
            name: [float(value) if np.isfinite(value) else None for value in values]
            for name, values in self.columns.items()
        }
        return {"kept": self.kept, "held_out": self.measured_on, **columns}

    def facts(self) -> Record:
        """What stands in a head file beside the values."""
        return {"kept": self.kept, "rate": self.rate, "held_out_by": self.held_out_by}

    @classmethod
    def restore(cls, values: np.ndarray, facts: Mapping[str, Any], task: str) -> Self:
        """From what stands in a head file.

        Raises:
            ValueError: It makes no sense.
        """
        found = cls(values, facts["kept"], facts["rate"], facts["held_out_by"])
        if values.dtype != np.float64 or values.ndim != 2 or values.shape[1] != _COLUMNS:
            raise ValueError(f"a history of shape {values.shape}, {values.dtype}")
        if type(found.kept) is not int or not 1 <= found.kept <= len(found):
            raise ValueError(f"epoch {str(found.kept)[:20]} kept of {len(found)}")
        if found.rate != RATE_OF[task] or found.held_out_by not in HELD_OUT:
            raise ValueError(f"a history of {str(found.rate)[:20]!r}, held out by {str(found.held_out_by)[:20]!r}")
        return found

    def write_csv(self, path: str | Path) -> None:
        """Writes a line per epoch; `kept` is 1 at the epoch that the weights are of, and what is unknown is empty.

        Raises:
            OutputError: The file cannot be written.
        """
        path = Path(path)
        try:
            with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(["epoch", *self.columns, "kept"])
                for epoch, line in enumerate(self.values.tolist(), 1):
                    known = [repr(value) if np.isfinite(value) else "" for value in line]
                    writer.writerow([epoch, *known, int(epoch == self.kept)])
        except OSError as error:
            raise OutputError(cannot_write(path, error, opt.history), path=path) from None


def loss_and_rate(
    scores: np.ndarray, y: np.ndarray, weights: np.ndarray, *, output: str, label_smoothing: float = 0.0
) -> tuple[float, float]:
    """Weighted mean loss, as nets minimise it, and share of images or labels right, or mean absolute error.

    Infinite, and undefined, of a net that diverged.

    Args:
        scores: (m, k) of plain rows.
        y: (m,) classes; or (m, k) labels of 0 and 1, or (m, 1) numbers.
        weights: (m,) of the images in the loss; the rate counts all alike.
        output: softmax, sigmoids or linear: what is made of scores.
        label_smoothing: Share of each label that is spread over all classes.

    >>> loss, rate = loss_and_rate(np.log([[0.5, 0.5], [0.1, 0.9]]), np.array([0, 1]), np.ones(2), output="softmax")
    >>> round(loss, 4), rate
    (0.3993, 1.0)
    """
    if not np.isfinite(scores).all():
        return np.inf, np.nan
    scores = scores.astype(np.float64)
    if output == "linear":
        losses, rates = np.square(scores - y).mean(axis=1), np.abs(scores - y).mean(axis=1)
    elif output == "sigmoids":
        wanted = y * (1 - label_smoothing) + label_smoothing / 2
        losses = (np.logaddexp(0, scores) - wanted * scores).mean(axis=1)
        rates = ((scores > 0) == (y > 0)).mean(axis=1)
    else:
        logs = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
        true = np.take_along_axis(logs, y[:, None], axis=1)[:, 0]
        losses = (label_smoothing - 1) * true - label_smoothing * logs.mean(axis=1)
        rates = scores.argmax(axis=1) == y
    return float(np.average(losses, weights=weights)), float(rates.mean())
