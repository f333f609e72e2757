import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

import onepass.heads.near_duplicates as module
from onepass.features import FeatureFile
from onepass.features.writer import RowWriter, write_feature_file
from onepass.heads.near_duplicates import (
    STRICTEST,
    THRESHOLDS,
    connected,
    leaked,
    near_duplicates,
    threshold_for,
    whitened,
)
from support import make_spec, make_table, plain

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def pooled_rows(rng: np.random.Generator, n: int, width: int = 40) -> np.ndarray:
    """Rows as a network gives them: not negative, correlated, with some large features."""
    mixing = rng.normal(size=(width // 2, width)) * np.exp(rng.normal(size=width))
    return np.maximum(rng.normal(size=(n, width // 2)) @ mixing, 0).astype(np.float32)


def brute_cosines(rows: np.ndarray) -> np.ndarray:
    """The formula in the docstring of `whitened`, with an eigenvalue decomposition and in float64."""
    x = np.sqrt(rows.astype(np.float64))
    x -= x.mean(axis=0)
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    ridge = values.sum() / min(len(x) - 1, x.shape[1])
    x = (x @ vectors) / np.sqrt(values + ridge)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(x @ x.T)


@pytest.mark.parametrize(("n", "width"), [(15, 40), (200, 40), (150, 301)])
def test_whitened_rows_have_the_cosines_of_the_formula(rng: np.random.Generator, n: int, width: int):
    rows = pooled_rows(rng, n, width)
    directions = whitened(rows)
    assert directions.dtype == np.float32
    np.testing.assert_allclose(directions @ directions.T, brute_cosines(rows), atol=2e-4)


def test_whitened_rows_of_length_zero_or_all_equal_are_no_accident(rng: np.random.Generator):
    assert whitened(np.empty((0, 5), np.float32)).shape == (0, 5)
    assert len(near_duplicates(np.tile(rng.random(6), (4, 1)), threshold=0.99).cosines) == 6


@pytest.mark.parametrize("block", [7, 2**24])
def test_pairs_are_those_of_the_whole_matrix_the_most_alike_first(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, block: int
):
    monkeypatch.setattr(module, "BLOCK", block)
    rows = pooled_rows(rng, 60)
    cosines = np.triu(brute_cosines(rows), 1)
    found = near_duplicates(rows, threshold=0.3)
    assert {tuple(pair) for pair in found.positions.tolist()} == set(zip(*np.nonzero(cosines >= 0.3), strict=True))
    np.testing.assert_allclose(found.cosines, cosines[tuple(found.positions.T)], atol=2e-4)
    assert (np.diff(found.cosines) <= 0).all()
    assert len(found.cosines) > 20


def test_a_changed_copy_is_found_among_different_images(rng: np.random.Generator):
    rows = pooled_rows(rng, 300, width=80)
    copies = rows[:20] * rng.uniform(0.9, 1.1, (20, 80)).astype(np.float32)
    found = near_duplicates(np.concatenate([rows, copies]), threshold=0.8)
    assert sorted(map(tuple, found.positions.tolist())) == [(i, 300 + i) for i in range(20)]


def test_exact_copies_are_left_out_if_contents_are_given(rng: np.random.Generator):
    rows = pooled_rows(rng, 50)
    rows[1] = rows[2] = rows[0]
    contents = rng.integers(0, 256, (50, 32), dtype=np.uint8)
    contents[1] = contents[0]
    assert [0, 1] in near_duplicates(rows, threshold=0.99).positions.tolist()
    # The same pixels in another file are no exact copy.
    assert near_duplicates(rows, threshold=0.99, contents=contents).positions.tolist() == [[0, 2], [1, 2]]


def test_very_wide_rows_are_folded_and_keep_their_cosines(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch):
    rows = pooled_rows(rng, 40, width=1500)
    whole = whitened(rows)
    monkeypatch.setattr(module, "WIDEST", 500)
    folded = whitened(rows)
    assert folded.shape == (40, 500)
    np.testing.assert_allclose(folded @ folded.T, whole @ whole.T, atol=0.2)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40))
def test_connected_groups_are_those_of_scipy(pairs: list[tuple[int, int]]):
    edges = np.array(pairs, np.int64).reshape(-1, 2)
    _, wanted = connected_components(coo_array((np.ones(len(edges)), tuple(edges.T)), shape=(30, 30)), directed=False)
    found = connected(30, edges)
    assert ((found[:, None] == found) == (wanted[:, None] == wanted)).all()
    assert all(found[i] == np.flatnonzero(wanted == wanted[i])[0] for i in range(30))


@pytest.mark.parametrize("backbone", THRESHOLDS)
def test_thresholds_are_those_that_the_benchmark_chose(backbone: str):
    result = json.loads((RESULTS / f"near-duplicates-{backbone}.json").read_text())
    assert result["chosen"]["threshold"] == THRESHOLDS[backbone]
    assert result["chosen"]["images_falsely_called"] < 0.001
    assert result["chosen"]["kept"] > 0.89
    assert (result["spec"]["image_size"], result["spec"]["pooling"]) == (224, "avg")


def test_rows_that_were_not_measured_get_the_strictest_threshold():
    assert threshold_for(make_spec(width=2048)) == THRESHOLDS["resnet50"]
    for change in ({"backbone": "vgg16"}, {"pooling": "max"}, {"image_size": 96}):
        assert threshold_for(make_spec(width=2048, **change)) == STRICTEST


def test_narrow_rows_need_more_so_that_chance_makes_no_duplicates(rng: np.random.Generator):
    for width in (8, 30, 64, 200):
        rows = rng.normal(size=(1500, width)).astype(np.float32)
        pairs = near_duplicates(rows, threshold=threshold_for(make_spec(width=width)))
        assert len(pairs.cosines) == 0, width


def test_leaked_images_are_exact_or_near_copies_of_training_images(tmp_path: Path, rng: np.random.Generator):
    path, table = tmp_path / "f.h5", make_table(100)
    rows = pooled_rows(rng, 100, width=60)
    trained, scored = np.flatnonzero(table.splits == 0), np.flatnonzero(table.splits == 2)
    rows[scored[0]] = rows[trained[0]]
    table.content_hashes[scored[0]] = table.content_hashes[trained[0]]
    rows[scored[3]] = rows[trained[7]] * rng.uniform(0.9, 1.1, 60)
    rows[scored[4]] = rows[scored[5]]  # alike, but both on the same side
    write_feature_file(path, make_spec(width=60), table, {}, np.ones((1, 2, 60), np.float32))
    with RowWriter(path) as writer:
        writer.commit(plain(range(100)), rows)
    with FeatureFile(path) as file:
        assert np.flatnonzero(leaked(file, scored, trained)).tolist() == [0, 3]
        assert np.flatnonzero(leaked(file, scored, trained, threshold=1.1)).tolist() == [0]
        assert leaked(file, scored, trained[:0]).tolist() == [False] * len(scored)
        assert leaked(file, scored[:0], trained).shape == (0,)


def test_leaked_images_are_those_of_the_whole_matrix_whatever_the_pieces(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
):
    path, rows = tmp_path / "f.h5", pooled_rows(rng, 90)
    write_feature_file(path, make_spec(width=40), make_table(90), {}, np.ones((1, 2, 40), np.float32))
    with RowWriter(path) as writer:
        writer.commit(plain(range(90)), rows)
    order = rng.permutation(90)
    scored, trained = order[:35], order[35:80]
    given = order[:80]
    wanted = brute_cosines(rows[given])[:35, 35:].max(axis=1) >= 0.3
    assert 3 < wanted.sum() < 32
    monkeypatch.setattr(FeatureFile, "batches", lambda _, some, **__: np.array_split(some, 4))
    monkeypatch.setattr(module, "SCORED", 4 * 40 * 10)
    monkeypatch.setattr(module, "BLOCK", 40)
    with FeatureFile(path) as file:
        np.testing.assert_array_equal(leaked(file, scored, trained, threshold=0.3), wanted)
