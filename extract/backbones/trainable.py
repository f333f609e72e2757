"""A backbone that can be trained: the Keras network that belongs to existing rows, whole or cut in two."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from onepass.extract.backbones.backbone import BATCH_SIZE, Backbone
from onepass.extract.backbones.build import bare_network, build_backbone, keras_provider
from onepass.extract.backbones.catalogue import BackboneName
from onepass.extract.backbones.engines import choose_precision, choose_strategy
from onepass.extract.backbones.load import load_backbone, require_decode_rule, require_same_backbone
from onepass.extract.backbones.options import BackboneOrigin, check_choices
from onepass.extract.backbones.stages import Stage, boundary_before, first_unfrozen, output_of, stages_of, top_of
from onepass.extract.backbones.vision_transformers import keep_positions
from onepass.extract.frameworks import import_keras
from onepass.extract.pixels.decode import depth_of, pixel_dtype
from onepass.features.errors import BackboneError, OptionError
from onepass.features.spec import Spec

TRAINING_PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True, eq=False)
class TrainableBackbone:
    """The network behind rows, in float32 and in Keras, for training it further.

    Whatever is changed in `network` is changed in `model` and in what `top` returned: they share their layers.
    `trunk` knows nothing of it, because it is computed with the weights that `source` names.

    Attributes:
        spec: Of the rows it belongs to.
        source: Where its weights come from.
        network: Functional `keras.Model` without preprocessing and pooling.
        model: `keras.Model`, (b, s, s, 3) RGB pixels of 0..255, uint8 or float32 as the spec's resize rule gives
            them -> (b, d) float32 rows. `model.save` needs no code of this project to be loaded again.
        random: Seed of its initial weights; None if they are pretrained.
        precision: float32, or bfloat16: what the network is to compute in while it is trained.
        strategy: `tf.distribute.Strategy` in whose scope all was built: each of its devices holds the weights.
    """

    spec: Spec
    source: BackboneOrigin
    network: Any
    model: Any
    random: int | None
    precision: str
    strategy: Any

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """From input to output; see `stages_of`."""
        return stages_of(self.network)

    def first_unfrozen(self, unfreeze: str) -> int:
        """Place in `network.layers` of the first layer that trains; see `first_unfrozen`.

        Raises:
            OptionError: There is no such part.
        """
        return first_unfrozen(self.network, unfreeze)

    def boundary_before(self, first: int) -> str | None:
        """Where to cut so that `first` and all later layers lie above; see `boundary_before`."""
        return boundary_before(self.network, first)

    def boundary_shape(self, boundary: str) -> tuple[int, ...]:
        """Shape of what a layer gives for one image: (h, w, c), (t, d) or (d,)."""
        return tuple(output_of(self.network, boundary).shape[1:])

    def settle(self) -> None:
        """Makes the network ready to be saved after it was trained; see `keep_positions`."""
        keep_positions(self.network)

    def trunk(self, boundary: str, *, engine: str = "auto", batch_size: int = BATCH_SIZE) -> Backbone:
        """The frozen part below, as any other backbone: its rows are what the boundary gives, flattened.

        Args:
            boundary: From `boundary_before`.
            engine: openvino, tensorflow or auto.
            batch_size: Images per step of the TensorFlow engine.

        Returns:
            A backbone named `resnet50@conv4_block6_out`; `reshape(-1, *top(boundary).input_shape[1:])` of its rows
            is what `top` takes. It computes in the spec's precision, or in float32 where that is int8.

        Raises:
            OptionError: The weights are random, so that nothing below is worth keeping.
            BackboneError: There is no such layer, or the trunk cannot be built or run here.
            SpecMismatchError: The weights that `source` names have changed since.
        """
        if self.random is not None:
            raise OptionError(
                f"{self.spec.backbone} has random weights, so no part of it can stay frozen; needed: unfreeze all."
            )
        name = BackboneName(BackboneName.parse(self.source.name).network, boundary)
        trunk = load_backbone(
            str(name),
            weights=self.source.weights,
            image_size=self.spec.image_size,
            resize=self.spec.resize,
            depth=depth_of(self.spec.decode),
            pooling="flatten",
            precision="float32" if self.spec.precision == "int8" else self.spec.precision,
            engine=engine,
            batch_size=batch_size,
            preprocess=self.spec.preprocess,
        )
        require_same_backbone(
            trunk.spec, replace(trunk.spec, weights_hash=self.spec.weights_hash), f"the trunk of {self.spec.backbone}"
        )
        return trunk

    def of_layers(self) -> Any:
        """`model` again, sharing `network`, with preprocessing that the legacy .h5 format can hold."""
        keras = import_keras()
        name = BackboneName.parse(self.source.name)
        pixels = keras.Input(self.model.input_shape[1:], dtype=self.model.inputs[0].dtype)
        values = pixels
        provider = keras_provider(name)
        for layer in provider.preprocessing_layers(name, self.spec.preprocess):
            values = layer(values)
        return keras.Model(pixels, provider.pooled(self.network(values), self.spec.pooling, self.spec.backbone))

    def top(self, boundary: str) -> Any:
        """The part above with its pooling: `keras.Model`, (b, h, w, c), (b, t, d) or (b, d) float32 -> (b, d)
        float32 rows.

        Args:
            boundary: From `boundary_before`.

        Raises:
            BackboneError: There is no such layer, or not everything after it hangs on its output alone.
        """
        part = top_of(self.network, boundary)
        provider = keras_provider(BackboneName.parse(self.source.name))
        rows = provider.pooled(part.outputs[0], self.spec.pooling, self.spec.backbone)
        return import_keras().Model(part.inputs[0], rows, name="top")


def require_trainable(source: BackboneOrigin) -> None:
    """Refuses a backbone that Keras does not build, before anything is read of it.

    Raises:
        BackboneError: It is a graph; with what can be trained.
    """
    keras_provider(BackboneName.parse(source.name))


def load_trainable(
    spec: Spec, *, source: BackboneOrigin, needed_by: str, random: int | None = None, precision: str = "auto"
) -> TrainableBackbone:
    """The Keras network that computes rows of a given spec, in float32 whatever the spec's precision is.

    On a machine with several GPUs all of them have a copy.

    Args:
        spec: What the rows are.
        source: Where the backbone came from at the time of extraction.
        needed_by: Who needs it, for messages: a head's or feature file's name.
        random: Seed of initial weights, to train from scratch; nothing is downloaded or compared then, and
            Keras's global seed is set to it.
        precision: For training: float32, bfloat16, or auto: bfloat16 on GPUs that have it natively.

    Raises:
        OptionError: There is no such precision.
        SpecMismatchError: What the source gives now is not what it gave then.
        BackboneError: The backbone cannot be built here.
        WeightsError: Its weights cannot be had.
    """
    check_choices(precision=(precision, TRAINING_PRECISIONS))
    require_decode_rule(spec, needed_by)
    strategy = choose_strategy()
    built = build_backbone(
        source.name,
        weights=source.weights,
        image_size=spec.image_size,
        pooling=spec.pooling,
        pixels=pixel_dtype(spec.resize),
        preprocess=spec.preprocess,
        strategy=strategy,
        random=random,
    )
    found = replace(
        spec, backbone=BackboneName.parse(source.name).label, weights_hash=built.weights_hash, width=built.width
    )
    if random is None:
        require_same_backbone(found, spec, needed_by)
        found = spec
    else:
        found = replace(found, weights=f"random {random}")
    return TrainableBackbone(
        found, source, built.network, built.model, random, choose_precision(precision, "tensorflow"), strategy
    )


def trainable_within(model: Any, *, spec: Spec, source: BackboneOrigin) -> TrainableBackbone:
    """The backbone in a model that was fine-tuned, with the weights it has there.

    Args:
        model: The part of it that gives rows: preprocessing, network and pooling.
        spec: Of the rows before it was fine-tuned.
        source: Where the network came from.

    Raises:
        BackboneError: The model is built in another way than fine-tune builds it.
    """
    networks = [layer for layer in model.layers if isinstance(layer, import_keras().Model)]
    if len(networks) != 1:
        raise BackboneError(f"a fine-tuned {spec.backbone} holds one network; found {len(networks)}. Fine-tune again.")
    return TrainableBackbone(spec, source, networks[0], model, None, "float32", choose_strategy())


def list_stages(name: str, image_size: int | None = None) -> tuple[Stage, ...]:
    """The stages of a backbone, from input to output; nothing is downloaded.

    Args:
        name: Catalogue name, or a path that ends in `.keras`.
        image_size: Pixels, which boundaries grow with; by default the network's own.

    Returns:
        See `stages_of`; empty for a `.keras` file whose layers have other names.

    Raises:
        BackboneError: There is no such backbone, or its layers cannot be told apart.
    """
    return stages_of(bare_network(name, image_size))
