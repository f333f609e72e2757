"""Networks of timm: rows against timm's own forward, weights from files alone, and nothing of torch once converted."""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onepass.extract import BackboneOrigin, load_backbone, load_backbone_for, run_extraction
from onepass.extract.backbones import timm_models, worker
from onepass.extract.backbones.catalogue import BackboneName
from onepass.extract.backbones.provider import Asked, Conversion
from onepass.extract.backbones.timm_models import TimmModels, stored_sources
from onepass.features.errors import BackboneError, OptionError, UnknownBackboneError, WeightsError
from onepass.heads import fine_tune, train_head
from onepass.heads.export.run import export
from tiny_onnx import lowest_cosine

LACKING = [module for module in ("timm", "torch", "onnxscript") if find_spec(module) is None]
with_timm = pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)} (the extra torch)")

if not LACKING:
    import timm  # noqa: F401 (before another test loads TensorFlow, after which it ends the process)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


FAMILIES = {"test_vit": 160, "test_convnext": 160}


@pytest.fixture(scope="module")
def random_network(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Path]]:
    """timm's network of a name with random numbers everywhere, and the file of its weights."""
    made: dict[str, tuple[Any, Path]] = {}

    def network(name: str, **options: Any) -> tuple[Any, Path]:
        if name not in made:
            import timm
            import torch
            from safetensors.torch import save_file

            torch.manual_seed(3)
            model = timm.create_model(name, pretrained=False, **options).eval()
            for values in model.parameters():
                if values.ndim == 1:
                    torch.nn.init.normal_(values, 0.5, 0.5)
            path = tmp_path_factory.mktemp("weights") / f"{name}.safetensors"
            save_file(model.state_dict(), path)
            made[name] = model, path
        return made[name]

    return network


def features_of(model: Any, prepared: np.ndarray) -> Any:
    import torch

    with torch.no_grad():
        return model.forward_features(torch.from_numpy(prepared.transpose(0, 3, 1, 2).astype(np.float32)))


def by_timm(model: Any, pooling: str, prepared: np.ndarray) -> np.ndarray:
    """Rows of (b, s, s, 3) numbers as the network sees them, pooled in numpy."""
    import torch

    features = features_of(model, prepared)
    if pooling == "pooled":
        with torch.no_grad():
            return model.forward_head(features, pre_logits=True).numpy()
    values = features.numpy()
    if values.ndim == 4:
        values = values.transpose(0, 2, 3, 1)
        flat = values.reshape(len(values), -1, values.shape[-1])
        return {"avg": flat.mean(axis=1), "max": flat.max(axis=1), "flatten": values.reshape(len(values), -1)}[pooling]
    parts = {"cls": values[:, 0], "mean": values[:, model.num_prefix_tokens :].mean(axis=1)}
    return np.concatenate([parts[part] for part in pooling.split("+")], axis=1)


@with_timm
@pytest.mark.parametrize(
    ("name", "pooling"),
    [
        *(("test_vit", pooling) for pooling in ("pooled", "cls", "mean", "cls+mean")),
        *(("test_convnext", pooling) for pooling in ("pooled", "avg", "max", "flatten")),
    ],
)
def test_rows_are_those_of_timm(name: str, pooling: str, random_network, rng):
    model, weights = random_network(name)
    backbone = load_backbone(f"timm:{name}", weights=weights, pooling=pooling, precision="float32")
    pixels = rng.integers(0, 256, (2, 160, 160, 3), dtype=np.uint8)
    wanted = by_timm(model, pooling, backbone.spec.preprocess.normalised(pixels))
    found = backbone.rows(pixels)
    assert found.shape == wanted.shape
    assert lowest_cosine(found, wanted) >= 0.99999


BESIDE_TENSORFLOW = """
import sys
import numpy as np
import tensorflow  # after which torchvision ends a process
from onepass import verify_backbone
from onepass.extract import load_backbone
backbone = load_backbone(sys.argv[1], weights=sys.argv[2], pooling="cls,mean", precision="float32")
rows = backbone.rows(np.load(sys.argv[3]))
again = verify_backbone(sys.argv[1], weights=sys.argv[2])
np.savez(sys.argv[4], rows=rows, proven=backbone.converted.proof.holds and again.proof.holds)
assert "torch" not in sys.modules
"""


@with_timm
@pytest.mark.slow
def test_a_network_is_described_converted_and_proven_where_tensorflow_is_loaded(random_network, rng, tmp_path: Path):
    model, weights = random_network("test_vit")
    pixels = rng.integers(0, 256, (2, 160, 160, 3), dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    arguments = ["timm:test_vit", weights, tmp_path / "pixels.npy", tmp_path / "found.npz"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BESIDE_TENSORFLOW, *map(str, arguments)],
        env={**os.environ, "ONEPASS_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = np.load(tmp_path / "found.npz")
    seen = load_backbone("timm:test_vit", weights=weights).spec.preprocess.normalised(pixels)
    wanted = np.concatenate([by_timm(model, pooling, seen) for pooling in ("cls", "mean")], axis=1)
    assert lowest_cosine(found["rows"], wanted) >= 0.99999
    assert found["proven"]


@with_timm
def test_a_process_that_fails_beside_tensorflow_is_told(
    random_network, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    _, weights = random_network("test_vit")
    monkeypatch.setenv("ONEPASS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(timm_models, "tensorflow_came_first", lambda: True)
    monkeypatch.setattr(worker, "_START", "import os; os.kill(os.getpid(), 9)")
    told = (
        "test_vit of timm cannot be converted beside TensorFlow, in a process of its own: its process "
        "ended with code -9"
    )
    with pytest.raises(BackboneError, match=f"^{re.escape(told)}$"):
        load_backbone("timm:test_vit", weights=weights)


@with_timm
def test_last4_is_the_class_tokens_of_the_last_four_blocks_after_the_norm(random_network, rng):
    import torch

    model, weights = random_network("test_vit")
    backbone = load_backbone("timm:test_vit", weights=weights, pooling="last4", precision="float32")
    pixels = rng.integers(0, 256, (2, 160, 160, 3), dtype=np.uint8)
    seen = backbone.spec.preprocess.normalised(pixels).transpose(0, 3, 1, 2).astype(np.float32)
    states = []
    hooks = [block.register_forward_hook(lambda _, __, output: states.append(output)) for block in model.blocks[-4:]]
    with torch.no_grad():
        model.forward_features(torch.from_numpy(seen))
        wanted = np.concatenate([model.norm(state)[:, 0].numpy() for state in states], axis=1)
    for hook in hooks:
        hook.remove()
    assert lowest_cosine(backbone.rows(pixels), wanted) >= 0.99999


@with_timm
def test_pixels_are_those_of_timms_transform(random_network, make_folder):
    import timm
    from PIL import Image

    model, weights = random_network("test_vit")
    backbone = load_backbone("timm:test_vit", weights=weights, precision="float32")
    config = timm.data.resolve_data_config(pretrained_cfg=model.pretrained_cfg)
    transform = timm.data.create_transform(**config, is_training=False)
    known = backbone.spec.preprocess
    for file in sorted(make_folder({"ant": 2, "bee": 2}).rglob("*.png")):
        seen = transform(Image.open(file).convert("RGB")).numpy().transpose(1, 2, 0)
        theirs = (seen * np.array(known.std) + np.array(known.mean)) / known.rescale
        assert np.abs(theirs - backbone.pixels(file.read_bytes())).max() <= 1


@with_timm
def test_the_reference_is_timms_own_way_from_files_to_rows(random_network, make_folder):
    from PIL import Image

    _, weights = random_network("test_vit")
    backbone = load_backbone("timm:test_vit", weights=weights, precision="float32")
    files = sorted(make_folder({"ant": 2, "bee": 2}).rglob("*.png"))
    name, provider = BackboneName.parse("timm:test_vit"), TimmModels()
    facts = provider.describe(Asked(name, str(weights)))
    wanted = Conversion(name, str(weights), facts, facts.preprocess, "pooled", "uint8")
    reference, known = provider.reference(wanted), facts.preprocess
    assert reference.transform is not None
    ours = np.stack([backbone.pixels(file.read_bytes()) for file in files])
    values = reference.transform.values
    seen = np.stack([values(Image.open(file), pixels) for file, pixels in zip(files, ours, strict=True)])
    assert np.abs((seen - known.normalised(ours)) * known.std / known.rescale).max() <= 1
    assert lowest_cosine(backbone.rows_of(files), reference.rows(seen)) >= 0.99999


@with_timm
def test_a_transformer_is_built_for_another_size_and_keeps_its_share_of_the_crop(random_network, rng):
    import timm

    _, weights = random_network("test_vit")
    backbone = load_backbone("timm:test_vit", weights=weights, image_size=96, precision="float32")
    assert (backbone.spec.image_size, backbone.spec.resize) == (96, "shortest101-bicubic-even")
    overlay = {"file": str(weights)}
    model = timm.create_model(
        "test_vit", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, img_size=96
    ).eval()
    pixels = rng.integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    wanted = by_timm(model, "pooled", backbone.spec.preprocess.normalised(pixels))
    assert lowest_cosine(backbone.rows(pixels), wanted) >= 0.99999


@with_timm
def test_a_folder_as_timm_saves_it_needs_no_name(tmp_path: Path, rng):
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(5)
    shape = {"embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2], "img_size": 64, "window_size": 2}
    model = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, num_classes=3, **shape).eval()
    folder = tmp_path / "beetles"
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    config = {
        "input_size": [3, 64, 64],
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "num_classes": 3,
        "classifier": "head.fc",
        "license": "cc-by-nc-4.0",
    }
    facts = {"architecture": "swin_tiny_patch4_window7_224", "model_args": shape, "pretrained_cfg": config}
    (folder / "config.json").write_text(json.dumps(facts))
    backbone = load_backbone(f"timm:{folder}", precision="float32")
    assert (backbone.spec.backbone, backbone.spec.licence, backbone.spec.provider) == (
        "beetles",
        "cc-by-nc-4.0",
        "timm",
    )
    pixels = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    prepared = backbone.spec.preprocess.normalised(pixels)
    assert lowest_cosine(backbone.rows(pixels), by_timm(model, "pooled", prepared)) >= 0.99999
    largest = load_backbone(f"timm:{folder}", pooling="max", precision="float32").rows(pixels)
    np.testing.assert_allclose(largest, features_of(model, prepared).numpy().max(axis=(1, 2)), atol=1e-4)


@contextlib.contextmanager
def without_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine where the extra is not installed."""
    with monkeypatch.context() as patched:
        for module in [name for name in sys.modules if name.split(".")[0] in ("timm", "torch", "onnxscript")]:
            patched.delitem(sys.modules, module)
        for module in ("timm", "torch", "onnxscript"):
            patched.setitem(sys.modules, module, None)
        yield


@with_timm
def test_a_network_that_was_converted_needs_neither_torch_nor_timm(random_network, rng, monkeypatch):
    _, weights = random_network("test_vit")
    before = load_backbone("timm:test_vit", weights=weights, precision="float32")
    pixels = rng.integers(0, 256, (2, 160, 160, 3), dtype=np.uint8)
    rows = before.rows(pixels)
    with without_torch(monkeypatch):
        again = load_backbone("timm:test_vit", weights=weights, precision="float32")
        np.testing.assert_array_equal(again.rows(pixels), rows)
        for_spec = load_backbone_for(before.spec, source=before.source, needed_by="x.head")
        np.testing.assert_array_equal(for_spec.rows(pixels), rows)
        other = load_backbone("timm:test_vit", weights=weights, pooling="cls", resize="squash", precision="float32")
        assert other.rows(pixels).shape == (2, other.spec.width)
    assert any(name == "test_vit" for _, name, _ in stored_sources())


@with_timm
def test_a_damaged_network_in_the_cache_is_converted_anew(random_network, rng):
    _, weights = random_network("test_vit")
    backbone = load_backbone("timm:test_vit", weights=weights, precision="float32")
    pixels = rng.integers(0, 256, (1, 160, 160, 3), dtype=np.uint8)
    rows = backbone.rows(pixels)
    for folder, name, what in stored_sources():
        if name == "test_vit" and "ONNX" in what:
            (folder / "network.onnx").write_bytes(b"damaged")
    again = load_backbone("timm:test_vit", weights=weights, pooling="cls", precision="float32")
    assert again.spec.weights_hash == backbone.spec.weights_hash
    np.testing.assert_array_equal(
        load_backbone("timm:test_vit", weights=weights, precision="float32").rows(pixels), rows
    )


@with_timm
def test_heads_on_networks_of_timm_are_exported_without_torch(random_network, make_folder, tmp_path, monkeypatch):
    for module in ("tf2onnx", "onnxruntime"):
        pytest.importorskip(module, reason="the onnx extra is not installed")
    _, weights = random_network("test_convnext")
    data = make_folder({"ant": 12, "bee": 12})
    backbone = load_backbone("timm:test_convnext", weights=weights, precision="float32", pooling="avg")
    run_extraction(data, backbone, out=tmp_path / "f.h5")
    head = train_head(tmp_path / "f.h5", head="logreg", tune="none", C=1e-2, out=tmp_path / "net.head").head
    with without_torch(monkeypatch):
        for to, name in (("openvino", "model.xml"), ("onnx", "model.onnx")):
            done = export(head, to=to, out=tmp_path / name).certificate
            assert (done.flips, done.largest < 1e-3, done.one_by_one) == (0, True, False)
    told = (
        f"{head.path} stands on test_convnext, which is a graph of timm, and keras cannot hold it; needed: to='onnx' "
        "or openvino."
    )
    with pytest.raises(OptionError, match=f"^{re.escape(told)}$"):
        export(head, to="keras", out=tmp_path / "model.keras")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        BackboneError, match=r"^test_convnext is a graph of timm, which Keras neither runs nor trains\."
    ):
        fine_tune(head)


@with_timm
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("test_vid", "timm {version} has no network 'test_vid'. Did you mean test_vit"),
        ("test_vit.r160_in2k", "timm {version} has no network 'test_vit.r160_in2k'. Did you mean test_vit.r160_in1k"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(name: str, told: str):
    import timm

    with pytest.raises(UnknownBackboneError) as caught:
        load_backbone(f"timm:{name}")
    assert str(caught.value).startswith(told.format(version=timm.__version__))
    assert str(caught.value).endswith("? timm.list_pretrained() lists all.")


@with_timm
def test_weights_of_another_network_are_refused(random_network):
    _, weights = random_network("test_convnext")
    with pytest.raises(WeightsError, match=f"^{re.escape(str(weights))} does not fit test_vit: .*"):
        load_backbone("timm:test_vit", weights=weights)


@with_timm
def test_a_file_that_lacks_some_weights_is_refused(random_network, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    _, weights = random_network("test_vit")
    values = load_file(weights)
    del values["blocks.1.attn.proj.bias"]
    part = tmp_path / "part.safetensors"
    save_file(values, part)
    told = f"{part} does not fit test_vit: it lacks blocks.1.attn.proj.bias"
    with pytest.raises(WeightsError, match=f"^{re.escape(told)}"):
        load_backbone("timm:test_vit", weights=part)


@with_timm
def test_other_preprocessing_than_the_networks_own_is_refused(random_network, tmp_path: Path):
    _, weights = random_network("test_vit")
    (tmp_path / "p.json").write_text(
        '{"resize": "squash", "size": 160, "antialias": true, "channels": "RGB", "rescale": 1.0, '
        '"mean": [0, 0, 0], "std": [1, 1, 1]}'
    )
    told = "test_vit was trained on RGB, (x / 255 - 0.5) / 0.5; preprocess says RGB, x. Leave it out."
    with pytest.raises(OptionError, match=f"^{re.escape(told)}$"):
        load_backbone("timm:test_vit", weights=weights, preprocess=tmp_path / "p.json")


@with_timm
def test_a_size_that_the_patches_do_not_fill_is_refused(random_network):
    _, weights = random_network("test_vit")
    with pytest.raises((BackboneError, WeightsError), match=r"test_vit"):
        load_backbone("timm:test_vit", weights=weights, image_size=97)


def test_without_the_extra_a_message_says_what_to_install(monkeypatch):
    with without_torch(monkeypatch), pytest.raises(OptionError) as caught:
        load_backbone("timm:vit_small_patch14_dinov2.lvd142m")
    assert str(caught.value) == (
        "a network of timm is converted once, which needs timm, torch, onnxscript; not installed here. Run: pip "
        'install "onepass[torch]".'
    )


def test_pickled_weights_are_not_read(tmp_path: Path):
    weights = tmp_path / "pytorch_model.bin"
    weights.write_bytes(b"cos\nsystem\n")
    told = (
        f"weights {weights} is not read for a network of timm: other formats than .safetensors can run code. Save it "
        "with safetensors.torch.save_file(model.state_dict(), 'model.safetensors')."
    )
    with pytest.raises(OptionError, match=f"^{re.escape(told)}$"):
        load_backbone("timm:test_vit", weights=weights)


def test_a_folder_without_safetensors_is_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    told = (
        f"{tmp_path} holds no model.safetensors; needed: a folder as timm saves it (save_for_hf), with config.json and "
        "model.safetensors."
    )
    with pytest.raises(BackboneError, match=f"^{re.escape(told)}$"):
        load_backbone(f"timm:{tmp_path}")


def test_a_folder_that_moved_is_found_by_its_weights(tmp_path: Path):
    known = {"backbone": "timm:/before/beetles", "weights": "imagenet"}
    assert BackboneOrigin.of(known) == BackboneOrigin("timm:/before/beetles", "imagenet")
    moved = BackboneOrigin.of(known, str(tmp_path / "beetles" / "model.safetensors"))
    assert moved == BackboneOrigin(f"timm:{tmp_path / 'beetles'}", "imagenet")
    named = {"backbone": "timm:test_vit", "weights": "/before/w.safetensors"}
    assert BackboneOrigin.of(named, "w.safetensors") == BackboneOrigin("timm:test_vit", "w.safetensors")


def test_networks_of_timm_are_not_cut(tmp_path: Path):
    told = "networks of timm are not cut; leave @blocks.3 out of timm:test_vit@blocks.3."
    with pytest.raises(OptionError, match=f"^{re.escape(told)}$"):
        load_backbone("timm:test_vit@blocks.3")
    assert BackboneOrigin("timm:test_vit", "imagenet").name == "timm:test_vit"
