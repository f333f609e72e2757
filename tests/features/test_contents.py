import numpy as np
import pytest

from onepass.features.contents import seen_before


@pytest.mark.parametrize("length", [8, 32])
def test_contents_are_known_by_their_hash_or_its_first_bytes(rng: np.random.Generator, length: int):
    hashes = rng.integers(0, 256, (20, 32), dtype=np.uint8)
    expected = np.isin(np.arange(20), [3, 7, 8])
    np.testing.assert_array_equal(seen_before(hashes, hashes[[7, 3, 8], :length]), expected)


def test_nothing_was_seen(rng: np.random.Generator):
    hashes = rng.integers(0, 256, (4, 32), dtype=np.uint8)
    assert not seen_before(hashes, np.empty((0, 8), np.uint8)).any()
    assert seen_before(hashes[:0], hashes).shape == (0,)
