"""A row depends on its image and the spec, and on nothing else: laws that hold for any order and any company."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onepass.extract import Backbone, load_backbone
from onepass.extract.one_pass.run import run_extraction
from onepass.features import FeatureFile
from support import picture

LAW = settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
COUNT = 12


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    generator = np.random.default_rng(3)
    return np.stack([np.asarray(picture(generator, (32, 32), hue=i)) for i in range(COUNT)])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(4)
    for i in range(COUNT):
        picture(generator, (50 + i, 40), hue=i).save(folder / f"{i}.{'jpg' if i % 2 else 'png'}")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def alone(photos: list[Path], tiny_backbone: Backbone) -> dict[bytes, np.ndarray]:
    """Content of each photo -> its row, computed with no other image around."""
    return {path.read_bytes(): streamed(tiny_backbone, [path])[0] for path in photos}


def streamed(backbone: Backbone, files: list[Path], **options: object) -> list[np.ndarray]:
    rows = dict(backbone.stream(enumerate(files), on_skip=lambda *_: None, **options))
    return [rows[i][0] for i in range(len(files))]


@LAW
@given(order=st.permutations(range(COUNT)), count=st.integers(1, COUNT))
def test_a_row_does_not_depend_on_position_or_neighbours(order, count, images, tiny_backbone: Backbone):
    chosen = list(order)[:count]
    expected = np.concatenate([tiny_backbone.rows(images[i : i + 1]) for i in chosen])
    np.testing.assert_array_equal(tiny_backbone.rows(images[chosen]), expected)


@LAW
@given(workers=st.integers(1, 5), order=st.permutations(range(COUNT)))
def test_a_row_does_not_depend_on_the_number_of_workers(workers, order, photos, alone, tiny_backbone: Backbone):
    files = [photos[i] for i in order]
    for path, row in zip(files, streamed(tiny_backbone, files, workers=workers), strict=True):
        np.testing.assert_array_equal(row, alone[path.read_bytes()])


@LAW
@given(data=st.data())
def test_a_row_does_not_depend_on_name_batch_or_resume(data, photos, alone, tiny_backbone: Backbone, tmp_path_factory):
    """Photos under drawn names, in a drawn order of arrival over three runs, committed in drawn batches."""
    folder = tmp_path_factory.mktemp("drawn")
    names = data.draw(
        st.lists(st.from_regex(r"\A[a-z0-9ü_ ]{1,12}\Z"), min_size=COUNT, max_size=COUNT, unique_by=str.strip)
    )
    arrival = data.draw(st.permutations(range(COUNT)))
    for run in range(3):
        for number in arrival[run * 4 : run * 4 + 4]:
            target = folder / "data" / ("cats" if number % 2 else "dogs") / (names[number].strip() + ".img")
            target = target.with_name(f"{number % 3}{target.stem or 'x'}{photos[number].suffix}")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(photos[number], target)
        if len(list((folder / "data").iterdir())) == 2:
            batch = data.draw(st.integers(1, 9))
            run_extraction(folder / "data", tiny_backbone, out=folder / "f.h5", batch_size=batch)
    with FeatureFile(folder / "f.h5") as file:
        assert file.committed.all()
        for path, row in zip(file.table.paths, file.rows[:, 0], strict=True):
            np.testing.assert_array_equal(row, alone[(folder / "data" / path).read_bytes()])


@pytest.mark.parametrize("batch_size", [1, 5, 32])
def test_a_row_of_tensorflow_depends_on_its_batch_size_within_rounding_and_on_nothing_else(
    batch_size: int, images: np.ndarray, tiny_file: Path, tiny_backbone: Backbone
):
    engine = load_backbone(str(tiny_file), engine="tensorflow", batch_size=batch_size)
    rows = engine.rows(images)
    # A mean over 16 x 16 places of sums of 27 and 9 products: a few hundred float32 roundings, in any order.
    rounding = {"rtol": 0, "atol": 300 * np.finfo(np.float32).eps * np.abs(rows).max()}
    np.testing.assert_allclose(engine.rows(images[::-1])[::-1], rows, **rounding)
    np.testing.assert_allclose(engine.rows(images[3:4])[0], rows[3], **rounding)
    np.testing.assert_allclose(rows, tiny_backbone.rows(images), rtol=1e-4, atol=1e-5)
