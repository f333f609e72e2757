"""Laws that hold for data nobody would call good: a result or a message, never a traceback."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from onepass import compare_heads, evaluate, inspect
from onepass.features import FeatureFile
from onepass.features.errors import TrainingError, UserError
from onepass.features.moments import all_equal
from onepass.heads import train_head
from onepass.heads.classifiers.base import Head
from onepass.heads.classifiers.kinds import HEADS
from onepass.heads.classifiers.knn import KNNHead
from onepass.heads.classifiers.lda import LDAHead
from onepass.heads.fitting.row_chunks import FileRows
from onepass.heads.head_options import OF_TEXTS
from onepass.heads.stats.metrics import HIGHER_IS_BETTER
from onepass.heads.training import make_head
from support import FAST_NETS, write_rows

Rows = tuple[np.ndarray, np.ndarray]
rng = np.random.default_rng(0)


def spread(n: int = 36, k: int = 2, d: int = 6) -> Rows:
    """Rows of k classes that lie apart."""
    y = np.arange(n) % k
    return (rng.normal(size=(n, d)) + 3 * np.eye(k, d)[y]).astype(np.float32), y


def changed(change: Callable[[np.ndarray, np.ndarray], np.ndarray], **sizes: int) -> Rows:
    x, y = spread(**sizes)
    return change(x, y).astype(np.float32), y


def only_first_column(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.where(np.arange(x.shape[1]) == 0, x, 7)


def one_of_each(k: int) -> Rows:
    return spread(n=k, k=k)


def lopsided(n: int) -> Rows:
    x, y = spread(n=n)
    y[1:] = 0
    y[0] = 1
    return x, y


def twins_with_both_labels() -> Rows:
    x, y = spread()
    return np.repeat(x[::2], 2, axis=0), y


def zero_but_for_one() -> Rows:
    x = np.zeros((36, 6), np.float32)
    x[3, 2] = 1
    return x, np.arange(36) % 2


EQUAL: dict[str, Rows] = {
    "black images": (np.zeros((36, 6), np.float32), np.arange(36) % 2),
    "one row for all": (np.tile(np.float32([3, 1, 4, 1, 5, 9]), (36, 1)), np.arange(36) % 3),
    "equal but for rounding": changed(lambda x, y: 5 + 1e-7 * x),
    "equal, huge": (np.full((36, 6), 1e30, np.float32), np.arange(36) % 2),
    "two equal rows": (np.ones((2, 6), np.float32), np.arange(2)),
}
"""Sets that no head can learn from."""

DEGENERATE: dict[str, Rows] = {
    "constant columns": changed(only_first_column),
    "one column": changed(lambda x, y: x[:, :1]),
    "one image per class": one_of_each(5),
    "two images": one_of_each(2),
    "three images": (spread(n=3)),
    "many classes of two": spread(n=80, k=40),
    "one against many": lopsided(200),
    "twins with both labels": twins_with_both_labels(),
    "zero but for one": zero_but_for_one(),
    "classes that are points": changed(lambda x, y: np.eye(3, 6)[y], k=3),
    "one class is a point": changed(lambda x, y: np.where(y[:, None] == 0, 1, x)),
    "two classes alike": changed(lambda x, y: np.eye(3, 6)[y // 2], k=3),
    "every class the same rows": changed(lambda x, y: np.eye(18, 6)[np.arange(36) // 2]),
    "huge": changed(lambda x, y: 1e30 * x),
    "at the end of float32": changed(lambda x, y: 1e37 * x),
    "tiny": changed(lambda x, y: 1e-30 * x),
    "one huge column": changed(lambda x, y: x * np.where(np.arange(6) == 0, 1e30, 1)),
    "one huge row": changed(lambda x, y: x * np.where(np.arange(36) == 0, 1e30, 1)[:, None]),
    "far from zero": changed(lambda x, y: 1e4 + x),
}
"""Sets that something can be learnt from, however little."""


NETS = ("mlp", "linear")
TUNED_NETS = ("three images", "one huge row", "classes that are points")
"""Sets on which the Keras heads are tuned as well; it takes seconds each."""


def head_of(kind: str, **options: object) -> Head:
    return make_head(kind, **FAST_NETS.get(kind, {}) | options)


@pytest.mark.parametrize("kind", sorted(set(HEADS) - set(OF_TEXTS)))
@pytest.mark.parametrize("name", DEGENERATE)
def test_whatever_differs_is_trained_on(kind: str, name: str):
    x, y = DEGENERATE[name]
    for tune in ("none", "fast") if kind not in NETS or name in TUNED_NETS else ("none",):
        probabilities = head_of(kind, tune=tune).fit(x, y).predict_proba(x)
        assert np.isfinite(probabilities).all()
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-9)


@pytest.mark.parametrize("kind", sorted(set(HEADS) - set(OF_TEXTS)))
@pytest.mark.parametrize("name", EQUAL)
def test_rows_that_are_all_equal_are_refused_by_every_head_alike(kind: str, name: str):
    x, y = EQUAL[name]
    for rows in (x, np.stack([x, x], axis=1)):
        with pytest.raises(TrainingError) as caught:
            head_of(kind).fit(rows, y)
        assert str(caught.value) == equal_rows(len(x))


@pytest.mark.parametrize("kind", NETS)
def test_equal_rows_that_come_in_pieces_are_refused_too(kind: str, tmp_path: Path):
    x, y = EQUAL["black images"]
    with FeatureFile(write_rows(tmp_path / "x.h5", x, y, split_of(y))) as file:
        with pytest.raises(TrainingError) as caught:
            head_of(kind).fit_chunks(FileRows(file, np.arange(len(y)), memory=10**6))
        assert str(caught.value) == equal_rows(len(x))


def test_a_failing_factorisation_becomes_a_message(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(LDAHead, "_fit", lambda self, rows: np.linalg.cholesky(-np.eye(2)))
    with pytest.raises(TrainingError) as caught:
        LDAHead().fit(*spread())
    assert str(caught.value) == (
        "lda cannot be fitted to these rows (Matrix is not positive definite). Try another head, such as logreg."
    )


def equal_rows(images: int) -> str:
    return (
        f"all {images} training images have equal rows; no head can tell their classes apart. Look at the images: are "
        "they all black, or copies of one picture?"
    )


def split_of(y: np.ndarray) -> np.ndarray:
    """Every class trains; its last image is tested, where it has several."""
    splits = np.zeros(len(y), np.uint8)
    for label in np.unique(y):
        if (y == label).sum() > 1:
            splits[np.flatnonzero(y == label)[-1]] = 2
    return splits


def ends_well(call: Callable[[], object]) -> object:
    """Whatever it returns, or the error it raises, if it is one for users."""
    try:
        found = call()
    except UserError as error:
        return error
    str(found)
    return found


@pytest.mark.parametrize(
    ("name", "one_content"), [*((name, False) for name in (*DEGENERATE, *EQUAL)), ("one column", True), ("huge", True)]
)
def test_every_use_of_a_feature_file_ends_in_a_result_or_a_message(name: str, one_content: bool, tmp_path: Path):
    x, y = (DEGENERATE | EQUAL)[name]
    path = write_rows(tmp_path / "x.h5", x, y, split_of(y), one_content=one_content)
    ends_well(lambda: inspect(path))
    ends_well(lambda: compare_heads(path, heads="logreg,lda", learning_curve=True, tune="none"))
    ends_well(lambda: compare_heads(path, heads="rbf-svm,ridge", cv="2x1", tune="none", metric="auroc"))
    trained = ends_well(lambda: train_head(path, head="lda", out=tmp_path / "x.head"))
    if not isinstance(trained, UserError):
        ends_well(lambda: evaluate(tmp_path / "x.head", path))


@pytest.mark.parametrize("metric", HIGHER_IS_BETTER)
def test_a_class_without_an_image_to_score_does_no_harm(metric: str, tmp_path: Path):
    x, y = spread(k=3)
    splits = np.where((np.arange(36) > 20) & (y > 0), 2, 0).astype(np.uint8)
    found = compare_heads(write_rows(tmp_path / "x.h5", x, y, splits), heads="logreg,knn", metric=metric, tune="none")
    assert all(np.isfinite(one.score) for one in found.scores)


def test_a_metric_that_folds_leave_undefined_is_told(tmp_path: Path):
    x, y = DEGENERATE["one against many"]
    path = write_rows(tmp_path / "x.h5", x, y, np.zeros(len(y), np.uint8))
    with pytest.raises(TrainingError) as caught:
        compare_heads(path, heads="ridge", cv="2x1", tune="none", metric="auroc")
    assert str(caught.value) == (
        "auroc has no value in 2 of 2 folds, whose images are of one class. Ask for fewer folds by cv, or for another "
        "metric."
    )


def test_one_failing_candidate_does_not_take_the_table_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    x, y = spread()
    path = write_rows(tmp_path / "x.h5", x, y, split_of(y))
    monkeypatch.setattr(LDAHead, "_fit", lambda self, rows: np.linalg.cholesky(-np.eye(2)))
    found = compare_heads(path, heads="logreg,lda,knn", tune="none", learning_curve=True)
    reason = "lda cannot be fitted to these rows (Matrix is not positive definite). Try another head, such as logreg."
    assert {one.name for one in found.scores} == {"logreg", "knn"}
    assert found.failed == {"lda": reason}
    assert f"\nlda could not be trained: {reason}\n" in str(found)
    assert found.record()["failed"] == {"lda": reason}
    monkeypatch.setattr(KNNHead, "_fit", lambda self, rows: np.linalg.cholesky(-np.eye(3)))
    with pytest.raises(TrainingError) as caught:
        compare_heads(path, heads="lda,knn", seeds=2, tune="none")
    assert str(caught.value) == f"no head could be trained. lda: {reason}; knn: {reason.replace('lda', 'knn')}"


def test_inspect_and_compare_say_in_one_sentence_that_all_rows_are_equal(tmp_path: Path):
    x, y = EQUAL["black images"]
    path = write_rows(tmp_path / "x.h5", x, y, split_of(y))
    found = inspect(path)
    words = (
        "all 36 rows are equal, so no head can tell the classes apart. Look at the images: are they all black, or "
        "copies of one picture?"
    )
    assert str(found).splitlines()[1] == words
    assert next(found.findings()) == ("equal rows", "", "", "", "", "", words)
    assert found.label_errors is None
    assert found.labels_by == equal_rows(36)
    with pytest.raises(TrainingError) as caught:
        compare_heads(path)
    assert str(caught.value) == equal_rows(34)


def test_rows_are_equal_within_rounding_and_nothing_more():
    rows = np.tile(np.float32([3, 0, -4]), (5000, 1))
    assert all_equal([rows[:10], rows[:0], rows[10:]])
    assert all_equal([rows * np.float32(1 + 1e-7)])
    rows[4999, 1] = 1e-5
    assert not all_equal([rows])
    assert not all_equal([rows[:0]])
