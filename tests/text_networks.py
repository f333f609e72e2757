"""Small networks with a text tower and random weights, as transformers writes them, and as presets of KerasHub."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

SEED = 5
WORDS = "a photo of an ant bee cat dog golden retriever the wasp blurry close up small large s"
TEXTS = (
    "a photo of a cat",
    "A photo of the Golden retriever's ant.",
    "a  blurry photo, of a bee!",
    "wasp",
    "a dog " * 60,
)
"""What is compared; the last is longer than any of these networks takes."""

_SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_VISION = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3}
_IMAGE = {"image_size": 64, "patch_size": 16}


def write_network(kind: str, folder: Path) -> dict[str, np.ndarray]:
    """Writes a folder of transformers with one of clip, siglip, siglip2 and metaclip_2, its tokenizer and processor.

    Returns:
        What transformers itself gives for `TEXTS` and for noise: texts and images, (n, d), and pixels, (n, s, s, 3).
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "USE_TF": "0"}
    command = [sys.executable, "-W", "ignore", __file__, kind, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(folder.with_suffix(".npz")) as found:
        return dict(found)


def _pieces(**special: Any) -> bytes:
    """A small model of SentencePiece."""
    import sentencepiece

    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([WORDS, *WORDS.split(), *TEXTS] * 20),
        model_writer=made,
        hard_vocab_limit=False,
        minloglevel=2,
        **special,
    )
    return made.getvalue()


def _clip_tokenizer(transformers: Any) -> Any:
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>"), ("o", "f</w>"), ("p", "h"), ("b", "e")]
    tokens = [*letters, *(f"{one}</w>" for one in letters), *map("".join, merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def _siglip_tokenizer(transformers: Any, folder: Path) -> Any:
    settings = {"bos_id": -1, "pad_id": -1, "eos_id": 1, "unk_id": 2, "vocab_size": 90, "model_type": "unigram"}
    (folder / "spiece.model").write_bytes(_pieces(**settings, byte_fallback=False, user_defined_symbols=["<s>"]))
    return transformers.SiglipTokenizer(str(folder / "spiece.model"))


def _siglip2_tokenizer(transformers: Any, folder: Path) -> Any:
    import sentencepiece

    settings = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "bos_piece": "<bos>", "eos_piece": "<eos>"}
    plain = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "add_dummy_prefix": False}
    made = _pieces(**settings, **plain, vocab_size=420, model_type="bpe", byte_fallback=True)
    (folder / "spiece.model").write_bytes(made)
    model = sentencepiece.SentencePieceProcessor(model_proto=made)
    vocabulary = {model.id_to_piece(number): number for number in range(model.vocab_size())}
    merges = []
    for piece in vocabulary:  # those that are learned come in the order in which they are merged
        cuts = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        known = [cut for cut in cuts if cut[0] in vocabulary and cut[1] in vocabulary]
        merges += sorted(known, key=lambda cut: (vocabulary[cut[0]], vocabulary[cut[1]]))
    return transformers.Siglip2Tokenizer(vocab=vocabulary, merges=merges, add_eos_token=True, padding_side="right")


def _metaclip_tokenizer(transformers: Any, folder: Path) -> Any:
    import sentencepiece

    made = _pieces(vocab_size=90, model_type="unigram", unk_id=0, bos_id=1, eos_id=2, pad_id=-1)
    (folder / "sentencepiece.bpe.model").write_bytes(made)
    model = sentencepiece.SentencePieceProcessor(model_proto=made)
    own = [(model.id_to_piece(number), model.get_score(number)) for number in range(3, model.vocab_size())]
    vocabulary = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *own]
    return transformers.XLMRobertaTokenizer(vocab=vocabulary, model_max_length=77)


def _made(transformers: Any, kind: str, folder: Path) -> tuple[Any, Any]:
    """The network and its tokenizer."""
    vision = {**_VISION, **_IMAGE}
    if kind in ("clip", "metaclip_2"):
        name = "CLIP" if kind == "clip" else "MetaClip2"
        made = _clip_tokenizer(transformers) if kind == "clip" else _metaclip_tokenizer(transformers, folder)
        words = {"vocab_size": len(made), "eos_token_id": made.eos_token_id, "max_position_embeddings": 77}
        config = getattr(transformers, f"{name}Config")(
            text_config={**_SIZES, **words, "hidden_act": "quick_gelu"},
            vision_config={**vision, "hidden_act": "quick_gelu"},
            projection_dim=24,
        )
        return getattr(transformers, f"{name}Model")(config), made
    made = {"siglip": _siglip_tokenizer, "siglip2": _siglip2_tokenizer}[kind](transformers, folder)
    text = {**_SIZES, "vocab_size": len(made), "max_position_embeddings": 64, "projection_size": 48}
    config = transformers.SiglipConfig(text_config=text, vision_config=vision)
    return transformers.SiglipModel(config), made


def _write(kind: str, folder: Path) -> None:
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    network, tokenizer = _made(transformers, kind, folder)
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():  # initial weights are 0 and 1 in places, where a wrong tensor would not be seen
        for parameter in network.parameters():
            if parameter.ndim:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    network.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
    transformers.CLIPImageProcessor(**size, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)
    length = network.config.text_config.max_position_embeddings
    given = tokenizer(list(TEXTS), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    pixels = np.random.default_rng(SEED).integers(0, 256, (12, 64, 64, 3)).astype(np.uint8)
    values = torch.from_numpy((pixels / np.float32(255) - 0.5) / 0.5).float().permute(0, 3, 1, 2)
    with torch.no_grad():
        # SigLIP takes no mask: it was trained to look at the padding.
        mask = {} if kind.startswith("siglip") else {"attention_mask": given["attention_mask"]}
        both = network(input_ids=given["input_ids"], pixel_values=values, **mask)
        texts = network.get_text_features(input_ids=given["input_ids"], **mask).pooler_output
        images = network.get_image_features(pixel_values=values).pooler_output
    found = {"texts": texts, "images": images, "logits": both.logits_per_image, "tokens": given["input_ids"]}
    np.savez(folder.with_suffix(".npz"), pixels=pixels, **{name: one.numpy() for name, one in found.items()})


def write_preset(kind: str, source: Path, folder: Path) -> Path:
    """The network of a folder that `write_network` wrote, as a preset of KerasHub with its tokenizer."""
    from safetensors.numpy import load_file

    from onepass.extract.frameworks import import_keras_hub

    hub = import_keras_hub()
    tensors = load_file(source / "model.safetensors")
    vision = {"patch_size": 16, "hidden_dim": 48, "num_layers": 2, "num_heads": 3, "intermediate_dim": 96}
    text = {"hidden_dim": 32, "embedding_dim": 32, "num_layers": 2, "num_heads": 2, "intermediate_dim": 64}
    text["vocabulary_size"] = len(tensors["text_model.embeddings.token_embedding.weight"])
    name = "CLIP" if kind == "clip" else "SigLIP"
    encoders = {
        "vision_encoder": getattr(hub.models, f"{name}VisionEncoder")(**vision, image_shape=(64, 64, 3)),
        "text_encoder": getattr(hub.models, f"{name}TextEncoder")(
            **text, **({} if kind == "clip" else {"projection_dim": 48})
        ),
    }
    backbone = getattr(hub.models, f"{name}Backbone")(**encoders, **({"projection_dim": 24} if kind == "clip" else {}))
    for encoder, prefix in ((backbone.vision_encoder, "vision_model"), (backbone.text_encoder, "text_model")):
        for weight in encoder.weights:
            if not weight.path.endswith("position_ids"):
                _assign(weight, f"{prefix}.{_renamed(weight.path, prefix)}", tensors)
    if kind == "clip":
        positions = backbone.vision_encoder.embedding.position_ids  # stored with the weights, and 0 at first
        positions.assign(np.arange(positions.shape[1])[None])
        backbone.vision_projection.kernel.assign(tensors["visual_projection.weight"].T)
        backbone.text_projection.kernel.assign(tensors["text_projection.weight"].T)
    backbone.save_to_preset(folder)
    _tokenizer(hub, kind, source).save_to_preset(folder)
    converter = getattr(hub.layers, f"{name}ImageConverter")
    settings = {"image_size": (64, 64), "scale": [2 / 255] * 3, "offset": [-1.0] * 3, "interpolation": "bicubic"}
    converter(**settings, antialias=True, crop_to_aspect_ratio=False).save_to_preset(folder)
    return folder


def _tokenizer(hub: Any, kind: str, source: Path) -> Any:
    import json

    if kind == "clip":
        model = json.loads((source / "tokenizer.json").read_bytes())["model"]
        merges = [one if isinstance(one, str) else " ".join(one) for one in model["merges"]]
        return hub.models.CLIPTokenizer(model["vocab"], merges, pad_with_end_token=True)
    made = (source / "spiece.model").read_bytes()
    return hub.models.GemmaTokenizer(made) if kind == "siglip2" else hub.models.SigLIPTokenizer(made, add_eos=True)


_NAMES = (
    (r"encoder_block_(\d+)/", r"encoder.layers.\1."),
    (r"^embedding/", "embeddings."),
    (r"dense_(\d)", r"mlp.fc\1"),
    (r"layer_norm_(\d)", r"layer_norm\1"),
    (r"layers\.(\d+)\.attention/", r"layers.\1.self_attn."),
    (r"(query|key|value)/", lambda found: f"{found[1][0]}_proj."),
    ("attention_output/", "out_proj."),
    ("^pre_layer_norm", "pre_layrnorm"),
    (r"head/variable\w*", "head.probe"),
    (r"/?(kernel|gamma|embeddings)$", ".weight"),
    ("beta$", "bias"),
    ("/", "."),
    (r"\.\.", "."),
)


def _renamed(path: str, prefix: str) -> str:
    """A weight of KerasHub as transformers calls it."""
    last = "post_layernorm" if prefix == "vision_model" else "final_layer_norm"
    path = re.sub("^(post_)?layer_norm/", f"{last}/", path)
    for pattern, name in _NAMES:
        path = re.sub(pattern, name, path)
    return path


def _assign(weight: Any, name: str, tensors: dict[str, np.ndarray]) -> None:
    if found := re.fullmatch(r"(.*head\.attention\.)([qkv])_proj\.(weight|bias)", name):
        whole = tensors[f"{found[1]}in_proj_{found[3]}"]
        tensor = np.split(whole, 3)["qkv".index(found[2])]
    else:
        tensor = tensors[name]
    if name.endswith("patch_embedding.weight"):
        tensor = tensor.transpose(2, 3, 1, 0)
    elif name.endswith("weight") and "embedding." not in name and tensor.ndim == 2:
        tensor = tensor.T
    weight.assign(tensor.reshape(weight.shape))


if __name__ == "__main__":
    _write(sys.argv[1], Path(sys.argv[2]))
