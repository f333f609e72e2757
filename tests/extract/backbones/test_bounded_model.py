import json
import resource
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from onepass.extract import load_bounded_model
from onepass.extract.backbones.keras_file import load_keras_file
from onepass.extract.frameworks import import_keras, plain_keras
from onepass.features.errors import BackboneError, TrainingError
from onepass.heads.finetune.model_file import load_model

NEEDED = "Needed: a .keras file of built-in layers, without Lambda."


def wider(config: str, units: int) -> str:
    """A model's configuration with a last layer of so many units."""
    told = json.loads(config)
    told["config"]["layers"][-1]["config"]["units"] = units
    return json.dumps(told)


@pytest.fixture(params=["keras", "h5"])
def dense(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    with plain_keras() as keras:
        model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(4)])
        model.save(tmp_path / f"x.{request.param}")
    return tmp_path / f"x.{request.param}"


def test_layers_far_larger_than_the_file_are_refused_and_never_made(dense: Path):
    assert load_bounded_model(dense).count_params() == 193 * 4
    units = 50_000_000
    if dense.suffix == ".h5":
        with h5py.File(dense, "a") as file:
            file.attrs["model_config"] = wider(file.attrs["model_config"], units)
    else:
        with zipfile.ZipFile(dense) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        parts["config.json"] = wider(parts["config.json"].decode(), units).encode()
        with zipfile.ZipFile(dense, "w") as archive:
            for name, content in parts.items():
                archive.writestr(name, content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    declared = r"its .* kB declare 38.6 GB; 16.8 MB are read of such a file at most"
    with pytest.raises(TrainingError, match=f"^{dense} cannot be loaded: {declared}$"):
        load_model(dense)
    if dense.suffix == ".keras":
        with pytest.raises(BackboneError, match=f"^{dense} cannot be loaded as a Keras model: {declared} {NEEDED}$"):
            load_keras_file(dense)
    keras = import_keras()
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])  # which would make weights that wait to be made
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024
    assert np.isfinite(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]).get_weights()[0]).all()
