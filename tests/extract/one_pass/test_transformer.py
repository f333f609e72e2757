import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from onepass.extract import BackboneFeatures, load_backbone
from onepass.features.errors import OptionError, UnreadableImageError
from onepass.heads import LogisticHead


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    random = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(12)]
    for i, path in enumerate(paths):
        pixels = np.clip(random.normal(60 + 130 * (i % 2), 40, (40, 30 + i, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


def test_rows_are_those_of_the_backbone_for_paths_and_arrays_in_order(photos: list[Path], tiny_file: Path):
    step = BackboneFeatures(str(tiny_file), precision="float32").fit(photos)
    backbone = load_backbone(str(tiny_file), precision="float32")
    wanted = np.concatenate([backbone.rows(backbone.pixels(path.read_bytes())[None]) for path in photos])
    np.testing.assert_array_equal(step.transform(photos), wanted)
    np.testing.assert_array_equal(step.transform(np.array([str(path) for path in photos])), wanted)
    arrays = [np.asarray(Image.open(path)) for path in photos]
    np.testing.assert_array_equal(step.transform(arrays), wanted)
    np.testing.assert_array_equal(step.transform([photos[3], arrays[0]]), wanted[[3, 0]])
    assert step.n_features_out_ == len(step.get_feature_names_out()) == wanted.shape[1]
    assert step.transform([]).shape == (0, wanted.shape[1])


def test_it_is_a_step_of_a_pipeline(photos: list[Path], tiny_file: Path):
    pipeline = make_pipeline(BackboneFeatures(str(tiny_file), precision="float32"), LogisticHead(C=1.0, tune="none"))
    y = np.array(["dark", "bright"])[np.arange(12) % 2]
    pipeline.fit(photos, y)
    assert (pipeline.predict(photos) == y).all()
    again = clone(pipeline).set_params(backbonefeatures__pooling="max").fit(photos, y)
    assert again[0].get_params()["pooling"] == "max"
    assert again.predict(photos[:2]).tolist() == ["dark", "bright"]


def test_it_can_be_sent_to_another_process(photos: list[Path], tiny_file: Path):
    step = BackboneFeatures(str(tiny_file), precision="float32").fit(photos)
    sent = pickle.loads(pickle.dumps(step))
    np.testing.assert_array_equal(sent.transform(photos[:3]), step.transform(photos[:3]))


def test_images_that_cannot_be_read_are_named(photos: list[Path], tiny_file: Path, tmp_path: Path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    step = BackboneFeatures(str(tiny_file), precision="float32").fit(photos)
    with pytest.raises(UnreadableImageError, match=r"^.*bad.png cannot be read: not an image \(JPEG, PNG"):
        step.transform([photos[0], tmp_path / "bad.png"])
    with pytest.raises(OptionError) as caught:
        step.transform(np.zeros((2, 5, 5, 1), np.uint8))
    assert str(caught.value) == "image 0 is (5, 5, 1), uint8; needed: (h, w, 3) uint8 RGB, or a path."
