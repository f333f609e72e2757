"""Parts of a network: which layers an `--unfreeze` text means, and where the network can be cut in two.

"Network" is a functional Keras model with one image in and one output, as `keras.applications` builds it
without its top. Layers are counted in the order of `network.layers`, which is by depth.
"""

import difflib
import functools
import operator
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from onepass.extract.backbones.efficientnet_lite import REPEATS
from onepass.extract.frameworks import import_keras
from onepass.features.errors import BackboneError, OptionError, opt


def _lite0_rules() -> list[tuple[str, str]]:
    ends = [sum(REPEATS[: number + 1]) for number in range(len(REPEATS))]
    blocks = ["|".join(map(str, range(end - count, end))) for end, count in zip(ends, REPEATS, strict=True)]
    return [(rf"_blocks\.(?:{numbers})\.", f"block{stage}") for stage, numbers in enumerate(blocks, 1)]


# Layer name -> stage; the first rule that fits counts. Names that Keras numbers itself (conv2d_94) fit none.
_RULES = [
    (r"(conv\d+)(?:_|$)", r"\1"),  # ResNet, DenseNet; the stem of MobileNet
    (r"(block_?\d+)[a-z]?_", r"\1"),  # VGG, Xception, EfficientNet, MobileNetV2, blocks of InceptionResNetV2
    (r"conv_(?:dw|pw|pad)_(\d+)(?:_|$)", r"block\1"),  # MobileNet
    (r"(expanded_conv(?:_\d+)?)_[a-z]", r"\1"),  # MobileNetV3; the first block of MobileNetV2
    (r"(mixed(?:\d+|_\d[a-z]))$", r"\1"),  # InceptionV3, InceptionResNetV2
    (r"\w+_stage_(\d)_block_", r"stage\1"),  # ConvNeXt
    (r"(block\d+)$", r"\1"),  # vision transformers, which `vision_transformers` names so
    (r"stage_(\d)$", r"stage\1"),  # Swin
    (r"(?:adjust_conv_(?:[12]|projection)|(?:normal|reduction)_conv_1)_((?:stem_|reduce_)?\d+)$", r"cell_\1"),  # NASNet
    *_lite0_rules(),
    (r"stem_", "stem"),
    (r"(?:top_conv|conv_7b|conv_1|Conv_1|_conv_head)$", "top"),
]


@dataclass(frozen=True)
class Stage:
    """Layers that follow each other and are unfrozen together.

    Attributes:
        name: What `--unfreeze` calls it.
        first: Name of its first layer.
        position: That layer's place in `network.layers`.
        layers: Number of its layers.
        parameters: Number of their parameters, those that never train included.
        boundary: Layer whose output is all that this and later stages need; None if that is only the image.
        shape: Of the boundary's output for one image, (h, w, c) or (d,); of the image if there is no boundary.
    """

    name: str
    first: str
    position: int
    layers: int
    parameters: int
    boundary: str | None
    shape: tuple[int, ...]

    @property
    def boundary_bytes(self) -> int:
        """Size of the boundary's output for one image as float32."""
        return 4 * functools.reduce(operator.mul, self.shape, 1)


def stages_of(network: Any) -> tuple[Stage, ...]:
    """Stages from input to output; none if the layers' names are not those of a known family.

    A stage begins after the last place before its first named layer where the network can be cut, so that
    shortcuts, paddings and pools without a telling name fall to the right side. What comes before the
    first named stage is the stem. NASNet's cells read two cells back, so nothing cuts between them.

    Args:
        network: Functional model without preprocessing and pooling.

    Raises:
        BackboneError: It is no functional model.
    """
    starts = _starts(network)
    ends = [*starts.values(), len(network.layers)][1:]
    found = []
    for (name, start), end in zip(starts.items(), ends, strict=True):
        part = network.layers[start:end]
        boundary = boundary_before(network, start)
        shape = (output_of(network, boundary) if boundary else network.inputs[0]).shape
        parameters = sum(layer.count_params() for layer in part)
        found.append(Stage(name, part[0].name, start, len(part), parameters, boundary, tuple(shape[1:])))
    return tuple(found)


_USUAL_SHARE = 0.3
"""Of the parameters: what `auto` unfreezes at least."""


def first_unfrozen(network: Any, unfreeze: str) -> int:
    """Place in `network.layers` of the first layer that trains; it and all after it do.

    Args:
        network: Functional model without preprocessing and pooling.
        unfreeze: A number N for the last N layers (`network.layers[-N:]`), a stage, a layer's name, all, or auto: the
            last stages that hold three tenths of the parameters together, such as conv5 of ResNet50.

    Raises:
        OptionError: It is none of these.
    """
    text, count = unfreeze.strip(), len(network.layers)
    if text == "all":
        return 0
    if text == "auto":
        return _usual_start(network)
    if re.fullmatch(r"[+-]?\d+", text):
        if not 1 <= int(text) <= count:
            raise OptionError(f"{opt.unfreeze} is {text}; {network.name} has {count} layers, so needed: 1 to {count}.")
        return count - int(text)
    stages = {stage.name: stage.position for stage in stages_of(network)}
    names = {layer.name: position for position, layer in enumerate(network.layers)}
    places = names | stages
    if text in places:
        return places[text]
    near = did_you_mean(text, [*stages, *names])
    choices = f", or a stage: {', '.join(stages)}" if stages else ""
    raise OptionError(
        f"{opt.unfreeze} is {unfreeze!r}; {network.name} has no such stage or layer. {near}"
        f"Needed: auto, all, a number of layers up to {count}, a layer's name{choices}."
    )


def _usual_start(network: Any) -> int:
    stages, above = stages_of(network), 0
    total = sum(stage.parameters for stage in stages)
    for stage in reversed(stages):
        above += stage.parameters
        if above >= _USUAL_SHARE * total:
            return stage.position
    return 0


def boundary_before(network: Any, first: int) -> str | None:
    """The deepest layer before `first` whose one output every later layer and the network's output hang on.

    Layers between it and `first` stay frozen, but belong to the upper part.

    Args:
        network: Functional model.
        first: Place in `network.layers`.

    Returns:
        Its name, or None if only the image itself would do.

    Raises:
        BackboneError: It is no functional model.
    """
    cuts = _cuts(network, first)
    return cuts[-1] if cuts else None


def trunk_of(network: Any, boundary: str) -> Any:
    """The part up to a layer, that included, sharing its layers: (b, s, s, 3) -> the layer's output.

    Raises:
        BackboneError: There is no such layer, or it gives several outputs.
    """
    tensor = output_of(network, boundary)
    return import_keras().Model(network.inputs[0], tensor, name=network.name)


def top_of(network: Any, boundary: str) -> Any:
    """The part after a boundary, sharing its layers: the boundary's output -> the network's output.

    Raises:
        BackboneError: There is no such layer, or not everything after it hangs on its output alone.
    """
    tensor = output_of(network, boundary)
    if boundary not in _cuts(network, len(network.layers)):
        before = boundary_before(network, _position(network, boundary))
        advice = f"Cut it after {before}." if before else "No layer before it will do either."
        raise BackboneError(
            f"{network.name} cannot be cut after {boundary}: its output also hangs on other layers. {advice}"
        )
    return import_keras().Model(tensor, network.outputs[0], name=f"{network.name}_top")


def output_of(network: Any, layer: str) -> Any:
    """What a layer of a functional model gives, a Keras tensor.

    Raises:
        BackboneError: There is no such layer, or it gives several outputs.
    """
    nodes = [node for node in _nodes(network) if node.operation.name == layer]
    if not nodes:
        names = [each.name for each in network.layers]
        raise BackboneError(f"{network.name} has no layer {layer!r}. {did_you_mean(layer, names)}".rstrip())
    tensors = nodes[0].output_tensors
    if len(tensors) != 1:
        raise BackboneError(f"layer {layer} of {network.name} gives {len(tensors)} outputs; needed: one.")
    return tensors[0]


def did_you_mean(text: str, names: list[str]) -> str:
    """A hint at up to three names like this one, with a space after it; empty if there are none."""
    near = difflib.get_close_matches(text, names, n=3, cutoff=0.7)
    return f"Did you mean {' or '.join(near)}? " if near else ""


def _starts(network: Any) -> dict[str, int]:
    """Stage -> place of its first layer, in order."""
    _nodes(network)  # or else a model without a graph would only seem to have no stages
    layers, after_image = network.layers, 1
    starts: dict[str, int] = {}
    last_named = after_image
    for place, layer in enumerate(layers):
        name = stage_name(layer.name)
        if name is None:
            continue
        if name not in starts:
            boundary = boundary_before(network, place)
            cut = _position(network, boundary) if boundary else 0
            start = cut + 1 if cut >= last_named else place
            if not starts:
                starts["stem"] = after_image
                if name != "stem" and not any(before.weights for before in layers[:place]):
                    starts = {name: after_image}
            starts.setdefault(name, start)
        last_named = place
    return starts


def stage_name(layer: str) -> str | None:
    """The stage that a layer of this name tells; None if it tells none."""
    for pattern, template in _RULES:
        if match := re.match(pattern, layer):
            return match.expand(template)
    return None


def _cuts(network: Any, first: int) -> list[str]:
    """Layers before `first` that every path to a later layer or to the output passes, from input to output."""
    places = {id(layer): place for place, layer in enumerate(network.layers)}
    nodes = _nodes(network)
    ends = {id(tensor) for tensor in network.outputs}
    # Bit i of passed[node] is set if every path from the image to the node passes node i.
    passed: dict[int, int] = {}
    common = -1
    for i, node in enumerate(nodes):
        before = [passed[id(parent)] for parent in node.parent_nodes]
        passed[id(node)] = (functools.reduce(operator.and_, before) if before else 0) | 1 << i
        if places.get(id(node.operation), -1) >= first or any(id(tensor) in ends for tensor in node.output_tensors):
            common &= passed[id(node)]
    calls = Counter(id(node.operation) for node in nodes)
    return [
        node.operation.name
        for i, node in enumerate(nodes)
        if common >> i & 1
        and places.get(id(node.operation), first) < first
        and calls[id(node.operation)] == 1
        and not node.is_input
        and [len(tensor.shape) in (2, 3, 4) for tensor in node.output_tensors] == [True]
    ]


def _nodes(network: Any) -> list[Any]:
    """Calls of layers and operations, each after those that it needs."""
    by_depth = getattr(network, "_nodes_by_depth", None)
    if not by_depth:
        raise BackboneError(
            f"{network.name} is a {type(network).__name__}, of which Keras does not know how its layers hang together; "
            "needed: a functional model, keras.Model(inputs, outputs)."
        )
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]


def _position(network: Any, layer: str) -> int:
    return next(place for place, each in enumerate(network.layers) if each.name == layer)
