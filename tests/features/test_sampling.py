"""A stratified sample: what every one of them holds, whatever the classes and groups are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onepass.features.sampling import stratified_sample


def contents(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 32), np.uint8)


def test_classes_keep_their_share_to_the_image():
    labels = np.repeat([0, 1, 2], [1000, 500, 250])
    for seed in range(3):
        taken = stratified_sample(contents(1750), labels, 350, seed=seed)
        assert np.bincount(labels[taken]).tolist() == [200, 100, 50]


def test_what_is_left_of_a_division_goes_to_the_largest_remainders():
    labels = np.repeat([0, 1, 2], [50, 30, 21])
    taken = stratified_sample(contents(101), labels, 40)
    assert np.bincount(labels[taken]).tolist() == [20, 12, 8]  # of 19.8, 11.9, 8.3


def test_a_small_class_gets_five_images_or_all_it_has():
    labels = np.repeat([0, 1, 2], [2000, 9, 3])
    assert np.bincount(labels[stratified_sample(contents(2012), labels, 200)])[1:].tolist() == [5, 3]


def test_of_many_classes_each_gets_two():
    labels = np.arange(3000) % 300
    assert set(np.bincount(labels[stratified_sample(contents(3000), labels, 200)]).tolist()) == {2}


def test_all_are_taken_where_there_are_no_more():
    assert stratified_sample(contents(30), np.arange(30) % 2, 200).all()


def test_the_sample_depends_on_contents_and_not_on_their_order():
    hashes, labels = contents(400), np.arange(400) % 3
    first = stratified_sample(hashes, labels, 90)
    order = np.random.default_rng(1).permutation(400)
    assert (stratified_sample(hashes[order], labels[order], 90) == first[order]).all()


def test_another_seed_gives_another_sample():
    labels = np.arange(400) % 3
    first, second = (stratified_sample(contents(400), labels, 90, seed=seed) for seed in (0, 1))
    assert 0 < (first & second).sum() < 60


def test_a_larger_sample_holds_a_smaller_one():
    labels = np.arange(1000) % 4
    small, large = (stratified_sample(contents(1000), labels, size) for size in (200, 600))
    assert (large[small]).all()


def test_small_groups_are_taken_whole():
    groups = [f"patient {i // 7}" for i in range(2100)]
    labels = np.arange(2100) // 7 % 2
    taken = stratified_sample(contents(2100), labels, 300, groups=groups)
    assert set(np.bincount(np.arange(2100)[taken] // 7, minlength=300).tolist()) == {0, 7}
    assert taken.sum() == pytest.approx(300, abs=7)


def test_of_a_long_video_some_images_are_taken_so_that_five_have_room():
    groups = [f"video {i // 700}" for i in range(7000)]
    labels = np.arange(7000) // 700 % 2
    taken = stratified_sample(contents(7000), labels, 600, groups=groups)
    assert np.bincount(labels[taken]).tolist() == [300, 300]
    assert np.unique(np.arange(7000)[taken] // 700, return_counts=True)[1].tolist() == [60] * 10


def test_where_one_group_is_most_of_a_class_it_fills_what_others_leave():
    groups = ["long"] * 500 + [f"short {i}" for i in range(10)] + [""] * 510
    labels = np.repeat([0, 1], 510)
    taken = stratified_sample(contents(1020), labels, 200, groups=groups)
    assert taken[500:510].all()
    assert taken[:500].sum() == 90
    assert taken[510:].sum() == 100


def test_exact_copies_are_taken_together():
    hashes = np.repeat(contents(150), 2, axis=0)
    taken = stratified_sample(hashes, np.arange(300) // 2 % 2, 100)
    assert (taken[::2] == taken[1::2]).all()
    assert taken.sum() == 100


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=2, max_size=6),
    per_group=st.integers(1, 25),
    size=st.integers(4, 120),
    seed=st.integers(0, 9),
)
def test_every_class_is_there_with_two_groups_if_it_has_them(sizes: list[int], per_group: int, size: int, seed: int):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    number = np.random.default_rng(seed).permutation(len(labels)) // per_group
    groups = [f"g{one}" for one in number]
    taken = stratified_sample(contents(len(labels), seed), labels, size, groups=groups, seed=seed)
    for label in range(len(sizes)):
        there, all_of_them = number[taken & (labels == label)], number[labels == label]
        assert len(set(there)) >= min(2, len(set(all_of_them)))
