"""Dense nets on rows, trained by Keras."""

from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split

from features.errors import OptionError
from features.frameworks import import_keras, plain_keras, quiet_stderr
from heads.base import Head, require_positive
from heads.network import OUTPUTS, DenseNetwork, standardisation

VALIDATION_SHARE = 0.15


class MLPHead(Head):
    """A dense net with early stopping: hidden ReLU layers, dropout, softmax or one sigmoid unit.

    Of an image with several views each epoch draws one; the validation rows are plain views.

    Args:
        hidden: Units of each hidden layer; () for a softmax alone.
        dropout: Share of units dropped after each hidden layer, 0 <= dropout < 1.
        output: softmax, or sigmoid (one unit) for two classes.
        epochs: At most so many passes over the training rows.
        batch_size: Rows per step.
        lr: Learning rate of Adam.
        patience: Epochs without a better validation loss before it stops.
        seed: Of weights, dropout, order and validation part. Keras's global seed is set.
    """

    kind = "mlp"

    def __init__(
        self,
        *,
        hidden: tuple[int, ...] = (256,),
        dropout: float = 0.5,
        output: str = "softmax",
        epochs: int = 100,
        batch_size: int = 32,
        lr: float = 3e-4,
        patience: int = 8,
        seed: int = 0,
    ) -> None:
        self.hidden = hidden
        self.dropout = dropout
        self.output = output
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.patience = patience
        self.seed = seed

    def fit(
        self, x: np.ndarray, y: np.ndarray, *, validation: tuple[np.ndarray, np.ndarray] | None = None
    ) -> "MLPHead":
        """Fits the net.

        Args:
            x: (n, d) rows, or (n, v, d): v views of each image, the plain one first; float.
            y: (n,) labels.
            validation: Rows and labels that decide when to stop; by default a stratified 15 % of
                the training rows, which are then not trained on.
        """
        self._validation = validation
        try:
            super().fit(x, y)
        finally:
            del self._validation
        return self

    def _fit(self, x: np.ndarray, y: np.ndarray) -> DenseNetwork:
        self._check()
        x_val, y_val, x, y = self._validation_part(x, y)
        n, views, width = x.shape
        mean, scale = standardisation(x.reshape(n * views, width))
        rows = np.concatenate([x.reshape(n * views, width), x_val])
        rows -= mean
        rows /= scale
        with plain_keras() as keras, quiet_stderr():
            keras.utils.set_random_seed(self.seed)
            model = self._model(view_layer(rows, views, self.seed))
            stopping = keras.callbacks.EarlyStopping(
                monitor="val_loss", patience=self.patience, restore_best_weights=True
            )
            history = model.fit(
                np.arange(0, n * views, views),
                y.astype(np.float32),
                validation_data=(np.arange(n * views, len(rows)), y_val.astype(np.float32)),
                epochs=self.epochs,
                batch_size=self.batch_size,
                callbacks=[stopping],
                verbose=0,
            )
        losses = history.history["val_loss"]
        self.chosen_ = {"epochs": int(np.nanargmin(losses)) + 1 if np.isfinite(losses).any() else len(losses)}
        dense = [layer.get_weights() for layer in model.layers if layer.weights]
        kernels, biases = zip(*dense, strict=True)
        return DenseNetwork(mean, scale, kernels, biases, self.output)

    def _model(self, rows: Any) -> Any:
        keras = import_keras()
        layers = [keras.Input((), dtype="int32"), rows]
        for units in self.hidden:
            layers.append(keras.layers.Dense(units, activation="relu"))
            if self.dropout:
                layers.append(keras.layers.Dropout(self.dropout))
        if self.output == "sigmoid":
            layers.append(keras.layers.Dense(1))
            loss = keras.losses.BinaryCrossentropy(from_logits=True)
        else:
            layers.append(keras.layers.Dense(len(self.classes_)))
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model = keras.Sequential(layers)
        model.compile(keras.optimizers.Adam(self.lr), loss, steps_per_execution=8)
        return model

    def _validation_part(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        if self._validation is not None:
            x_val, labels = self._validation
            known = np.isin(labels, self.classes_)
            plain = np.asarray(x_val, np.float32)[known]
            plain = plain[:, 0] if plain.ndim == 3 else plain
            return plain, np.searchsorted(self.classes_, labels[known]), x, y
        counts = np.bincount(y)
        size = max(round(VALIDATION_SHARE * len(y)), len(counts))
        if counts.min() < 2 or len(y) - size < len(counts):
            # A class of one image cannot be on both sides: stop by the training loss then.
            return x[:, 0], y, x, y
        x, x_val, y, y_val = train_test_split(x, y, test_size=size, stratify=y, random_state=self.seed)
        return x_val[:, 0], y_val, x, y

    def _check(self) -> None:
        require_positive(epochs=self.epochs, batch_size=self.batch_size, lr=self.lr, patience=self.patience)
        if not 0 <= self.dropout < 1:
            raise OptionError(f"dropout is {self.dropout}; needed: 0 or more and below 1.")
        if any(units < 1 for units in self.hidden):
            raise OptionError(f"hidden is {self.hidden}; needed: layers of at least one unit.")
        if self.output not in OUTPUTS:
            raise OptionError(f"output is {self.output!r}; needed: one of {', '.join(OUTPUTS)}.")
        if self.output == "sigmoid" and len(self.classes_) != 2:
            raise OptionError(f"one sigmoid unit tells two classes apart; there are {len(self.classes_)}. Use softmax.")


def view_layer(rows: np.ndarray, views: int, seed: int) -> Any:
    """A Keras layer that holds all rows and looks them up, so that a step moves positions alone.

    Args:
        rows: (m, d) float32; the views of an image follow each other, the plain one first.
        views: Views per image.
        seed: Of the views drawn in training.

    Returns:
        Layer of (b,) positions of plain rows -> (b, d): in training any view of each, else the plain one.
    """
    keras = import_keras()

    class ViewLookup(keras.layers.Layer):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.rows = keras.ops.convert_to_tensor(rows)
            self.draws = keras.random.SeedGenerator(seed)

        def call(self, first: Any, training: bool = False) -> Any:
            if training and views > 1:
                first += keras.random.randint(keras.ops.shape(first), 0, views, seed=self.draws)
            return keras.ops.take(self.rows, first, axis=0)

    return ViewLookup()
