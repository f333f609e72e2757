from pathlib import Path

import h5py
import numpy as np
import pytest

from onepass.extract.backbones.weights import load_weights_file, weights_hash
from onepass.extract.frameworks import import_keras
from onepass.features.errors import WeightsError
from support import mobilenet, save_legacy


def inception(*, seed: int):
    keras = import_keras()
    keras.utils.set_random_seed(seed)
    return keras.applications.InceptionV3(include_top=False, weights=None, input_shape=(75, 75, 3))


def assert_same_weights(left, right) -> None:
    for a, b in zip(left.weights, right.weights[: len(left.weights)], strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)


@pytest.mark.parametrize("top", [False, True])
@pytest.mark.parametrize("kind", ["weights.h5", "legacy", "whole model"])
def test_all_formats_load_with_and_without_the_classifier(tmp_path: Path, kind: str, top: bool):
    saved, fresh = mobilenet(top=top, seed=1), mobilenet(seed=2)
    path = tmp_path / ("w.weights.h5" if kind == "weights.h5" else "w.h5")
    if kind == "weights.h5":
        saved.save_weights(path)
    else:
        save_legacy(saved, path, whole_model=kind == "whole model")

    load_weights_file(fresh, path, backbone="mobilenet_0.25")

    assert_same_weights(fresh, saved)


@pytest.mark.parametrize("kind", ["weights.h5", "h5"])
def test_layers_that_keras_numbers_itself_load_too(tmp_path: Path, kind: str):
    import_keras().backend.clear_session()
    saved, fresh = inception(seed=1), inception(seed=2)
    assert saved.layers[1].name != fresh.layers[1].name
    path = tmp_path / f"w.{kind}"
    saved.save_weights(path) if kind == "weights.h5" else save_legacy(saved, path)
    load_weights_file(fresh, path, backbone="inceptionv3")
    assert_same_weights(fresh, saved)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_nested_layers_load_from_both_formats(tmp_path: Path):
    keras = import_keras()

    def convnext(seed: int):
        keras.utils.set_random_seed(seed)
        return keras.applications.ConvNeXtTiny(include_top=False, weights=None, input_shape=(32, 32, 3))

    saved = convnext(1)
    saved.save_weights(tmp_path / "c.weights.h5")
    save_legacy(saved, tmp_path / "c.h5")
    for name in ("c.weights.h5", "c.h5"):
        fresh = convnext(2)
        load_weights_file(fresh, tmp_path / name, backbone="convnexttiny")
        assert_same_weights(fresh, saved)


def test_the_hash_depends_on_the_weights_and_not_on_the_file(tmp_path: Path):
    saved = mobilenet(top=True, seed=1)
    saved.save_weights(tmp_path / "a.weights.h5")
    save_legacy(saved, tmp_path / "b.h5")
    hashes = []
    for name in ("a.weights.h5", "b.h5"):
        model = mobilenet(seed=5)
        load_weights_file(model, tmp_path / name, backbone="mobilenet_0.25")
        hashes.append(weights_hash(model))
    assert hashes[0] == hashes[1]
    assert hashes[0] != weights_hash(mobilenet(seed=5))


@pytest.mark.parametrize("kind", ["weights.h5", "h5"])
def test_another_width_is_refused_by_layer_and_shape(tmp_path: Path, kind: str):
    path = tmp_path / f"half.{kind}"
    half = mobilenet(alpha=0.5)
    half.save_weights(path) if kind == "weights.h5" else save_legacy(half, path)
    with pytest.raises(WeightsError) as caught:
        load_weights_file(mobilenet(), path, backbone="mobilenet_0.25")
    assert str(caught.value) == (
        f"{path} does not fit mobilenet_0.25: layer conv1 needs (3,3,3,8), the file's conv1 has (3,3,3,16). "
        "Choose the backbone that the file was made for, or a weights file of mobilenet_0.25."
    )


@pytest.mark.parametrize("kind", ["weights.h5", "h5"])
def test_another_architecture_is_refused_by_name(tmp_path: Path, kind: str):
    keras = import_keras()
    vgg = keras.applications.VGG16(include_top=False, weights=None, input_shape=(32, 32, 3))
    path = tmp_path / f"vgg.{kind}"
    vgg.save_weights(path) if kind == "weights.h5" else save_legacy(vgg, path)
    with pytest.raises(WeightsError, match=r"vgg\..*h5 does not fit mobilenet_0.25: "):
        load_weights_file(mobilenet(), path, backbone="mobilenet_0.25")


def test_a_deeper_network_of_the_same_family_is_refused(tmp_path: Path):
    keras = import_keras()

    def dense(*units: int):
        return keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(n) for n in units)])

    dense(4, 4, 4, 4, 4, 4).save_weights(tmp_path / "deep.weights.h5")
    with pytest.raises(
        WeightsError, match="it has 6 layers with weights, small has 2; the others .* are no classifier on top"
    ):
        load_weights_file(dense(4, 4), tmp_path / "deep.weights.h5", backbone="small")
    dense(4, 4).save_weights(tmp_path / "small.weights.h5")
    with pytest.raises(WeightsError, match=r"it has no layer dense_\d+, which needs \(4,4\), \(4,\)"):
        load_weights_file(dense(4, 4, 4), tmp_path / "small.weights.h5", backbone="deep")


@pytest.mark.parametrize(("content", "message"), [
    (None, "there is no weights file"),
    (b"text", "cannot be read as weights"),
    ("hdf5", "is HDF5 but holds no Keras weights"),
])  # fmt: skip
def test_other_files_are_refused(tmp_path: Path, content: bytes | str | None, message: str):
    path = tmp_path / "w.h5"
    if content == "hdf5":
        with h5py.File(path, "w") as file:
            file["x"] = [1]
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        load_weights_file(mobilenet(), path, backbone="mobilenet_0.25")


@pytest.mark.parametrize("kind", ["weights.h5", "h5"])
def test_vgg19_is_not_taken_for_vgg16(tmp_path: Path, kind: str):
    applications = import_keras().applications
    deep = applications.VGG19(include_top=False, weights=None, input_shape=(32, 32, 3))
    path = tmp_path / f"vgg19.{kind}"
    deep.save_weights(path) if kind == "weights.h5" else save_legacy(deep, path)
    shallow = applications.VGG16(include_top=False, weights=None, input_shape=(32, 32, 3))
    with pytest.raises(WeightsError, match=r"vgg19.*h5 does not fit vgg16: "):
        load_weights_file(shallow, path, backbone="vgg16")
