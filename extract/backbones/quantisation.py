"""int8 backbones: a converted graph quantised after training, its ranges measured on the user's own images."""

import contextlib
import hashlib
import io
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from onepass.extract.backbones import openvino_cache as compiled
from onepass.extract.backbones.backbone import Backbone
from onepass.extract.backbones.engines import OpenVINOEngine
from onepass.extract.backbones.golden import golden_images
from onepass.extract.backbones.load import find_converted, missing_graph, on_openvino
from onepass.extract.backbones.openvino_cache import CompiledBackbone, Quantisation
from onepass.extract.frameworks import import_nncf, import_openvino
from onepass.extract.pixels.image_bytes import ImageFile, read_bytes
from onepass.features.drift import cosines
from onepass.features.errors import BackboneError, DataError, OptionError, UnreadableImageError, opt
from onepass.features.progress import phase
from onepass.features.spec import Spec

CALIBRATION_IMAGES = 100
"""Images whose activations are measured.

200 take twice the time for a mean cosine to the float32 rows that is the same on trashnet (0.9983) and higher by
0.0006 to 0.0007 on cats and dogs.
"""

COMPARED_IMAGES = 64
"""Images whose int8 rows are compared with their float32 rows."""

_SETTINGS = {"preset": "performance", "fast_bias_correction": True, "float32": "stem"}
"""Symmetric ranges, and the same two first convolutions in float32 as under bfloat16.

These two lift the cosine to the float32 rows (100 photos for calibration, 200 others) from 0.9959, lowest
0.9753, to 0.9980, 0.9882 on ResNet50, and from 0.9847, 0.9554 to 0.9943, 0.9845 on MobileNetV2. Asymmetric
ranges gain nothing there; layer-by-layer bias correction helps MobileNetV2 as much as the two do, at three
times the time, and takes 0.002 from ResNet50.
"""


_OF_TRANSFORMERS = {"preset": "mixed", "model_type": "transformer", "smooth_quant_alpha": 0.5}
"""What differs for graphs with attention: NNCF leaves in float32 what it knows to be sensitive there, and activations
around 0 have asymmetric ranges, as it does by itself.

Alpha says how far outliers move from activations into weights (G. Xiao et al. 2022, SmoothQuant, whose value this is);
NNCF's own 0.95 loses more. benchmarks/transformers.py has the cosines.
"""


def calibrated(
    backbone: Backbone,
    files: Sequence[tuple[bytes, ImageFile]],
    *,
    calibration: str = "",
    needed_by: str = "this command",
) -> Backbone:
    """The same int8 backbone, ready to give rows: from the cache, or else quantised now.

    Args:
        backbone: From `load_backbone(precision="int8")`.
        files: (content hash, path) of images of the kind it is for, in any order. Leave test images out.
        calibration: That of rows which exist already, if new ones are to stand beside them.
        needed_by: Where these rows are, for messages.

    Raises:
        OptionError: The backbone is not an int8 one.
        BackboneError: NNCF is not installed, or the graph of `calibration` is neither in the cache
            nor what these images give.
        DataError: No image can be read.
    """
    converted = backbone.converted
    if backbone.spec.precision != "int8" or converted is None:
        raise OptionError(f"a backbone in {backbone.spec.precision} needs no calibration; load it with int8.")
    if calibration:
        wanted = replace(backbone.spec, calibration=calibration)
        if found := find_converted(wanted):
            return on_openvino(wanted, backbone.source, found)
    # By a hash of the content, so that the choice depends neither on names nor on order.
    ranked = sorted(dict(files).items(), key=lambda file: _rank(file[0]))
    settings = _settings(converted.graph)
    spec = replace(backbone.spec, calibration=_calibration(backbone.spec, ranked[:CALIBRATION_IMAGES], settings))
    if calibration and calibration != spec.calibration:
        raise BackboneError(missing_graph(wanted, needed_by))
    key = f"{converted.folder.name}-int8-{spec.calibration}"
    with phase(f"calibrating {backbone.spec.backbone} in int8"):
        found = compiled.find_by_key(key) or _quantise(key, backbone, converted, spec.calibration, ranked)
    return on_openvino(spec, backbone.source, found)


def _rank(content: bytes) -> bytes:
    return hashlib.blake2b(content, key=b"calibration", digest_size=16).digest()


def _settings(graph: Path) -> dict[str, Any]:
    return _SETTINGS | _OF_TRANSFORMERS if compiled.has_attention(graph) else _SETTINGS


def _calibration(spec: Spec, sample: list[tuple[bytes, ImageFile]], settings: dict[str, Any]) -> str:
    versions = [import_nncf().__version__, version("openvino")]
    facts = [sorted(content.hex() for content, _ in sample), spec.resize, spec.decode, settings, versions]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _quantise(
    key: str, backbone: Backbone, converted: CompiledBackbone, calibration: str, ranked: list[tuple[bytes, ImageFile]]
) -> CompiledBackbone:
    """Quantises a graph, compares it with the float32 one, and keeps it with what came out."""
    started = time.perf_counter()
    images = _readable(backbone, ranked[:CALIBRATION_IMAGES])
    unseen = _readable(backbone, ranked[CALIBRATION_IMAGES:][:COMPARED_IMAGES])
    if not images:
        raise DataError(
            f"int8 is calibrated on images, and none of the {len(ranked[:CALIBRATION_IMAGES])} chosen for it could be "
            f"read. Replace them, or use {opt.precision('float32')} or bfloat16."
        )
    compared = (unseen + images)[:COMPARED_IMAGES]
    model = _quantised_model(converted, images)

    def write(graph: Path) -> CompiledBackbone:
        import_openvino().save_model(model, graph, compress_to_fp16=False)
        both = compared + [backbone.pixels(data) for data in golden_images()]
        sample, golden = np.split(
            cosines(_rows(graph, "int8", both), _rows(converted.graph, "float32", both)), [len(compared)]
        )
        quantisation = Quantisation(
            calibration=calibration,
            images=len(images),
            seconds=round(time.perf_counter() - started, 3),
            cosine_mean=float(sample.mean()),
            cosine_min=float(sample.min()),
            sample=len(compared),
            golden_min=float(golden.min()),
        )
        return replace(converted, quantisation=quantisation)

    return compiled.store(key, write)


def _readable(backbone: Backbone, files: list[tuple[bytes, ImageFile]]) -> list[np.ndarray]:
    """Pixels of the files that are images; the pass over the folder reports the others."""

    def pixels(path: ImageFile) -> np.ndarray | None:
        with contextlib.suppress(UnreadableImageError):
            return backbone.pixels(read_bytes(path))
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        read = pool.map(pixels, [path for _, path in files])
        return [image for image in read if image is not None]


def _quantised_model(converted: CompiledBackbone, images: list[np.ndarray]) -> Any:
    nncf = import_nncf()
    model = import_openvino().Core().read_model(converted.graph)
    model.reshape([1, *images[0].shape])
    settings = _settings(converted.graph)
    further: dict[str, Any] = {}
    if "model_type" in settings:
        smooth = nncf.AdvancedSmoothQuantParameters(matmul=settings["smooth_quant_alpha"])
        further["model_type"] = nncf.ModelType(settings["model_type"])
        further["advanced_parameters"] = nncf.AdvancedQuantizationParameters(smooth_quant_alphas=smooth)
    with contextlib.redirect_stdout(io.StringIO()):  # NNCF draws progress bars
        return nncf.quantize(
            model,
            nncf.Dataset(images, lambda image: image[None]),
            preset=nncf.QuantizationPreset(settings["preset"]),
            fast_bias_correction=settings["fast_bias_correction"],
            subset_size=len(images),
            **further,
            ignored_scope=nncf.IgnoredScope(names=compiled.stem(converted.graph)),
        )


def _rows(graph: Path, precision: str, images: list[np.ndarray]) -> np.ndarray:
    engine = OpenVINOEngine(graph, image_size=images[0].shape[0], precision=precision)
    return np.stack([row for _, row in sorted(engine.run(enumerate(images)), key=lambda pair: pair[0])])
