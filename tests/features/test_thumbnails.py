import io

import numpy as np
import pytest
from PIL import Image, ImageOps

import onepass.features.thumbnails as module
from onepass.extract.pixels.decode import decode
from onepass.features.thumbnails import DETAIL, LEAST, alike, correlations, cropped
from support import picture


def pairs(thumbnails: np.ndarray) -> set[tuple[int, int]]:
    return {(i, j) for first, second in alike(thumbnails) for i, j in zip(first.tolist(), second.tolist(), strict=True)}


def smooth(rng: np.random.Generator, n: int) -> np.ndarray:
    """Pictures with most of their contrast in large areas, as photos have."""
    return np.stack([np.asarray(picture(rng, (24, 24)).convert("L")) for _ in range(n)])


def details(a: np.ndarray) -> np.ndarray:
    x, y = np.mgrid[:24, :24].reshape(2, -1) / 12 - 1
    terms = np.stack([x**i * y**j for i in range(5) for j in range(5 - i)], axis=1)
    return np.asarray(a.ravel() - terms @ np.linalg.lstsq(terms, a.ravel().astype(float))[0])


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def brute(a: np.ndarray, b: np.ndarray) -> float:
    found = []
    for turned in [np.rot90(way, quarter) for way in (b, b.T) for quarter in range(4)]:
        detail = correlation(details(a), details(turned))
        found.append(detail if detail < DETAIL else correlation(a, turned))
    return max(found)


def test_correlations_are_those_of_numpy_over_all_eight_ways(rng: np.random.Generator):
    thumbnails = smooth(rng, 20)
    first, second = rng.integers(0, 20, (2, 50))
    wanted = [brute(thumbnails[i], thumbnails[j]) for i, j in zip(first, second, strict=True)]
    np.testing.assert_allclose(correlations(thumbnails, first, second), wanted, atol=1e-5)


@pytest.mark.parametrize("block", [50, 2**22])
def test_no_pair_of_high_correlation_is_missing(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, block: int):
    monkeypatch.setattr(module, "_BLOCK", block)
    base = smooth(rng, 30).astype(np.float64)
    noisy = [base * (1 - t) + smooth(rng, 30) * t for t in (0.03, 0.08, 0.15)]
    turned = [np.rot90(noisy[0], 1, (1, 2)), noisy[1][:, ::-1], np.swapaxes(noisy[2], 1, 2)]
    thumbnails = np.concatenate([base, *noisy, *turned]).round().astype(np.uint8)
    i, j = np.triu_indices(len(thumbnails), 1)
    wanted = correlations(thumbnails, i, j) >= LEAST
    found = pairs(thumbnails)
    assert wanted.sum() > 60
    assert found >= set(zip(i[wanted].tolist(), j[wanted].tolist(), strict=True))
    assert len(found) < 0.2 * len(i)


def test_plain_grounds_are_no_copies_of_each_other(rng: np.random.Generator):
    grounds = np.full((5, 24, 24), 200, np.uint8) + rng.integers(0, 3, (5, 24, 24), np.uint8)
    assert pairs(np.concatenate([grounds, np.zeros((3, 24, 24), np.uint8)])) == set()
    assert not correlations(grounds, np.array([0, 1]), np.array([1, 2])).any()


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return data.getvalue()


CHANGES = {
    "JPEG 50": lambda image: jpeg(image, 50),
    "half size": lambda image: jpeg(image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)),
    "grey": lambda image: jpeg(image.convert("L")),
    "quarter turn": lambda image: jpeg(image.transpose(Image.Transpose.ROTATE_90)),
    "mirror": lambda image: jpeg(ImageOps.mirror(image)),
    "brighter": lambda image: jpeg(image.point(lambda value: value * 1.1)),
}


@pytest.mark.parametrize("resize", ["squash", "crop", "pad", "keras"])
@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_have_thumbnails_alike(rng: np.random.Generator, change: str, resize: str):
    images = [picture(rng, (1300, 900)) for _ in range(5)]

    def thumbnail(data: bytes) -> np.ndarray:
        return decode(data, image_size=96, resize=resize, views=()).thumbnail

    every = np.stack([thumbnail(make(image)) for make in (jpeg, CHANGES[change]) for image in images])
    same = correlations(every, np.arange(5), np.arange(5, 10))
    other = correlations(every, np.arange(5), np.roll(np.arange(5, 10), 1))
    assert same.min() >= LEAST
    assert other.max() < LEAST


@pytest.mark.parametrize("resize", ["crop", "pad"])
def test_a_thumbnail_shows_the_whole_image_whatever_is_cut_off(resize: str):
    image = Image.new("RGB", (400, 100), "black")
    image.paste("white", (0, 0, 100, 100))
    thumbnail = decode(jpeg(image), image_size=64, resize=resize).thumbnail
    assert thumbnail[:, :5].min() > 250
    assert thumbnail[:, 8:].max() < 5


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.15])
def test_a_part_of_a_picture_is_told_from_other_pictures(rng: np.random.Generator, share: float, mirrored: bool):
    images = [picture(rng, (600, 450)) for _ in range(8)]

    def part(image: Image.Image) -> bytes:
        x, y = int(image.width * share * rng.random()), int(image.height * share * rng.random())
        some = image.crop((x, y, x + int(image.width * (1 - share)), y + int(image.height * (1 - share))))
        return jpeg(ImageOps.mirror(some) if mirrored else some)

    files = [*map(jpeg, images), *map(part, images)]
    every = np.stack([decode(data, image_size=96, resize="squash", views=()).thumbnail for data in files])
    place = np.arange(8)
    assert cropped(every, place, place + 8).all()
    assert cropped(every, place + 8, place).all()
    assert not cropped(every, place, (place + 1) % 8 + 8).any()


def test_one_light_on_one_ground_makes_no_copies(rng: np.random.Generator):
    light = np.add.outer(np.arange(24), np.arange(24)) * 3.0
    thumbnails = np.stack([light + smooth(rng, 1)[0] / 16 for _ in range(6)]).astype(np.uint8)
    first, second = np.triu_indices(6, 1)
    whole = [correlation(thumbnails[i], thumbnails[j]) for i, j in zip(first, second, strict=True)]
    assert min(whole) > LEAST
    assert (correlations(thumbnails, first, second) < LEAST).all()
    turned = np.concatenate([thumbnails, np.rot90(thumbnails, 1, (1, 2))])
    assert (correlations(turned, np.arange(6), np.arange(6, 12)) >= LEAST).all()
