import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

import onepass.features.copies as module
from onepass.features import FeatureFile, ImageTable
from onepass.features.copies import STRICTEST, THRESHOLDS, copy_groups, near_duplicates, threshold_for, whitened
from onepass.features.groups import Groups
from onepass.features.writer import RowWriter, write_feature_file
from support import GOLDEN, flip_bit, make_spec, make_table, plain


def no_thumbnails(rows: np.ndarray) -> np.ndarray:
    return np.zeros((len(rows), 24, 24), np.uint8)


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
    assert (
        len(near_duplicates(np.tile(rng.random(6), (4, 1)), np.zeros((4, 24, 24), np.uint8), threshold=0.99).cosines)
        == 6
    )


@pytest.mark.parametrize("block", [7, 2**24])
def test_pairs_are_those_of_the_whole_matrix_the_most_alike_first(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, block: int
):
    monkeypatch.setattr(module, "BLOCK", block)
    rows = pooled_rows(rng, 60)
    cosines = np.triu(brute_cosines(rows), 1)
    found = near_duplicates(rows, no_thumbnails(rows), threshold=0.3)
    assert {tuple(pair) for pair in found.positions.tolist()} == set(zip(*np.nonzero(cosines >= 0.3), strict=True))
    np.testing.assert_allclose(found.cosines, cosines[tuple(found.positions.T)], atol=2e-4)
    assert (np.diff(found.cosines) <= 0).all()
    assert len(found.cosines) > 20


def test_a_changed_copy_is_found_among_different_images(rng: np.random.Generator):
    rows = pooled_rows(rng, 300, width=80)
    copies = rows[:20] * rng.uniform(0.9, 1.1, (20, 80)).astype(np.float32)
    rows = np.concatenate([rows, copies])
    found = near_duplicates(rows, no_thumbnails(rows), threshold=0.8)
    assert sorted(map(tuple, found.positions.tolist())) == [(i, 300 + i) for i in range(20)]


def test_exact_copies_are_left_out_if_contents_are_given(rng: np.random.Generator):
    rows = pooled_rows(rng, 50)
    rows[1] = rows[2] = rows[0]
    contents = rng.integers(0, 256, (50, 32), dtype=np.uint8)
    contents[1] = contents[0]
    assert [0, 1] in near_duplicates(rows, no_thumbnails(rows), threshold=0.99).positions.tolist()
    # The same pixels in another file are no exact copy.
    assert near_duplicates(rows, no_thumbnails(rows), threshold=0.99, contents=contents).positions.tolist() == [
        [0, 2],
        [1, 2],
    ]


def test_very_wide_rows_are_folded_and_keep_their_cosines(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch):
    rows = pooled_rows(rng, 40, width=1500)
    whole = whitened(rows)
    monkeypatch.setattr(module, "WIDEST", 500)
    folded = whitened(rows)
    assert folded.shape == (40, 500)
    np.testing.assert_allclose(folded @ folded.T, whole @ whole.T, atol=0.2)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40))
def test_groups_of_pairs_are_those_of_scipy(pairs: list[tuple[int, int]]):
    edges = np.array(pairs, np.int64).reshape(-1, 2)
    _, wanted = connected_components(coo_array((np.ones(len(edges)), tuple(edges.T)), shape=(30, 30)), directed=False)
    groups = Groups(30)
    groups.join(*edges.T)
    assert ((groups.of[:, None] == groups.of) == (wanted[:, None] == wanted)).all()
    assert all(groups.of[i] == np.flatnonzero(wanted == wanted[i])[0] for i in range(30))


def test_a_long_chain_of_pairs_is_one_group():
    groups, order = Groups(50_000), np.random.default_rng(0).permutation(50_000)
    groups.join(order[1:], order[:-1])
    assert not groups.of.any()


@pytest.mark.parametrize("backbone", THRESHOLDS)
def test_thresholds_are_those_that_the_benchmark_chose(backbone: str):
    result = json.loads((RESULTS / f"near-duplicates-{backbone}.json").read_text())
    assert result["chosen"]["threshold"] == THRESHOLDS[backbone]
    assert result["chosen"]["pairs_false"] <= 0.05 * result["chosen"]["pairs_called"]
    assert result["chosen"]["kept"] > 0.84
    assert (result["spec"]["image_size"], result["spec"]["pooling"]) == (224, "avg")


def test_rows_that_were_not_measured_get_the_strictest_threshold():
    assert threshold_for(make_spec(width=2048)) == THRESHOLDS["resnet50"]
    for change in ({"backbone": "vgg16"}, {"pooling": "max"}, {"image_size": 96}):
        assert threshold_for(make_spec(width=2048, **change)) == STRICTEST


def test_narrow_rows_need_more_so_that_chance_makes_no_duplicates(rng: np.random.Generator):
    for width in (8, 30, 64, 200):
        rows = rng.normal(size=(1500, width)).astype(np.float32)
        pairs = near_duplicates(rows, no_thumbnails(rows), threshold=threshold_for(make_spec(width=width)))
        assert len(pairs.cosines) == 0, width


def written(path: Path, rows: np.ndarray, table: ImageTable, thumbnails: np.ndarray | None = None) -> FeatureFile:
    write_feature_file(path, make_spec(width=rows.shape[1]), table, {}, np.ones((1, 2, rows.shape[1]), np.float32))
    with RowWriter(path) as writer:
        writer.commit(plain(range(len(rows))), rows)
        for position, thumbnail in enumerate(() if thumbnails is None else thumbnails):
            writer.put_thumbnail(position, thumbnail)
    return FeatureFile(path)


def test_copies_by_content_by_row_and_by_thumbnail_are_one_group(tmp_path: Path, rng: np.random.Generator):
    table, rows = make_table(100), pooled_rows(rng, 100, width=60)
    thumbnails = rng.integers(0, 256, (100, 24, 24), np.uint8)
    table.content_hashes[1] = table.content_hashes[0]
    rows[3] = rows[2] * rng.uniform(0.9, 1.1, 60)
    thumbnails[4] = np.rot90(thumbnails[3]) // 2
    thumbnails[6] = thumbnails[5][:, ::-1]
    with written(tmp_path / "f.h5", rows, table, thumbnails) as file:
        assert file.copies[:7].tolist() == [0, 1, 2, 2, 2, 5, 5]
        assert len(np.unique(file.copies)) == 97
        assert file.group_ids()[:7].tolist() == [0, 0, 1, 1, 1, 2, 2]
        assert file.leaked(np.array([0, 4, 5, 7]), np.array([1, 2, 8])).tolist() == [True, True, False, False]
        assert file.leaked(np.array([0]), np.array([], np.int64)).tolist() == [False]


def test_kept_copies_belong_to_the_rows_and_thumbnails_they_were_found_among(tmp_path: Path, rng: np.random.Generator):
    path, rows = tmp_path / "f.h5", pooled_rows(rng, 50, width=60)
    thumbnails = rng.integers(0, 256, (50, 24, 24), np.uint8)
    with written(path, rows, make_table(50), thumbnails) as file:
        assert file.kept_copies() is None
        copies = file.copies.copy()
    copies[9] = 8
    with RowWriter(path) as writer:
        writer.put_copies(copies)
        with FeatureFile(path) as file:
            assert file.kept_copies() is not None
            assert file.copies[9] == 8  # as it stands there; nothing is searched
        writer.put_thumbnail(20, thumbnails[21])
    with FeatureFile(path) as file:
        assert file.kept_copies() is None
        assert file.copies[[9, 20, 21]].tolist() == [9, 20, 20]


def test_a_flipped_bit_in_kept_copies_is_not_believed(tmp_path: Path, rng: np.random.Generator):
    path = tmp_path / "f.h5"
    with written(path, pooled_rows(rng, 50, width=60), make_table(50)) as file, RowWriter(path) as writer:
        writer.put_copies(file.copies)
    flip_bit(path, "copies", byte=4 * 7)
    with FeatureFile(path) as file:
        assert file.kept_copies() is None
        assert file.copies.tolist() == list(range(50))


def test_a_file_taken_over_keeps_the_thumbnails_of_its_contents(tmp_path: Path, rng: np.random.Generator):
    path, table = tmp_path / "f.h5", make_table(12)
    thumbnails = rng.integers(0, 256, (12, 24, 24), np.uint8)
    old = written(path, rng.random((12, 6)).astype(np.float32), table, thumbnails[:10])
    turned = replace(table, content_hashes=table.content_hashes[::-1].copy())
    write_feature_file(path, make_spec(), turned, {}, GOLDEN, old=old)
    with FeatureFile(path) as file:
        assert file.thumbnailed().tolist() == [False] * 2 + [True] * 10
        np.testing.assert_array_equal(file.thumbnails[2:], thumbnails[9::-1])


def test_groups_are_those_of_the_pairs_whatever_the_pieces(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch):
    rows = pooled_rows(rng, 90)
    thumbnails = rng.integers(0, 256, (90, 24, 24), np.uint8)
    thumbnails[70] = thumbnails[3].T
    wanted = Groups(90)
    wanted.join(*np.nonzero(brute_cosines(rows) >= 0.45))
    wanted.join(np.array([3]), np.array([70]))
    assert 10 < len(np.unique(wanted.of)) < 80
    monkeypatch.setattr(module, "BLOCK", 40 * 90)
    found = copy_groups(lambda: np.array_split(rows, 4), thumbnails, threshold=0.45)
    np.testing.assert_array_equal(found, wanted.of)


def test_many_rows_are_folded_and_copies_still_found(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch):
    rows = pooled_rows(rng, 400, width=1200)
    rows[200:220] = rows[:20] * rng.uniform(0.95, 1.05, (20, 1200))
    monkeypatch.setattr(module, "DIRECTIONS", 1)
    found = copy_groups(lambda: np.array_split(rows, 3), no_thumbnails(rows), threshold=0.7)
    assert found[200:220].tolist() == list(range(20))
    assert len(np.unique(found)) == 380


def test_the_fingerprint_changes_with_what_is_known_of_copies(tmp_path: Path, rng: np.random.Generator):
    path = tmp_path / "f.h5"
    thumbnails = rng.integers(0, 256, (50, 24, 24), np.uint8)
    with written(path, pooled_rows(rng, 50, width=60), make_table(50), thumbnails) as file:
        before = file.fingerprint()
    with RowWriter(path) as writer:
        writer.put_thumbnail(20, np.rot90(thumbnails[21]))
    with FeatureFile(path) as file:
        assert file.fingerprint() != before
