import numpy as np
import pytest

from onepass.extract import Backbone
from onepass.extract.backbones.golden import golden_images
from onepass.extract.one_pass.run import run_extraction
from onepass.extract.pixels.decode import decode_image
from onepass.features import FeatureFile
from onepass.features.drift import measure_drift, require_no_drift
from onepass.features.errors import DriftError
from support import MakeFolder

GOLDEN_SUMS = [399365, 373957, 404683, 409680, 441154, 360146, 311519, 382132]


class Shifted:
    """A backbone whose rows are not what they were."""

    def __init__(self, backbone: Backbone, by: float) -> None:
        self._backbone, self._by = backbone, by

    def __getattr__(self, name: str):
        return getattr(self._backbone, name)

    def golden_rows(self) -> np.ndarray:
        rows = self._backbone.golden_rows().copy()
        rows[3, :4] += self._by
        return rows


def test_golden_images_are_always_the_same_pixels():
    again = [decode_image(data, image_size=32, resize="squash") for data in golden_images()]
    sums = [int(pixels.astype(np.int64).sum()) for pixels in again]
    assert sums == GOLDEN_SUMS


def test_golden_rows_are_stored_with_the_file(make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path):
    done = run_extraction(make_folder({"cats": 2, "dogs": 2}), tiny_backbone, out=tmp_path / "f.h5")
    with FeatureFile(done.path) as file:
        np.testing.assert_array_equal(file.golden_rows, tiny_backbone.golden_rows()[None])
        (environment,) = file.provenance["environments"]
        assert environment["engine"] == "openvino"
        assert set(environment["versions"]) == {"onepass", "numpy", "pillow", "keras", "openvino"}


def test_an_incremental_run_refuses_rows_that_drifted(make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path):
    data = make_folder({"cats": 2, "dogs": 2})
    run_extraction(data, tiny_backbone, out=tmp_path / "f.h5")
    make_folder({"owls": 2}, seed=5)
    message = (
        r"^this machine does not compute the rows of .*f.h5: cosine 0\.\d+ \(needed 0.\d+\), largest difference \d+, "
        r"on 8 test images. Use the versions and the engine that `onepass info .*f.h5` lists. Or go on with "
        r"accept_drift=True, which is recorded.$"
    )
    with pytest.raises(DriftError, match=message):
        run_extraction(data, Shifted(tiny_backbone, 100), out=tmp_path / "f.h5")

    assert run_extraction(data, tiny_backbone, out=tmp_path / "f.h5").computed == 2


def test_drift_that_was_accepted_is_recorded_and_stays_accepted(
    make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path
):
    data, shifted = make_folder({"cats": 2, "dogs": 2}), Shifted(tiny_backbone, 100)
    run_extraction(data, tiny_backbone, out=tmp_path / "f.h5")
    make_folder({"owls": 2}, seed=5)

    done = run_extraction(data, shifted, out=tmp_path / "f.h5", accept_drift=True)

    assert done.computed == 2
    assert done.drift is not None
    assert "accepted and recorded: the golden rows differ, cosine 0." in str(done)
    with FeatureFile(done.path) as file:
        assert file.golden_rows.shape[0] == 2
        first, second = file.provenance["environments"]
        assert "accepted" not in first
        assert second["cosine"] == pytest.approx(done.drift.cosine)
        assert second["accepted"][:2] == "20"
    for seed, backbone in enumerate((tiny_backbone, shifted)):
        make_folder({"dogs": 5 + seed}, seed=seed + 1)
        assert run_extraction(data, backbone, out=tmp_path / "f.h5").computed > 0


def test_rows_of_a_base_that_drifted_are_refused(make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path):
    data = make_folder({"cats": 2, "dogs": 2})
    run_extraction(data, tiny_backbone, out=tmp_path / "base.h5")
    with pytest.raises(DriftError, match="does not compute the rows of .*base.h5"):
        run_extraction(data, Shifted(tiny_backbone, 100), out=tmp_path / "f.h5", base=[tmp_path / "base.h5"])
    assert not (tmp_path / "f.h5").exists()


def test_rows_of_a_base_that_were_accepted_bring_their_golden_rows_along_once(
    make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path
):
    data, shifted = make_folder({"cats": 2, "dogs": 2}), Shifted(tiny_backbone, 100)
    run_extraction(data, tiny_backbone, out=tmp_path / "base.h5")
    make_folder({"owls": 2}, seed=5)
    for _ in range(2):
        run_extraction(data, shifted, out=tmp_path / "f.h5", base=[tmp_path / "base.h5"], accept_drift=True)
    with FeatureFile(tmp_path / "f.h5") as file:
        expected = np.stack([shifted.golden_rows(), tiny_backbone.golden_rows()])
        np.testing.assert_array_equal(file.golden_rows, expected)
        assert len(file.provenance["environments"]) == 2


def test_drift_is_the_lowest_cosine_to_the_nearest_environment(rng: np.random.Generator):
    stored = rng.normal(size=(2, 5, 7)).astype(np.float32)
    found = stored[1].copy()
    found[2] = [3, 0, 0, 0, 0, 0, 0]
    row = stored[1, 2].astype(np.float64)

    drift = measure_drift(stored, found, "float32", head=FirstFeature())

    assert drift.cosine == pytest.approx(row[0] / np.linalg.norm(row))
    assert drift.difference == pytest.approx(np.abs(row - found[2]).max())
    assert drift.flips == int((row[0] > 0) != True)  # noqa: E712
    assert not drift.accepted


class FirstFeature:
    def predict(self, x: np.ndarray) -> np.ndarray:
        return (x[:, 0] > 0).astype(int)


def test_rows_of_zeros_equal_only_themselves():
    zeros, ones = np.zeros((1, 2, 3), np.float32), np.ones((2, 3), np.float32)
    assert measure_drift(zeros, zeros[0], "float32").cosine == 1
    assert measure_drift(zeros, ones, "float32").cosine == 0


def test_tolerance_depends_on_the_precision():
    stored = np.array([[[1.0, 0.0]]], np.float32)
    found = np.array([[1.0, 0.08]], np.float32)  # cosine 0.9968
    require_no_drift(measure_drift(stored, found, "bfloat16"), name="f.h5", remedy="")
    with pytest.raises(DriftError):
        require_no_drift(measure_drift(stored, found, "float32"), name="f.h5", remedy="")
