import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onepass.features import OptionError, Preprocess, ResizeRule
from onepass.features.preprocess import FILTERS

TORCH = Preprocess(
    resize="shortest256-bicubic", size=224, rescale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)

RULES = st.one_of(
    st.sampled_from(["squash", "crop", "pad", "keras"]),
    st.builds("{}-{}".format, st.sampled_from(["squash", "pad"]), st.sampled_from(FILTERS)),
    st.builds("shortest{}-{}{}".format, st.integers(1, 9999), st.sampled_from(FILTERS), st.sampled_from(["", "-even"])),
)


@given(RULES)
def test_a_rule_is_read_back_from_its_text(text: str):
    assert str(ResizeRule.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "native", "stretch", "shortest-bicubic", "shortest0-bicubic", "crop-bicubic", "squash-bicubic-even"]
)
def test_what_is_no_rule_is_refused(text: str):
    with pytest.raises(OptionError) as caught:
        ResizeRule.parse(text)
    assert str(caught.value) == (
        f"resize is {text!r}; needed: one of squash, crop, pad, keras, native (what the network was trained with, "
        "where that is known), or a rule such as squash-bicubic or shortest256-bilinear."
    )


def test_the_network_sees_what_the_formula_says(rng: np.random.Generator):
    pixels = rng.integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    expected = np.empty(pixels.shape)
    for channel in range(3):
        expected[..., channel] = (pixels[..., channel] / 255 - TORCH.mean[channel]) / TORCH.std[channel]
    np.testing.assert_allclose(TORCH.normalised(pixels), expected, rtol=1e-12)
    caffe = Preprocess(resize="squash", size=4, channels="BGR", mean=(103.939, 116.779, 123.68))
    np.testing.assert_allclose(caffe.normalised(pixels)[..., 0], pixels[..., 2] - 103.939)
    assert str(TORCH) == (
        "shortest256-bicubic to 224 px, RGB, (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]"
    )
    assert str(caffe) == "squash to 4 px, BGR, x - [103.939, 116.779, 123.68]"
    assert str(Preprocess(resize="crop", size=9)) == "crop to 9 px, RGB, x"


def test_it_survives_json():
    assert Preprocess.from_facts(json.loads(json.dumps(dataclasses.asdict(TORCH)))) == TORCH


@pytest.mark.parametrize(
    "change",
    [
        {"size": 0},
        {"size": 224.0},
        {"size": True},
        {"mean": [0, 0]},
        {"std": [1, 1, 0]},
        {"std": [1, 1, -1]},
        {"rescale": 0},
        {"rescale": float("nan")},
        {"rescale": "x"},
        {"mean": "abc"},
        {"channels": "GBR"},
        {"antialias": 1},
        {"resize": "stretch"},
        {"resize": None},
        {"more": 1},
    ],
)
def test_what_makes_no_sense_is_refused(change: dict):
    with pytest.raises(ValueError, match=r"needed|make no sense|could not convert|resize is"):
        Preprocess.from_facts(dataclasses.asdict(TORCH) | change)


def test_a_shorter_side_grows_with_the_square():
    assert str(TORCH.rule.scaled(224, 448)) == "shortest512-bicubic"
    assert TORCH.rule.reduced(640, 480, 224) == (341, 256)
    assert TORCH.rule.start(341, 224) == 58
    even = ResizeRule.parse("shortest256-bicubic-even")
    assert [even.start(224 + n, 224) for n in (1, 3, 5)] == [
        0,
        2,
        2,
    ]  # Python rounds halves to even, as torchvision does
