import io

import numpy as np
import pytest
from PIL import Image

from onepass.extract.frameworks import import_keras
from onepass.extract.pixels.decode import decode_image
from onepass.extract.pixels.resize_graph import resizer

SIZES = [(60, 80), (80, 60), (33, 200), (224, 40), (32, 32), (20, 25), (31, 64), (64, 31), (7, 5)]


@pytest.mark.parametrize("resize", ["squash", "crop", "pad", "keras"])
@pytest.mark.parametrize("size", SIZES)
def test_the_graph_resizes_as_files_are_read(resize: str, size: tuple[int, int], rng: np.random.Generator):
    import_keras()
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    image[: size[0] // 2] = np.linspace(0, 255, size[1])[:, None]
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG")
    wanted = decode_image(data.getvalue(), image_size=32, resize=resize)
    found = resizer(resize, 32)(np.stack([image, image[:, ::-1]])).numpy()
    assert found.dtype == wanted.dtype
    if resize == "keras":
        np.testing.assert_array_equal(found[0], wanted)
        return
    away = np.abs(found[0].astype(int) - wanted)
    assert away.max() <= 1
    assert (away > 0).mean() < 0.01
    mirrored = np.abs(found[1][:, ::-1].astype(int) - wanted)
    assert mirrored.max() <= (1 if resize != "pad" else 255)
