"""Converts catalogue backbones without TensorFlow: Keras on OpenVINO, in a process of its own.

Keras can be imported with one backend in a process, and fine-tuning needs it on TensorFlow. So another process builds
the network on OpenVINO, loads its weights and writes the graph. It does so by the same functions, channels last, so
weights, their hash, cuts and the order of a flattened row are the same. Keras then leaves a transposition on either
side of every convolution; the passes that OpenVINO applies to TensorFlow's graphs take them away again.

What is proven, and when: at every conversion a second process, at the same time, builds the same network with made-up
weights in the same way, and its rows have to be those that TensorFlow gave once (`reference_rows`). So the network, its
preprocessing and its conversion are proven with the versions and on the processor at hand. Sizes, poolings, cuts and
formats of weights files are not proven anew: they go through the same code, and tests compare some of each with
TensorFlow. What is not proven is left to TensorFlow, and so are `.keras` files, which may hold any layer.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from onepass.extract.backbones import openvino_cache as compiled
from onepass.extract.backbones.build import build_backbone
from onepass.extract.backbones.openvino_cache import CompiledBackbone
from onepass.extract.backbones.proof import Proof
from onepass.extract.backbones.provider import Conversion
from onepass.extract.backbones.reference_rows import (
    REFERENCE_SIZE,
    TOLERANCE,
    deviation,
    reference_images,
    reference_rows,
    seeded_backbone,
)
from onepass.extract.backbones.worker import TaskFailedError, Worker
from onepass.extract.frameworks import choose_keras_backend, import_openvino, plain_keras, quiet_stderr
from onepass.features.progress import log, phase

_NOT_NEEDED = ("matplotlib", "sklearn")
"""What Keras imports where it is installed, and uses for nothing that happens here."""


def store_without_tensorflow(key: str, wanted: Conversion) -> CompiledBackbone | None:
    """Converts a catalogue backbone and keeps it; see `openvino_cache.store`.

    Args:
        key: Of the entry in the cache.
        wanted: The graph.

    Returns:
        None if it has to be built with TensorFlow.

    Raises:
        BackboneError: The size does not fit, there is no such layer, or the cache cannot be written.
        WeightsError: The weights cannot be downloaded or do not fit.
    """
    name, size, pooling, pixels = wanted.name, wanted.preprocess.size, wanted.pooling, wanted.pixels
    if name.provider != "keras" or name.network not in reference_rows():
        return None

    def write(graph: Path) -> CompiledBackbone:
        settings: dict[str, Any] = {"image_size": size, "pooling": pooling, "pixels": pixels}
        with (
            Worker(convert, graph=str(graph), name=str(name), weights=wanted.weights, **settings) as converter,
            Worker(prove, quiet=True, folder=str(graph.parent), network=name.network) as prover,
        ):
            weights_hash, widths = converter.answer()
            cosine, difference = prover.answer()
        if not difference <= TOLERANCE:
            raise TaskFailedError(f"rows differ from TensorFlow's by {difference:.1e} (cosine {cosine:.6f})")
        log.info("rows of the reference images differ from TensorFlow's by %.1e of the largest number", difference)
        return CompiledBackbone(
            Path(),
            name.label,
            weights_hash,
            size,
            pooling,
            sum(widths),
            pixels,
            proof=Proof("TensorFlow's rows of this network with made-up weights", None, cosine),
            widths=tuple(widths) if len(widths) > 1 else (),
        )

    with phase(f"converting {name.label} without TensorFlow"):
        try:
            return compiled.store(key, write)
        except TaskFailedError as reason:
            log.info("%s is left to TensorFlow: %s", name.label, reason)
            return None


def convert(
    graph: str, name: str, weights: str, image_size: int, pooling: str, pixels: str
) -> tuple[str, tuple[int, ...]]:
    """Writes the graph of a backbone; returns the hash of its weights and the width of the rows of each pooling."""
    _without_tensorflow()
    built = build_backbone(name, weights=weights, image_size=image_size, pooling=pooling, pixels=pixels)
    _write_graph(built.model, Path(graph))
    compiled.keep_stem_precise(Path(graph))
    return built.weights_hash, built.widths


def prove(folder: str, network: str) -> tuple[float, float]:
    """Converts a network with made-up weights; returns how far its rows lie from TensorFlow's, as `deviation` does."""
    ov = _without_tensorflow()
    with TemporaryDirectory(dir=folder) as place:
        graph = Path(place) / "seeded.xml"
        with plain_keras():
            _write_graph(seeded_backbone(network).model, graph)
        model = ov.Core().read_model(graph)
        model.reshape([1, REFERENCE_SIZE, REFERENCE_SIZE, 3])
        run = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return deviation(network, np.concatenate([run(image[None])[0] for image in reference_images()]))


def _without_tensorflow() -> Any:
    """OpenVINO, for the rest of this process as Keras's backend as well."""
    sys.modules.update(dict.fromkeys(_NOT_NEEDED))  # type: ignore[arg-type]
    choose_keras_backend("openvino")
    return import_openvino()


def _write_graph(model: Any, graph: Path) -> None:
    """Writes a Keras model on OpenVINO as a graph whose convolutions follow each other without transpositions."""
    ov = import_openvino()
    from openvino._offline_transformations import apply_moc_transformations
    from openvino.frontend import FrontEndManager

    with TemporaryDirectory(dir=graph.parent) as place, quiet_stderr():
        exported = Path(place) / "exported.xml"
        model.export(str(exported), format="openvino", verbose=False)
        converted = ov.Core().read_model(exported)
        # Normalisations become multiplications, which transpositions can pass; then these; then what is left folds.
        apply_moc_transformations(converted, False, False)
        FrontEndManager().load_by_framework("tf").normalize(converted)
        apply_moc_transformations(converted, False, False)
        ov.save_model(converted, graph, compress_to_fp16=False)
