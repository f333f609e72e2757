import io
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from onepass.extract.frameworks import import_keras
from onepass.extract.pixels.decode import decode_image
from onepass.extract.pixels.resize_graph import resizer
from onepass.features.errors import UnreadableImageError

RULES = ["squash", "crop", "pad", "squash-bicubic", "pad-bilinear", "shortest240-bicubic", "shortest224-lanczos-even"]
SIDES = st.integers(1, 90) | st.integers(1, 700)


@cache
def graph(resize: str, side: int) -> Any:
    """The rule as one function of TensorFlow that takes images of any size."""
    import_keras()
    import tensorflow as tf

    return tf.function(resizer(resize, side), input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8)])


@cache
def session(resize: str, side: int) -> Any:
    """The same in ONNX Runtime."""
    graph(resize, side)
    import onnxruntime
    import tf2onnx

    concrete = graph(resize, side).get_concrete_function()
    (given,), (made,) = concrete.inputs, concrete.outputs
    model, _ = tf2onnx.convert.from_graph_def(
        concrete.graph.as_graph_def(),
        input_names=[given.name],
        output_names=[made.name],
        opset=18,
        tensors_to_rename={given.name: "images", made.name: "pixels"},
    )
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def decoded(image: np.ndarray, resize: str, side: int) -> np.ndarray:
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG")
    return decode_image(data.getvalue(), image_size=side, resize=resize)


def noise(seed: int, height: int, width: int) -> np.ndarray:
    """Black, white and grey in every mixture, which is hardest on rounding and on clipping."""
    random = np.random.default_rng(seed)
    values = random.integers(0, 256, (2, height, width, 3))
    extreme = random.random((height, width, 1)) < random.random()
    return np.where(extreme, 255 * (values > 127), values).astype(np.uint8)


@pytest.mark.parametrize("resize", RULES)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), height=SIDES, width=SIDES, side=st.sampled_from([32, 131, 224]))
def test_the_graph_gives_the_very_pixels_that_files_are_read_as(
    resize: str, seed: int, height: int, width: int, side: int
):
    images = noise(seed, height, width)
    try:
        expected = [decoded(image, resize, side) for image in images]
    except UnreadableImageError:  # a line of pixels, of which nothing is left
        return
    found = graph(resize, side)(images).numpy()
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("resize", RULES)
@pytest.mark.parametrize("size", [(60, 80), (33, 200), (700, 90), (32, 32), (20, 25), (7, 5)])
def test_onnx_runtime_gives_them_too(resize: str, size: tuple[int, int]):
    images = noise(1, *size)
    (found,) = session(resize, 32).run(None, {"images": images})
    np.testing.assert_array_equal(found, [decoded(image, resize, 32) for image in images])


def test_a_reduction_to_a_250th_is_summed_exactly():
    images = noise(3, 40, 8000)
    found = graph("squash", 32)(images).numpy()
    np.testing.assert_array_equal(found, [decoded(image, "squash", 32) for image in images])


@pytest.mark.parametrize("size", [(60, 80), (33, 200), (7, 5)])
def test_the_rule_of_keras_is_equal(size: tuple[int, int]):
    images = noise(2, *size)
    found = graph("keras", 32)(images).numpy()
    np.testing.assert_array_equal(found, [decoded(image, "keras", 32) for image in images])
