"""Many dense nets of one shape as a single Keras model, in which every weight has the net as its first axis.

All nets see the same rows in the same order, so each layer of all nets is one batched matrix product. What sets
a net apart is its `NetSetting` and the weight of each row. To be imported within `plain_keras()`.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from onepass.heads.fitting.keras_optimizers import optimizer_per_net
from onepass.heads.fitting.net_settings import NetSetting

Tensor = Any
"""Of TensorFlow or Keras, which have no types of their own."""

# Compiling the optimizer takes about a second, which nets of so many weights regain within some hundred steps.
_COMPILED_FROM = 300_000


class BatchedDense(keras.layers.Layer):  # type: ignore[misc]
    """m dense layers without activation: (m, b, i) rows, or (1, b, i) for all, -> (m, b, units)."""

    def __init__(self, nets: int, start: np.ndarray) -> None:
        """`start`, (i, units), is the kernel that all begin with."""
        super().__init__()
        self.kernel = self.add_weight(shape=(nets, *start.shape), initializer="zeros", name="kernel")
        self.bias = self.add_weight(shape=(nets, 1, start.shape[1]), initializer="zeros", name="bias")
        self.kernel.assign(np.broadcast_to(start, self.kernel.shape))

    def call(self, x: Tensor) -> Tensor:
        return keras.ops.matmul(x, self.kernel) + self.bias


class BatchedDropout(keras.layers.Layer):  # type: ignore[misc]
    """Dropout at m rates, from shared noise: what a low rate drops, a higher one drops too."""

    def __init__(self, rates: Sequence[float], seed: int) -> None:
        super().__init__()
        self.rates = np.asarray(rates, np.float32)[:, None, None]
        self.noise = keras.random.SeedGenerator(seed)

    def call(self, x: Tensor, training: bool = False) -> Tensor:
        if not training or not self.rates.any():
            return x
        kept = keras.random.uniform(keras.ops.shape(x)[1:], seed=self.noise) >= self.rates
        return x * (keras.ops.cast(kept, x.dtype) / (1 - self.rates))


class BatchedNets:
    """m dense nets that train side by side.

    Args:
        kernels: What the kernel (inputs, units) of each layer is in the beginning, in all nets; biases are 0. A
            last layer of one unit scores the second of two classes against 0 for the first.
        settings: m, one per net.
        output: softmax, sigmoid (of a single unit), sigmoids or linear: what scores are trained to be.
        activation: Of the hidden layers, by Keras's name.
        optimizer: A key of `OPTIMIZERS`.
        seed: Of the dropout.
    """

    def __init__(
        self,
        kernels: Sequence[np.ndarray],
        settings: Sequence[NetSetting],
        *,
        output: str = "softmax",
        activation: str = "relu",
        optimizer: str = "adam",
        seed: int = 0,
    ) -> None:
        self._output = output
        self._dense = [BatchedDense(len(settings), kernel) for kernel in kernels]
        layers: list[keras.layers.Layer] = [keras.Input((None, len(kernels[0])))]
        for i, dense in enumerate(self._dense[:-1]):
            dropout = BatchedDropout([setting.dropout for setting in settings], seed + i)
            layers += [dense, keras.layers.Activation(activation), dropout]
        self.model = keras.Sequential([*layers, self._dense[-1]])
        self._smoothing = np.array([[s.label_smoothing] for s in settings], np.float32)
        self._kept = np.array([[[1 - s.lr * s.weight_decay]] for s in settings], np.float32)
        self._optimizer = optimizer_per_net(optimizer, [setting.lr for setting in settings])
        self._optimizer.build(self.model.trainable_variables)
        compiled = self.model.count_params() >= _COMPILED_FROM
        self._update = tf.function(self._apply, jit_compile=compiled, autograph=False)
        self._steps = tf.function(self._all_steps, reduce_retracing=True, autograph=False)
        self._forward = tf.function(self._plain_scores, reduce_retracing=True, autograph=False)

    @property
    def count(self) -> int:
        """Number m of nets."""
        return len(self._kept)

    @property
    def width(self) -> int:
        """Length r of the rows they take."""
        return int(self._dense[0].kernel.shape[1])

    @property
    def classes(self) -> int:
        """Number k of scores."""
        return 2 if self._output == "sigmoid" else int(self._dense[-1].kernel.shape[2])

    def train(self, rows: np.ndarray, y: np.ndarray, weights: np.ndarray, order: np.ndarray) -> np.ndarray:
        """Takes a step for each line of `order`, and says how the last net did while it learned.

        Args:
            rows: (n, v, r) float32, v views of n images.
            y: (n,) classes; or (n, k) labels of 0 and 1, or numbers.
            weights: (n, m) float32, how much each image counts for each net; about 1 on average.
            order: (steps, b) positions of rows, those of an image following each other.

        Returns:
            (4,) float64 sums over the rows that count for the last net, each before the step it is part of: weighted
            loss, weight, images or labels right (or absolute error), rows. What is dropped out is, as in Keras.
        """
        images = order // rows.shape[1]
        flat = rows.reshape(-1, rows.shape[2])
        wanted = y[images].astype(np.int32 if y.ndim == 1 else np.float32)
        arrays = (flat, order.astype(np.int32), wanted, weights[images])
        return np.asarray(self._steps(*map(tf.constant, arrays)), np.float64)

    def scores(self, rows: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Scores of plain views: (n, v, r) rows and (m, q) images, q for each net -> (m, q, k) float32."""
        return np.asarray(self._forward(tf.constant(rows[:, 0]), tf.constant(images.astype(np.int32))))

    def weights_of(self, net: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Kernels (inputs, units) and biases (units,) of one net, float32."""
        return [np.array(d.kernel[net]) for d in self._dense], [np.array(d.bias[net, 0]) for d in self._dense]

    def _all_steps(self, rows: Tensor, order: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        def one(step: Tensor, sums: Tensor) -> Tensor:
            each = tf.transpose(weights[step])
            with tf.GradientTape() as tape:
                scores = self._k_scores(tf.gather(rows, order[None, step]), training=True)
                weighted = self._losses(scores, y[step]) * each
                # The sum over nets of the mean in the batch: the nets have no weight in common.
                loss = tf.reduce_sum(tf.reduce_mean(weighted, axis=1))
            self._update(tape.gradient(loss, self.model.trainable_variables))
            counts = tf.cast(each[-1] > 0, tf.float32)
            told = (weighted[-1], each[-1], self._rates(scores[-1], y[step]) * counts, counts)
            return step + 1, sums + tf.cast(tf.reduce_sum(tf.stack(told), axis=1), tf.float64)

        steps = tf.shape(order)[0]
        start = (0, tf.zeros(4, tf.float64))
        # One after the other: each step needs the one before.
        return tf.while_loop(lambda step, _: step < steps, one, start, parallel_iterations=1)[1]

    def _rates(self, scores: Tensor, y: Tensor) -> Tensor:
        """(b, k) scores -> (b,) whether the class is right, share of the labels right, or absolute error."""
        if self._output == "linear":
            return tf.reduce_mean(tf.abs(scores - y), axis=-1)
        if self._output == "sigmoids":
            return tf.reduce_mean(tf.cast((scores > 0) == (y > 0), tf.float32), axis=-1)
        return tf.cast(tf.argmax(scores, axis=-1, output_type=y.dtype) == y, tf.float32)

    def _losses(self, scores: Tensor, y: Tensor) -> Tensor:
        """(m, b, k) scores and (b,) or (b, k) y -> (m, b)."""
        if self._output == "linear":
            return tf.reduce_mean(tf.square(scores - y), axis=-1)
        if self._output == "sigmoids":
            smooth = self._smoothing[:, :, None]
            wanted = y * (1 - smooth) + smooth / 2
            return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(wanted, scores), axis=-1)
        logs = tf.nn.log_softmax(scores)
        true = tf.reduce_sum(logs * tf.one_hot(y, scores.shape[-1]), axis=-1)
        return (self._smoothing - 1) * true - self._smoothing * tf.reduce_mean(logs, axis=-1)

    def _apply(self, gradients: list[Tensor]) -> None:
        if (self._kept != 1).any():
            for dense in self._dense:
                dense.kernel.assign(dense.kernel * self._kept)
        self._optimizer.apply(gradients, self.model.trainable_variables)

    def _plain_scores(self, rows: Tensor, images: Tensor) -> Tensor:
        return self._k_scores(tf.gather(rows, images), training=False)

    def _k_scores(self, x: Tensor, *, training: bool) -> Tensor:
        scores = self.model(x, training=training)
        return scores if self._output != "sigmoid" else tf.concat([tf.zeros_like(scores), scores], axis=-1)
