"""Preprocessing as transformers and timm write it down, read into ours, and what is refused instead of guessed."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from onepass.extract.backbones.preprocess_files import preprocess_of, read_preprocess
from onepass.features.errors import OptionError
from onepass.features.preprocess import Preprocess
from tiny_onnx import PREPROCESS

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
FORMS = (
    "needed: a JSON file with resize, size, antialias, channels, rescale, mean and std; the preprocessor_config.json "
    "of transformers; or timm's config.json."
)

DINOV2 = {
    "image_processor_type": "BitImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 256},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 0.00392156862745098,
    "do_normalize": True,
    **IMAGENET,
}
VIT = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 224, "width": 224},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
OLD_VIT = {"feature_extractor_type": "ViTFeatureExtractor", "do_resize": True, "size": 224, **IMAGENET}
CONVNEXT = {
    "image_processor_type": "ConvNextImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "crop_pct": 0.875,
    "resample": 3,
    **IMAGENET,
}
TIMM = {
    "input_size": [3, 224, 224],
    "interpolation": "bicubic",
    "crop_pct": 0.9,
    "crop_mode": "center",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}

MISSING = "a field is missing or is of another kind"


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        (PREPROCESS, "squash-bilinear to 32 px, RGB, (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]"),
        (DINOV2, "shortest256-bicubic to 224 px, RGB, (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]"),
        (VIT, "squash-bilinear to 224 px, RGB, (x / 255 - 0.5) / 0.5"),
        (VIT | {"do_normalize": False}, "squash-bilinear to 224 px, RGB, x / 255"),
        (VIT | {"do_rescale": False, "do_normalize": False}, "squash-bilinear to 224 px, RGB, x"),
        (CONVNEXT, "shortest256-bicubic to 224 px, RGB, (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]"),
        (
            CONVNEXT | {"size": {"shortest_edge": 384}},
            "squash-bicubic to 384 px, RGB, (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]",
        ),
        (TIMM, "shortest248-bicubic-even to 224 px, RGB, (x / 255 - 0.5) / 0.5"),
        (TIMM | {"crop_pct": 1.0, "crop_mode": "squash"}, "squash-bicubic to 224 px, RGB, (x / 255 - 0.5) / 0.5"),
        (
            {"architecture": "vit", "pretrained_cfg": TIMM},
            "shortest248-bicubic-even to 224 px, RGB, (x / 255 - 0.5) / 0.5",
        ),
    ],
)
def test_each_form_says_what_it_says(facts: dict[str, Any], told: str, tmp_path: Path):
    path = tmp_path / "preprocess.json"
    path.write_text(json.dumps(facts))
    found = read_preprocess(path)
    assert str(found) == told
    assert found == preprocess_of(json.loads(json.dumps(facts)))


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ([1, 2], "it holds list, not an object"),
        ({"mean": 1}, "its fields are mean"),
        ({}, "its fields are none"),
        (VIT | {"do_pad": True}, "ViTImageProcessor has do_pad"),
        (VIT | {"do_flip_channel_order": True}, "ViTImageProcessor has do_flip_channel_order"),
        (VIT | {"do_resize": False}, "ViTImageProcessor does not resize"),
        (VIT | {"resample": 4}, "ViTImageProcessor has resample 4"),
        (VIT | {"size": {"height": 224, "width": 192}}, "its images are 224 x 192 px, not square"),
        (
            OLD_VIT | {"feature_extractor_type": "CLIPFeatureExtractor"},
            "CLIPFeatureExtractor makes images of size 224 without a crop, which are not square",
        ),
        (
            DINOV2 | {"size": {"longest_edge": 9}},
            "a field is missing or is of another kind (KeyError: 'shortest_edge')",
        ),
        (
            {k: v for k, v in VIT.items() if k != "image_mean"},
            "a field is missing or is of another kind (KeyError: 'image_mean')",
        ),
        (VIT | {"image_std": [0.5, 0.5]}, "not enough values to unpack (expected 3, got 2)"),
        (TIMM | {"input_size": [3, 224, 192]}, "it takes images of 224 x 192 px with 3 channels, not square RGB ones"),
        (TIMM | {"input_size": [1, 28, 28]}, "it takes images of 28 x 28 px with 1 channels, not square RGB ones"),
        (TIMM | {"crop_mode": "border"}, "it has crop_mode border with crop_pct 0.9"),
        (TIMM | {"crop_mode": "squash"}, "it has crop_mode squash with crop_pct 0.9"),
        (TIMM | {"std": "none"}, "could not convert string to float: 'n'"),
    ],
)
def test_what_is_not_done_here_is_refused_and_nothing_is_guessed(facts: Any, reason: str, tmp_path: Path):
    path = tmp_path / "preprocess.json"
    path.write_text(json.dumps(facts))
    with pytest.raises(OptionError, match=f"^{re.escape(f'preprocess {path} cannot be used: {reason}; {FORMS}')}$"):
        read_preprocess(path)


@pytest.mark.parametrize(
    "change",
    [
        {"std": [0.2, 0.2, 0.0]},
        {"rescale": 0},
        {"rescale": float("inf")},
        {"size": 0},
        {"size": 10**9},
        {"size": 32.0},
        {"channels": "RGBA"},
        {"antialias": 1},
        {"mean": [0, 0]},
    ],
)
def test_numbers_that_make_no_sense_are_refused(change: dict[str, Any], tmp_path: Path):
    path = tmp_path / "preprocess.json"
    path.write_text(json.dumps(PREPROCESS | change))
    with pytest.raises(
        OptionError, match=f"^{re.escape(f'preprocess {path} cannot be used: these make no sense: ')}.*"
    ):
        read_preprocess(path)


def test_files_that_are_missing_huge_or_no_json_are_named(tmp_path: Path):
    path = tmp_path / "preprocess.json"
    missing = f"preprocess {path} cannot be read: no such file or directory; {FORMS}"
    with pytest.raises(OptionError, match=f"^{re.escape(missing)}$"):
        read_preprocess(path)
    path.write_text("{")
    with pytest.raises(OptionError, match=f"^{re.escape(f'preprocess {path} is not JSON (')}.*{re.escape(FORMS)}$"):
        read_preprocess(path)
    path.write_text("[" * 100_000)
    with pytest.raises(OptionError, match=r"is not JSON"):
        read_preprocess(path)
    path.write_bytes(b" " * (1 << 20) + b"{}")
    large = f"preprocess {path} is not JSON (it has 1,048,578 bytes); {FORMS}"
    with pytest.raises(OptionError, match=f"^{re.escape(large)}$"):
        read_preprocess(path)


def test_ours_is_read_back_as_it_was_written(tmp_path: Path):
    import dataclasses

    known = Preprocess(resize="shortest256-lanczos-even", size=224, channels="BGR", mean=(1.0, 2.0, 3.0))
    (tmp_path / "p.json").write_text(json.dumps(dataclasses.asdict(known)))
    assert read_preprocess(tmp_path / "p.json") == known


def test_one_number_is_the_side_of_a_square_where_a_processor_takes_it_so():
    assert str(preprocess_of(OLD_VIT)).startswith("squash-bilinear to 224 px, RGB")
