import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onepass.features import FeatureFile, content_split, rows_to_score
from onepass.features.errors import OptionError


def contents(numbers: list[int]) -> np.ndarray:
    return np.array([np.random.default_rng(n).integers(0, 256, 32) for n in numbers], np.uint8)


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, 10**6), min_size=40, max_size=80), st.integers(0, 5))
def test_an_image_keeps_its_side_when_others_are_added_or_removed(numbers: set[int], seed: int):
    ordered = sorted(numbers)
    labels = np.zeros(len(ordered), int)
    half = content_split(contents(ordered[::2]), labels[::2], seed=seed)
    kept = np.full(len(ordered), -1, np.int8)
    kept[::2] = half
    everything = content_split(contents(ordered), labels, kept=kept, seed=seed)
    np.testing.assert_array_equal(everything[::2], half)
    removed = content_split(contents(ordered[::3]), labels[::3], kept=everything[::3].astype(np.int8), seed=seed)
    np.testing.assert_array_equal(removed, everything[::3])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=4, max_size=60))
def test_duplicates_share_a_side_and_every_class_of_two_contents_has_both(numbers: list[int]):
    labels = np.array([n % 2 for n in numbers])
    side = content_split(contents(numbers), labels)
    for n in set(numbers):
        assert len({bool(s) for s, m in zip(side, numbers, strict=True) if m == n}) == 1
    for label in (0, 1):
        if len({n for n in numbers if n % 2 == label}) >= 2:
            assert set(side[labels == label]) == {True, False}


@pytest.mark.parametrize(
    ("sizes", "tests"), [((25, 25, 3), (5, 5, 1)), ((3000, 1000, 502), (600, 200, 100)), ((2, 4, 1), (1, 1, 0))]
)
def test_each_class_gives_exactly_the_share_asked_for(sizes: tuple[int, ...], tests: tuple[int, ...]):
    labels = np.repeat(np.arange(3), sizes)
    for seed in range(3):
        side = content_split(contents(list(range(len(labels)))), labels, test=0.2, seed=seed)
        assert np.bincount(labels[side], minlength=3).tolist() == list(tests)


def test_the_images_with_the_smallest_hashes_are_taken():
    hashes = contents(list(range(50)))
    small = content_split(hashes, np.zeros(50, int), test=0.2)
    large = content_split(hashes, np.zeros(50, int), test=0.4)
    assert (small.sum(), large.sum()) == (10, 20)
    assert not (small & ~large).any()


def test_another_seed_gives_another_split():
    labels = np.zeros(100, int)
    assert (content_split(contents(list(range(100))), labels, seed=0) != content_split(
        contents(list(range(100))), labels, seed=1
    )).any()  # fmt: skip


@pytest.mark.parametrize("share", [0, 1, -0.5, 7])
def test_a_share_outside_0_to_1_is_refused(share: float):
    with pytest.raises(OptionError, match=f"the test share is {share}; needed: a number between 0 and 1, such as 0.2"):
        content_split(contents([1, 2]), np.zeros(2, int), test=share)


def test_a_feature_file_draws_train_and_test_that_cover_its_rows(open_file: FeatureFile):
    train, test = open_file.split(test=0.3, seed=1)
    assert sorted([*train, *test]) == list(range(40))
    assert set(open_file.table.labels[test]) == {0, 1}


def test_the_rows_to_score_are_those_the_head_has_not_seen():
    splits, hashes = np.array([0, 0, 1, 2, 2]), contents([1, 2, 3, 4, 5])
    seen = hashes[:2, :8]

    def part(name: str, *, drawn: bool = False, rows: slice = slice(None)) -> tuple[list[int], str]:
        chosen, called = rows_to_score(splits[rows], hashes[rows], name, drawn=drawn, seen=seen)
        return chosen.tolist(), called

    assert part("auto") == ([3, 4], "test")
    assert part("auto", rows=slice(3)) == ([2], "val")
    assert part("auto", drawn=True) == ([2, 3, 4], "unseen")
    assert part("auto", rows=slice(2)) == ([], "unseen")
    assert part("val") == ([2], "val")
    assert part("all") == ([0, 1, 2, 3, 4], "all")
    with pytest.raises(OptionError, match="split is 'dev'; needed: auto, all, unseen or one of train, val, test"):
        part("dev")
