"""Makes a backbone ready: from the cache of converted ones where it can, or built anew."""

from pathlib import Path

from onepass.extract.backbones import openvino_cache as compiled
from onepass.extract.backbones.backbone import BATCH_SIZE, Backbone
from onepass.extract.backbones.build import BuiltBackbone, build_backbone, keras_reference
from onepass.extract.backbones.catalogue import BUNDLED, BackboneName
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
from onepass.extract.backbones.options import BackboneOrigin, check_choices, check_running
from onepass.extract.backbones.preprocess_files import read_preprocess
from onepass.extract.backbones.proof import Proof, prove, require_proof
from onepass.extract.backbones.provider import MAP_POOLINGS, Asked, Conversion, GraphProvider
from onepass.extract.backbones.providers import provider_of
from onepass.extract.machine import cache_folder
from onepass.extract.pixels.decode import checked_depth, decode_rule, depth_of, pixel_dtype
from onepass.extract.pixels.deep import FULL_DEPTH
from onepass.features.errors import BackboneError, OptionError, opt
from onepass.features.preprocess import Preprocess, ResizeRule
from onepass.features.progress import log, phase
from onepass.features.spec import TOKEN_POOLINGS, Spec, require_equal_specs

POOLINGS = (*MAP_POOLINGS, *TOKEN_POOLINGS, "pooled")


def load_backbone(
    name: str = BUNDLED,
    *,
    weights: str | Path = "imagenet",
    image_size: int | None = None,
    resize: str | None = None,
    depth: int | str = FULL_DEPTH,
    pooling: str | None = None,
    precision: str = "auto",
    engine: str = "auto",
    batch_size: int = BATCH_SIZE,
    preprocess: str | Path | Preprocess | None = None,
) -> Backbone:
    """Makes a backbone ready, from the cache of converted ones where it can.

    Args:
        name: Catalogue name (`onepass backbones` lists them); a `.keras` or `.onnx` file; a folder of transformers; or
            `hf:owner/name`, `keras-hub:preset`, `timm:name`. With @ and a layer's name behind it, rows are what that
            layer gives: `resnet50@conv4_block6_out`; of an ONNX file, what the output of that name gives.
        weights: "imagenet" for the network's own; a `.weights.h5` or `.h5` file for one of the catalogue, a
            `.safetensors` file for one of timm.
        image_size: Input side, pixels; by default the network's own.
        resize: squash, crop, pad, keras (the pixels of `image_dataset_from_directory`), native (what the network was
            trained with), or a rule such as shortest256-bicubic; by default native where that is known, else squash.
        depth: Bits in use of images with 16 bits per value, 1 to 16: microscopes often use 12.
        pooling: avg, max or flatten of a feature map; cls, mean, cls+mean or last4 of tokens; pooled: the network's own
            vector. By default the network's own way. Several with commas are for `run_extraction`: rows lie one
            after the other, and `Backbone.apart` gives a backbone for each.
        precision: float32, bfloat16, int8, or auto: bfloat16 where the processor has it natively. An
            int8 backbone gives rows once `calibrated` has seen the user's images.
        engine: openvino, tensorflow, or auto: tensorflow where there is a GPU.
        batch_size: Images per step of the TensorFlow engine.
        preprocess: What happens to an image before a network that does not say so itself, or a JSON file of it: ours,
            `preprocessor_config.json` of transformers, or timm's `config.json`.

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
        preprocess=preprocess,
    )
    wanted = conversion_of(
        name, weights=weights, image_size=image_size, resize=resize, pooling=pooling, preprocess=preprocess
    )
    facts, made = wanted.facts, wanted.preprocess
    source = BackboneOrigin(str(wanted.name), wanted.weights)
    depth = checked_depth(depth, made.resize)
    engine = _engine_for(wanted.name, engine, precision)
    precision = choose_precision(precision, engine)
    log.info("engine %s, precision %s, %s, pooling %s", engine, precision, made, wanted.pooling)

    def spec(found: BuiltBackbone | CompiledBackbone) -> Spec:
        return Spec(
            backbone=facts.label,
            weights=facts.weights,
            weights_hash=found.weights_hash,
            image_size=made.size,
            resize=made.resize,
            decode=decode_rule(made.resize, depth),
            pooling=wanted.pooling,
            precision=precision,
            width=found.width,
            preprocess=made,
            provider=facts.provider,
            licence=facts.licence,
        )

    if engine == "openvino":
        converted = _converted(wanted)
        return on_openvino(spec(converted), source, converted, widths=converted.widths)
    if wanted.name.own and precision == "bfloat16":
        raise OptionError(f"a .keras file keeps its own precision in TensorFlow; use {opt.precision('float32')}.")
    strategy = choose_strategy()
    built = build_backbone(
        source.name,
        weights=source.weights,
        image_size=made.size,
        pooling=wanted.pooling,
        precision=precision,
        pixels=wanted.pixels,
        preprocess=made,
        strategy=strategy,
    )

    def make() -> Engine:
        return TensorFlowEngine(built.model, batch_size=batch_size, strategy=strategy)

    return Backbone(spec(built), source, make, engine_name=engine, widths=built.widths)


def conversion_of(
    name: str,
    *,
    weights: str | Path,
    image_size: int | None,
    resize: str | None,
    pooling: str | None,
    preprocess: str | Path | Preprocess | None,
) -> Conversion:
    """The graph that settings of `load_backbone` ask for; arguments and errors as there."""
    parsed = BackboneName.parse(name)
    provider = provider_of(parsed)
    parsed, own = provider.resolved(parsed), _resolved(weights)
    given = read_preprocess(Path(preprocess)) if isinstance(preprocess, str | Path) else preprocess
    facts = provider.describe(Asked(parsed, own, image_size, given))
    made = facts.preprocess_for(resize, image_size)
    return Conversion(parsed, own, facts, made, facts.pooling_for(pooling), pixel_dtype(made.resize))


def _engine_for(name: BackboneName, engine: str, precision: str) -> str:
    """`choose_engine` for a network, of which OpenVINO alone runs those that are graphs.

    Raises:
        OptionError: Another engine is asked of such a graph, or int8 of TensorFlow.
    """
    if not isinstance(provider_of(name), GraphProvider):
        return choose_engine(engine, precision)
    if engine == "tensorflow":
        raise OptionError(f"{name.label} is a graph that OpenVINO alone runs; leave {opt.engine('tensorflow')} out.")
    return "openvino"


def check_backbone(
    name: str = BUNDLED,
    *,
    weights: str | Path = "imagenet",
    image_size: int | None = None,
    resize: str | None = None,
    depth: int | str = FULL_DEPTH,
    pooling: str | None = None,
    precision: str = "auto",
    engine: str = "auto",
    batch_size: int = BATCH_SIZE,
    preprocess: str | Path | Preprocess | None = None,
) -> None:
    """Refuses settings of `load_backbone` that are wrong whatever the network is; nothing is read or built.

    Raises:
        OptionError, UnknownBackboneError: A value is unknown, out of range, or does not go with another one.
        BackboneError, WeightsError: The `.keras` or weights file is missing.
    """
    if resize not in (None, "native"):
        ResizeRule.parse(str(resize))
    _check_poolings(pooling, precision)
    check_choices(engine=(engine, ENGINES), precision=(precision, PRECISIONS))
    checked_depth(1 if depth == "data" else depth, resize or "squash")
    if batch_size < 1:
        raise OptionError(f"{opt.batch_size} is {batch_size}; needed: at least 1.", batch_size=batch_size)
    if image_size is not None and not 8 <= image_size <= 4096:
        raise OptionError(f"{opt.image_size} is {image_size}; needed: 8 to 4096 pixels.", image_size=image_size)
    parsed = BackboneName.parse(name)
    if precision == "int8" or engine != "auto":
        _engine_for(parsed, engine, precision)
    provider_of(parsed).check(parsed, str(weights))
    check_running(weights=weights)
    if isinstance(preprocess, str | Path):
        read_preprocess(Path(preprocess))


def _check_poolings(pooling: str | None, precision: str) -> None:
    poolings = [] if pooling is None else pooling.split(",")
    for one in poolings:
        check_choices(pooling=(one, POOLINGS))
    if len(set(poolings)) < len(poolings):
        raise OptionError(f"{opt.pooling} is {pooling}; needed: each pooling once.", pooling=pooling)
    if len(poolings) > 1 and precision == "int8":
        raise OptionError(
            f"{opt.precision('int8')} goes with one {opt.pooling} at a time, because each is calibrated by itself; got "
            f"{pooling}.",
            pooling=pooling,
        )


def load_backbone_for(spec: Spec, *, source: BackboneOrigin, engine: str = "auto", needed_by: str) -> Backbone:
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
    if _engine_for(BackboneName.parse(source.name), engine, spec.precision) == "openvino":
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
        preprocess=spec.preprocess,
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


def on_openvino(
    spec: Spec, source: BackboneOrigin, converted: CompiledBackbone, *, widths: tuple[int, ...] = ()
) -> Backbone:
    """The backbone of a converted graph; an int8 one only gives rows if the graph is calibrated."""

    def make() -> Engine:
        if spec.precision == "int8" and not spec.calibration:
            raise OptionError(
                f"{spec.backbone} in int8 is not calibrated yet; needed: "
                "calibrated(backbone, files) with images of the kind it is for."
            )
        return OpenVINOEngine(converted.graph, image_size=spec.image_size, precision=spec.precision)

    return Backbone(spec, source, make, engine_name="openvino", converted=converted, widths=widths)


def find_converted(spec: Spec) -> CompiledBackbone | None:
    """The graph in the cache that computes rows of this spec."""
    return compiled.find_by_facts(
        spec.backbone,
        spec.weights_hash,
        spec.image_size,
        spec.pooling,
        pixels=pixel_dtype(spec.resize),
        arithmetic=compiled.arithmetic_key(spec.provider, spec.preprocess),
        calibration=spec.calibration,
    )


def missing_graph(spec: Spec, needed_by: str) -> str:
    """What to tell a user whose cache does not hold the quantised graph that a spec names."""
    return (
        f"{needed_by} needs {spec.backbone} in int8 as calibrated then ({spec.calibration}), and {cache_folder()} does "
        f"not hold it. Copy the folder *-int8-{spec.calibration} there from the cache of the machine that extracted "
        "($ONEPASS_CACHE, or ~/.cache/onepass), or extract again to another file and train on that."
    )


def _converted(wanted: Conversion) -> CompiledBackbone:
    facts, size, pooling, pixels = wanted.facts, wanted.preprocess.size, wanted.pooling, wanted.pixels
    arithmetic = compiled.arithmetic_key(facts.provider, wanted.preprocess)
    key = compiled.cache_key(facts.label, facts.origin, size, pooling, pixels, arithmetic)
    if found := compiled.find_by_key(key):
        log.info("converted network found in %s", found.folder)
        return found
    if stored := store_without_tensorflow(key, wanted):
        return stored

    def kept(digest: str, widths: tuple[int, ...], proof: Proof | None) -> CompiledBackbone:
        return CompiledBackbone(
            Path(),
            facts.label,
            digest,
            size,
            pooling,
            sum(widths),
            pixels,
            arithmetic=arithmetic,
            proof=require_proof(proof, facts.label) if proof else None,
            widths=widths if len(widths) > 1 else (),
        )

    provider, comparing = provider_of(wanted.name), phase(f"comparing {facts.label} with its own framework")
    if isinstance(provider, GraphProvider):

        def write(graph: Path) -> CompiledBackbone:
            found = provider.convert(wanted, graph)
            with comparing:
                return kept(*found, provider.proof(wanted, graph))

        with phase(f"converting {facts.label}"):
            return compiled.store(key, write)
    with phase(f"building {facts.label}"):
        built = build_backbone(
            str(wanted.name),
            weights=wanted.weights,
            image_size=size,
            pooling=pooling,
            pixels=pixels,
            preprocess=wanted.preprocess,
        )

    def export(graph: Path) -> CompiledBackbone:
        compiled.export_keras(built.model, graph)
        compiled.keep_stem_precise(graph)
        with comparing:
            return kept(
                built.weights_hash, built.widths, prove(graph, wanted.preprocess, keras_reference(built, wanted))
            )

    with phase(f"converting {facts.label}"):
        return compiled.store(key, export)


def _resolved(weights: str | Path) -> str:
    return "imagenet" if weights == "imagenet" else str(Path(weights).resolve())
