"""Groups in the table and in drawn splits: who belongs together, and that nobody is torn apart."""

import itertools
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from onepass.features import FeatureFile, content_split, find_overlapping_groups, rows_to_score
from onepass.features.errors import MissingSideWarning
from onepass.features.groups import group_ids
from onepass.features.overlapping_groups import OverlappingGroup, describe_overlapping_groups
from onepass.features.writer import RowWriter, write_feature_file
from support import GOLDEN, make_spec, make_table, plain


def contents(numbers: list[int]) -> np.ndarray:
    return np.array([np.random.default_rng(n).integers(0, 256, 32) for n in numbers], np.uint8).reshape(-1, 32)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["", "", "a", "b", "c", "d"]), st.integers(0, 12)), max_size=25))
def test_group_numbers_are_the_connected_components_of_names_and_copies(images: list[tuple[str, int]]):
    names, numbers = [name for name, _ in images], [number for _, number in images]

    found = group_ids(names, contents(numbers))

    n = len(images)
    edges = [
        (i, j)
        for i, j in itertools.combinations(range(n), 2)
        if numbers[i] == numbers[j] or (names[i] and names[i] == names[j])
    ]
    i, j = np.array(edges, int).reshape(-1, 2).T
    _, expected = connected_components(coo_array((np.ones(len(i)), (i, j)), shape=(n, n)), directed=False)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found[:, None] == found, expected[:, None] == expected)
    assert sorted(set(found.tolist())) == list(range(len(set(found.tolist()))))


def test_files_that_could_not_be_read_are_no_copies_of_each_other():
    hashes = contents([1, 1, 2, 3])
    hashes[2:] = 0
    assert group_ids([], hashes).tolist() == [0, 0, 1, 2]
    assert group_ids(["", "", "p", "p"], hashes).tolist() == [0, 0, 1, 1]


def test_a_table_without_groups_gives_each_image_one_of_its_own():
    table = make_table(5)
    assert table.groups == ("",) * 5
    assert table.group_names() == []
    assert table.group_ids().tolist() == [0, 1, 2, 3, 4]
    grouped = replace(table, groups=("b", "", "a", "b", ""))
    assert grouped.group_names() == ["a", "b"]
    assert grouped.group_ids().tolist() == [0, 1, 2, 0, 3]
    assert not grouped.same_entries(table)
    with pytest.raises(ValueError, match=r"^2 groups for 5 images$"):
        replace(table, groups=("a", "b"))


def test_groups_stand_in_the_file_and_are_read_back(tmp_path: Path):
    odd = b"\xff1".decode("utf-8", "surrogateescape")
    table = replace(make_table(4), groups=("patient ü", "", odd, "patient ü"))
    write_feature_file(tmp_path / "f.h5", make_spec(), table, {}, GOLDEN)
    with FeatureFile(tmp_path / "f.h5") as file:
        assert file.table.groups == table.groups
        assert file.stored("groups").tolist()[0] == "patient ü".encode()
        before = file.fingerprint()
    write_feature_file(tmp_path / "f.h5", make_spec(), replace(table, groups=()), {}, GOLDEN)
    assert FeatureFile(tmp_path / "f.h5").fingerprint() != before


names_and_numbers = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 40), st.integers(0, 2)), min_size=2, max_size=40
)


@settings(max_examples=100, deadline=None)
@given(names_and_numbers, st.integers(0, 3))
def test_neither_groups_nor_copies_straddle_a_split(images: list[tuple[int, int, int]], seed: int):
    names = ["" if name > 5 else f"p{name}" for name, _, _ in images]
    hashes, labels = contents([number for _, number, _ in images]), np.array([label for *_, label in images])

    side = content_split(hashes, labels, groups=names, seed=seed)

    ids = group_ids(names, hashes)
    for group in range(ids.max() + 1):
        assert len(set(side[ids == group].tolist())) == 1


@settings(max_examples=150, deadline=None)
@given(names_and_numbers, st.integers(0, 3))
def test_a_class_on_one_side_has_no_group_that_could_move_without_harm(images: list[tuple[int, int, int]], seed: int):
    names = [f"p{name}" for name, _, _ in images]
    hashes, labels = contents([number for _, number, _ in images]), np.array([label for *_, label in images])
    ids = group_ids(names, hashes)
    several = [groups for label in set(labels.tolist()) if len(groups := set(ids[labels == label].tolist())) > 1]

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        side = content_split(hashes, labels, groups=names, seed=seed)

    tests = set(ids[side].tolist())

    def on_one_side(tests: set[int]) -> int:
        return sum(not groups & tests or not groups - tests for groups in several)

    left = on_one_side(tests)
    for groups in several:
        if not groups & tests or not groups - tests:
            assert all(on_one_side(tests ^ {group}) >= left for group in groups)
    assert len(caught) == bool(left)
    if left:
        assert caught[0].category is MissingSideWarning
        assert str(caught[0].message) == (
            f"{left} of {len(set(labels.tolist()))} classes have all their images on one side of the split, because "
            "their groups also hold images of other classes. Add images of other groups, or make train and test "
            "folders."
        )


def test_of_thousands_of_small_classes_hardly_any_misses_a_side():
    rng = np.random.default_rng(0)
    names, labels = [f"p{i}" for i in rng.integers(0, 3000, 9000)], np.arange(9000) // 3
    hashes = rng.integers(0, 256, (9000, 32), dtype=np.uint8)
    with pytest.warns(MissingSideWarning):
        side = content_split(hashes, labels, groups=names)
    on_one_side = [
        label
        for label in range(3000)
        if len(set(side[labels == label])) == 1 and len({names[3 * label + i] for i in range(3)}) > 1
    ]
    assert len(on_one_side) < 90  # of 3,000; each group holds images of three classes


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, 10**6), min_size=30, max_size=60), st.integers(0, 5))
def test_a_group_keeps_its_side_when_others_come_and_its_own_images_change(numbers: set[int], seed: int):
    names = sorted(f"p{n}" for n in numbers)
    half = content_split(contents(list(range(len(names[::2])))), np.zeros(len(names[::2]), int), groups=names[::2])
    kept = np.full(len(names), -1, np.int8)
    kept[::2] = half
    other = contents(list(range(100, 100 + len(names))))
    everything = content_split(other, np.zeros(len(names), int), groups=names, kept=kept, seed=seed)
    np.testing.assert_array_equal(everything[::2], half)
    assert everything.sum() == int(0.2 * len(names) + 0.5)


def test_sides_that_are_kept_stay_and_take_their_group_along():
    hashes, labels = contents(list(range(30))), np.zeros(30, int)
    names = [f"p{i // 3}" for i in range(30)]
    drawn = content_split(hashes, labels, groups=names)
    kept = np.full(30, -1, np.int8)
    kept[0:30:3] = ~drawn[0:30:3]
    np.testing.assert_array_equal(content_split(hashes, labels, groups=names, kept=kept), ~drawn)
    kept[1:30:3] = drawn[1:30:3]  # on both sides: drawn again
    np.testing.assert_array_equal(content_split(hashes, labels, groups=names, kept=kept), drawn)


def test_the_share_asked_for_of_each_class_becomes_test_to_the_last_group():
    names, labels = [f"p{i // 2}" for i in range(6000)], np.arange(6000) // 1500
    side = content_split(contents(list(range(6000))), labels, groups=names, test=0.2)
    assert np.bincount(labels[side]).tolist() == [300] * 4


def test_groups_that_are_too_large_for_a_class_are_left_for_smaller_ones():
    names = ["large"] * 10 + [f"p{i}" for i in range(20)]
    for seed in range(10):
        side = content_split(contents(list(range(30))), np.zeros(30, int), groups=names, seed=seed)
        assert side.sum() == 6
        assert not side[0]


def test_copies_share_a_side_like_a_group():
    copies = np.arange(100) // 4
    for seed in range(5):
        side = content_split(contents(list(range(100))), np.zeros(100, int), copies=copies, seed=seed)
        assert side.sum() == 20
        assert (side.reshape(25, 4) == side.reshape(25, 4)[:, :1]).all()


def grouped_file(path: Path) -> FeatureFile:
    """40 images of 8 groups of 5, and 5 of their own."""
    table = replace(make_table(45), groups=tuple(f"p{i // 5}" if i < 40 else "" for i in range(45)))
    write_feature_file(path, make_spec(), table, {"drawn_split": True}, GOLDEN)
    with RowWriter(path) as writer:
        writer.commit(plain(range(45)), np.random.default_rng(0).normal(size=(45, 6)).astype(np.float32))
    return FeatureFile(path)


def test_a_feature_file_splits_between_groups(tmp_path: Path):
    with grouped_file(tmp_path / "f.h5") as file:
        for seed in range(5):
            train, test = file.split(test=0.3, seed=seed)
            assert sorted([*train, *test]) == list(range(45))
            assert not {i // 5 for i in train if i < 40} & {i // 5 for i in test if i < 40}


def test_an_image_of_a_group_that_the_head_has_seen_is_not_unseen(tmp_path: Path):
    with grouped_file(tmp_path / "f.h5") as file:
        seen = file.table.content_hashes[[0, 7, 41], :8]
        chosen, part = file.rows_to_score("auto", seen=seen)
    assert part == "unseen"
    assert chosen.tolist() == [*range(10, 41), 42, 43, 44]


def test_rows_to_score_without_groups_look_at_content_alone():
    hashes = contents([1, 2, 1])
    chosen, _ = rows_to_score(np.zeros(3), hashes, "unseen", drawn=True, seen=hashes[:1, :8])
    assert chosen.tolist() == [1]


def test_groups_torn_by_folders_are_named():
    table = replace(make_table(6), groups=("b", "b", "a", "", "", "a"), splits=np.array([0, 2, 1, 0, 2, 0], np.uint8))
    torn = find_overlapping_groups(table)
    assert torn == [OverlappingGroup("a", ["train", "val"]), OverlappingGroup("b", ["train", "test"])]
    assert describe_overlapping_groups(torn) == "2 groups lie in more than one split, such as a in train and val"
    assert describe_overlapping_groups(torn[1:]) == "1 group lies in more than one split: b in train and test"
    table.content_hashes[5] = 0  # could not be read
    assert [group.group for group in find_overlapping_groups(table)] == ["b"]
