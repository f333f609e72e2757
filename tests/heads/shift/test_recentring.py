"""Recentring: exact on moved rows, folded into every form of head, refused where nothing is gained."""

import numpy as np
import pytest

from onepass.heads.classifiers.kinds import HEADS
from onepass.heads.shift.recentring import (
    Recentred,
    Recentring,
    Spread,
    recentred,
    sign_test_of_groups,
    try_recentring,
)
from onepass.heads.stats.paired_tests import mcnemar
from support import blobs


def hashes(n: int) -> np.ndarray:
    return np.random.default_rng(9).integers(0, 256, (n, 32), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["logreg", "rbf-svm", "knn"])
def test_a_folded_head_gives_what_the_old_one_gives_of_moved_rows(kind: str, rng):
    x, y = blobs(rng, 150)
    network = HEADS[kind]().fit(x, y).network_
    new = (1.7 * x - 3).astype(np.float32)
    old_spread, new_spread = Spread.of([x]), Spread.of([new])
    moved = (new - new_spread.mean) * old_spread.deviation / new_spread.deviation + old_spread.mean
    folded = recentred(network, old_spread, new_spread)
    np.testing.assert_allclose(folded.outputs(new), network.outputs(moved.astype(np.float32)), atol=1e-4)
    np.testing.assert_allclose(folded.outputs(new), network.outputs(x), atol=1e-4)


def test_rows_moved_feature_by_feature_get_their_accuracy_back(rng):
    x, y = blobs(rng, 900, spread=3.0)
    network = HEADS["logreg"]().fit(x[:300], y[:300]).network_
    factors, offsets = rng.uniform(0.4, 2.5, x.shape[1]), rng.normal(size=x.shape[1]) * 4
    new = (x * factors + offsets).astype(np.float32)
    before = (network.outputs(x[300:]).argmax(axis=1) == y[300:]).mean()
    lost = (network.outputs(new[300:]).argmax(axis=1) == y[300:]).mean()
    tried = try_recentring(network, Spread.of([x[:300]]), new[300:], y[300:], groups=np.arange(600), hashes=hashes(600))
    assert isinstance(tried, Recentred)
    assert lost < before - 0.1
    assert tried.found.kept
    assert tried.found.p <= 0.05
    assert tried.found.after.accuracy == pytest.approx(before, abs=0.04)
    assert tried.found.before.accuracy == pytest.approx(lost, abs=0.06)


def test_who_decides_is_not_reported_and_groups_are_not_torn(rng):
    x, y = blobs(rng, 240)
    network, groups = HEADS["lda"]().fit(x, y).network_, np.arange(240) // 6
    tried = try_recentring(network, Spread.of([x]), x, y, groups=groups, hashes=hashes(240))
    assert isinstance(tried, Recentred)
    assert not set(groups[tried.decided]) & set(groups[tried.reported])
    assert len(tried.decided) + len(tried.reported) == 240
    assert tried.found.decided_on == len(tried.decided)


def test_without_a_gain_it_is_refused(rng):
    x, y = blobs(rng, 500)
    network = HEADS["lda"]().fit(x[:200], y[:200]).network_
    tried = try_recentring(network, Spread.of([x[:200]]), x[200:], y[200:], groups=np.arange(300), hashes=hashes(300))
    assert isinstance(tried, Recentred)
    assert not tried.found.kept
    assert str(tried.found).endswith("not kept; it is not measurably better")


def test_random_gains_are_kept_seldom(rng):
    """New images of one class alone: recentring would call a third of them something else."""
    x, y = blobs(rng, 600)
    network = HEADS["lda"]().fit(x[:300], y[:300]).network_
    one = np.flatnonzero(y[300:] == 0) + 300
    tried = try_recentring(network, Spread.of([x[:300]]), x[one], y[one], groups=one, hashes=hashes(len(one)))
    assert isinstance(tried, Recentred)
    assert not tried.found.kept
    assert tried.found.after.accuracy < tried.found.before.accuracy


def test_too_few_images_decide_nothing(rng):
    x, y = blobs(rng, 60)
    network = HEADS["lda"]().fit(x, y).network_
    tried = try_recentring(network, Spread.of([x]), x[:30], y[:30], groups=np.arange(30), hashes=hashes(30))
    assert isinstance(tried, Recentring)
    assert str(tried) == (
        "recentred: not kept; 30 labelled new images that the head has not seen are too few; needed: 40 or more"
    )


def test_each_group_is_one_witness_and_single_images_are_mcnemars(rng):
    first, second = rng.random(80) < 0.8, rng.random(80) < 0.5
    p, ahead = sign_test_of_groups(first, second, np.arange(80))
    assert p == pytest.approx(mcnemar(first, second))
    assert ahead
    assert sign_test_of_groups(first, second, np.zeros(80, int))[0] == 1.0
