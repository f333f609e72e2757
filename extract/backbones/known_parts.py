"""Stages and layers by name, known without building a network, so that a wrong `unfreeze` is refused at once."""

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from onepass.extract.backbones.catalogue import CATALOGUE, BackboneName
from onepass.extract.backbones.stages import did_you_mean, stage_name
from onepass.features.errors import OptionError, Parameter

_STAGES = {
    "stem block1-7 top": "efficientnet_lite0:141 efficientnet_lite1:186 efficientnet_lite2:186 efficientnetb0:237 "
    "efficientnetb1:339 efficientnetb2:339 efficientnetb3:384 efficientnetb4:474 efficientnetb5:576 "
    "efficientnetb6:666 efficientnetb7:813 efficientnetv2m:740 efficientnetv2l:1028",
    "stem block1-6 top": "efficientnetv2b0:270 efficientnetv2b1:334 efficientnetv2b2:349 efficientnetv2b3:409 "
    "efficientnetv2s:513",
    "stem stage0-3": "convnexttiny:133 convnextsmall:259 convnextbase:259 convnextlarge:259 convnextxlarge:259",
    "conv1-5": "densenet121:427 densenet169:595 densenet201:707 resnet50:175 resnet101:345 resnet152:515 "
    "resnet50v2:190 resnet101v2:377 resnet152v2:564",
    "stem mixed_5b block35 mixed_6a block17 mixed_7a block8 top": "inceptionresnetv2:780",
    "stem mixed0-10": "inceptionv3:311",
    "conv1 block1-13": "mobilenet:86 mobilenet_0.75:86 mobilenet_0.5:86 mobilenet_0.25:86",
    "stem expanded_conv block_1-16 top": "mobilenetv2:154 mobilenetv2_1.4:154 mobilenetv2_1.3:154 "
    "mobilenetv2_0.75:154 mobilenetv2_0.5:154 mobilenetv2_0.35:154",
    "stem expanded_conv expanded_conv_1-14 top": "mobilenetv3large:187",
    "stem expanded_conv expanded_conv_1-10 top": "mobilenetv3small:157",
    "stem cell_stem_1-2 cell_0-5 cell_reduce_6 cell_7-12 cell_reduce_12 cell_13-18": "nasnetlarge:1039",
    "stem cell_stem_1-2 cell_0-3 cell_reduce_4 cell_5-8 cell_reduce_8 cell_9-12": "nasnetmobile:769",
    "block1-5": "vgg16:19 vgg19:22",
    "block1-14": "xception:132",
}
"""Stages, from input to output -> the networks that have them, each with the number of its layers."""

_STARTS = (
    "Conv Conv_ _bn _conv_stem activation activation_ add add_ adjust_avg_pool_ adjust_bn_ adjust_bn_reduce_ "
    "adjust_bn_stem_ adjust_relu_ average_pooling batch_normalization batch_normalization_ bn bn_Conv concatenate "
    "concatenate_ conv conv_ conv_bn cropping custom_scale_layer custom_scale_layer_ input_layer input_layer_ "
    "layer_normalization layer_normalization_ max_pooling mixed normal_add_ normal_bn_ normal_concat_ normal_left "
    "normal_right normalization normalization_ out_relu pool post_bn post_relu re_lu re_lu_ reduction_add "
    "reduction_add_ reduction_bn_ reduction_concat_reduce_ reduction_concat_stem_ reduction_left reduction_pad_ "
    "reduction_right relu rescaling rescaling_ separable_conv_ top_activation top_bn zero_padding"
)
"""Starts, up to the first digit, of the names of those layers that tell no stage; ConvNeXt's begin with its name."""

_LARGEST_CONFIG = 64 * 2**20


def known_stages(network: str) -> tuple[str, ...]:
    """The stages of a network of the catalogue, from input to output."""
    return tuple(name for text, networks in _STAGES.items() if network in _numbered(networks) for name in _spread(text))


def known_layers(network: str) -> int:
    """The number of layers of a network of the catalogue, its input included."""
    return next(found[network] for found in map(_numbered, _STAGES.values()) if network in found)


def may_be_layer(name: str) -> bool:
    """Whether any network of the catalogue could have a layer of this name that tells no stage."""
    return re.split(r"\d", name, maxsplit=1)[0] in _STARTS.split() or name.startswith("convnext_")


def require_part(backbone: str, unfreeze: str, *, option: str = "unfreeze") -> None:
    """Refuses what is certainly no part of a network, without building it.

    A name that fits the family's way of naming layers, such as conv5_block9_out, passes; only the network itself,
    which takes seconds to build, can tell that it has no such layer.

    Args:
        backbone: As for `load_backbone`.
        unfreeze: As for `first_unfrozen`.
        option: The parameter that named it, for the message.

    Raises:
        OptionError: It is no part of this network.

    >>> require_part("resnet50", "conv5")
    """
    text, name = unfreeze.strip(), BackboneName.parse(backbone)
    if text in ("all", "auto"):
        return
    named = f"{Parameter(option)} {'is' if option == 'unfreeze' else 'names'}"
    own = _own_layers(Path(name.network)) if name.own else None
    stages = known_stages(name.network) if name.network in CATALOGUE else _own_stages(own)
    count = known_layers(name.network) if name.network in CATALOGUE else len(own) + 1 if own else 0
    needed = f"auto, all, a number of layers{f' up to {count}' if count else ''}, a layer's name"
    needed += f", or a stage: {', '.join(stages)}." if stages else "."
    if re.fullmatch(r"[+-]?\d+", text):
        if int(text) < 1 or (count and int(text) > count):
            raise OptionError(f"{named} {text}; needed: {needed}", unfreeze=unfreeze)
        return
    if name.own:
        possible = own is None or text in own or text in stages
    else:
        stage = stage_name(text)
        possible = name.network not in CATALOGUE or text in stages or (stage in stages if stage else may_be_layer(text))
    if not possible or not re.fullmatch(r"[\w./-]+", text):
        near = did_you_mean(text, [*stages, *(own or ())])
        raise OptionError(
            f"{named} {unfreeze!r}; {name.label} has no such stage or layer. {near}Needed: {needed}",
            unfreeze=unfreeze,
        )


def _spread(text: str) -> Iterator[str]:
    """Names of stages from `stem block1-7 top`."""
    for part in text.split():
        if found := re.fullmatch(r"(.*?)(\d+)-(\d+)", part):
            yield from (f"{found[1]}{number}" for number in range(int(found[2]), int(found[3]) + 1))
        else:
            yield part


def _numbered(networks: str) -> dict[str, int]:
    return {name: int(layers) for name, layers in (one.split(":") for one in networks.split())}


def _own_stages(layers: list[str] | None) -> tuple[str, ...]:
    found = dict.fromkeys(stage for layer in layers or () if (stage := stage_name(layer)))
    return ("stem", *(stage for stage in found if stage != "stem")) if found else ()


def _own_layers(path: Path) -> list[str] | None:
    """Names of the layers of a `.keras` file, as its description gives them; None if that cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            entry = archive.getinfo("config.json")
            if entry.file_size > _LARGEST_CONFIG:
                return None
            layers = json.loads(archive.read(entry))["config"]["layers"]
            return [str(layer["config"]["name"]) for layer in layers]
    except (OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile, RecursionError):
        return None
