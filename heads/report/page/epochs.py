"""Curves over the epochs of a training."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from onepass.heads.inference.history import History
from onepass.heads.report.page.charts import Axis, Series, plot
from onepass.heads.report.page.parts import Chart


class Curves(NamedTuple):
    """One chart.

    Attributes:
        title: Of it.
        name: Of what is drawn, below its axis.
        series: Name -> a value for each epoch.
        percent: Whether values are shares.
    """

    title: str
    name: str
    series: Mapping[str, Sequence[float]]
    percent: bool = False


def epoch_charts(first: int, curves: Sequence[Curves], rows: list[list[str]], note: str = "") -> list[Chart]:
    """Charts of values for each epoch, the last series of each told in words.

    Args:
        first: Number of the first epoch.
        curves: What to draw.
        rows: The numbers as a table.
        note: Below each chart.
    """
    charts = []
    for one in curves:
        lines = [
            Series(name, [float(first + i) for i in range(len(values))], list(values))
            for name, values in one.series.items()
        ]
        x = Axis("epoch", first - 0.2, lines[0].x[-1] + 0.2)
        y = Axis.around(one.name, [value for line in lines for value in line.y], percent=one.percent)
        alt = f"{one.title}: {lines[-1].name} from {lines[-1].y[0]:.3f} to {lines[-1].y[-1]:.3f}"
        charts.append(Chart(one.title, plot(lines, x, y, alt=alt), rows, note))
    return charts


def history_of(history: History) -> list[Chart]:
    """The training of a dense net; none for a single epoch."""
    if len(history) < 2:
        return []
    told = {name: values.tolist() for name, values in history.columns.items() if np.isfinite(values).all()}
    rows = [["epoch", *(name.replace("_", " ") for name in told)]]
    lines = enumerate(zip(*told.values(), strict=True), 1)
    rows += [[str(epoch), *(f"{value:.4g}" for value in line)] for epoch, line in lines]
    rate = history.rate.replace("_", " ")
    curves = [
        Curves(title, name, {said: told[column] for said, column in pair if column in told}, percent)
        for title, name, pair, percent in (
            ("Loss while it was trained", "loss", (("training", "loss"), ("held out", "held_out_loss")), False),
            (
                f"{rate.capitalize()} while it was trained",
                rate,
                (("training", history.rate), ("held out", f"held_out_{history.rate}")),
                history.rate != "mae",
            ),
        )
    ]
    kept = f"The weights are those of epoch {history.kept}."
    held_out = f" Held out: {history.measured_on}." if history.measured_on else " Nothing was held out."
    return epoch_charts(1, curves, rows, kept + held_out)
