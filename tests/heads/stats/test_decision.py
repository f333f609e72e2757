"""Which epoch stands for a fine-tuning, and which images decide whether it is better."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from onepass.heads.stats.decision import Decision, Hits, best_epoch, decide, is_better

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def history(*epochs: tuple[float, float]) -> list[SimpleNamespace]:
    """Of (validation loss, accuracy) pairs, the start first."""
    return [SimpleNamespace(val_loss=loss, val_accuracy=accuracy) for loss, accuracy in epochs]


def hits(part: str, *, n: int, errors: int, corrected: int = 0, broken: int = 0, copies: int = 0, epochs: int = 1):
    """A part whose first `errors` images the frozen model gets wrong, and whose last ones are copies."""
    frozen = np.arange(n) >= errors
    tuned = frozen.copy()
    tuned[:corrected] = True
    tuned[errors : errors + broken] = False
    return Hits(part, frozen, np.tile(tuned, (epochs, 1)), 0, np.arange(n) >= n - copies, np.arange(n))


@pytest.mark.parametrize(
    ("epochs", "best", "better"),
    [
        ([(0.5, 0.8), (0.4, 0.8), (0.3, 0.9)], 2, True),
        ([(0.5, 0.8), (0.4, 0.8), (0.3, 0.7)], 1, True),  # the lower loss goes with more errors
        ([(0.5, 0.8), (0.6, 0.9), (0.3, 0.7)], 1, False),
        ([(0.5, 0.8), (0.7, 0.6), (0.6, 0.5)], 2, False),  # all are worse; one of them is still the best
        ([(0.5, 0.8), (float("inf"), 0.0), (0.9, 0.5)], 2, False),
        ([(0.5, 0.8), (float("inf"), 0.0), (float("nan"), 0.0)], 0, False),
        ([(0.5, 0.8)], 0, False),
    ],
)
def test_the_best_epoch_is_a_trained_one(epochs: list[tuple[float, float]], best: int, better: bool):
    found = history(*epochs)
    assert best_epoch(found) == best
    assert is_better(found[best], found[0]) == better


def test_validation_decides_and_test_is_not_asked():
    found = decide(hits("val", n=100, errors=20, corrected=12, broken=1, epochs=3), hits("test", n=200, errors=40))
    assert (found.part, found.n, found.errors, found.epochs, found.better) == ("val", 100, 20, 3, True)
    assert str(found) == "yes, by 100 validation images: +11.0 points, p = 0.0018 for the best of 3 epochs"
    assert not decide(hits("val", n=100, errors=20, corrected=12, broken=1), improved=False).better


def test_a_gain_that_is_not_proven_is_told_with_what_would_have_been():
    found = decide(hits("val", n=400, errors=50, corrected=14, broken=12, epochs=2), hits("test", n=200, errors=90))
    assert not found.better
    assert found.detectable == pytest.approx(2.8 * 26**0.5 / 400)
    assert str(found) == (
        "not proven by 400 validation images: +0.5 points, p = 0.43 for the best of 2 epochs; a gain of "
        f"{100 * found.detectable:.1f} points would be proven in about four of five cases"
    )


def test_a_worse_model_is_never_better():
    assert not decide(hits("val", n=100, errors=20, broken=30)).better


def test_copies_of_training_images_do_not_decide_where_there_are_enough_others():
    found = decide(hits("val", n=100, errors=20, corrected=12, copies=60))
    assert (found.n, found.copies, found.better) == (40, 0, True)


def test_where_validation_can_prove_nothing_test_decides_and_says_so():
    val, test = hits("val", n=30, errors=4, corrected=4), hits("test", n=90, errors=20, corrected=12)
    found = decide(val, test)
    assert (found.part, found.n, found.better) == ("test", 90, True)
    assert str(found) == "yes, by 90 test images: +13.3 points, p = 0.0002"
    assert decide(val, test, improved=False).part == "val"


def test_copies_decide_where_nothing_else_can():
    frozen = np.arange(50) < 40
    val = Hits("val", frozen, np.ones((1, 50), bool), 0, ~frozen, np.arange(50))
    found = decide(val)
    assert (found.n, found.copies, found.better) == (50, 10, True)
    assert str(found).startswith("yes, by 50 validation images (10 of them copies of training images): +20.0 points")


def test_a_model_of_too_few_errors_cannot_be_beaten():
    found = decide(hits("val", n=30, errors=4, corrected=4), hits("test", n=40, errors=3, corrected=3))
    assert not found.able
    assert not found.better
    assert str(found) == (
        "cannot be proven by 30 validation images, of which the frozen model gets 4 wrong; needed: 5 that are not of "
        "one group"
    )
    every = np.ones(30, bool)
    assert decide(Hits("val", ~every, every[None], 0, every, np.zeros(30, int))).able is False  # one patient


def test_kept_tunings_are_reported_as_they_are(monkeypatch: pytest.MonkeyPatch):
    """The quick way through benchmarks/fine_tuning_decision.py, whose full run is in its result file."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import fine_tuning_decision as simulation

    reported = {}
    for rule in simulation.RULES:
        random = np.random.default_rng(0)
        tunings = [simulation.tune(random, 504, 0.01, rule) for _ in range(600)]
        kept = [one for one in tunings if one.kept]
        assert 0.04 <= len(kept) / len(tunings) <= 0.16
        holds = [one.reported.interval[0] <= one.truth <= one.reported.interval[1] for one in kept]
        reported[rule] = (np.mean(holds), np.mean([one.reported.difference - one.truth for one in kept]))
    assert reported["validation"][0] >= 0.93
    assert abs(reported["validation"][1]) < 0.004
    assert reported["test"][0] < 0.9  # what deciding on the reported images does
    assert reported["test"][1] > 0.015
    random = np.random.default_rng(1)
    worthless = [simulation.tune(random, 150, 0.0, "validation").kept for _ in range(300)]
    assert np.mean(worthless) <= 0.05


def test_a_decision_is_made_of_plain_values():
    found = decide(hits("val", n=100, errors=20, corrected=12))
    assert [type(getattr(found, name)) for name in Decision.__dataclass_fields__] == [
        str, int, int, int, int, float, float, float, bool, bool,
    ]  # fmt: skip


def test_heavier_images_decide_more():
    """A weight of 3 on images that always have one sign is that many images in one group."""
    rng = np.random.default_rng(1)
    frozen, tuned, none = rng.random(60) < 0.6, rng.random((1, 60)) < 0.8, np.zeros(60, bool)
    times = rng.integers(1, 4, 60)
    weighted = decide(Hits("val", frozen, tuned, 0, none, np.arange(60), times.astype(float)))
    again = np.repeat(np.arange(60), times)
    repeated = decide(Hits("val", frozen[again], tuned[:, again], 0, none[again], again))
    assert weighted.gain == pytest.approx(repeated.gain)
    assert weighted.p == pytest.approx(repeated.p, abs=0.02)
