"""The resize rules of `decode` as TensorFlow operations, for models that take images of any size."""

import math
from collections.abc import Callable
from typing import Any


def resizer(resize: str, image_size: int) -> Callable[[Any], Any]:
    """A function of TensorFlow that does what `read_image` does after decoding.

    Pillow reduces with integers of 22 bits behind the point, this with float32, so that now and then a pixel
    comes out one level off; --resize keras is TensorFlow's own and equal.

    Args:
        resize: squash, crop, pad or keras.
        image_size: Side s, pixels.

    Returns:
        (b, h, w, 3) uint8 -> (b, s, s, 3) uint8, float32 for keras.
    """
    import tensorflow as tf

    def by_keras(images: Any) -> Any:
        return tf.image.resize(images, (image_size, image_size), method="bilinear")

    def by_pillow(images: Any) -> Any:
        height, width = tf.shape(images)[1], tf.shape(images)[2]
        shorter, longer = tf.minimum(height, width), tf.maximum(height, width)
        cubic = (longer if resize == "pad" else shorter) < image_size
        rows, high = _weights(tf, height, shorter, longer, cubic, resize, image_size)
        columns, wide = _weights(tf, width, shorter, longer, cubic, resize, image_size)
        values = tf.cast(images, tf.float32)

        def across(values: Any) -> Any:
            return _rounded(tf, tf.einsum("bhwc,sw->bhsc", values, columns))

        def down(values: Any) -> Any:
            return _rounded(tf, tf.einsum("bhwc,rh->brwc", values, rows))

        # Pillow rounds in between, and since version 13 shrinks first what shrinks by far the most.
        lost = tf.cast(height, tf.float32) - high, tf.cast(width, tf.float32) - wide
        down_first = tf.logical_and(lost[0] > 0, lost[0] > 2 * lost[1])
        return tf.cast(tf.cond(down_first, lambda: across(down(values)), lambda: down(across(values))), tf.uint8)

    return by_keras if resize == "keras" else by_pillow


def _weights(tf: Any, n: Any, shorter: Any, longer: Any, cubic: Any, resize: str, side: int) -> tuple[Any, Any]:
    """(side, n) share of each of n pixels along one axis in each pixel of the result, and how many n become."""
    size = tf.cast(n, tf.float32)
    start, taken = tf.constant(0.0), size
    made, offset = tf.constant(float(side)), tf.constant(0.0)
    if resize == "crop":
        taken = tf.cast(shorter, tf.float32)
        start = (size - taken) / 2
    if resize == "pad":
        made = tf.where(n == longer, float(side), tf.round(size / tf.cast(longer, tf.float32) * side))
        offset = tf.round((side - made) / 2)
    scale = taken / made
    stretch = tf.maximum(scale, 1.0)
    place = tf.range(side, dtype=tf.float32) - offset
    centre = start + (place + 0.5) * scale
    support = tf.where(cubic, 2.0, 1.0) * stretch
    pixel = tf.range(size, dtype=tf.float32)
    first = tf.floor(tf.maximum(centre - support + 0.5, 0.0))[:, None]
    behind = tf.floor(tf.minimum(centre + support + 0.5, size))[:, None]
    x = (pixel[None] - centre[:, None] + 0.5) / stretch
    weights = tf.where(cubic, _bicubic(tf, x), _hamming(tf, x))
    inside = (pixel[None] >= first) & (pixel[None] < behind) & (place >= 0)[:, None] & (place < made)[:, None]
    weights = tf.where(inside, weights, 0.0)
    return tf.math.divide_no_nan(weights, tf.reduce_sum(weights, axis=1, keepdims=True)), made


def _hamming(tf: Any, x: Any) -> Any:
    angle = tf.where(x == 0, 1.0, x * math.pi)
    found = tf.sin(angle) / angle * (0.54 + 0.46 * tf.cos(angle))
    return tf.where(x == 0, 1.0, tf.where(tf.abs(x) < 1, found, 0.0))


def _bicubic(tf: Any, x: Any) -> Any:
    x = tf.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return tf.where(x < 1, near, tf.where(x < 2, far, 0.0))


def _rounded(tf: Any, values: Any) -> Any:
    return tf.clip_by_value(tf.floor(values + 0.5), 0.0, 255.0)
