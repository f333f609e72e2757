import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import affine_transform

from onepass.extract.frameworks import import_keras
from onepass.extract.pixels.views import Augmentation, ViewParameters, render_view, view_pixels
from onepass.features.errors import OptionError
from support import picture

SIZE = 64
CLASSIC = {"flip": True, "rotate": 20.0, "shift": 0.2, "shear": 0.2, "zoom": 0.2}
EVERYTHING = Augmentation(**CLASSIC, brightness=0.3, crop=0.5, seed=7)


def squash(image: Image.Image, size: int) -> Image.Image:
    return image.resize((size, size), Image.Resampling.BICUBIC)


def pixels(image: Image.Image, augmentation: Augmentation, *, content: bytes = bytes(32), view: int = 1) -> np.ndarray:
    return view_pixels(image, augmentation=augmentation, content=content, view=view, image_size=SIZE, to_square=squash)


def rendered(image: Image.Image, size: int = SIZE, **parameters) -> np.ndarray:
    return render_view(image, ViewParameters(**parameters), image_size=size, to_square=squash)


@pytest.fixture
def photo(rng: np.random.Generator) -> Image.Image:
    return picture(rng, size=(150, 110))


@pytest.fixture
def square(rng: np.random.Generator) -> Image.Image:
    """As large as the view, so that nothing but the view's own map moves its pixels."""
    return picture(rng, size=(SIZE, SIZE))


@pytest.mark.parametrize(("text", "expected"), [
    ("classic", Augmentation(**CLASSIC)),
    ("classic,brightness=0.1", Augmentation(**CLASSIC, brightness=0.1)),
    ("rotate=5, classic", Augmentation(**{**CLASSIC, "rotate": 5.0})),
    ("flip,crop=.7,seed=3", Augmentation(flip=True, crop=0.7, seed=3)),
    ("plain", Augmentation()),
])  # fmt: skip
def test_a_recipe_is_read_from_text(text: str, expected: Augmentation):
    assert Augmentation.parse(text) == expected


def test_the_text_of_a_recipe_has_one_fixed_order():
    text = "flip,rotate=20,shift=0.2,shear=0.2,zoom=0.2,brightness=0.1,crop=0.7,seed=3"
    assert str(Augmentation.parse(",".join(reversed(text.split(","))))) == text
    assert str(Augmentation.parse("classic")) == "flip,rotate=20,shift=0.2,shear=0.2,zoom=0.2"
    assert str(Augmentation()) == "plain"


@given(
    st.builds(
        Augmentation,
        flip=st.booleans(),
        rotate=st.floats(0, 180) | st.integers(0, 180),
        shift=st.floats(0, 1),
        shear=st.floats(0, 0.9),
        zoom=st.floats(0, 0.9),
        brightness=st.floats(0, 1),
        crop=st.floats(0.01, 1),
        seed=st.integers(0, 2**32 - 1),
    )
)
def test_the_text_of_a_recipe_reads_back_as_the_recipe(augmentation: Augmentation):
    assert Augmentation.parse(str(augmentation)) == augmentation


NEEDED = (
    "Needed: classic, plain, or any of flip, rotate=, shift=, shear=, zoom=, brightness=, crop=, seed= with commas "
    "between them."
)


@pytest.mark.parametrize(("text", "message"), [
    ("flip,rotat=3", f"unknown setting 'rotat' in augment. Did you mean rotate? {NEEDED}"),
    ("mixup", f"unknown setting 'mixup' in augment. {NEEDED}"),
    ("", f"unknown setting '' in augment. {NEEDED}"),
    ("flip,flip", "flip stands in augment twice: flip,flip"),
    ("zoom=0.1,classic,zoom=0.2", "zoom stands in augment twice: zoom=0.1,classic,zoom=0.2"),
    ("classic,plain", "a recipe stands in augment twice: classic,plain"),
    ("flip=yes", "flip in augment takes no value; found flip=yes."),
    ("classic=2", "classic in augment takes no value; found classic=2."),
    ("rotate", "rotate in augment is ''; needed: degrees from 0 to 180."),
    ("rotate=a lot", "rotate in augment is 'a lot'; needed: degrees from 0 to 180."),
    ("rotate=200", "rotate in augment is 200.0; needed: degrees from 0 to 180."),
    ("shift=nan", "shift in augment is nan; needed: a fraction of the side from 0 to 1."),
    ("shear=1", "shear in augment is 1.0; needed: a tangent from 0 to 0.9."),
    ("zoom=-0.1", "zoom in augment is -0.1; needed: a fraction from 0 to 0.9."),
    ("brightness=30", "brightness in augment is 30.0; needed: a fraction of the full range from 0 to 1."),
    ("crop=0", "crop in augment is 0.0; needed: the smallest share of the area kept, from 0.01 to 1."),
    ("seed=1.5", "seed in augment is '1.5'; needed: a whole number from 0 to 4294967295."),
    ("seed=-1", "seed in augment is -1; needed: a whole number from 0 to 4294967295."),
])  # fmt: skip
def test_a_wrong_recipe_is_refused_with_the_remedy(text: str, message: str):
    with pytest.raises(OptionError) as caught:
        Augmentation.parse(text)
    assert str(caught.value) == message


def test_a_recipe_with_everything_off_gives_the_plain_image(photo: Image.Image):
    np.testing.assert_array_equal(pixels(photo, Augmentation(seed=5)), np.asarray(squash(photo, SIZE)))


def test_a_flip_alone_is_the_mirrored_plain_image_in_half_of_the_views(photo: Image.Image):
    plain = np.asarray(squash(photo, SIZE))
    flipped = 0
    for view in range(1, 101):
        seen = pixels(photo, Augmentation(flip=True), view=view)
        flipped += not np.array_equal(seen, plain)
        assert np.array_equal(seen, plain) or np.array_equal(seen, np.fliplr(plain))
    assert 35 <= flipped <= 65


def test_a_view_depends_on_content_number_and_seed_alone(photo: Image.Image):
    first = pixels(photo, EVERYTHING)
    np.random.default_rng().random()
    np.testing.assert_array_equal(first, pixels(photo.copy(), EVERYTHING))
    assert first.shape == (SIZE, SIZE, 3)
    assert first.dtype == np.uint8
    for other in (
        pixels(photo, EVERYTHING, view=2),
        pixels(photo, EVERYTHING, content=b"x" * 32),
        pixels(photo, Augmentation(**CLASSIC, brightness=0.3, crop=0.5, seed=8)),
    ):
        assert not np.array_equal(first, other)


def test_the_draws_stay_as_they_are_from_version_to_version():
    drawn = EVERYTHING.draw(bytes(range(32)), 3)
    # blake2b(bytes(range(32)), key=7 and 3 as 8 little-endian bytes each), read as 32-bit numbers.
    words = [
        745085792,
        3407914140,
        234399240,
        2669389424,
        1506407404,
        1736686271,
        2122144354,
        2311041011,
        3295277288,
        2438867725,
        1996961452,
    ]
    u = [word / 2**32 for word in words]
    side = (1 - 0.5 * u[9]) ** 0.5
    assert drawn == ViewParameters(
        flip=u[0] < 0.5,
        angle=pytest.approx(40 * u[1] - 20),
        shift=pytest.approx((0.4 * u[2] - 0.2, 0.4 * u[3] - 0.2)),
        shear=pytest.approx((0.4 * u[4] - 0.2, 0.4 * u[5] - 0.2)),
        zoom=pytest.approx(0.8 + 0.4 * u[6]),
        side=pytest.approx(side),
        centre=pytest.approx(((1 - side) * (u[7] - 0.5), (1 - side) * (u[8] - 0.5))),
        brightness=pytest.approx(0.6 * u[10] - 0.3),
    )


def test_draws_fill_their_ranges_evenly_and_a_crop_stays_inside():
    drawn = [EVERYTHING.draw(content.to_bytes(32, "big"), view) for content in range(500) for view in (1, 2)]
    for values, low, high in [
        ([d.angle for d in drawn], -20, 20),
        ([d.shift[0] for d in drawn], -0.2, 0.2),
        ([d.shear[1] for d in drawn], -0.2, 0.2),
        ([d.zoom for d in drawn], 0.8, 1.2),
        ([d.side**2 for d in drawn], 0.5, 1),
        ([d.brightness for d in drawn], -0.3, 0.3),
    ]:
        deciles = np.quantile(values, np.arange(0.1, 1, 0.1))
        np.testing.assert_allclose(deciles, low + (high - low) * np.arange(0.1, 1, 0.1), atol=0.05 * (high - low))
        assert low <= min(values) <= max(values) <= high
    assert all(abs(place) + d.side / 2 <= 0.5 + 1e-12 for d in drawn for place in d.centre)
    correlation = np.corrcoef(
        [[d.flip, d.angle, *d.shift, *d.shear, d.zoom, d.side, d.brightness] for d in drawn], rowvar=False
    )
    assert np.abs(correlation - np.eye(9)).max() < 0.15


def test_turning_one_setting_off_leaves_the_draws_of_the_others():
    alone = Augmentation(rotate=20, seed=7).draw(bytes(32), 1)
    assert alone == ViewParameters(angle=EVERYTHING.draw(bytes(32), 1).angle)


@pytest.mark.parametrize(("layer", "options", "parameters"), [
    ("RandomRotation", {"factor": (20 / 360, 20 / 360)}, {"angle": 20}),
    ("RandomRotation", {"factor": (-0.2, -0.2)}, {"angle": -72}),
    ("RandomTranslation", {"height_factor": (0.125, 0.125), "width_factor": (-0.25, -0.25)}, {"shift": (0.25, -0.125)}),
    ("RandomZoom", {"height_factor": (0.5, 0.5)}, {"zoom": 1.5}),
    ("RandomBrightness", {"factor": (-0.2, -0.2)}, {"brightness": -0.2}),
])  # fmt: skip
def test_one_transform_equals_the_keras_layer_of_its_name(
    layer: str, options: dict, parameters: dict, square: Image.Image
):
    fill = {} if layer == "RandomBrightness" else {"fill_mode": "reflect"}
    keras_layer = getattr(import_keras().layers, layer)(**options, **fill)
    expected = np.asarray(keras_layer(np.asarray(square, np.float32)[None], training=True))[0]
    difference = np.abs(rendered(square, **parameters) - expected)
    assert difference.mean() < 0.7, "rounding alone makes 0.25"
    assert np.quantile(difference, 0.99) < 4


def test_a_shear_moves_x_by_y_and_y_by_x(square: Image.Image):
    ops = import_keras().ops
    shear = np.array([[1, 0.2], [-0.1, 1]])
    centre = np.full(2, (SIZE - 1) / 2)
    x0, y0 = centre - shear @ centre
    expected = ops.image.affine_transform(
        np.asarray(square, np.float32), np.array([1, 0.2, x0, -0.1, 1, y0, 0, 0], np.float32), fill_mode="reflect"
    )
    difference = np.abs(rendered(square, shear=(0.2, -0.1)) - np.asarray(expected))
    assert difference.mean() < 0.7
    assert np.quantile(difference, 0.99) < 4


def test_all_at_once_are_one_affine_map(square: Image.Image):
    parameters = ViewParameters(
        angle=17, shift=(0.1, -0.05), shear=(0.1, -0.2), zoom=1.1, side=0.9, centre=(0.03, -0.05)
    )
    matrix = parameters.affine()[::-1, [1, 0, 2]]  # scipy counts rows first
    centre = np.full(2, (SIZE - 1) / 2)
    offset = centre + SIZE * matrix[:, 2] - matrix[:, :2] @ centre
    expected = np.stack([
        affine_transform(band, matrix[:, :2], offset, order=3, mode="reflect")
        for band in np.moveaxis(np.asarray(square, np.float64), 2, 0)
    ], axis=2).clip(0, 255)  # fmt: skip
    seen = render_view(square, parameters, image_size=SIZE, to_square=squash)
    difference = np.abs(seen - expected)
    assert difference.mean() < 1.2
    assert np.quantile(difference, 0.99) < 8


def test_a_crop_shows_the_photos_own_pixels(rng: np.random.Generator):
    noise = Image.fromarray(rng.integers(0, 256, (128, 128, 3), dtype=np.uint8))
    seen = rendered(noise, side=0.5, centre=(0.125, -0.25))
    np.testing.assert_array_equal(seen, np.asarray(noise)[0:64, 48:112])


def test_upright_views_are_the_limit_of_turned_ones(photo: Image.Image):
    upright = {"zoom": 1.3, "side": 0.8, "shift": (0.1, 0.2)}
    difference = rendered(photo, **upright).astype(int) - rendered(photo, **upright, angle=1e-9)
    assert np.abs(difference).max() <= 3
    assert np.abs(difference).mean() < 0.8


def test_borders_are_mirrored_again_and_again(square: Image.Image):
    seen = rendered(square, shift=(2.0, -4.0))
    np.testing.assert_array_equal(seen, np.asarray(square))
    seen = rendered(square, shift=(1.0, 0.0))
    np.testing.assert_array_equal(seen, np.fliplr(np.asarray(square)))


def test_a_quarter_turn_counterclockwise_is_numpys(square: Image.Image):
    turned = np.rot90(np.asarray(square)).astype(int)
    np.testing.assert_allclose(rendered(square, angle=90), turned, atol=1)  # Pillow's affine map rounds down


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (2000, 1500)])
def test_photos_of_any_size_give_views(size: tuple[int, int], rng: np.random.Generator):
    image = picture(rng, size=size)
    extremes = {"zoom": (0.1, 1.9), "side": (0.1, 1.0), "angle": (0, 45), "shear": ((0, 0), (0.9, 0.9))}
    for values in itertools.product(*extremes.values()):
        seen = rendered(image, **dict(zip(extremes, values, strict=True)))
        assert seen.shape == (SIZE, SIZE, 3)
        assert abs(float(seen.mean()) - np.asarray(image).mean()) < 80
