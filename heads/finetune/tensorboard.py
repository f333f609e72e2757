"""The epochs of a fine-tuning as TensorBoard shows them."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from onepass.features.errors import OptionError, opt
from onepass.heads.finetune.result import Epoch


def require_tensorboard() -> None:
    """Refuses logs that nothing here can write, before anything is trained.

    Raises:
        OptionError: TensorBoard is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise OptionError(
            f'{opt.tensorboard} needs TensorBoard. Run: pip install "onepass[tensorboard]", or leave it out.'
        )


def log_epochs(epochs: Sequence[Epoch], folder: Path) -> None:
    """Writes loss and accuracy of training and validation; the start has no training loss."""
    import tensorflow as tf

    for part, prefix in (("train", ""), ("validation", "val_")):
        with tf.summary.create_file_writer(str(folder / part)).as_default():
            for step, epoch in enumerate(epochs):
                for measure in ("loss", "accuracy"):
                    tf.summary.scalar(f"epoch_{measure}", getattr(epoch, prefix + measure), step=step)
