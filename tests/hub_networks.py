"""Small vision networks with random weights: folders as transformers writes them, presets as KerasHub writes them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SEED = 5

WIDTH, LAYERS, SIDE, PATCH = 24, 5, 32, 8

_CONFIG = {
    "model_type": "dinov2",
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 3,
    "mlp_ratio": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
    "hidden_act": "gelu",
    "qkv_bias": True,
    "layer_norm_eps": 1e-6,
    "layerscale_value": 1.0,
    "use_swiglu_ffn": False,
    "hidden_dropout_prob": 0.0,
    "drop_path_rate": 0.0,
}
_PROCESSOR = {
    "image_processor_type": "BitImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 36},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": SIDE, "width": SIDE},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
_README = "---\nlicense: apache-2.0\ntags:\n- dino\n---\n# A card\n"


def tensors() -> dict[str, np.ndarray]:
    """A DINOv2 by the names of transformers."""
    random = np.random.default_rng(3)

    def drawn(*shape: int) -> np.ndarray:
        return (random.normal(size=shape) * 0.3).astype(np.float32)

    tokens = (SIDE // PATCH) ** 2 + 1
    found = {
        "embeddings.cls_token": drawn(1, 1, WIDTH),
        "embeddings.mask_token": drawn(1, WIDTH),
        "embeddings.position_embeddings": drawn(1, tokens, WIDTH),
        "embeddings.patch_embeddings.projection.weight": drawn(WIDTH, 3, PATCH, PATCH) / 8,
        "embeddings.patch_embeddings.projection.bias": drawn(WIDTH),
        "layernorm.weight": 1 + drawn(WIDTH),
        "layernorm.bias": drawn(WIDTH),
    }
    for layer in range(LAYERS):
        start = f"encoder.layer.{layer}."
        for name in ("norm1", "norm2"):
            found |= {f"{start}{name}.weight": 1 + drawn(WIDTH), f"{start}{name}.bias": drawn(WIDTH)}
        for name in ("attention.query", "attention.key", "attention.value", "output.dense"):
            found |= {
                f"{start}attention.{name}.weight": drawn(WIDTH, WIDTH),
                f"{start}attention.{name}.bias": drawn(WIDTH),
            }
        found |= {f"{start}layer_scale{i}.lambda1": 1 + drawn(WIDTH) for i in (1, 2)}
        for name, shape in (("fc1", (2 * WIDTH, WIDTH)), ("fc2", (WIDTH, 2 * WIDTH))):
            found |= {f"{start}mlp.{name}.weight": drawn(*shape), f"{start}mlp.{name}.bias": drawn(shape[0])}
    return found


def write_dinov2(folder: Path) -> Path:
    """A folder as transformers writes it of a DINOv2 with the numbers of `tensors`; neither is needed for it."""
    from safetensors.numpy import save_file

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(_CONFIG))
    (folder / "preprocessor_config.json").write_text(json.dumps(_PROCESSOR))
    (folder / "README.md").write_text(_README)
    save_file(tensors(), folder / "model.safetensors")
    return folder


def write_transformers(kind: str, folder: Path) -> Path:
    """A folder of transformers with one of the networks of `TRANSFORMERS`, and its processor beside it."""
    _apart("write", kind, str(folder))
    return folder


def transformers_rows(folder: Path, files: list[Path]) -> dict[str, np.ndarray]:
    """What transformers gives for images: pixels, (n, s, s, 3) levels of 0..255, and rows by pooling."""
    out = folder.with_suffix(".npz")
    _apart("rows", str(folder), str(out), *map(str, files))
    with np.load(out) as found:
        return dict(found)


def _apart(*arguments: str) -> None:
    """Runs this file by itself: a process that has imported TensorFlow dies of importing torch."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "USE_TF": "0"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, *arguments], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


def _write(kind: str, folder: Path, layers: int = 5) -> None:
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    network = _jittered(torch, TRANSFORMERS[kind](transformers, layers, {}))
    network.save_pretrained(folder)
    _processor(transformers, kind).save_pretrained(folder)


def _jittered(torch: Any, network: Any) -> Any:
    """All weights moved: initial ones are 0 and 1 in places, where a wrong tensor would not be seen."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return network.eval()


_VIT = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 3, "image_size": 64, "patch_size": 16}
_DINO2 = {"hidden_size": 48, "num_attention_heads": 3, "image_size": 70, "patch_size": 14}


def _meta_clip(transformers: Any, layers: int, changes: dict[str, Any]) -> Any:
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {**_VIT, "num_hidden_layers": layers, "hidden_act": "quick_gelu"} | changes
    words = {"vocab_size": 100, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1}
    config = transformers.MetaClip2Config(
        vision_config=vision, text_config={**text, **words, "hidden_act": "quick_gelu"}, projection_dim=24
    )
    return transformers.MetaClip2Model(config)


def _model(name: str, **own: Any) -> Callable[[Any, int, dict[str, Any]], Any]:
    def make(transformers: Any, layers: int, changes: dict[str, Any]) -> Any:
        settings = own | {"num_hidden_layers": layers} | changes
        return getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**settings))

    return make


def _swin(transformers: Any, layers: int, changes: dict[str, Any]) -> Any:
    settings = {"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "image_size": 64}
    return transformers.SwinModel(transformers.SwinConfig(patch_size=4, **(settings | changes)))


TRANSFORMERS: dict[str, Callable[[Any, int, dict[str, Any]], Any]] = {
    "dinov2": _model("Dinov2", **_DINO2),
    "dinov2_with_registers": _model("Dinov2WithRegisters", **_DINO2, num_register_tokens=4),
    "dinov3_vit": _model("DINOv3ViT", **_VIT, num_register_tokens=4),
    "vit": _model("ViT", **_VIT),
    "deit": _model("DeiT", **_VIT),
    "swin": _swin,
    "metaclip_2": _meta_clip,
}
"""model_type -> makes a small one. The DINOv2 were trained on 70 px, as it were, and are fed 56."""


def _processor(transformers: Any, kind: str) -> Any:
    if kind.startswith("dinov2"):
        return transformers.BitImageProcessor(
            size={"shortest_edge": 64},
            crop_size={"height": 56, "width": 56},
            resample=3,
            image_mean=[0.485, 0.456, 0.406],
            image_std=[0.229, 0.224, 0.225],
        )
    if kind == "metaclip_2":
        return transformers.CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    return transformers.ViTImageProcessor(size={"height": 64, "width": 64}, resample=2)


def _rows(folder: Path, files: list[Path]) -> dict[str, np.ndarray]:
    import torch
    import transformers
    from PIL import Image

    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    network = transformers.AutoModel.from_pretrained(folder).eval()
    images = [Image.open(file).convert("RGB") for file in files]
    given = processor(images=images, return_tensors="pt")["pixel_values"]
    levels = processor(images=images, return_tensors="np", do_normalize=False, do_rescale=False)["pixel_values"]
    found = {"pixels": np.asarray(levels).transpose(0, 2, 3, 1)}
    kind = network.config.model_type
    with torch.no_grad():
        if kind == "metaclip_2":
            vision = network.vision_model(given, output_hidden_states=True)
            tokens = network.vision_model.post_layernorm(vision.last_hidden_state)
            found["pooled"] = network.visual_projection(vision.pooler_output).numpy()
            norm, states, prefix = network.vision_model.post_layernorm, vision.hidden_states, 1
        else:
            out = network(given, output_hidden_states=True)
            tokens, states = out.last_hidden_state, out.hidden_states
            norm = getattr(network, "layernorm", None) or network.norm
            prefix = {"deit": 2, "swin": 0}.get(kind, 1) + getattr(network.config, "num_register_tokens", 0)
        if kind == "swin":
            return found | {"avg": tokens.mean(1).numpy(), "max": tokens.amax(1).numpy()}
        last = torch.cat([norm(state)[:, 0] for state in states[-4:]], -1)
    cls, mean = tokens[:, 0].numpy(), tokens[:, prefix:].mean(1).numpy()
    return found | {"cls": cls, "mean": mean, "cls+mean": np.concatenate([cls, mean], 1), "last4": last.numpy()}


def write_preset(kind: str, folder: Path) -> Path:
    """A preset of KerasHub with one of the networks of `PRESETS`, and its image converter beside it."""
    from onepass.extract.frameworks import import_keras, import_keras_hub

    keras, hub = import_keras(), import_keras_hub()
    keras.utils.set_random_seed(SEED)
    backbone = PRESETS[kind](hub.models)
    random = np.random.default_rng(SEED)
    for weight in backbone.weights:
        if "variance" not in weight.path and weight.dtype.startswith("float"):
            weight.assign(weight.numpy() + 0.03 * random.normal(size=weight.shape))
    backbone.save_to_preset(folder)
    converter(hub, backbone).save_to_preset(folder)
    return folder


def converter(hub: Any, backbone: Any, **changes: Any) -> Any:
    """An image converter that averages what it reduces, as those of SigLIP's presets do."""
    kind = type(backbone).__name__.removesuffix("Backbone")
    made = getattr(hub.layers, f"{kind}ImageConverter")
    deviations, means = (0.229, 0.224, 0.225), (0.485, 0.456, 0.406)
    settings = {
        "image_size": (64, 64),
        "scale": [1 / 255 / std for std in deviations],
        "offset": [-mean / std for mean, std in zip(means, deviations, strict=True)],
        "interpolation": "bicubic",
        "antialias": True,
        "crop_to_aspect_ratio": False,
    }
    return made(**(settings | changes))


_TOWER = {"patch_size": 16, "hidden_dim": 48, "num_layers": 5, "num_heads": 3, "intermediate_dim": 96}
_TEXT = {"vocabulary_size": 50, "embedding_dim": 32, "hidden_dim": 32, "num_layers": 1, "num_heads": 2}


def _siglip(models: Any) -> Any:
    return models.SigLIPBackbone(
        vision_encoder=models.SigLIPVisionEncoder(**_TOWER, image_shape=(64, 64, 3)),
        text_encoder=models.SigLIPTextEncoder(**_TEXT, intermediate_dim=64),
    )


def _clip(models: Any) -> Any:
    return models.CLIPBackbone(
        vision_encoder=models.CLIPVisionEncoder(**_TOWER, image_shape=(64, 64, 3)),
        text_encoder=models.CLIPTextEncoder(**_TEXT, intermediate_dim=64),
        projection_dim=24,
    )


def _dinov2(models: Any) -> Any:
    return models.DINOV2Backbone(
        **(_TOWER | {"patch_size": 8}), image_shape=(64, 64, 3), position_embedding_shape=(96, 96)
    )


def _vit(models: Any) -> Any:
    settings = {**_TOWER, "mlp_dim": 96}
    del settings["intermediate_dim"]
    return models.ViTBackbone(image_shape=(64, 64, 3), **settings)


def _hgnet(models: Any) -> Any:
    return models.HGNetV2Backbone(
        initializer_range=0.02,
        depths=[1, 1],
        embedding_size=8,
        hidden_sizes=[16, 24],
        stem_channels=[3, 8, 8],
        hidden_act="relu",
        use_learnable_affine_block=False,
        num_channels=3,
        stackwise_stage_filters=[[8, 8, 16, 1, 2, 3], [16, 8, 24, 1, 2, 3]],
        apply_downsample=[False, True],
        use_lightweight_conv_block=[False, False],
        image_shape=(64, 64, 3),
    )


def _mobilenetv5(models: Any) -> Any:
    from keras_hub.src.models.mobilenetv5.mobilenetv5_builder import convert_arch_def_to_stackwise

    return models.MobileNetV5Backbone(
        **convert_arch_def_to_stackwise([["er_r1_k3_s2_e4_c16"], ["uir_r1_a3_k5_s2_e4_c24"]]),
        stem_size=8,
        num_features=32,
        norm_layer="rms_norm",
        act_layer="gelu",
        use_msfa=False,
        image_shape=(64, 64, 3),
    )


def _resnet(models: Any) -> Any:
    return models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        image_shape=(64, 64, 3),
    )


PRESETS: dict[str, Callable[[Any], Any]] = {
    "siglip": _siglip,
    "clip": _clip,
    "dinov2": _dinov2,
    "vit": _vit,
    "hgnetv2": _hgnet,
    "mobilenetv5": _mobilenetv5,
    "resnet": _resnet,
}
"""Name -> makes a small one. SigLIP 2 has the vision encoder of SigLIP."""


def hub_rows(folder: Path, files: list[Path], pixels: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """What KerasHub gives for images: pixels, (n, s, s, 3) levels of 0..255, and rows by pooling.

    Args:
        folder: A preset.
        files: Images.
        pixels: Those that the rows are of; by default its own.
    """
    from PIL import Image

    from onepass.extract.frameworks import import_keras_hub

    hub = import_keras_hub()
    backbone = hub.models.Backbone.from_preset(str(folder))
    made = hub.layers.ImageConverter.from_preset(str(folder))
    arrays = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    found = {"pixels": np.stack([np.asarray(made.resizing(array)) for array in arrays])}
    made.image_size = None
    given = np.asarray(made(found["pixels"] if pixels is None else pixels))
    kind = type(backbone).__name__
    if hasattr(backbone, "get_vision_embeddings"):
        found["pooled"] = np.asarray(backbone.get_vision_embeddings(given))
        if kind == "SigLIPBackbone":
            return found
        tokens = np.asarray(backbone.vision_encoder({"images": given}))
    else:
        fed = dict.fromkeys(backbone.input, given) if isinstance(backbone.input, dict) else given
        tokens = backbone(fed)
        tokens = np.asarray(tokens["stage2"] if isinstance(tokens, dict) else tokens)
    if tokens.ndim == 4:
        return found | {"avg": tokens.mean((1, 2)), "max": tokens.max((1, 2))}
    cls, mean = tokens[:, 0], tokens[:, 1:].mean(1)
    return found | {"cls": cls, "mean": mean, "cls+mean": np.concatenate([cls, mean], 1)}


def lowest_cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float((np.sum(a * b, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


if __name__ == "__main__":
    if sys.argv[1] == "write":
        _write(sys.argv[2], Path(sys.argv[3]))
    else:
        np.savez(sys.argv[3], **_rows(Path(sys.argv[2]), [Path(file) for file in sys.argv[4:]]))
