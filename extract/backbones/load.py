"""Makes a backbone ready: from the cache of converted ones where it can, or built anew."""

from importlib.metadata import version
from pathlib import Path

from onepass.extract.backbones import openvino_cache as compiled
from onepass.extract.backbones.backbone import BATCH_SIZE, Backbone
from onepass.extract.backbones.build import POOLINGS, BuiltBackbone, build_backbone, default_image_size
from onepass.extract.backbones.catalogue import BUNDLED, BackboneName, find_entry
from onepass.extract.backbones.efficientnet_lite import PACKAGE
from onepass.extract.backbones.engines import (
    ENGINES,
    PRECISIONS,
    Engine,
    OpenVINOEngine,
    TensorFlowEngine,
    choose_engine,
    choose_precision,
    choose_strategy,
)
from onepass.extract.backbones.keras_on_openvino import store_without_tensorflow
from onepass.extract.backbones.openvino_cache import CompiledBackbone
from onepass.extract.backbones.options import Source, check_choices, check_running
from onepass.extract.backbones.weights import file_hash
from onepass.extract.machine import cache_folder
from onepass.extract.pixels.decode import (
    RESIZES,
    checked_depth,
    decode_rule,
    depth_of,
    pixel_dtype,
)
from onepass.extract.pixels.deep import FULL_DEPTH
from onepass.features.errors import BackboneError, OptionError, opt
from onepass.features.progress import log, phase
from onepass.features.spec import Spec, require_equal_specs


def load_backbone(
    name: str = BUNDLED,
    *,
    weights: str | Path = "imagenet",
    image_size: int | None = None,
    resize: str = "squash",
    depth: int | str = FULL_DEPTH,
    pooling: str = "avg",
    precision: str = "auto",
    engine: str = "auto",
    batch_size: int = BATCH_SIZE,
) -> Backbone:
    """Makes a backbone ready, from the cache of converted ones where it can.

    Args:
        name: Catalogue name (`onepass backbones` lists them), or a path that ends in `.keras`. With @ and
            a layer's name behind it, rows are what that layer gives: `resnet50@conv4_block6_out`.
        weights: "imagenet", or a `.weights.h5` or `.h5` file.
        image_size: Input side, pixels; by default the network's own.
        resize: squash, crop, pad, or keras (the pixels of `image_dataset_from_directory`).
        depth: Bits in use of images with 16 bits per value, 1 to 16: microscopes often use 12.
        pooling: avg, max or flatten.
        precision: float32, bfloat16, int8, or auto: bfloat16 where the processor has it natively. An
            int8 backbone gives rows once `calibrated` has seen the user's images.
        engine: openvino, tensorflow, or auto: tensorflow where there is a GPU.
        batch_size: Images per step of the TensorFlow engine.

    Raises:
        OptionError: A value is unknown or does not go with another one.
        BackboneError: The backbone cannot be built or run here.
        WeightsError: Its weights cannot be had.

    >>> backbone = load_backbone("mine.keras", precision="float32")
    >>> backbone.spec.image_size, backbone.spec.width
    (32, 8)
    """
    check_backbone(
        name,
        weights=weights,
        image_size=image_size,
        resize=resize,
        depth=depth,
        pooling=pooling,
        precision=precision,
        engine=engine,
        batch_size=batch_size,
    )
    depth = checked_depth(depth, resize)
    parsed = BackboneName.parse(name)
    own = parsed.own
    network = str(Path(parsed.network).resolve()) if own else parsed.network
    source = Source(str(BackboneName(network, parsed.layer)), _resolved(weights))
    size = _image_size(parsed, image_size)
    pixels = pixel_dtype(resize)
    engine = choose_engine(engine, precision)
    precision = choose_precision(precision, engine)
    log.info("engine %s, precision %s, %d px, resize %s, pooling %s", engine, precision, size, resize, pooling)

    def spec(facts: BuiltBackbone | CompiledBackbone) -> Spec:
        return Spec(
            backbone=parsed.label,
            weights=weights_label(source),
            weights_hash=facts.weights_hash,
            image_size=size,
            resize=resize,
            decode=decode_rule(resize, depth),
            pooling=pooling,
            precision=precision,
            width=facts.width,
        )

    if engine == "openvino":
        converted = _converted(source, size, pooling, pixels)
        return on_openvino(spec(converted), source, converted)
    if own and precision == "bfloat16":
        raise OptionError(f"a .keras file keeps its own precision in TensorFlow; use {opt.precision('float32')}.")
    strategy = choose_strategy()
    built = build_backbone(
        source.name,
        weights=source.weights,
        image_size=size,
        pooling=pooling,
        precision=precision,
        pixels=pixels,
        strategy=strategy,
    )

    def make() -> Engine:
        return TensorFlowEngine(built.model, batch_size=batch_size, strategy=strategy)

    return Backbone(spec(built), source, make, engine_name=engine)


def check_backbone(
    name: str = BUNDLED,
    *,
    weights: str | Path = "imagenet",
    image_size: int | None = None,
    resize: str = "squash",
    depth: int | str = FULL_DEPTH,
    pooling: str = "avg",
    precision: str = "auto",
    engine: str = "auto",
    batch_size: int = BATCH_SIZE,
) -> None:
    """Refuses settings of `load_backbone` that are wrong whatever the network is; nothing is read or built.

    Raises:
        OptionError, UnknownBackboneError: A value is unknown, out of range, or does not go with another one.
        BackboneError, WeightsError: The `.keras` or weights file is missing.
    """
    check_choices(resize=(resize, RESIZES), pooling=(pooling, POOLINGS))
    check_choices(engine=(engine, ENGINES), precision=(precision, PRECISIONS))
    checked_depth(1 if depth == "data" else depth, resize)
    if batch_size < 1:
        raise OptionError(f"{opt.batch_size} is {batch_size}; needed: at least 1.", batch_size=batch_size)
    if image_size is not None and not 8 <= image_size <= 4096:
        raise OptionError(f"{opt.image_size} is {image_size}; needed: 8 to 4096 pixels.", image_size=image_size)
    if precision == "int8" or engine != "auto":
        choose_engine(engine, precision)
    parsed = BackboneName.parse(name)
    if not parsed.own:
        find_entry(parsed.network)
    elif weights != "imagenet":
        raise OptionError(f"{opt.weights} does not go with a .keras file, which brings its own weights.")
    elif not Path(parsed.network).is_file():
        raise BackboneError(f"there is no backbone file {parsed.network}.", path=parsed.network)
    check_running(weights=weights)


def load_backbone_for(spec: Spec, *, source: Source, engine: str = "auto", needed_by: str) -> Backbone:
    """The backbone that computes rows of a given spec, for images that come later.

    Args:
        spec: What the rows must be.
        source: Where the backbone came from at the time of extraction.
        engine: openvino, tensorflow or auto.
        needed_by: Who needs it, for messages: a head's file name.

    Raises:
        SpecMismatchError: What the source gives now is not what it gave then.
        BackboneError: The backbone cannot be built or run here, or its int8 graph is not in the cache.
    """
    require_decode_rule(spec, needed_by)
    if choose_engine(engine, spec.precision) == "openvino":
        if found := find_converted(spec):
            return on_openvino(spec, source, found)
        if spec.calibration:
            raise BackboneError(missing_graph(spec, needed_by))
    backbone = load_backbone(
        source.name,
        weights=source.weights,
        image_size=spec.image_size,
        resize=spec.resize,
        depth=depth_of(spec.decode),
        pooling=spec.pooling,
        precision=spec.precision,
        engine=engine,
    )
    require_same_backbone(backbone.spec, spec, needed_by)
    return backbone


def require_decode_rule(spec: Spec, needed_by: str) -> None:
    """Refuses rows of images that were decoded by a rule of another version.

    Raises:
        BackboneError: With both rules.
    """
    rule = decode_rule(spec.resize, depth_of(spec.decode))
    if spec.decode != rule:
        raise BackboneError(
            f"{needed_by} needs images decoded by the rule {spec.decode}; this onepass decodes by {rule}. "
            "Extract and train again, or install the onepass that wrote it."
        )


def require_same_backbone(found: Spec, needed: Spec, needed_by: str) -> None:
    """Refuses a backbone whose rows are not those of a spec.

    Raises:
        SpecMismatchError: With both side by side.
    """
    require_equal_specs(
        found,
        needed,
        left_name="the backbone found here",
        right_name=needed_by,
        remedy=f"Give the weights it was trained with by {opt.weights}.",
    )


def weights_label(source: Source) -> str:
    """How a spec calls the weights of a source: own, imagenet, or the name of their file."""
    if BackboneName.parse(source.name).own:
        return "own"
    return "imagenet" if source.weights == "imagenet" else Path(source.weights).name


def on_openvino(spec: Spec, source: Source, converted: CompiledBackbone) -> Backbone:
    """The backbone of a converted graph; an int8 one only gives rows if the graph is calibrated."""

    def make() -> Engine:
        if spec.precision == "int8" and not spec.calibration:
            raise OptionError(
                f"{spec.backbone} in int8 is not calibrated yet; needed: "
                "calibrated(backbone, files) with images of the kind it is for."
            )
        return OpenVINOEngine(converted.graph, image_size=spec.image_size, precision=spec.precision)

    return Backbone(spec, source, make, engine_name="openvino", converted=converted)


def find_converted(spec: Spec) -> CompiledBackbone | None:
    """The graph in the cache that computes rows of this spec."""
    return compiled.find_by_facts(
        spec.backbone,
        spec.weights_hash,
        spec.image_size,
        spec.pooling,
        pixels=pixel_dtype(spec.resize),
        calibration=spec.calibration,
    )


def missing_graph(spec: Spec, needed_by: str) -> str:
    """What to tell a user whose cache does not hold the quantised graph that a spec names."""
    return (
        f"{needed_by} needs {spec.backbone} in int8 as calibrated then ({spec.calibration}), and {cache_folder()} does "
        f"not hold it. Copy the folder *-int8-{spec.calibration} there from the cache of the machine that extracted "
        "($ONEPASS_CACHE, or ~/.cache/onepass), or extract again to another file and train on that."
    )


def _converted(source: Source, size: int, pooling: str, pixels: str) -> CompiledBackbone:
    label = BackboneName.parse(source.name).label
    key = compiled.cache_key(label, _weights_source(source), size, pooling, pixels)
    if found := compiled.find_by_key(key):
        log.info("converted network found in %s", found.folder)
        return found
    if stored := store_without_tensorflow(key, source, image_size=size, pooling=pooling, pixels=pixels):
        return stored
    with phase(f"building {label}"):
        built = build_backbone(source.name, weights=source.weights, image_size=size, pooling=pooling, pixels=pixels)
    facts = CompiledBackbone(Path(), label, built.weights_hash, size, pooling, built.width, pixels)
    with phase(f"converting {label}"):
        return compiled.store_converted(key, built.model, facts)


def _weights_source(source: Source) -> str:
    name = BackboneName.parse(source.name)
    if name.own:
        return file_hash(Path(name.network))
    if source.weights != "imagenet":
        return file_hash(Path(source.weights))
    return f"{PACKAGE} {version(PACKAGE)}" if name.network == BUNDLED else "imagenet"


def _image_size(name: BackboneName, image_size: int | None) -> int:
    return default_image_size(name) if image_size is None else image_size


def _resolved(weights: str | Path) -> str:
    return "imagenet" if weights == "imagenet" else str(Path(weights).resolve())
