"""Text towers: rows of texts against transformers, labels against its logits, and what is refused before any work."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from hub_networks import lowest_cosine
from onepass.extract import BackboneOrigin, check_text_tower, text_rows
from onepass.extract.backbones.catalogue import BackboneName
from onepass.extract.backbones.providers import provider_of
from onepass.extract.backbones.text_towers import tokens_of_folder, tokens_of_preset
from onepass.extract.backbones.transformers_folder import TransformersFolder
from onepass.features.errors import BackboneError, OptionError, SpecMismatchError
from support import make_spec
from text_networks import TEXTS, write_network, write_preset

needs_transformers = pytest.mark.skipif(
    not (find_spec("keras_hub") and find_spec("transformers") and find_spec("torch")),
    reason="needs KerasHub, transformers and torch",
)


def backbone_of(kind: str, folder: Path) -> tuple[str, dict[str, np.ndarray]]:
    """Name of a small network, and what transformers gives."""
    found = write_network(kind, folder / kind)
    if kind == "metaclip_2":
        return str(folder / kind), found
    return f"keras-hub:{write_preset(kind, folder / kind, folder / 'preset')}", found


@needs_transformers
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2", "metaclip_2"])
def test_rows_of_texts_are_those_of_transformers(kind: str, tmp_path: Path):
    from onepass.extract import load_backbone

    name, theirs = backbone_of(kind, tmp_path)
    backbone = load_backbone(name, precision="float32", resize="squash-bicubic", preprocess=None)
    rows = text_rows(backbone.spec, backbone.source, TEXTS)
    assert rows.dtype == np.float32
    assert lowest_cosine(rows, theirs["texts"]) > 1 - 1e-6

    # and images beside them are theirs: the most probable text of each
    ours = backbone.rows_of(list(theirs["pixels"]))
    assert lowest_cosine(ours, theirs["images"]) > 1 - 1e-5
    named = (ours @ (rows / np.linalg.norm(rows, axis=1, keepdims=True)).T).argmax(axis=1)
    np.testing.assert_array_equal(named, theirs["logits"].argmax(axis=1))


@needs_transformers
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2"])
def test_texts_are_read_as_transformers_reads_them(kind: str, tmp_path: Path):
    name, theirs = backbone_of(kind, tmp_path)
    tokens = tokens_of_preset(BackboneName.parse(name).inner, TEXTS, theirs["tokens"].shape[1])
    np.testing.assert_array_equal(tokens, theirs["tokens"])


@needs_transformers
@pytest.mark.slow
def test_both_files_of_a_folder_s_tokenizer_give_the_same(tmp_path: Path):
    theirs = write_network("metaclip_2", tmp_path / "net")
    folder = TransformersFolder.read(tmp_path / "net")
    tokens = tokens_of_folder(folder, TEXTS, 77)
    np.testing.assert_array_equal(np.where(tokens == 0, 1, tokens)[:, 1:], theirs["tokens"][:, 1:])  # but for padding
    (tmp_path / "net" / "tokenizer.json").unlink()
    np.testing.assert_array_equal(tokens_of_folder(folder, TEXTS, 77), tokens)
    (tmp_path / "net" / "tokenizer.json").write_text("{}")
    with pytest.raises(BackboneError, match=r"^the tokenizer .*tokenizer.json cannot be read \(.*\)\. Take it from a"):
        tokens_of_folder(folder, TEXTS, 77)


@needs_transformers
@pytest.mark.slow
def test_a_network_with_other_weights_than_those_of_the_rows_is_refused(tmp_path: Path):
    name, _ = backbone_of("clip", tmp_path)
    with pytest.raises(SpecMismatchError) as caught:
        text_rows(make_spec(pooling="pooled", width=24), BackboneOrigin(name, "imagenet"), ("a cat",))
    assert str(caught.value).endswith("Put those back, or extract again.")
    assert set(caught.value.differences) == {"weights_hash"}


CONFIG = {
    "module": "keras_hub.src.models.clip.clip_backbone",
    "class_name": "CLIPBackbone",
    "registered_name": "keras_hub>CLIPBackbone",
    "config": {"vision_encoder": {"config": {"num_layers": 2}}, "text_encoder": {"config": {}}},
}


@pytest.fixture
def preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A preset as far as it is looked at before KerasHub is needed."""
    monkeypatch.setattr("onepass.extract.backbones.kerashub.require_keras_hub", lambda name: None)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.weights.h5").write_bytes(b"")
    (tmp_path / "tokenizer.json").write_text('{"module": "keras_hub.src.models.clip.clip_tokenizer"}')
    return tmp_path


def check(backbone: str, pooling: str = "pooled") -> None:
    check_text_tower(make_spec(pooling=pooling), BackboneOrigin(backbone, "imagenet"))


def test_what_can_be_told_without_a_network_is_refused_at_once(preset: Path):
    check(f"keras-hub:{preset}")
    with pytest.raises(OptionError) as refused:
        check(f"keras-hub:{preset}", pooling="cls")
    assert str(refused.value) == (
        "these rows are cls of resnet50; texts are compared with the network's own vector alone. Extract with "
        "pooling='pooled' from a network with a text tower: CLIP, SigLIP, SigLIP 2 and MetaCLIP 2 as keras-hub:PRESET, "
        "and MetaCLIP 2 as hf:owner/name or a folder of transformers."
    )
    (preset / "tokenizer.json").write_text('{"module": "os"}')
    with pytest.raises(BackboneError, match=r"tokenizer.json asks for code of os, which is neither Keras nor KerasHub"):
        check(f"keras-hub:{preset}")
    (preset / "tokenizer.json").unlink()
    with pytest.raises(BackboneError) as missing:
        check(f"keras-hub:{preset}")
    assert str(missing.value) == (
        f"{preset} has no tokenizer, which texts need; needed: what keras_hub.models.Tokenizer.from_preset("
        '"NAME").save_to_preset("FOLDER") writes there. It has no tokenizer.json.'
    )
    (preset / "config.json").write_text(json.dumps(CONFIG | {"class_name": "CLIPVisionEncoder", "config": {}}))
    with pytest.raises(BackboneError, match=f"^{preset.name} has no text tower. Networks with one: CLIP, SigLIP, "):
        check(f"keras-hub:{preset}")


@pytest.mark.parametrize("name", ["efficientnet_lite0", "mine.keras", "model.onnx", "timm:vit_base_patch16_siglip_224"])
def test_networks_without_a_text_tower_are_named_with_those_that_have_one(name: str):
    with pytest.raises(BackboneError) as refused:
        check(name)
    assert str(refused.value) == (
        f"{BackboneName.parse(name).label} has no text tower. Networks with one: CLIP, SigLIP, SigLIP 2 and MetaCLIP 2 "
        "as keras-hub:PRESET, and MetaCLIP 2 as hf:owner/name or a folder of transformers."
    )


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackboneError, match=r'^clip_vit_base_patch16 is built by .* pip install "onepass\[kerashub\]"'):
        check("keras-hub:clip_vit_base_patch16")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"text_config": None}, "net has no text tower. Networks with one: "),
        ({"text_config": {"eos_token_id": 49407}}, "the texts of net have eos_token_id 49407; KerasHub computes them "),
        ({"text_config": {"eos_token_id": 2, "layer_norm_eps": 0.1}}, "the texts of net have layer_norm_eps 0.1; "),
        ({}, r".*net has no tokenizer, which texts need; copy tokenizer\.json or sentencepiece\.bpe\.model there"),
    ],
)
def test_a_folder_with_other_texts_than_kerashub_computes_is_refused(
    changes: dict, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("onepass.extract.backbones.hugging_face.require_keras_hub", lambda name: None)
    folder = tmp_path / "net"
    folder.mkdir()
    config = {"model_type": "metaclip_2", "text_config": {"eos_token_id": 2}, "vision_config": {"hidden_size": 48}}
    (folder / "config.json").write_text(json.dumps(config | changes))
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(BackboneError, match=f"^{told}"):
        provider_of(BackboneName.parse(str(folder))).check_texts(BackboneName.parse(str(folder)))
