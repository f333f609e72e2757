"""Loads a model of Keras that anybody may have made: no code in it is run, and its sizes are looked at first."""

import contextlib
import json
import math
import zipfile
from pathlib import Path
from typing import Any

from onepass.extract.frameworks import import_keras, import_keras_hub
from onepass.features.limits import read_member, require_bounded, require_declared, scalar_attribute


def load_bounded_model(path: Path) -> Any:
    """The `keras.Model` of a `.keras` or legacy `.h5` file, not compiled, in Keras's safe mode.

    Args:
        path: The file; a legacy one must have been found to hold no Lambda layer.

    Raises:
        ValueError: File or layers declare far more than the file can hold.
        BackboneError: Its layers are KerasHub's, which is not installed.
        Exception: Keras cannot load it.
    """
    require_bounded(path)
    keras = import_keras()
    declared = 0
    if _needs_keras_hub(path):
        import_keras_hub()  # or else Keras imports it, with its usage statistics
    with contextlib.suppress(Exception), keras.StatelessScope(initialize_variables=False):  # shapes without values
        model = _from_config(keras, _config(path))
        declared = sum(4 * math.prod(weight.shape) for weight in model.weights)
    try:
        require_declared(declared, path.stat().st_size)
    except ValueError:
        keras.backend.clear_session()  # or else Keras makes these weights after all
        raise
    return keras.models.load_model(path, compile=False, safe_mode=True)


def _needs_keras_hub(path: Path) -> bool:
    with contextlib.suppress(Exception):  # whoever loads the file tells what is wrong with it
        return '"keras_hub.' in json.dumps(_config(path))
    return False


def _from_config(keras: Any, config: Any) -> Any:
    """A model of a configuration; the legacy format has no modules, and keeps layers by their names alone."""
    if "module" in config:
        return keras.saving.deserialize_keras_object(config, safe_mode=True)
    kind = keras.Sequential if config["class_name"] == "Sequential" else keras.Model
    return kind.from_config(config["config"])


def _config(path: Path) -> Any:
    """What the file says of its layers."""
    if zipfile.is_zipfile(path):
        return json.loads(read_member(path, "config.json"))
    import h5py

    with h5py.File(path, "r") as file:
        return json.loads(scalar_attribute(file, "model_config"))
