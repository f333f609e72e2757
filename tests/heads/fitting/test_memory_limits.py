"""Rows that do not fit into memory: said before anything is read, with what to do."""

from pathlib import Path

import numpy as np
import pytest

from onepass.extract.machine import free_memory
from onepass.features import FeatureFile
from onepass.features.errors import OptionError, TrainingError
from onepass.heads import RBFSVMHead, RidgeHead, load_head, train_head
from onepass.heads.fitting.memory import require_memory, some_of


def test_a_head_that_needs_all_rows_says_so_and_offers_a_number_that_fits(feature_file: Path, tmp_path: Path):
    with pytest.raises(TrainingError) as caught:
        train_head(feature_file, head="ridge", memory=4000, out=tmp_path / "x.head")
    assert str(caught.value) == (
        "ridge needs about 0.0 GB for 32 images, and 0.0 GB are free. Train it on some of them with max_images=16, "
        "or take head='mlp' or linear, which read the file in pieces."
    )
    saved = train_head(feature_file, head="ridge", memory=4000, max_images=16, out=tmp_path / "x.head").head
    assert saved.trained_on["rows"] == 16


@pytest.mark.parametrize("head", [RidgeHead(), RBFSVMHead()])
def test_the_number_offered_always_fits(head):
    images, views, width = 300_000, 2, 2048
    for free in (10**8, 10**9, 10**10):
        with pytest.raises(TrainingError) as caught:
            require_memory(head.kind, head.memory_needed(images, views, width), free, images)
        offered = caught.value.max_images
        require_memory(head.kind, head.memory_needed(offered, views, width), free, offered)


def test_no_number_is_offered_where_none_fits():
    with pytest.raises(TrainingError, match=r"are free\. Free some memory, or take head='mlp' or linear, which read"):
        require_memory("svm", 10**9, 1, 1000)


def test_what_is_free_is_known():
    assert 10**7 < free_memory() < 2**40


def test_a_subsample_keeps_every_class_and_its_share(rng: np.random.Generator):
    y = np.repeat([0, 1, 2], [800, 190, 10])
    rows = np.arange(1000) * 3
    some = some_of(rows, y, 100, seed=1)
    assert set(some) <= set(rows)
    assert np.bincount(y[some // 3]).tolist() == [80, 19, 2]
    np.testing.assert_array_equal(some, np.sort(some))
    np.testing.assert_array_equal(some_of(rows, y, None, seed=1), rows)
    np.testing.assert_array_equal(some_of(rows, y, 5000, seed=1), rows)
    assert (some != some_of(rows, y, 100, seed=2)).any()


def test_a_subsample_larger_than_the_rows_is_all_of_them(feature_file: Path, tmp_path: Path):
    train_head(feature_file, head="ridge", max_images=1000, out=tmp_path / "x.head")
    with FeatureFile(feature_file) as file:
        assert load_head(tmp_path / "x.head").trained_on["rows"] == len(file.rows_of("train"))


@pytest.mark.parametrize("options", [{"max_images": 0}, {"memory": -1}])
def test_limits_below_one_are_refused(feature_file: Path, options: dict):
    name, value = next(iter(options.items()))
    with pytest.raises(OptionError, match=f"^{name} is {value}; needed: a finite number above 0.$"):
        train_head(feature_file, **options)
