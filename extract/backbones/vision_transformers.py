"""Networks of KerasHub taken apart: images in, tokens or a feature map out, every block a layer of the graph."""

import re
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from onepass.extract.backbones.catalogue import BackboneName
from onepass.extract.backbones.provider import KerasProvider, pooled
from onepass.extract.backbones.stages import output_of
from onepass.extract.backbones.weights import weights_hash
from onepass.extract.frameworks import import_keras
from onepass.features.errors import BackboneError
from onepass.features.preprocess import Preprocess

LAST = 4
"""Blocks whose class tokens `last4` puts one after the other, as the linear evaluation of DINOv2 does.

Source: M. Oquab et al. (2023), DINOv2: Learning Robust Visual Features without Supervision, section B.3.
"""


_END_OF_BLOCK = re.compile(r"block\d+(?:_output)?")
"""Names of layers that give what a block gives."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """A vision transformer, part by part; the layers are those of a KerasHub backbone.

    Attributes:
        embeddings: (b, s, s, 3) -> (b, t, d).
        blocks: Layers, in order.
        apply: Calls a block on (b, t, d).
        norm: The layer behind the last block.
        prefix: Tokens before those of the patches, the class token first; 0 if there is no class token.
        head: Normed tokens -> (b, e), the network's own vector; None if it has none.
    """

    embeddings: Callable[[Any], Any]
    blocks: list[Any]
    apply: Callable[[Any, Any], Any]
    norm: Any
    prefix: int
    head: Callable[[Any], Any] | None = None


def token_poolings(*, prefix: int, blocks: int, head: bool) -> tuple[str, ...]:
    """How tokens can become rows; the first is the default.

    >>> token_poolings(prefix=1, blocks=12, head=False)
    ('cls+mean', 'cls', 'mean', 'last4')
    """
    own = ("pooled",) if head else ()
    if not prefix:
        return (*own, "mean")
    return (*own, "cls+mean", "cls", "mean", *(("last4",) if blocks >= LAST else ()))


def cut_poolings(*, prefix: int) -> tuple[str, ...]:
    """How the tokens of a network that is cut before its end can become rows."""
    return ("cls", "flatten") if prefix else ("flatten",)


def functional(backbone: Any) -> Any:
    """A network of KerasHub as a `keras.Model` of one image, sharing its layers.

    Args:
        backbone: `keras_hub.models.Backbone`.

    Returns:
        Of a vision transformer: images -> tokens after the last norm, (b, t, d); those of the patches, (b, p, d); and
        its own vector, (b, e), if it has one. Its blocks are called block0, block1 and so on. Of other networks: images
        -> feature map.

    Raises:
        BackboneError: It does not take one image, or gives no feature map.
    """
    kind = type(backbone).__name__
    if kind in _DISSECTED:
        return _of_parts(_DISSECTED[kind](backbone), _image_side(backbone))
    return _of_map(backbone)


def with_pooling(network: Any, pooling: str) -> Any:
    """The part of what `functional` gives that a pooling needs, as a `keras.Model` of one output.

    Tokens become (b, d) within; a feature map stays one. Of several poolings, with commas, each has an output.
    """
    keras, outputs = import_keras(), network.outputs
    if len(outputs) == 1:
        return network
    if "," in pooling:
        each = [with_pooling(network, one).outputs[0] for one in pooling.split(",")]
        return keras.Model(network.inputs[0], each, name=network.name)
    tokens, patches = outputs[:2]
    if pooling == "pooled":
        rows = outputs[2]
    elif pooling == "last4":
        norm = network.get_layer("norm")
        ends = [layer.name for layer in network.layers if _END_OF_BLOCK.fullmatch(layer.name)]
        states = [output_of(network, end) for end in ends[-LAST:]]
        rows = keras.ops.concatenate([norm(state)[:, 0] for state in states], axis=-1)
    else:
        found = {"cls": lambda: tokens[:, 0], "mean": lambda: keras.ops.mean(patches, axis=1)}
        parts = [found[part]() for part in pooling.split("+")]
        rows = parts[0] if len(parts) == 1 else keras.ops.concatenate(parts, axis=-1)
    return keras.Model(network.inputs[0], rows, name=network.name)


def keep_positions(network: Any) -> None:
    """Makes a DINOv2 that was trained store its position embeddings as they are now.

    KerasHub holds them twice, trains one of the two, and stores the other, which it brings up to date only where the
    sum of their differences is positive.
    """
    for layer in network.layers:
        if hasattr(layer, "interpolated_position_embeddings"):
            layer.position_embeddings.assign(layer.interpolated_position_embeddings)


class HubProvider(KerasProvider):
    """What providers of networks that KerasHub builds share."""

    @abstractmethod
    def built(self, name: BackboneName, image_size: int, *, weights: bool) -> Any:
        """The network as `functional` gives it, with its weights or without."""

    @abstractmethod
    def poolings(self, name: BackboneName) -> tuple[str, ...]:
        """How what it gives can become rows; the first is the default."""

    def network(
        self,
        name: BackboneName,
        *,
        weights: str,  # noqa: ARG002
        image_size: int,
        random: bool,
    ) -> tuple[Any, str]:
        network = self.built(name, image_size, weights=not random)
        return network, weights_hash(network)

    def bare(self, name: BackboneName, image_size: int) -> Any:
        with import_keras().StatelessScope():
            network = self.built(name, image_size, weights=False)
        return network if name.layer else with_pooling(network, self.poolings(name)[0])

    def for_pooling(self, network: Any, pooling: str) -> Any:
        return with_pooling(network, pooling)

    def preprocessed(self, name: BackboneName, pixels: Any, preprocess: Preprocess | None) -> Any:  # noqa: ARG002
        keras = import_keras()
        assert preprocess is not None
        values = keras.ops.cast(pixels, "float32")
        if preprocess.channels == "BGR":
            values = values[..., ::-1]
        if preprocess.rescale != 1:
            values = values * preprocess.rescale
        if preprocess.mean != (0.0, 0.0, 0.0):
            values = values - keras.ops.convert_to_tensor(preprocess.mean, "float32")
        if preprocess.std != (1.0, 1.0, 1.0):
            values = values / keras.ops.convert_to_tensor(preprocess.std, "float32")
        return values

    def preprocessing_layers(self, name: BackboneName, preprocess: Preprocess | None) -> list[Any]:  # noqa: ARG002
        raise BackboneError(
            f"{name.label} is made of KerasHub's own layers, which the legacy .h5 format cannot hold; needed: .keras."
        )

    def pooled(self, outputs: Any, pooling: str, label: str) -> Any:
        if len(getattr(outputs, "shape", ())) == 3:  # of a network that is cut
            return outputs[:, 0] if pooling == "cls" else import_keras().layers.Flatten(name="rows")(outputs)
        return pooled(outputs, pooling, label)


def _of_parts(parts: Parts, side: int) -> Any:
    keras = import_keras()
    images = keras.Input((side, side, 3), name="images")
    tokens = parts.embeddings(images)
    for number, block in enumerate(parts.blocks):
        _name(block, f"block{number}")
        tokens = parts.apply(block, tokens)
    parts.norm.name = "norm"
    tokens = parts.norm(tokens)
    outputs = [tokens, tokens[:, parts.prefix :]]
    if parts.head:
        outputs.append(parts.head(tokens))
    return keras.Model(images, outputs, name="network")


def _name(block: Any, name: str) -> None:
    block.name = name
    if type(block).__name__ == "DeiTEncoderBlock":  # called part by part, because it gives None as well
        for part, its in _PARTS_OF_DEIT.items():
            getattr(block, part).name = f"{name}_{its}"


_PARTS_OF_DEIT = {
    "layer_norm_1": "norm1",
    "mha": "attention",
    "layer_norm_2": "norm2",
    "mlp": "mlp",
    "output_layer": "output",
}


def _of_map(backbone: Any) -> Any:
    keras, kind = import_keras(), type(backbone).__name__
    outputs = backbone.outputs
    if isinstance(backbone.output, dict):  # HGNetV2 gives the map of each stage
        outputs = [backbone.output[sorted(name for name in backbone.output if name != "stem")[-1]]]
    if len(backbone.inputs) != 1 or len(outputs) != 1 or len(backbone.inputs[0].shape) != 4:
        raise BackboneError(
            f"{kind} takes {[tuple(port.shape) for port in backbone.inputs]} and gives "
            f"{[tuple(port.shape) for port in outputs]}; needed: one image, and one feature map or one list of tokens "
            "that onepass knows."
        )
    features = outputs[0]
    if kind == "SwinTransformerBackbone":
        side = _image_side(backbone) // backbone.patch_size // 2 ** (len(backbone.depths) - 1)
        features = keras.layers.Reshape((side, side, int(features.shape[-1])), name="map")(features)
    if len(features.shape) not in (2, 4):
        raise BackboneError(f"{kind} gives {tuple(features.shape)}; needed: a feature map, (b, h, w, c), or (b, d).")
    return keras.Model(backbone.inputs[0], features, name="network")


def _plain(block: Any, tokens: Any) -> Any:
    return block(tokens)


def _of_dinov2(backbone: Any) -> Parts:
    backbone.embeddings.name = "embeddings"
    return Parts(
        embeddings=backbone.embeddings,
        blocks=list(backbone.encoder.layers),
        apply=_plain,
        norm=backbone.layernorm,
        prefix=1 + backbone.num_register_tokens,
    )


def _of_dinov3(backbone: Any) -> Parts:
    keras, side, prefix = import_keras(), _image_side(backbone), 1 + backbone.num_register_tokens
    backbone.embeddings.name = "embeddings"
    grid = [keras.layers.Reshape((1, 1, 1), name="grid"), keras.layers.UpSampling2D(side, name="grid_of_image")]

    def apply(block: Any, tokens: Any) -> Any:
        # The angles of the rotary embedding hang on the shape of the image alone. Taken from the image itself, they
        # would keep the network from being cut at a block; a number of the tokens stands in for it.
        positions = backbone.rope_embedding(grid[1](grid[0](tokens[:, :1, :1])))
        return block(tokens, position_embeddings=positions, num_prefix_tokens=prefix)

    return Parts(
        embeddings=backbone.embeddings,
        blocks=list(backbone.encoder.layers),
        apply=apply,
        norm=backbone.layernorm,
        prefix=prefix,
    )


def _of_vit(backbone: Any) -> Parts:
    embed, encoder = backbone.layers[1], backbone.layers[2]

    def embeddings(images: Any) -> Any:
        tokens = embed(images)
        return encoder.dropout(tokens) if encoder.dropout.rate else tokens

    return Parts(
        embeddings=embeddings,
        blocks=list(encoder.encoder_layers),
        apply=_plain,
        norm=encoder.layer_norm,
        prefix=int(backbone.use_class_token),
    )


def _of_deit(backbone: Any) -> Parts:
    embed, encoder = backbone.layers[1], backbone.layers[2]
    return Parts(
        embeddings=embed,
        blocks=list(encoder.encoder_layers),
        apply=_deit_block,
        norm=encoder.layer_norm,
        prefix=2,  # the class token and that of the distillation
    )


def _deit_block(block: Any, tokens: Any) -> Any:
    normed = block.layer_norm_1(tokens)
    tokens = block.mha(normed, normed) + tokens
    return block.output_layer(block.mlp(block.layer_norm_2(tokens)), tokens)


def _of_siglip(backbone: Any) -> Parts:
    encoder = getattr(backbone, "vision_encoder", backbone)
    encoder.embedding.name, encoder.head.name = "embeddings", "head"
    return Parts(
        embeddings=encoder.embedding,
        blocks=list(encoder.encoder_layers),
        apply=_plain,
        norm=encoder.post_layer_norm,
        prefix=0,
        head=encoder.head,
    )


def _of_clip(backbone: Any) -> Parts:
    """CLIP and MetaCLIP 2: the image embedding that is compared with texts, or of the encoder alone its class token."""
    encoder = getattr(backbone, "vision_encoder", backbone)
    encoder.embedding.name, encoder.pre_layer_norm.name = "embeddings", "pre_norm"
    whole = encoder is not backbone
    norm = getattr(encoder, "layer_norm", None) or getattr(backbone, "vision_post_layer_norm", None)
    if norm is None:
        raise BackboneError(
            f"{type(backbone).__name__} lacks the norm behind its blocks; needed: the whole MetaCLIP2Backbone."
        )

    def head(tokens: Any) -> Any:
        return backbone.vision_projection(tokens[:, 0]) if whole else tokens[:, 0]

    return Parts(
        embeddings=lambda images: encoder.pre_layer_norm(encoder.embedding(images)),
        blocks=list(encoder.encoder_layers),
        apply=_plain,
        norm=norm,
        prefix=1,
        head=head,
    )


_DISSECTED: dict[str, Callable[[Any], Parts]] = {
    "DINOV2Backbone": _of_dinov2,
    "DINOV3Backbone": _of_dinov3,
    "ViTBackbone": _of_vit,
    "DeiTBackbone": _of_deit,
    "SigLIPBackbone": _of_siglip,
    "SigLIPVisionEncoder": _of_siglip,
    "CLIPBackbone": _of_clip,
    "CLIPVisionEncoder": _of_clip,
    "MetaCLIP2Backbone": _of_clip,
    "MetaCLIP2VisionEncoder": _of_clip,
}


def _image_side(backbone: Any) -> int:
    shape = getattr(backbone, "image_shape", None) or backbone.vision_encoder.image_shape
    return int(shape[0])
