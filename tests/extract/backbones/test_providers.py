"""Providers that other packages register, and the proof that what they give is what their framework computes."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from onepass.extract.backbones.catalogue import BackboneName
from onepass.extract.backbones.proof import Proof, Reference, Transform, prove, require_proof
from onepass.extract.backbones.providers import provider_of
from onepass.extract.frameworks import import_openvino
from onepass.features.errors import BackboneError, UnknownBackboneError
from onepass.features.preprocess import Preprocess
from support import MakeFolder, run_process

PACKAGE = '''
"""A provider as another package brings it: a network that gives the mean of each channel."""

from importlib.metadata import version
import numpy as np
import openvino as ov
from onepass.extract import BackboneFacts, GraphProvider, Reference, Network, write_graph
from onepass.features import Preprocess

class Means(GraphProvider):
    name = "means"

    def check(self, name, weights):
        pass

    def describe(self, asked):
        return BackboneFacts(
            provider="means", label=asked.name.label, weights="own", origin="1", native=True, licence="CC0-1.0",
            preprocess=Preprocess(resize="shortest40-bicubic", size=32, rescale=1 / 255), parameters=0,
        )

    def convert(self, wanted, graph):
        ops = ov.opset13
        given = ops.parameter([-1, 3, -1, -1], np.float32, name="images")
        network = Network.of(ov.Model([ops.relu(given)], [given], "means"), "means")
        width = write_graph(network, graph, preprocess=wanted.preprocess, pooling=wanted.pooling,
                            pixels=wanted.pixels, label="means")
        return "ab" * 32, width

    def reference(self, wanted):
        return Reference("numpy " + version("numpy"), lambda seen: np.maximum(seen, 0).mean(axis=(1, 2)))
'''


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder of installed packages: one that brings providers."""
    site = tmp_path / "site"
    facts = site / "means-1.0.dist-info"
    facts.mkdir(parents=True)
    (site / "means_provider.py").write_text(PACKAGE)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: means\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(
        "[onepass.providers]\nmeans = means_provider:Means\nbroken = means_provider:Nothing\nother = pathlib:Path\n"
    )
    return site


def test_a_provider_of_another_package_goes_the_whole_way(installed: Path, make_folder: MakeFolder, tmp_path: Path):
    folder = make_folder({"cats": 8, "dogs": 8})
    path = os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])
    given = {"PYTHONPATH": path, "ONEPASS_CACHE": str(tmp_path / "cache")}
    done = run_process("extract", str(folder), "--backbone", "means:rgb", "--out", "m.h5", cwd=tmp_path, **given)
    assert done.returncode == 0, done.stderr
    shown = run_process("onepass", "backbones", "--verify", "means:rgb", cwd=tmp_path, **given)
    assert shown.returncode == 0, shown.stderr
    lines = dict(line.split(maxsplit=1) for line in shown.stdout.splitlines())
    assert lines["preprocess"] == "shortest40-bicubic to 32 px, RGB, x / 255"
    assert lines["licence"] == "CC0-1.0"
    assert lines["parameters"] == "0"
    assert lines["proof"].startswith(f"numpy {np.__version__}: lowest cosine of rows 1.000000")
    trained = run_process("train-head", "m.h5", "--head", "ridge", cwd=tmp_path, **given)
    assert trained.returncode == 0, trained.stderr
    tuned = run_process("fine-tune", "m.ridge.head", cwd=tmp_path, **given)
    assert tuned.returncode == 1
    assert "rgb is a graph of means, which Keras neither runs nor trains." in tuned.stderr


def test_a_provider_that_cannot_be_loaded_is_told(installed: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(installed))
    with pytest.raises(UnknownBackboneError) as caught:
        provider_of(BackboneName.parse("broken:net"))
    assert str(caught.value) == (
        "the provider broken of means_provider:Nothing cannot be loaded: AttributeError: module 'means_provider' has "
        "no attribute 'Nothing'. Install its package again."
    )
    with pytest.raises(UnknownBackboneError) as caught:
        provider_of(BackboneName.parse("other:net"))
    assert str(caught.value) == (
        "the provider other is pathlib:Path, which is no subclass of onepass's KerasProvider or GraphProvider. Its "
        "package is for another version of onepass."
    )
    sys.modules.pop("means_provider", None)


@pytest.mark.parametrize(
    ("text", "provider", "label"),
    [
        ("resnet50", "keras", "resnet50"),
        ("resnet50@conv4_block6_out", "keras", "resnet50@conv4_block6_out"),
        ("my.net/mine.keras", "keras-file", "mine"),
        ("a@b/mine.keras@conv", "keras-file", "mine@conv"),
        ("mine@2.keras", "keras-file", "mine@2"),
        ("net.onnx", "onnx", "net"),
        ("./net.v2.onnx@features", "onnx", "net.v2@features"),
        ("hf:facebook/dinov2-small", "hf", "dinov2-small"),
        ("timm:vit_small_patch14_dinov2.lvd142m", "timm", "vit_small_patch14_dinov2.lvd142m"),
        ("keras-hub:siglip_base", "keras-hub", "siglip_base"),
        ("nets/dinov2@work/", "hf", "dinov2@work"),
    ],
)
def test_a_name_tells_its_provider(text: str, provider: str, label: str):
    name = BackboneName.parse(text)
    assert (name.provider, name.label) == (provider, label)
    assert str(name) == text


def test_a_folder_of_the_same_name_does_not_hide_a_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet50").mkdir()
    (tmp_path / "mynet").mkdir()
    assert BackboneName.parse("resnet50").provider == "keras"
    assert BackboneName.parse("mynet").provider == "hf"


@pytest.fixture
def means(tmp_path: Path) -> Path:
    """A graph that gives the mean of each channel of x / 255."""
    ov = import_openvino()
    ops = ov.opset13
    given = ops.parameter([1, 32, 32, 3], np.uint8, name="images")
    scaled = ops.divide(ops.convert(given, "f32"), np.float32(255))
    rows = ops.reduce_mean(scaled, [1, 2], keep_dims=False)
    ov.save_model(ov.Model([rows], [given], "means"), tmp_path / "model.xml", compress_to_fp16=False)
    return tmp_path / "model.xml"


OURS = Preprocess(resize="shortest40-bicubic", size=32, rescale=1 / 255)


def rows(seen: np.ndarray) -> np.ndarray:
    return seen.mean(axis=(1, 2))


def test_the_framework_s_own_transform_is_compared_in_levels(means: Path):
    def values(image, pixels):
        return np.clip(pixels.astype(int) + 1, 0, 255) / 255

    proof = prove(means, OURS, Reference("theirs 1", rows, Transform("theirs 1", values)))
    assert proof.reference == "theirs 1"
    assert proof.levels == pytest.approx(1)
    assert proof.holds
    assert str(proof).startswith("theirs 1: pixels within 1 levels of 255, lowest cosine of rows 0.9999")


def test_images_of_another_size_than_the_framework_makes_are_no_proof(means: Path):
    def values(image, pixels):
        return np.zeros((40, 40, 3))

    assert not prove(means, OURS, Reference("theirs 1", rows, Transform("theirs 1", values))).holds


@pytest.mark.parametrize("wrong", ["BGR", "mean", "resize"])
def test_another_preprocessing_than_the_framework_s_is_refused(means: Path, wrong: str):
    def values(image, pixels):
        if wrong == "resize":
            return np.asarray(image.resize((32, 32))) / 255
        return pixels[..., ::-1] / 255 if wrong == "BGR" else pixels / 255 - 0.1

    proof = prove(means, OURS, Reference("theirs 1", rows, Transform("theirs 1", values)))
    assert not proof.holds
    with pytest.raises(
        BackboneError, match=r"^net as converted is not what theirs 1 computes: pixels within .* Its pre"
    ):
        require_proof(proof, "net")


def test_the_refusal_says_what_differs_and_what_was_needed():
    with pytest.raises(BackboneError) as caught:
        require_proof(Proof("timm 1.0", 12.0, 0.91), "net")
    assert str(caught.value) == (
        "net as converted is not what timm 1.0 computes: pixels within 12 levels of 255, lowest cosine of rows "
        "0.91000000; needed: 4 levels at most, and 0.9999 at least. Its preprocessing is wrong, or OpenVINO does not "
        "read it rightly: compare preprocessing with that of its training, and try another version of OpenVINO."
    )
