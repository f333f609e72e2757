"""Preprocessing as other projects write it down, read into ours: transformers' processors and timm's configurations."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onepass.features.errors import OptionError, opt
from onepass.features.preprocess import Preprocess, ResizeRule

_RESAMPLE = {1: "lanczos", 2: "bilinear", 3: "bicubic", 5: "hamming"}
"""Pillow's numbers of filters, which transformers uses."""

_LARGEST = 1 << 20
_FORMS = (
    "needed: a JSON file with resize, size, antialias, channels, rescale, mean and std; the preprocessor_config.json "
    "of transformers; or timm's config.json"
)


class _UnknownError(ValueError):
    """What a configuration asks for and we do not do."""


def read_preprocess(path: Path) -> Preprocess:
    """Reads what happens to an image before a network.

    Args:
        path: JSON, in one of three forms: the fields of `Preprocess`; `preprocessor_config.json` of transformers; the
            `config.json` of timm, or its `pretrained_cfg` alone.

    Raises:
        OptionError: There is no such file, it has another form, or asks for what is not done here. Nothing is guessed.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it has {path.stat().st_size:,} bytes")
        facts = json.loads(path.read_bytes())
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise OptionError(f"{opt.preprocess} {path} cannot be read: {reason}; {_FORMS}.", path=path) from None
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{opt.preprocess} {path} is not JSON ({error}); {_FORMS}.", path=path) from None
    try:
        return preprocess_of(facts)
    except ValueError as error:
        raise OptionError(f"{opt.preprocess} {path} cannot be used: {error}; {_FORMS}.", path=path) from None


def preprocess_of(facts: Any) -> Preprocess:
    """What a configuration says, whichever of the three forms it has.

    Raises:
        ValueError: It has none of them, or asks for what is not done here.
    """
    if not isinstance(facts, dict):
        raise _UnknownError(f"it holds {type(facts).__name__}, not an object")
    if facts.keys() == {field.name for field in dataclasses.fields(Preprocess)}:
        return Preprocess.from_facts(facts)
    form: Callable[[dict[str, Any]], Preprocess]
    if isinstance(facts.get("pretrained_cfg"), dict):
        form, facts = _of_timm, facts["pretrained_cfg"]
    elif "input_size" in facts:
        form = _of_timm
    elif any(key.startswith("do_") for key in facts) or "image_processor_type" in facts:
        form = _of_transformers
    else:
        raise _UnknownError(f"its fields are {', '.join(sorted(map(str, facts)))[:200] or 'none'}")
    try:
        return Preprocess.from_facts(dataclasses.asdict(form(facts)))
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError, ZeroDivisionError) as error:
        raise _UnknownError(f"a field is missing or is of another kind ({type(error).__name__}: {error})") from None


def _of_transformers(facts: dict[str, Any]) -> Preprocess:
    """`preprocessor_config.json`, whose fields mean the same in nearly all image processors."""
    kind = str(facts.get("image_processor_type") or facts.get("feature_extractor_type") or "")
    for field in ("do_pad", "do_flip_channel_order", "do_split_image", "do_image_splitting", "do_thumbnail"):
        if facts.get(field):
            raise _UnknownError(f"{kind} has {field}")
    if not facts.get("do_resize", True):
        raise _UnknownError(f"{kind} does not resize")
    size, crop = facts["size"], _square(facts.get("crop_size")) if facts.get("do_center_crop") else 0
    if type(size) is int and kind.startswith(("ViT", "DeiT")):  # which take one number for a square
        size = {"height": size, "width": size}
    filter = _RESAMPLE.get(facts.get("resample", 2))
    if filter is None:
        raise _UnknownError(f"{kind} has resample {facts.get('resample')}")
    if kind.startswith("ConvNext"):
        rule, side = _convnext(facts, filter)
    elif isinstance(size, dict) and {"height", "width"} <= size.keys():
        if crop and crop != _square(size):
            raise _UnknownError(f"{kind} resizes to {size} and takes {crop} px of it")
        rule, side = ResizeRule("squash", filter=filter), _square(size)
    else:
        shortest = int(size["shortest_edge"] if isinstance(size, dict) else size)
        if not crop:
            raise _UnknownError(f"{kind} makes images of size {size} without a crop, which are not square")
        rule, side = ResizeRule("shortest", shortest, filter), crop
    rescale = float(facts.get("rescale_factor", 1 / 255)) if facts.get("do_rescale", True) else 1.0
    mean, std = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    if facts.get("do_normalize", True):
        mean, std = _three(facts["image_mean"]), _three(facts["image_std"])
    return Preprocess(resize=str(rule), size=side, rescale=rescale, mean=mean, std=std)


def _convnext(facts: dict[str, Any], filter: str) -> tuple[ResizeRule, int]:
    """Below 384 px the shorter side is made longer by 1 / crop_pct, and the middle taken; from there on no crop."""
    side = int(facts["size"]["shortest_edge"] if isinstance(facts["size"], dict) else facts["size"])
    if side >= 384:
        return ResizeRule("squash", filter=filter), side
    return ResizeRule("shortest", int(side / float(facts.get("crop_pct") or 224 / 256)), filter), side


def _of_timm(facts: dict[str, Any]) -> Preprocess:
    """`pretrained_cfg` of timm, as `timm.data.create_transform` evaluates with it."""
    channels, height, width = (int(value) for value in facts["input_size"])
    if channels != 3 or height != width:
        raise _UnknownError(f"it takes images of {height} x {width} px with {channels} channels, not square RGB ones")
    filter = str(facts.get("interpolation", "bicubic"))
    mode, share = str(facts.get("crop_mode") or "center"), float(facts.get("crop_pct") or 0.875)
    if mode == "squash" and share == 1:
        rule = ResizeRule("squash", filter=filter)
    elif mode == "center":
        rule = ResizeRule("shortest", math.floor(height / share), filter, even=True)
    else:
        raise _UnknownError(f"it has crop_mode {mode} with crop_pct {share}")
    return Preprocess(
        resize=str(rule), size=height, rescale=1 / 255, mean=_three(facts["mean"]), std=_three(facts["std"])
    )


def _square(size: Any) -> int:
    if isinstance(size, dict):
        if size["height"] != size["width"]:
            raise _UnknownError(f"its images are {size['height']} x {size['width']} px, not square")
        return int(size["height"])
    return int(size)


def _three(values: Any) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third
