"""A batch over all devices of a model's strategy, to each an equal part."""

import numpy as np

from onepass.extract import KerasModel, Tensor


def prepare(model: KerasModel, x: np.ndarray, y: np.ndarray) -> None:
    """Lets a compiled model see a batch that is not spread, from which it learns the shapes that it needs.

    Args:
        model: `keras.Model`, compiled with weighted metrics.
        x, y: Inputs and targets of an image or more.
    """
    if _devices(model) > 1:
        model.test_on_batch(x, y, sample_weight=np.ones(len(x), np.float32))


def learn(model: KerasModel, x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """One step of training.

    Args:
        model: `keras.Model`, compiled with the weighted metric accuracy.
        x: (b, ...) inputs.
        y: (b, k) float32, one-hot.
        weights: (b,) float32.

    Returns:
        Loss and accuracy of these images.
    """
    padding = -len(x) % _devices(model)
    # The loss is a mean over the padding too, so that what is not padding has to count more.
    weights = np.concatenate([weights * (1 + padding / len(x)), np.zeros(padding, np.float32)]).astype(np.float32)
    found = model.train_on_batch(
        _spread(model, x), _spread(model, y), sample_weight=_spread(model, weights), return_dict=True
    )
    return float(found["loss"]), float(found["accuracy"])


def answer(model: KerasModel, x: np.ndarray) -> np.ndarray:
    """(b, ...) inputs -> (b, ...) outputs."""
    return np.asarray(model.predict_on_batch(_spread(model, x)))[: len(x)]


def _devices(model: KerasModel) -> int:
    return int(model.distribute_strategy.num_replicas_in_sync)


def _spread(model: KerasModel, array: np.ndarray) -> Tensor:
    """As a model with several devices takes it: the last entry is repeated until all parts are equal."""
    devices = _devices(model)
    if devices == 1:
        return array
    import tensorflow as tf

    parts = np.split(np.concatenate([array, np.repeat(array[-1:], -len(array) % devices, axis=0)]), devices)
    return model.distribute_strategy.experimental_distribute_values_from_function(
        lambda context: tf.convert_to_tensor(parts[context.replica_id_in_sync_group])
    )
