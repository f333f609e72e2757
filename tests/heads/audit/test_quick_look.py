import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import LeaveOneGroupOut, LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from onepass.features import FeatureFile
from onepass.features.writer import RowWriter, write_feature_file
from onepass.heads import train_head
from onepass.heads.audit import quick_look
from onepass.heads.audit.quick_look import LINEAR, QuickHeads, QuickLook, Suggestion
from onepass.heads.fitting.folds import fold_masks
from onepass.heads.inference.network import standardisation
from onepass.heads.training import make_head
from support import blobs, make_spec, make_table, plain


def scaled(x: np.ndarray) -> np.ndarray:
    mean, scale = standardisation(x)
    return (x - mean) / scale


def rings(rng: np.random.Generator, n: int, width: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Rows near the middle and rows far from it, which no hyperplane tells apart."""
    y = np.arange(n) % 2
    x = rng.normal(size=(n, width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True) * (1 + y + 0.2 * rng.normal(size=n))[:, None]).astype("f4"), y


def write_rings(path: Path, rng: np.random.Generator, n: int = 400) -> FeatureFile:
    x, y = rings(rng, n)
    table = replace(make_table(n), labels=y.astype(np.int32))
    write_feature_file(path, make_spec(width=8), table, {}, np.ones((1, 2, 8), np.float32))
    with RowWriter(path) as writer:
        writer.commit(plain(range(n)), x)
    return FeatureFile(path)


def test_ridge_left_out_is_scikit_learns(rng: np.random.Generator):
    x, y = blobs(rng, 60, 30, spread=0.8)
    found = QuickHeads.of(x, y, fold_masks(np.arange(60))).ridge(20.0)
    wanted = cross_val_predict(RidgeClassifier(20.0), scaled(x), y, cv=LeaveOneOut(), method="decision_function")
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_ridge_leaves_whole_groups_out(rng: np.random.Generator):
    x, y = blobs(rng, 60, 80, spread=0.8)
    groups = rng.integers(0, 7, 60)
    found = QuickHeads.of(x, y, fold_masks(groups)).ridge(5.0)
    wanted = cross_val_predict(
        RidgeClassifier(5.0), scaled(x), y, groups=groups, cv=LeaveOneGroupOut(), method="decision_function"
    )
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("left_out", ["each", "groups"])
def test_neighbours_left_out_are_scikit_learns(left_out: str, rng: np.random.Generator):
    x, y = blobs(rng, 80, 12, spread=1.5)
    fold_of = np.arange(80) if left_out == "each" else rng.integers(0, 8, 80)
    found = QuickHeads.of(x, y, fold_masks(fold_of)).neighbours(5, 1e9)
    votes = cross_val_predict(
        KNeighborsClassifier(5, metric="cosine"),
        scaled(x),
        y,
        groups=fold_of,
        cv=LeaveOneGroupOut(),
        method="predict_proba",
    )
    np.testing.assert_allclose(np.exp(found), (5 * votes + 1 / 3) / 6, atol=1e-5)


def test_the_gaussian_machine_left_out_is_one_fitted_without_the_fold(rng: np.random.Generator):
    x, y = blobs(rng, 60, 12, spread=1.5)
    fold_of = np.where(np.arange(60) < 6, -1, np.arange(60) % 5)
    found = QuickHeads.of(x, y, fold_masks(fold_of)).gaussian(0.05, 0.3)
    kernel, targets = (
        rbf_kernel(scaled(x).astype(np.float64), gamma=0.05),
        np.where(y[:, None] == np.arange(3), 1.0, -1),
    )
    for fold in range(5):
        out, kept = fold_of == fold, fold_of != fold
        n = kept.sum()
        # The saddle point of least squares with a penalty of 0.3 on the weights and none on the intercept.
        system = np.block(
            [[kernel[np.ix_(kept, kept)] + 0.3 * np.eye(n), np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]]
        )
        solved = np.linalg.solve(system, np.vstack([targets[kept], np.zeros((1, 3))]))
        np.testing.assert_allclose(found[out], kernel[np.ix_(out, kept)] @ solved[:-1] + solved[-1], atol=1e-4)
    assert not found[fold_of == -1].any()


def test_a_head_that_cannot_see_the_classes_is_told_of_one_that_can(tmp_path: Path, rng: np.random.Generator):
    file = write_rings(tmp_path / "rings.h5", rng)
    trained = train_head(file.path, head="logreg", out=tmp_path / "x.head")
    found = trained.suggestion
    assert found is not None
    assert (found.head, found.instead_of, found.images, found.of) == ("rbf-svm", "logreg", 320, 320)
    assert found.accuracy > 0.9
    assert found.accuracy_now < 0.7
    assert str(trained).splitlines()[-1] == (
        f"rbf-svm would probably do better: a quick version of it is right on {found.accuracy:.3f} of 320 training "
        f"images when they are held out, logreg on {found.accuracy_now:.3f}; compare-heads tells"
    )
    record = json.loads(json.dumps(trained.record()))["suggestion"]
    assert record["head"] == "rbf-svm"
    assert record["words"] == str(found)
    better = train_head(file.path, head="rbf-svm", out=tmp_path / "y.head")
    assert better.suggestion is None
    assert better.record()["suggestion"] is None
    assert better.head.evaluation.accuracy > trained.head.evaluation.accuracy + 0.2


def test_the_look_never_sees_the_test_part(tmp_path: Path, rng: np.random.Generator):
    file = write_rings(tmp_path / "rings.h5", rng)
    first = train_head(file.path, out=tmp_path / "a.head").suggestion
    test = file.rows_of("test")
    with RowWriter(file.path) as writer:
        writer.commit(plain(test), np.zeros((len(test), 8), np.float32))
    assert train_head(file.path, out=tmp_path / "b.head").suggestion == first


def look_at(x: np.ndarray, y: np.ndarray, kind: str, groups: np.ndarray | None = None) -> Suggestion | None:
    groups = np.arange(len(y)) if groups is None else groups
    head = make_head(kind).fit(x, y, groups=groups)
    return QuickLook.of(lambda places: x[places], y, groups, kind=kind, seed=0).suggestion(head.held_out_)


@pytest.mark.parametrize("kind", ["ridge", "knn", "centroid"])
def test_nothing_is_suggested_on_noise(kind: str):
    for seed in range(25):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(200, 12)).astype(np.float32), rng.integers(0, 3, 200)
        assert look_at(x, y, kind) is None, seed


def test_of_gaussian_classes_linear_heads_stay_and_neighbours_are_told_of_a_better_one():
    """With one covariance no head beats a linear one; what is suggested must hold on 3,000 fresh images."""
    gains = []
    for seed in range(8):
        x, y = blobs(np.random.default_rng(seed), n=3300, spread=0.8)
        assert look_at(x[:300], y[:300], "logreg") is None
        assert look_at(x[:300], y[:300], "rbf-svm") is None
        if suggestion := look_at(x[:300], y[:300], "knn"):
            now, better = (make_head(kind).fit(x[:300], y[:300]) for kind in ("knn", suggestion.head))
            gains.append(better.score(x[300:], y[300:]) - now.score(x[300:], y[300:]))
    assert len(gains) >= 2
    assert min(gains) >= 0.02


def test_copies_do_not_speak_for_the_heads_that_remember_them(rng: np.random.Generator):
    x = np.repeat(rng.normal(size=(80, 12)), 4, axis=0) + 0.01 * rng.normal(size=(320, 12))
    y, groups = np.repeat(rng.integers(0, 2, 80), 4), np.repeat(np.arange(80), 4)
    assert look_at(x.astype(np.float32), y, "ridge", groups) is None
    torn = look_at(x.astype(np.float32), y, "ridge")
    assert torn is not None
    assert torn.accuracy == 1


@pytest.mark.parametrize("options", [{"tune": "none"}, {"class_weight": "balanced"}])
def test_no_look_is_taken_where_nothing_is_held_out_or_classes_are_weighed(
    options: dict, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
):
    file = write_rings(tmp_path / "rings.h5", rng)
    monkeypatch.setattr(QuickHeads, "of", lambda *_: pytest.fail("looked"))
    assert train_head(file.path, out=tmp_path / "x.head", **options).suggestion is None


def test_of_many_images_and_of_wide_rows_some_are_looked_at(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
):
    file = write_rings(tmp_path / "rings.h5", rng)
    rows, head = file.rows_of("train"), make_head("logreg")
    x, y = file.read(rows)
    held_out = head.fit(x, y).held_out_
    monkeypatch.setattr(quick_look, "MOST_IMAGES", 200)
    found = QuickLook.at(file, rows, head=head).suggestion(held_out)
    assert found is not None
    assert f" of {found.images} of 320 training images when they are held out, logreg on " in str(found)
    assert found.images == 200
    monkeypatch.setattr(quick_look, "MOST_VALUES", 150 * 8)
    assert len(QuickLook.at(file, rows, head=head).y) == 150


def test_of_the_heads_that_are_clearly_better_the_best_is_suggested():
    y, groups = np.arange(1000) % 2, np.arange(1000)
    right = {"now": groups >= 100, "sure": groups >= 80, "luckier": (groups >= 400) | (groups % 20 > 0)}
    named = tuple((name, np.where(right[name], y, 1 - y)) for name in ("sure", "luckier"))
    look = QuickLook("logreg", groups, y, groups, named, 1000)
    held_out = np.eye(2)[np.where(right["now"], y, 1 - y)]
    # 20 and 80 images more than the trained head, but the 80 are 95 against 15 that it alone gets right.
    found = {one.head: (round(one.gain, 3), one.p <= quick_look.ALPHA) for one in look.versions(held_out)}
    assert found == {"sure": (0.02, True), "luckier": (0.08, True)}
    assert look.suggestion(held_out).head == "luckier"
    pairs = QuickLook("logreg", groups, y, groups // 2, named, 1000)
    assert pairs.versions(held_out)[0].p == 2 * 2 * 0.5**10
    one_group = QuickLook("logreg", groups, y, groups * 0, named, 1000)
    assert one_group.suggestion(held_out) is None


def test_heads_of_the_same_family_are_not_looked_at(rng: np.random.Generator):
    x, y = blobs(rng, n=60)
    quick = QuickHeads.of(x, y, fold_masks(np.arange(60) % 5))
    names = {kind: {name for name, _ in quick.others_than(kind)} for kind in (*LINEAR, "knn", "rbf-svm", "mlp")}
    assert all(names[kind] == {"rbf-svm", "knn"} for kind in LINEAR)
    assert names["knn"] == {"ridge", "rbf-svm"}
    assert names["rbf-svm"] == {"ridge", "knn"}
    assert names["mlp"] == {"ridge", "rbf-svm", "knn"}


def test_rows_that_are_all_alike_and_classes_of_one_image_are_no_trouble():
    x, y = np.ones((30, 4), np.float32), np.arange(30) % 2
    alike = QuickLook.of(lambda places: x[places], y, np.arange(30), kind="logreg", seed=0)
    assert alike.suggestion(np.full((30, 2), 0.5)) is None
    lonely = np.array([0] * 15 + [1] * 14 + [2])
    assert look_at(np.random.default_rng(0).normal(size=(30, 4)).astype("f4"), lonely, "logreg") is None
    pair = QuickLook.of(lambda places: x[places], np.array([0, 1]), np.arange(2), kind="logreg", seed=0)
    assert pair.named == ()
    assert pair.suggestion(np.full((2, 2), np.nan)) is None
