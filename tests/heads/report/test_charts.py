"""Charts: marks lie where the numbers say, and any text makes a well-formed drawing."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from onepass.heads.report.page.charts import (
    WIDTH,
    Axis,
    Line,
    Mark,
    Series,
    hardest,
    histogram,
    named_points,
    plot,
    rows_chart,
)

HOSTILE = "</svg><script>alert('1')</script>\"&\u202e\n"


def drawn(svg: str, kind: str) -> list[ElementTree.Element]:
    return [one for one in ElementTree.fromstring(svg).iter() if kind in (one.get("class") or "").split()]


def centres(svg: str) -> np.ndarray:
    """(m, 2) left and right end of each round mark."""
    paths = re.findall(r'class="mark s0" d="M([\d.-]+) ([\d.-]+)a([\d.]+) ', svg)
    return np.array([(float(x) + float(r), float(y)) for x, y, r in paths])


def test_marks_of_rows_lie_where_their_values_are(rng: np.random.Generator):
    values = rng.uniform(0.2, 0.9, 12)
    lines = [Line(f"row {i}", "", [Mark(value)], (value - 0.1, value + 0.05)) for i, value in enumerate(values)]
    svg = rows_chart(lines, Axis("share", 0.0, 1.0, percent=True), alt="rows")
    x = centres(svg)[:, 0]
    np.testing.assert_allclose(x, 8 + values * (WIDTH - 16), atol=0.06)
    ends = [(float(one.get("x1")), float(one.get("x2"))) for one in drawn(svg, "span")]
    np.testing.assert_allclose(ends, 8 + np.stack([values - 0.1, values + 0.05], axis=1) * (WIDTH - 16), atol=0.06)


@pytest.mark.parametrize("log", [False, True])
def test_points_of_a_plot_are_evenly_spaced_as_their_axis_says(log: bool):
    x = np.geomspace(1, 1000, 7) if log else np.linspace(1, 1000, 7)
    svg = plot([Series("", x.tolist(), [0.5] * 7)], Axis("n", 1, 1000, log=log), Axis("share", 0, 1), alt="plot")
    steps = np.diff(centres(svg)[:, 0])
    np.testing.assert_allclose(steps, steps[0], atol=0.15)
    assert steps[0] > 50


def test_ticks_are_round_and_within_the_axis(rng: np.random.Generator):
    for _ in range(200):
        low, size = 10.0 ** rng.uniform(-3, 3), 10.0 ** rng.uniform(-2, 3)
        for axis in (Axis("", low, low + size), Axis("", low, low * (1 + size), log=True)):
            ticks = axis.ticks()
            assert all(axis.low - 1e-9 <= tick <= axis.high * (1 + 1e-9) for tick in ticks)
            assert ticks == sorted(set(ticks))
            assert 2 <= len(ticks) <= 25


def test_bars_are_as_tall_as_they_are_many(rng: np.random.Generator):
    values = rng.normal(size=500)
    svg = histogram(values, Axis("off", -4.0, 4.0), alt="bars", bins=16)
    heights = np.array([float(bar.get("height")) for bar in drawn(svg, "bar")])
    counts = np.histogram(np.clip(values, -4, 4), bins=16, range=(-4, 4))[0]
    np.testing.assert_allclose(heights / heights.max(), counts / counts.max(), atol=0.002)


def test_any_text_makes_a_well_formed_drawing():
    axis = Axis(HOSTILE, 0.0, 1.0)
    drawings = [
        rows_chart([Line(HOSTILE, HOSTILE, [Mark(0.5)])], axis, alt=HOSTILE, legend=[HOSTILE]),
        plot([Series(HOSTILE, [0.1, float("nan"), 0.9], [0.2, 0.3, 0.4])], axis, axis, alt=HOSTILE, diagonal=True),
        named_points([HOSTILE, HOSTILE], [0.5, 0.5], [0.5, 0.5], axis, axis, alt=HOSTILE),
        histogram(np.zeros(3), axis, alt=HOSTILE),
    ]
    for svg in drawings:
        names = {one.tag for one in ElementTree.fromstring(svg).iter()}
        assert names <= {"svg", "line", "path", "text", "rect"}
        assert not re.search("[\u202e\n]|NaN|nan|inf", svg)


def test_the_hardest_keep_their_order():
    lines = [Line(str(i), "", [Mark(value)]) for i, value in enumerate([0.9, 0.1, 0.8, 0.3])]
    assert [line.name for line in hardest(lines, 2)] == ["1", "3"]
