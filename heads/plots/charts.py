"""The charts: confusions, bars with a name each, intervals of heads, learning curves, numbers against the truth."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from onepass.extract import drawable
from onepass.heads.plots.files import new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from onepass.heads.stats.power_law import Forecast

Interval = tuple[float, float]

_INK, _PALE, _ACCENT = "#1f3b57", "#9aa7b4", "#b5442c"
_COUNTED = 25
"""Classes up to which numbers stand in the cells of a confusion matrix."""


def named(name: object, most: int = 28) -> str:
    """A name as Matplotlib draws it: no formula between dollars, and no character that its font lacks."""
    return drawable(name, most).replace("$", r"\$")


def confusion_chart(counts: np.ndarray, names: Sequence[str], title: str, ax: "Axes | None" = None) -> "Axes":
    """Who is taken for whom: each cell is coloured by its share of the true class, and says how many images.

    Args:
        counts: (k, k), [true class][predicted class].
        names: k.
        title: Above.
        ax: Where to draw; by default in a figure of its own.
    """
    side = max(4.0, min(0.42 * len(names) + 2, 14))
    ax = ax or new_axes(side + 0.8, side)
    counts = np.asarray(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(names))
    ax.set_xticks(ticks, [named(name) for name in names], rotation=90)
    ax.set_yticks(ticks, [named(name) for name in names])
    if len(names) <= _COUNTED:
        for (row, column), share in np.ndenumerate(shares):
            colour = "white" if share > 0.55 else "black"
            ax.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=8)
    ax.set(xlabel="predicted", ylabel="true")
    ax.set_title(named(title, 80), fontsize=10)
    ax.figure.colorbar(image, ax=ax, label="share of the true class")
    return ax


def bar_chart(
    values: Mapping[str, float | None], label: str, title: str, ax: "Axes | None" = None, *, n: Sequence[int] = ()
) -> "Axes":
    """A bar for each name, from 0 to 1, the first on top; None has no bar.

    Args:
        values: By name.
        label: What they are.
        title: Above.
        ax: Where to draw; by default in a figure of its own.
        n: How many images each is about.
    """
    ax = ax or new_axes(6.0, max(2.0, min(0.28 * len(values) + 1.2, 30)))
    places = range(len(values))
    lengths = [np.nan if value is None else value for value in values.values()]
    ax.barh(places, lengths, color=_INK, height=0.7)
    texts = [named(name) for name in values]
    ax.set_yticks(places, [f"{text} (n={count})" for text, count in zip(texts, n, strict=True)] if n else texts)
    ax.set(xlim=(0, 1), xlabel=label)
    ax.invert_yaxis()
    ax.grid(axis="x", alpha=0.3)
    ax.set_title(named(title, 80), fontsize=10)
    return ax


def interval_chart(
    scores: Mapping[str, tuple[float, Interval]],
    ties: Sequence[str],
    label: str,
    title: str,
    ax: "Axes | None" = None,
) -> "Axes":
    """A point with its interval for each name, the first on top; those that tie for the best are dark.

    Args:
        scores: By name, with the ends of the interval.
        ties: Names.
        label: What the scores are.
        title: Above.
        ax: Where to draw; by default in a figure of its own.
    """
    ax = ax or new_axes(6.0, max(2.0, 0.32 * len(scores) + 1.2))
    for place, (name, (score, (low, high))) in enumerate(scores.items()):
        colour = _INK if name in ties else _PALE
        ax.plot([low, high], [place, place], "-", color=colour, lw=2, label="_interval")
        ax.plot([score], [place], "o", color=colour, ms=6, label="_score")
    ax.set_yticks(range(len(scores)), [named(name) for name in scores])
    ax.set_ylim(len(scores) - 0.5, -0.5)
    ax.set_xlabel(label)
    ax.grid(axis="x", alpha=0.3)
    ax.set_title(named(title, 80), fontsize=10)
    return ax


def learning_chart(curves: "Mapping[str, Forecast]", title: str, ax: "Axes | None" = None) -> "Axes":
    """Accuracy by number of training images, with its interval; the forecast for twice as many is dashed.

    Args:
        curves: By name of the head.
        title: Above.
        ax: Where to draw; by default in a figure of its own.
    """
    ax = ax or new_axes()
    for name, one in curves.items():
        (line,) = ax.plot(one.sizes, one.scores, "o-", label=named(name))
        low, high = np.array(one.intervals).T
        ax.fill_between(one.sizes, low, high, alpha=0.15, color=line.get_color(), lw=0)
        if one.doubled is not None and one.doubled_interval is not None:
            ends = [one.sizes[-1], 2 * one.sizes[-1]]
            ax.plot(ends, [one.scores[-1], one.doubled], "--", color=line.get_color(), label="_doubled")
            ax.plot([ends[1]] * 2, one.doubled_interval, "-", color=line.get_color(), lw=1, label="_doubled_interval")
    ax.set_xscale("log")
    ax.set(xlabel="training images", ylabel="accuracy")
    ax.grid(alpha=0.3)
    ax.legend()
    ax.set_title(named(title, 80), fontsize=10)
    return ax


def number_chart(true: np.ndarray, told: np.ndarray, name: str, title: str, ax: "Axes | None" = None) -> "Axes":
    """Predicted against true numbers, with the line on which both are equal.

    Args:
        true, told: (n,).
        name: What the number is.
        title: Above.
        ax: Where to draw; by default in a figure of its own.
    """
    ax = ax or new_axes(4.6, 4.4)
    ends = [float(min(true.min(), told.min())), float(max(true.max(), told.max()))]
    ax.plot(ends, ends, "-", color=_ACCENT, lw=1, label="equal")
    ax.plot(true, told, "o", color=_INK, ms=4, alpha=0.6, mew=0, label="images")
    ax.set(xlabel=f"true {named(name)}", ylabel=f"predicted {named(name)}")
    ax.set_aspect("equal", adjustable="datalim")
    ax.grid(alpha=0.3)
    ax.set_title(named(title, 80), fontsize=10)
    return ax
