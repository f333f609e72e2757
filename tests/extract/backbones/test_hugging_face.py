"""Folders of transformers: what is told from their files, what is refused, and rows against transformers and numpy."""

import dataclasses
import io
import json
import math
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from hub_networks import (
    LAYERS,
    PATCH,
    SIDE,
    TRANSFORMERS,
    WIDTH,
    lowest_cosine,
    tensors,
    transformers_rows,
    write_dinov2,
    write_transformers,
)
from onepass.extract import load_backbone
from onepass.extract.backbones.catalogue import BackboneName
from onepass.extract.backbones.golden import golden_images
from onepass.extract.backbones.hugging_face import HuggingFace
from onepass.extract.backbones.preprocess_files import preprocess_of
from onepass.extract.backbones.proof import MOST_LEVELS
from onepass.extract.backbones.provider import Asked
from onepass.extract.backbones.transformers_folder import TransformersFolder
from onepass.extract.backbones.transformers_processor import processor_transform
from onepass.extract.backbones.transformers_tensors import resampled_positions
from onepass.extract.pixels.decode import decode_image
from onepass.features.errors import BackboneError, OptionError
from support import picture

needs_keras_hub = pytest.mark.skipif(find_spec("keras_hub") is None, reason="needs KerasHub: pip install .[kerashub]")
needs_transformers = pytest.mark.skipif(
    find_spec("transformers") is None or find_spec("torch") is None,
    reason="needs transformers and torch to compare with",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_dinov2(tmp_path / "dino")


def change(folder: Path, name: str, **values: object) -> None:
    facts = json.loads((folder / name).read_text()) | values
    (folder / name).write_text(json.dumps({key: value for key, value in facts.items() if value is not None}))


def described(folder: Path, **options):
    return HuggingFace().describe(Asked(BackboneName.parse(str(folder)), **options))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place, random = tmp_path_factory.mktemp("images"), np.random.default_rng(8)
    paths = [place / f"{number}.png" for number in range(3)]
    for path, size in zip(paths, ((90, 70), (64, 81), (120, 120)), strict=True):
        picture(random, size).save(path)
    return paths


def test_facts_are_read_from_the_files_beside_the_weights(folder: Path):
    facts = described(folder)
    assert (facts.provider, facts.label, facts.licence, facts.native) == ("hf", "dino", "apache-2.0", True)
    assert (
        str(facts.preprocess)
        == "shortest36-bicubic to 32 px, RGB, (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]"
    )
    assert facts.poolings == ("cls+mean", "cls", "mean", "last4")
    assert facts.width == 2 * WIDTH
    assert facts.parameters == sum(one.size for one in tensors().values())


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: other\nlicense_name: dinov3-license\n---\n", "dinov3-license"),
        ('---\ntags: [a]\nlicense: "cc-by-nc-4.0"\n---\n', "cc-by-nc-4.0"),
        ("# no front matter\nlicense: mit\n", ""),
        ("---\ntags: [a]\n---\n", ""),
    ],
)
def test_the_licence_is_that_of_the_model_card(folder: Path, card: str, licence: str):
    (folder / "README.md").write_text(card)
    assert described(folder).licence == licence


def test_the_origin_follows_configuration_and_weights(folder: Path):
    first = described(folder).origin
    assert described(folder).origin == first
    save_file({name: one * 2 for name, one in tensors().items()}, folder / "model.safetensors")
    assert described(folder).origin != first


def refused(folder: Path) -> str:
    with pytest.raises(BackboneError) as caught:
        HuggingFace().check(BackboneName.parse(str(folder)), "imagenet")
    return str(caught.value)


def test_pickled_weights_are_refused_by_name(folder: Path):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert refused(folder) == (
        f"{folder} holds its weights as pytorch_model.bin, which is pickled: reading it can run code. Needed: "
        "model.safetensors. Where the file can be trusted, transformers makes it: "
        "AutoModel.from_pretrained(FOLDER).save_pretrained(FOLDER)."
    )


def test_a_folder_without_weights_is_refused(folder: Path):
    (folder / "model.safetensors").unlink()
    assert refused(folder) == (
        f"{folder} lacks model.safetensors; needed: config.json, model.safetensors and preprocessor_config.json."
    )


def test_a_folder_of_something_else_is_refused(tmp_path: Path):
    assert refused(tmp_path) == (
        f"{tmp_path} is no folder of transformers; needed: config.json, model.safetensors and "
        "preprocessor_config.json. It has no config.json."
    )


def test_networks_that_kerashub_does_not_read_are_refused_with_the_way_out(folder: Path):
    change(folder, "config.json", model_type="siglip")
    assert refused(folder) == (
        "dino is a 'siglip', which KerasHub does not read from a folder of transformers. It reads dinov2, "
        "dinov2_with_registers, dinov3_vit, vit, deit, swin, metaclip_2. Other networks: export it to ONNX and give "
        "the .onnx file, or take one of keras-hub: or timm:."
    )


def test_what_kerashub_would_compute_differently_is_refused(folder: Path):
    change(folder, "config.json", hidden_act="relu")
    assert refused(folder) == (
        "dino has hidden_act 'relu'; KerasHub computes a dinov2 with 'gelu' alone, which would give other rows without "
        "a word. Export it to ONNX and give the .onnx file."
    )


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"registered_name": "keras_hub>X"}, "{0} is a preset of KerasHub; name it keras-hub:{0}."),
        (
            {"model_type": None, "architecture": "vit_small"},
            (
                "{0} is a folder of timm, not of transformers; name the network timm:vit_small and give its file with "
                "weights."
            ),
        ),
        ({"hidden_size": 10**9}, "dino has hidden_size 1000000000; needed: 1 to 65536."),
        ({"num_hidden_layers": "many"}, "dino has num_hidden_layers many; needed: 1 to 400."),
        ({"image_size": [32, 64]}, "dino takes images of [32, 64] px; needed: square ones."),
    ],
)
def test_configurations_that_make_no_sense_here_are_refused(folder: Path, values: dict, told: str):
    change(folder, "config.json", **values)
    assert refused(folder) == told.format(folder)


def test_a_configuration_that_asks_for_more_than_the_file_holds_is_refused(folder: Path):
    change(folder, "config.json", hidden_size=16384, num_hidden_layers=400)
    with pytest.raises(BackboneError, match=r"^the config.json of dino asks for too much: its .* at most\.$"):
        TransformersFolder.read(folder).require_bounded()


def test_a_damaged_header_is_refused(folder: Path):
    (folder / "model.safetensors").write_bytes((10**12).to_bytes(8, "little") + b"{}")
    with pytest.raises(BackboneError) as caught:
        described(folder)
    assert str(caught.value) == (
        f"{folder / 'model.safetensors'} is damaged: its header has 1,000,000,000,000 bytes. Take it from a copy."
    )


def test_an_index_cannot_lead_out_of_the_folder(folder: Path):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../other.safetensors"}}')
    with pytest.raises(BackboneError) as caught:
        described(folder)
    assert str(caught.value) == (
        f"{folder / 'model.safetensors.index.json'} does not name the safetensors files of its own folder."
    )


def test_missing_preprocessing_is_refused_and_may_be_given(folder: Path):
    given = described(folder).preprocess
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(OptionError) as caught:
        described(folder)
    assert str(caught.value) == (
        "dino does not say how its images were prepared, and nothing is guessed. Needed: preprocessor_config.json in "
        "the folder, as transformers writes it, or preprocess with a JSON file."
    )
    assert described(folder, preprocess=given).preprocess == given


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"mean": (0.5, 0.5, 0.5)}, "RGB, (x / 255 - 0.5) / [0.229, 0.224, 0.225]"),
        ({"channels": "BGR"}, "BGR, (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]"),
        ({"rescale": 1.0}, "RGB, (x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]"),
    ],
)
def test_other_arithmetic_than_that_of_the_folder_is_refused(folder: Path, values: dict, told: str):
    given = dataclasses.replace(described(folder).preprocess, **values)
    with pytest.raises(OptionError) as caught:
        described(folder, preprocess=given)
    assert str(caught.value) == (
        "dino was trained on RGB, (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], by its "
        f"preprocessor_config.json; preprocess says {told}. Leave it out."
    )


def test_another_rule_of_resizing_is_taken_where_it_is_asked_for_and_shown(folder: Path):
    own = described(folder).preprocess
    facts = described(folder, preprocess=own.resized("squash", SIDE))
    assert str(facts.preprocess).startswith("squash to 32 px, RGB, ")
    assert described(folder).preprocess_for("squash", None) == facts.preprocess
    assert described(folder).preprocess_for(None, None) == described(folder).preprocess_for("native", None) == own


def test_one_number_is_a_square_to_the_processor_of_vit(folder: Path):
    own = {"feature_extractor_type": "ViTFeatureExtractor", "do_resize": True, "size": SIDE, "resample": 2}
    arithmetic = {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(own | arithmetic))
    assert str(described(folder).preprocess) == "squash-bilinear to 32 px, RGB, (x / 255 - 0.5) / 0.5"


def test_sizes_that_are_no_multiple_of_the_patches_are_refused(folder: Path):
    with pytest.raises(OptionError) as caught:
        described(folder, image_size=36)
    assert str(caught.value) == (
        "dino cuts images into patches of 8 px, which 36 px are no multiple of; needed: image_size=32 or 40."
    )


def test_weights_of_their_own_do_not_go_with_a_folder(folder: Path):
    with pytest.raises(OptionError) as caught:
        HuggingFace().check(BackboneName.parse(str(folder)), "other.h5")
    assert str(caught.value) == "weights does not go with a folder of transformers, which brings its own weights."


def test_names_of_the_hub_have_an_owner():
    with pytest.raises(BackboneError) as caught:
        HuggingFace().check(BackboneName.parse("hf:dinov2-small"), "imagenet")
    assert str(caught.value) == (
        "'hf:dinov2-small' is no name of the Hugging Face hub; needed: hf:owner/name, such as "
        "hf:facebook/dinov2-small, or a folder."
    )


@pytest.mark.skipif(find_spec("keras_hub") is not None, reason="needs a place without KerasHub")
def test_without_kerashub_a_folder_says_what_to_install(folder: Path):
    assert refused(folder) == (
        'dino is built by KerasHub, which is not installed. Run: pip install "onepass[kerashub]".'
    )


def test_a_folder_is_cut_at_a_layer_like_any_network(folder: Path):
    name = BackboneName.parse(f"{folder}@block1")
    assert (name.network, name.layer, name.provider, name.label) == (str(folder), "block1", "hf", "dino@block1")


def normed(x: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return (
        centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * weights[f"{name}.weight"]
        + weights[f"{name}.bias"]
    )


def dinov2(weights: dict[str, np.ndarray], images: np.ndarray) -> list[np.ndarray]:
    """A DINOv2 in numpy, float64: normed tokens after each block, (n, t, d)."""
    w = {name: one.astype(np.float64) for name, one in weights.items()}
    n, cells, heads = len(images), SIDE // PATCH, 3

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    patches = images.reshape(n, cells, PATCH, cells, PATCH, 3).transpose(0, 1, 3, 5, 2, 4).reshape(n, cells**2, -1)
    start = "embeddings.patch_embeddings.projection"
    x = patches @ w[f"{start}.weight"].reshape(WIDTH, -1).T + w[f"{start}.bias"]
    x = np.concatenate([np.tile(w["embeddings.cls_token"], (n, 1, 1)), x], 1) + w["embeddings.position_embeddings"]
    states = []
    for layer in range(LAYERS):
        start = f"encoder.layer.{layer}."
        y = normed(x, w, f"{start}norm1")
        q, k, v = (
            dense(y, f"{start}attention.attention.{part}").reshape(n, -1, heads, WIDTH // heads).transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )
        scores = q @ k.transpose(0, 1, 3, 2) / math.sqrt(WIDTH // heads)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (shares / shares.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(n, -1, WIDTH)
        x = x + dense(mixed, f"{start}attention.output.dense") * w[f"{start}layer_scale1.lambda1"]
        y = dense(normed(x, w, f"{start}norm2"), f"{start}mlp.fc1")
        y = y * 0.5 * (1 + np.vectorize(math.erf)(y / math.sqrt(2)))
        x = x + dense(y, f"{start}mlp.fc2") * w[f"{start}layer_scale2.lambda1"]
        states.append(normed(x, w, "layernorm"))
    return states


@needs_keras_hub
@pytest.mark.parametrize("pooling", ["cls+mean", "cls", "mean", "last4"])
def test_rows_are_those_of_the_formula(folder: Path, files: list[Path], pooling: str):
    backbone = load_backbone(str(folder), pooling=pooling, precision="float32")
    pixels = np.stack([backbone.pixels(file.read_bytes()) for file in files])
    states = dinov2(tensors(), backbone.spec.preprocess.normalised(pixels))
    cls, mean = states[-1][:, 0], states[-1][:, 1:].mean(1)
    expected = {
        "cls+mean": np.concatenate([cls, mean], 1),
        "cls": cls,
        "mean": mean,
        "last4": np.concatenate([state[:, 0] for state in states[-4:]], 1),
    }[pooling]
    rows = backbone.rows_of(files)
    assert backbone.spec.pooling == pooling
    np.testing.assert_allclose(rows, expected, rtol=0, atol=2e-5)
    assert lowest_cosine(rows, expected) >= 0.9999999


@needs_keras_hub
def test_tensors_of_another_network_are_refused(folder: Path):
    save_file(tensors() | {"encoder.layer.0.adapter.weight": np.ones((2, 2), np.float32)}, folder / "model.safetensors")
    with pytest.raises(BackboneError) as caught:
        load_backbone(str(folder), precision="float32")
    assert str(caught.value) == (
        "dino holds 1 tensors that KerasHub's dinov2 has no place for, such as encoder.layer.0.adapter.weight: it is "
        "another network, whose rows would be wrong. Export it to ONNX and give the .onnx file."
    )


@needs_keras_hub
def test_a_missing_tensor_is_refused(folder: Path):
    save_file({name: one for name, one in tensors().items() if name != "layernorm.bias"}, folder / "model.safetensors")
    with pytest.raises(BackboneError) as caught:
        load_backbone(str(folder), precision="float32")
    assert str(caught.value) == (
        "dino lacks the tensor layernorm.bias, which a dinov2 has. Take the folder as transformers wrote it."
    )


@needs_keras_hub
def test_fewer_than_four_blocks_have_no_last4(folder: Path):
    change(folder, "config.json", num_hidden_layers=3)
    with pytest.raises(OptionError) as caught:
        load_backbone(str(folder), pooling="last4")
    assert str(caught.value) == "pooling is 'last4'; dino has cls+mean, cls, mean."


@needs_keras_hub
@needs_transformers
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_rows_and_pixels_are_those_of_transformers(kind: str, files: list[Path], tmp_path: Path):
    folder = write_transformers(kind, tmp_path / kind)
    reference = transformers_rows(folder, files)
    expected = reference.pop("pixels")
    for pooling, rows in reference.items():
        backbone = load_backbone(str(folder), pooling=pooling, precision="float32")
        assert lowest_cosine(backbone.rows_of(files), rows) >= 0.99999
        pixels = np.stack([backbone.pixels(file.read_bytes()) for file in files])
        assert np.abs(pixels.astype(float) - expected).max() <= 1


QUIET = """
import sys
asked = []
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        asked.append((event, str(args[1:])))
sys.addaudithook(watch)
from onepass.extract import load_backbone
load_backbone(sys.argv[1], precision="float32").golden_rows()
import huggingface_hub.constants
print(asked, huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY)
"""


@needs_keras_hub
@pytest.mark.slow
def test_a_folder_asks_nobody_and_leaves_nothing_in_the_home_but_our_cache(folder: Path, tmp_path: Path):
    home = tmp_path / "home"
    home.mkdir()
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", QUIET, str(folder)],
        env={**kept, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1:] == ["[] True"], done.stderr[-2000:]
    assert {path.relative_to(home).parts[:2] for path in home.rglob("*") if path.is_file()} == {(".cache", "onepass")}


SIZES = ((5, 4), (37, 16), (4, 7), (16, 16))

INTERPOLATED = """
import sys, numpy as np, torch
found = np.load(sys.argv[1])
made = {}
for name in found.files:
    before, after, antialias = name.split()
    grid = torch.from_numpy(found[name][:, 1:].reshape(1, int(before), int(before), 3).transpose(0, 3, 1, 2))
    size = (int(after), int(after))
    done = torch.nn.functional.interpolate(grid, size=size, mode="bicubic", antialias=antialias == "True")
    made[name] = done.numpy().transpose(0, 2, 3, 1).reshape(1, -1, 3)
np.savez(sys.argv[1], **made)
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("torch") is None, reason="needs torch, whose interpolation is compared with")
def test_positions_are_resampled_as_torch_does(rng: np.random.Generator, tmp_path: Path):
    """In a process of its own: one that has imported TensorFlow dies of importing torch."""
    cases = {
        f"{before} {after} {antialias}": rng.normal(size=(1, 1 + before**2, 3)).astype(np.float32)
        for before, after in SIZES
        for antialias in (True, False)
    }
    np.savez(tmp_path / "positions.npz", **cases)
    subprocess.run([sys.executable, "-c", INTERPOLATED, str(tmp_path / "positions.npz")], check=True)
    expected = np.load(tmp_path / "positions.npz")
    for name, positions in cases.items():
        _, after, antialias = name.split()
        found = resampled_positions(positions, int(after), antialias == "True")
        np.testing.assert_array_equal(found[:, :1], positions[:, :1])
        np.testing.assert_allclose(found[:, 1:], expected[name], atol=2e-6)


def test_resampled_positions_keep_a_slope(rng: np.random.Generator):
    grid = np.linspace(0, 1, 32, dtype=np.float32)
    plane = np.broadcast_to(grid, (32, 32)).reshape(1, -1, 1)
    found = resampled_positions(np.concatenate([np.zeros((1, 1, 1), np.float32), plane], 1), 16, True)
    steps = np.diff(found[0, 1:, 0].reshape(16, 16)[8, 3:-3])
    np.testing.assert_allclose(steps, 2 / 31, atol=1e-5)


def test_the_written_tensors_are_all_read_back(folder: Path):
    assert TransformersFolder.read(folder).shapes == {
        name: one.shape for name, one in load_file(folder / "model.safetensors").items()
    }


def test_images_are_what_the_rule_of_the_folder_says(folder: Path, files: list[Path]):
    """The rule by Pillow itself: the shorter side made 36 px long, then the middle."""
    from onepass.extract.pixels.decode import decode_image

    rule = described(folder).preprocess.resize
    for file in files:
        image = Image.open(file).convert("RGB")
        scale = 36 / min(image.size)
        resized = image.resize(
            (int(image.width * scale + 1e-9), int(image.height * scale + 1e-9)), Image.Resampling.BICUBIC
        )
        left, upper = ((length - SIDE) // 2 for length in resized.size)
        expected = np.asarray(resized.crop((left, upper, left + SIDE, upper + SIDE)))
        np.testing.assert_array_equal(decode_image(file.read_bytes(), image_size=SIDE, resize=rule), expected)


@needs_transformers
def test_pixels_are_proven_against_the_processor_of_the_folder(tmp_path: Path):
    folder = tmp_path / "net"
    folder.mkdir()
    facts = {
        "image_processor_type": "BitImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": 48},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": 42, "width": 42},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.3, 0.4],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(facts))
    transform, ours = processor_transform(folder), preprocess_of(facts)
    assert transform is not None
    assert transform.name.startswith("transformers ")
    for data in golden_images():
        pixels = decode_image(data, image_size=ours.size, resize=ours.resize)
        seen = transform.values(Image.open(io.BytesIO(data)).convert("RGB"), pixels)
        away = np.abs(seen - ours.normalised(pixels)) * ours.std / ours.rescale
        assert away.max() <= MOST_LEVELS
