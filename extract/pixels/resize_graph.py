"""The resize rules of `decode` as TensorFlow operations, for models that take images of any size."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL

from onepass.features.preprocess import ResizeRule

_POINT = 2.0**22
"""What Pillow multiplies weights by to round them to integers, its PRECISION_BITS = 32 - 8 - 2."""

_BEFORE_13 = int(PIL.__version__.split(".", maxsplit=1)[0]) < 13
"""Whether the Pillow that is installed resizes columns last only where images are 100 times as high as wide."""

_HAMMING = 0.54000002145767211914, 0.46000000834465026855
"""Pillow writes 0.54f and 0.46f: numbers of float32."""


def resizer(resize: str, image_size: int) -> Callable[[Any], Any]:
    """A function of TensorFlow that gives the pixels that `read_image` gives after decoding, bit for bit.

    Pillow finds the weights of its filter in float64, rounds them to integers of 22 bits behind the point, and adds
    up integers, along one axis after the other. Here the weights are found in float64 too, and rounded alike; where
    float64 differs in its last bit between libraries, about one weight in 10**9 rounds to the other side. The sums
    are exact in float32, in any order: an integer weight is cut into three numbers of at most 8 bits, a pixel has 8,
    and so sums of up to 512 products stay below 2**24, which is a reduction to 1/255; where processors multiply in
    TF32 or bfloat16 too.

    TensorFlow and ONNX Runtime have the float64 that the weights need; cosines, which ONNX Runtime has in float32
    alone, come from sines. LiteRT has no float64, and OpenVINO computes it in float32, by which a pixel in 2,000 is
    off by one level or two; so models for these take pixels. --resize keras is TensorFlow's own and equal.

    Args:
        resize: As for `read_image`.
        image_size: Side s, pixels.

    Returns:
        (b, h, w, 3) uint8 -> (b, s, s, 3) uint8, float32 for keras.
    """
    import tensorflow as tf

    rule = ResizeRule.parse(resize)

    def by_keras(images: Any) -> Any:
        return tf.image.resize(images, (image_size, image_size), method="bilinear")

    def by_pillow(images: Any) -> Any:
        height, width = (tf.cast(tf.shape(images)[axis], tf.float64) for axis in (1, 2))
        kernel = _kernel(rule, height, width, image_size)
        rows, columns = _Axis.of(height, width, rule, image_size), _Axis.of(width, height, rule, image_size)

        def down(images: Any) -> Any:
            return _resized(images, 1, *rows.weights(kernel))

        def across(images: Any) -> Any:
            return _resized(images, 2, *columns.weights(kernel))

        lost = height - rows.made, width - columns.made
        rows_first = (lost[0] > 0) & (height > 100 * width if _BEFORE_13 else lost[0] > 2 * lost[1])
        made = tf.cond(rows_first, lambda: across(down(images)), lambda: down(across(images)))
        return tf.reshape(made, (-1, image_size, image_size, 3))

    return by_keras if resize == "keras" else by_pillow


@dataclass(frozen=True)
class _Kernel:
    """A filter of Pillow.

    Attributes:
        support: Half its width, scalar float64.
        at: Its values at distances x >= 0 that lie inside.
    """

    support: Any
    at: Callable[[Any], Any]


def _kernel(rule: ResizeRule, height: Any, width: Any, side: int) -> _Kernel:
    """The filter of a rule for an image of this size, which decides where the rule names none."""
    import tensorflow as tf

    if rule.filter:
        support, at = _FILTERS[rule.filter]
        return _Kernel(tf.constant(support, tf.float64), at)
    cubic = (tf.maximum if rule.method == "pad" else tf.minimum)(height, width) < side
    support = tf.where(cubic, tf.constant(2.0, tf.float64), 1)
    return _Kernel(support, lambda x: tf.where(cubic, _bicubic(x), _hamming(x)))


@dataclass(frozen=True)
class _Axis:
    """Which pixels of one axis become which of the result; all but `side` are scalar float64 tensors.

    Attributes:
        side: Pixels of the result.
        n: Pixels of the image.
        start, taken: Of the n, which are used.
        made, offset: Of the result, which they become; the others are black.
    """

    side: int
    n: Any
    start: Any
    taken: Any
    made: Any
    offset: Any

    @classmethod
    def of(cls, n: Any, other: Any, rule: ResizeRule, side: int) -> "_Axis":
        """The axis of n pixels of an image that has `other` pixels along its other axis."""
        import tensorflow as tf

        whole, nothing = tf.constant(float(side), tf.float64), tf.constant(0.0, tf.float64)
        if rule.method == "shortest":
            made = tf.floor(rule.shortest * n / tf.minimum(n, other))
            cut = tf.round((made - side) / 2) if rule.even else tf.floor((made - side) / 2)
            return cls(side, n, nothing, n, made, -cut)
        if rule.method == "crop":
            taken = tf.minimum(n, other)
            return cls(side, n, (n - taken) / 2, taken, whole, nothing)
        if rule.method == "pad":
            made = tf.where(n >= other, whole, tf.round(n / other * side))
            return cls(side, n, nothing, n, made, tf.round((side - made) / 2))
        return cls(side, n, nothing, n, whole, nothing)

    def weights(self, kernel: _Kernel) -> tuple[Any, Any]:
        """What each pixel of the result is a sum of.

        Args:
            kernel: The filter.

        Returns:
            (side, t) int32 positions among the n pixels, and (side, 3, t) float32, the parts of their weights.
        """
        import tensorflow as tf

        scale = self.taken / tf.maximum(self.made, 1)
        stretch = tf.maximum(scale, 1)
        support = kernel.support * stretch
        place = tf.range(self.side, dtype=tf.float64) - self.offset
        centre = (self.start + (place + 0.5) * scale)[:, None]
        first = tf.floor(tf.maximum(centre - support + 0.5, 0))
        behind = tf.floor(tf.minimum(centre + support + 0.5, self.n))
        pixel = first + tf.range(2 * tf.math.ceil(support) + 1, dtype=tf.float64)
        x = tf.abs((pixel - centre + 0.5) * (1 / stretch))
        inside = (pixel < behind) & ((place >= 0) & (place < self.made))[:, None]
        weights = tf.where(inside, kernel.at(x), 0)
        weights = tf.math.divide_no_nan(weights, tf.reduce_sum(weights, axis=1, keepdims=True)) * _POINT
        rounded = tf.sign(weights) * tf.floor(tf.abs(weights) + 0.5)
        return tf.cast(tf.clip_by_value(pixel, 0, self.n - 1), tf.int32), _parts(rounded)


def _hamming(x: Any) -> Any:
    """Pillow's filter at distances x >= 0, with the cosine as 1 - 2 sin(angle / 2)**2."""
    import tensorflow as tf

    angle = tf.where(x > 0, x * math.pi, 1)
    cosine = 1 - 2 * tf.square(tf.sin(angle / 2))
    found = tf.sin(angle) / angle * (_HAMMING[0] + _HAMMING[1] * cosine)
    return tf.where(x > 0, tf.where(x < 1, found, 0), 1)


def _bicubic(x: Any) -> Any:
    """Pillow's filter at distances x >= 0."""
    import tensorflow as tf

    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return tf.where(x < 1, near, tf.where(x < 2, far, 0))


def _bilinear(x: Any) -> Any:
    import tensorflow as tf

    return tf.maximum(1 - x, 0)


def _lanczos(x: Any) -> Any:
    """sinc(x) sinc(x / 3) up to 3."""
    import tensorflow as tf

    angle = tf.where(x > 0, x * math.pi, 1)
    found = tf.sin(angle) / angle * (tf.sin(angle / 3) / (angle / 3))
    return tf.where(x > 0, tf.where(x < 3, found, 0), 1)


_FILTERS: dict[str, tuple[float, Callable[[Any], Any]]] = {
    "bilinear": (1.0, _bilinear),
    "bicubic": (2.0, _bicubic),
    "lanczos": (3.0, _lanczos),
    "hamming": (1.0, _hamming),
}
"""Half the width of each filter that averages, and its values."""


def _parts(weights: Any) -> Any:
    """(side, t) integers -> (side, 3, t) float32, the numbers of at most 2**7 that they are made of to base 2**8."""
    import tensorflow as tf

    high = tf.round(weights / 2**16)
    rest = weights - high * 2**16
    middle = tf.round(rest / 2**8)
    return tf.cast(tf.stack([high, middle, rest - middle * 2**8], axis=1), tf.float32)


def _resized(images: Any, axis: int, positions: Any, parts: Any) -> Any:
    """Images with one axis resized.

    The sum for a pixel is (high * 2**16 + middle * 2**8 + low + 2**21) / 2**22, rounded down. Rounding down at each
    step gives the same, and no number on the way needs more than 24 bits.

    Args:
        images: (b, h, w, 3) uint8.
        axis: 1 or 2.
        positions, parts: From `_Axis.weights`.
    """
    import tensorflow as tf

    order = (axis, 0, 3 - axis, 3)
    pixels = tf.transpose(images, order)
    used = tf.gather(tf.reshape(pixels, (tf.shape(pixels)[0], -1)), positions)
    high, middle, low = tf.unstack(tf.matmul(parts, tf.cast(used, tf.float32)), axis=1)
    carried = tf.floor((tf.floor(low / 2**8) + middle) / 2**8)
    made = tf.cast(tf.clip_by_value(tf.floor((high + carried + 2**5) / 2**6), 0, 255), tf.uint8)
    shape = tf.concat([tf.shape(positions)[:1], tf.shape(pixels)[1:]], axis=0)
    return tf.transpose(tf.reshape(made, shape), np.argsort(order))
