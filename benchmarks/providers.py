"""How close rows of networks from elsewhere come to those of their own framework.

    python benchmarks/providers.py onnx PHOTOS WEIGHTS [--count 32]
    python benchmarks/providers.py timm PHOTOS [NETWORK...] [--count 12]

onnx: MobileNet, MobileNetV2 and ResNet50 of Keras with the pretrained weights in the folder WEIGHTS, written as ONNX
files that take NCHW; their rows against onnxruntime and against Keras. Result: results/providers-onnx.json.

timm (needs the extra torch): networks with random weights, as timm and PyTorch compute them, against ours; and the
pixels of timm's own transform against those of our rule. Rows of random networks may be alike whatever the photo
shows, so differences are also given as a share of what tells photos apart. Result: results/providers-timm.json.
"""

import argparse
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, versions, write_result

from onepass.extract import find_images, load_backbone, machine
from onepass.extract.backbones.catalogue import find_entry
from onepass.extract.backbones.keras_applications import arithmetic
from onepass.extract.frameworks import import_keras
from onepass.features.preprocess import Preprocess

KERAS = {
    "mobilenet_0.25": "mobilenet_0.25_224_notop.weights.h5",
    "mobilenetv2": "mobilenetv2_1.0_224_notop.weights.h5",
    "resnet50": "resnet50_imagenet_notop.weights.h5",
}

TIMM = (
    "mobilenetv4_conv_small.e2400_r224_in1k",
    "convnextv2_atto.fcmae_ft_in1k",
    "fastvit_t8.apple_in1k",
    "efficientvit_b0.r224_in1k",
    "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "vit_small_patch14_dinov2.lvd142m",
    "vit_small_patch14_reg4_dinov2.lvd142m",
    "vit_small_patch16_dinov3.lvd1689m",
    "deit_tiny_distilled_patch16_224.fb_in1k",
    "swin_tiny_patch4_window7_224.ms_in22k_ft_in1k",
    "eva02_tiny_patch14_224.mim_in22k",
    "resnet18.a1_in1k",
    "regnety_002.pycls_in1k",
    "efficientnet_b0.ra_in1k",
    "vit_base_patch16_siglip_224.webli",
)


def lowest_cosine(rows: np.ndarray, others: np.ndarray) -> float:
    rows, others = rows.astype(np.float64), others.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(others, axis=1)
    return float(((rows * others).sum(axis=1) / lengths).min())


def onnx_rows(photos: Sequence[Path], weights: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Networks, and the lowest cosine of their rows to onnxruntime and to Keras."""
    for name, file in KERAS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.onnx"
            known = arithmetic(find_entry(name), 224)
            _write_onnx(name, weights / file, path)
            path.with_suffix(".preprocess.json").write_text(json.dumps(dataclasses.asdict(known)))
            ours = load_backbone(str(path), precision="float32")
            theirs = load_backbone(name, weights=weights / file, precision="float32", engine="tensorflow")
            rows, keras = ours.rows_of(photos), theirs.rows_of(photos)
            pixels = np.stack([ours.pixels(photo.read_bytes()) for photo in photos])
            run = _by_onnxruntime(path, known, pixels)
        yield (
            name,
            {
                "photos": len(photos),
                "width": ours.spec.width,
                "lowest_cosine_to_onnxruntime": lowest_cosine(rows, run),
                "lowest_cosine_to_keras": lowest_cosine(rows, keras),
            },
        )


def _write_onnx(name: str, weights: Path, path: Path) -> None:
    import tensorflow as tf
    import tf2onnx

    entry, keras = find_entry(name), import_keras()
    model = getattr(keras.applications, entry.factory)(
        include_top=False, weights=None, input_shape=(224, 224, 3), **entry.options
    )
    model.load_weights(weights)
    signature = [tf.TensorSpec((None, 224, 224, 3), tf.float32, name="images")]
    function = tf.function(lambda images: model(images, training=False), input_signature=signature)
    tf2onnx.convert.from_function(
        function, input_signature=signature, opset=17, inputs_as_nchw=["images"], output_path=str(path)
    )


def _by_onnxruntime(path: Path, known: Preprocess, pixels: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    values = known.normalised(pixels).astype(np.float32).transpose(0, 3, 1, 2)
    maps = np.concatenate([session.run(None, {name: one[None]})[0] for one in values])
    return np.asarray(maps.mean(axis=(1, 2)))  # the images are NCHW, but tf2onnx leaves the output as NHWC


def timm_rows(photos: Sequence[Path], networks: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Networks, the lowest cosine of their rows by each pooling, and the largest difference of pixels."""
    for name in networks:
        try:
            yield name, _one_of_timm(name, photos)
        except Exception as error:  # which is a result too
            yield name, {"failed": f"{type(error).__name__}: {error}"[:300]}


def _one_of_timm(name: str, photos: Sequence[Path]) -> dict[str, Any]:
    import timm
    import torch
    from PIL import Image
    from safetensors.torch import save_model

    model = timm.create_model(name, pretrained=False)
    config = timm.data.resolve_data_config(pretrained_cfg=model.pretrained_cfg)
    transform = timm.data.create_transform(**config, is_training=False)
    seen = torch.stack([transform(Image.open(photo).convert("RGB")) for photo in photos])
    _randomise(model, seen)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "model.safetensors"
        save_model(model, str(weights))
        began = time.process_time()
        ours = load_backbone(f"timm:{name}", weights=weights, precision="float32")
        seconds = time.process_time() - began
        with torch.no_grad():
            features = model.forward_features(seen)
            rows = {"pooled": model.forward_head(features, pre_logits=True).numpy()}
            rows |= _rows_by_hand(model, features)
        pixels = np.stack([ours.pixels(photo.read_bytes()) for photo in photos])
        own = seen.numpy().transpose(0, 2, 3, 1) * np.array(config["std"]) + np.array(config["mean"])
        alike, apart = {}, {}
        for pooling, wanted in rows.items():
            backbone = load_backbone(f"timm:{name}", weights=weights, precision="float32", pooling=pooling)
            found = backbone.rows_of(photos)
            alike[pooling] = lowest_cosine(found, wanted)
            apart[pooling] = float(np.abs(found - wanted).max() / np.abs(wanted - wanted.mean(axis=0)).max())
    return {
        "photos": len(photos),
        "preprocess": str(ours.spec.preprocess),
        "width": ours.spec.width,
        "licence": ours.spec.licence,
        "lowest_cosine": alike,
        "largest_difference_by_that_of_photos": apart,
        "largest_difference_of_pixels": float(np.abs(own * 255 - pixels).max()),
        "cpu_seconds_to_convert": round(seconds, 1),
    }


def _randomise(model: Any, seen: Any) -> None:
    """Numbers that hide no mistake and let rows tell photos apart: norms and biases that start as ones and zeros are
    drawn, and batch norms get the moments of these photos.
    """
    import torch

    torch.manual_seed(0)
    for name, values in model.named_parameters():
        if values.ndim == 1 and name.endswith("bias"):
            torch.nn.init.normal_(values, 0.0, 0.1)
        elif values.ndim == 1:
            torch.nn.init.uniform_(values, 0.5, 1.5)
    for part in model.modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            part.momentum = None  # the mean over all that comes
    with torch.no_grad():
        model.train()(seen)
    model.eval()


def _rows_by_hand(model: Any, features: Any) -> dict[str, np.ndarray]:
    values = features.numpy()
    if values.ndim == 4:
        axes = (1, 2) if getattr(model, "output_fmt", "NCHW") == "NHWC" else (2, 3)
        return {"avg": values.mean(axis=axes), "max": values.max(axis=axes)}
    mean = values[:, model.num_prefix_tokens :].mean(axis=1)
    if getattr(model, "cls_token", None) is None:
        return {"mean": mean}
    return {"cls+mean": np.concatenate([values[:, 0], mean], axis=1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("provider", choices=["onnx", "timm"])
    parser.add_argument("photos", type=Path)
    parser.add_argument("more", nargs="*", help="the folder of weights, or names of networks")
    parser.add_argument("--count", type=int, default=12)
    arguments = parser.parse_args()
    files = sorted(find_images([arguments.photos]))
    photos = files[:: max(1, len(files) // arguments.count)][: arguments.count]
    found = (
        onnx_rows(photos, Path(arguments.more[0]))
        if arguments.provider == "onnx"
        else timm_rows(photos, arguments.more or TIMM)
    )
    packages = {"onnx": ("keras", "tf2onnx", "onnxruntime"), "timm": ("timm", "torch", "onnxscript")}
    name = f"providers-{arguments.provider}"
    networks = (
        json.loads((RESULTS / f"{name}.json").read_text())["networks"]
        if arguments.more and name == "providers-timm"
        else {}
    )
    with tempfile.TemporaryDirectory() as cache:
        os.environ["ONEPASS_CACHE"] = cache
        for network, facts in found:
            print(network, facts, flush=True)
            networks[network] = facts
            result = {
                "data": f"{len(photos)} photos of {arguments.photos.name}",
                "networks": networks,
                "versions": versions("onepass", "openvino", "pillow", *packages[arguments.provider]),
                "machine": machine(),
            }
            write_result(name, result)


if __name__ == "__main__":
    main()
