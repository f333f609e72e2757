"""Figures hold the numbers of their results, whatever names classes have; files are told from their endings before."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onepass.extract import import_matplotlib
from onepass.features.errors import OptionError, OutputError
from onepass.heads.compare.report import HeadsComparison, HeadScore
from onepass.heads.evaluation import Answers, score
from onepass.heads.finetune.result import Epoch, FineTuned
from onepass.heads.head_facts import number_evaluation
from onepass.heads.plots.files import new_axes, require_plot, save_plot
from onepass.heads.stats.intervals import Difference
from onepass.heads.stats.multiple_comparison import Comparison
from onepass.heads.stats.power_law import Forecast
from onepass.heads.tasks.label_evaluation import score_labels
from onepass.heads.tasks.number_evaluation import score_numbers
from support import run_program

HOSTILE = ("$a_b$", "x\ny", "\U0001f98a 猫 \U0010ffff", "a" * 200, r"\frac{1}{2} $$", "%s {} &<b>", "caf\udce9")


def classes(names: tuple[str, ...], n: int = 60):
    rng = np.random.default_rng(0)
    y, named = rng.integers(0, len(names), (2, n))
    named = np.where(rng.random(n) < 0.6, y, named)
    return score(Answers(named, None), y, names, measured_on="test"), y, named


def test_the_confusion_matrix_is_drawn_as_it_is():
    found, y, named = classes(("ants", "bees", "cats"))
    ax = found.plot()
    counts = np.zeros((3, 3), int)
    np.add.at(counts, (y, named), 1)
    np.testing.assert_allclose(ax.images[0].get_array(), counts / counts.sum(axis=1, keepdims=True))
    assert [int(text.get_text()) for text in ax.texts] == counts.ravel().tolist()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["ants", "bees", "cats"]
    assert ax.get_title() == f"test: {found.headline()}"
    assert ax.images[0].get_array()[0].argmax() == 0


def test_many_classes_are_bars_of_their_recall():
    found, y, named = classes(tuple(f"class{i}" for i in range(50)), 400)
    ax = found.plot()
    names = [label.get_text().split(" ")[0] for label in ax.get_yticklabels()]
    widths = [bar.get_width() for bar in ax.patches]
    assert widths == sorted(widths)
    for name, width in zip(names, widths, strict=True):
        own = y == int(name.removeprefix("class"))
        assert width == pytest.approx((named == y)[own].mean())


def test_labels_are_bars_of_average_precision():
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, (80, 3))
    p = np.clip(0.5 * y + 0.6 * rng.random((80, 3)), 0.01, 0.99)
    found = score_labels((p > 0.5).astype(int), p, y, ("a", "b", "c"))
    ax = found.plot()
    for i, bar in enumerate(ax.patches):
        assert bar.get_width() == pytest.approx(average_precision_score(y[:, i], p[:, i]))
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        f"{name} (n={y[:, i].sum()})" for i, name in enumerate("abc")
    ]


def test_numbers_are_drawn_against_the_truth():
    rng = np.random.default_rng(2)
    y = rng.normal(size=30)
    told = y + rng.normal(size=30) / 5
    found = score_numbers(told[:, None], y, "age")
    equal, points = found.plot().lines
    np.testing.assert_array_equal(points.get_xdata(), y)
    np.testing.assert_array_equal(points.get_ydata(), told)
    np.testing.assert_array_equal(equal.get_xdata(), equal.get_ydata())
    assert "pairs" not in found.record()
    kept = number_evaluation(found.record(), ("age",))
    assert kept == found
    with pytest.raises(OptionError) as refused:
        kept.plot()
    assert str(refused.value) == "a head file keeps no single predictions to be drawn; evaluate the head again."


def compared(names: tuple[str, ...] = ("logreg", "svm", "knn"), *, learning: bool = False) -> HeadsComparison:
    scores = [
        HeadScore(name, "logreg", "f.h5", {}, 0.95 - 0.1 * i, (0.9 - 0.1 * i, 0.97 - 0.1 * i), 0.1, 0.1, None, 1, 1, 9)
        for i, name in enumerate(names)
    ]
    gaps = {name: Difference(-0.1 * i, (-0.1 * i - 0.05, -0.1 * i + 0.05), 0.5) for i, name in enumerate(names)}
    test = Comparison(names=names, best=names[0], ties=names[:2], to_best=gaps, adjusted_p={}, detectable={})
    curve = Forecast(
        (10, 20, 40), (0.7, 0.8, 0.85), ((0.6, 0.8), (0.7, 0.9), (0.8, 0.9)), 0.03, (0.0, 0.06), 0.88, (0.8, 0.95)
    )
    return HeadsComparison(
        "test of f.h5", 120, "accuracy", scores, test, learning={names[0]: curve} if learning else {}
    )


def test_heads_are_points_with_intervals_and_the_tie_set_is_dark():
    found = compared()
    ax = found.plot()
    intervals, points = ax.lines[::2], ax.lines[1::2]
    for one, interval, point in zip(found.scores, intervals, points, strict=True):
        np.testing.assert_array_equal(interval.get_xdata(), one.interval)
        np.testing.assert_array_equal(point.get_xdata(), [one.score])
    colours = [point.get_color() for point in points]
    assert colours[0] == colours[1] != colours[2]
    with pytest.raises(OptionError) as refused:
        found.plot_learning()
    assert str(refused.value) == "this comparison has no learning curves; compare with learning_curve=True."


def test_learning_curves_stand_beside_the_heads():
    found = compared(learning=True)
    ax = found.plot()
    left, right = ax.figure.axes
    assert left is ax
    curve, doubled, interval = right.lines
    np.testing.assert_array_equal(curve.get_xydata(), [(10, 0.7), (20, 0.8), (40, 0.85)])
    np.testing.assert_array_equal(doubled.get_xydata(), [(40, 0.85), (80, 0.88)])
    np.testing.assert_array_equal(interval.get_ydata(), [0.8, 0.95])


def tuned(unfreeze: str = "conv5") -> FineTuned:
    history = [
        Epoch(min(i, 1), unfreeze, i, 1e-4, 0.5 - 0.1 * i, 0.8 + 0.05 * i, 0.6 - 0.1 * i, 0.7 + 0.07 * i, 1.0)
        for i in range(3)
    ]
    gain = Difference(0.05, (0.01, 0.09), 0.01)
    values = dict.fromkeys(FineTuned.__dataclass_fields__)
    values |= {"measured_on": "test", "n": 50, "before": (0.8, (0.7, 0.9)), "after": (0.85, (0.75, 0.92)), "gain": gain}
    return FineTuned(**values | {"history": history, "kept": "fine-tuned"})


def test_the_epochs_of_a_fine_tuning_are_drawn():
    found = tuned()
    training, validation, start, kept = found.plot().lines
    np.testing.assert_allclose(training.get_ydata(), [0.8, 0.85, 0.9])
    np.testing.assert_allclose(validation.get_ydata(), [0.7, 0.77, 0.84])
    np.testing.assert_allclose(start.get_xydata(), [(0, 0.7)])
    np.testing.assert_allclose(kept.get_xydata(), [(2, 0.84)])
    assert found.plot().get_title() == "test 0.800 before, 0.850 after, n=50"


def every_result() -> list:
    names = HOSTILE
    y = np.random.default_rng(0).integers(0, 2, (60, len(names)))
    return [
        classes(names)[0],
        classes((*names, *(f"{name}{i}" for i in range(6) for name in names[:-1])), 300)[0],
        score_labels(y, np.clip(y * 0.8 + 0.1, 0, 1), y, names),
        score_numbers(np.arange(5.0)[:, None], np.arange(5.0), names[0]),
        compared(names[:3], learning=True),
        tuned(names[2]),
    ]


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf"])
@pytest.mark.parametrize("place", range(6))
def test_hostile_names_are_drawn_without_a_warning(place: int, ending: str, tmp_path: Path):
    save_plot(every_result()[place], tmp_path / f"x{ending}")
    start = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[ending]
    assert (tmp_path / f"x{ending}").read_bytes().startswith(start)


def test_a_dollar_is_no_formula():
    ax = classes(("$a_b$", "$$"))[0].plot()
    assert [label.get_text() for label in ax.get_yticklabels()] == [r"\$a_b\$", r"\$\$"]
    cbook = import_matplotlib().cbook
    assert not any(cbook.is_math_text(label.get_text()) for label in ax.get_yticklabels())


@pytest.mark.parametrize("place", range(6))
def test_a_figure_is_drawn_where_one_asks_and_pyplot_knows_nothing(place: int):
    import sys

    ax = new_axes()
    assert every_result()[place].plot(ax) is ax
    plt = sys.modules.get("matplotlib.pyplot")
    assert plt is None or plt.get_fignums() == []


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf"])
def test_the_same_result_gives_the_same_file(ending: str, tmp_path: Path):
    for name in ("a", "b"):
        save_plot(classes(("ants", "bees"))[0], tmp_path / f"{name}{ending}")
    assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()


def test_bad_places_are_refused(tmp_path: Path):
    require_plot(None)
    require_plot(tmp_path / "x.PDF")
    with pytest.raises(OptionError) as refused:
        require_plot(tmp_path / "x.gif")
    assert str(refused.value) == f"plot is {tmp_path / 'x.gif'}; needed: a name that ends in .png, .svg or .pdf."
    (tmp_path / "there.png").touch()
    with pytest.raises(OptionError, match="there.png exists and is not overwritten. Choose another name with plot, or"):
        require_plot(tmp_path / "there.png")
    with pytest.raises(OutputError, match=r"^cannot write .*x\.png: "):
        save_plot(compared(), tmp_path / "gone" / "x.png")


def test_commands_draw_what_they_print(feature_file: Path, tmp_path: Path):
    for command in (
        "train-head ready.h5 --head ridge --plot t.png --out r.head",
        "compare-heads ready.h5 --heads ridge,centroid --plot c.svg",
        "onepass evaluate r.head ready.h5 --plot e.pdf",
    ):
        done = run_program(*command.split(), cwd=feature_file.parent)
        assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "t.png") as drawn:
        assert drawn.width > 500
    done = run_program("train-head", "ready.h5", "--plot", "x.jpg", "--out", "no.head", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: --plot is x.jpg; needed: a name that ends in .png, .svg or .pdf.\n"
    assert not (tmp_path / "no.head").exists()
