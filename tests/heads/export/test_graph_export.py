"""Heads on backbones that are graphs: everything that takes a head, and export to the two formats that hold them."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onepass.extract import BackboneOrigin, GraphBackbone, load_backbone, run_extraction, verify
from onepass.features import FeatureFile
from onepass.features.errors import OptionError, SpecMismatchError
from onepass.heads import train_head
from onepass.heads.compare.compare import compare_heads
from onepass.heads.export.certificate import Certificate
from onepass.heads.export.run import export
from onepass.heads.export.verify import verify_export
from onepass.heads.predict.classify import predict
from onepass.heads.predict.evaluate import evaluate
from onepass.heads.predict.nearest import nearest
from onepass.heads.saved_head import SavedHead
from support import write_folder
from tiny_onnx import PREPROCESS, Tiny

for needed in ("onnx", "onnxruntime", "tf2onnx"):
    pytest.importorskip(needed, reason="the onnx extra is not installed")

NETWORKS = {
    "map": Tiny(),
    "tokens": Tiny(rank=3, side=None),
    "pooled": Tiny(rank=2, layout="NHWC", opset=11),
    "one": Tiny(rank=3, batch=1),
    "flat": Tiny(side=None, opset=21, map_layout="NHWC"),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs") / "photos"
    for part, seed in (("train", 1), ("test", 3)):
        write_folder(folder / part, {"ant": 14, "bee": 12, "fly": 10}, seed=seed)
    return folder


@pytest.fixture(scope="module")
def heads(photos: Path) -> dict[str, SavedHead]:
    made = {}
    for name, network in NETWORKS.items():
        folder = photos.parent / name
        path = network.write(folder / "net.onnx", preprocess=PREPROCESS | {"resize": "shortest36-bicubic"})
        pooling = "flatten" if name == "flat" else None
        backbone = load_backbone(str(path), precision="float32", pooling=pooling)
        run_extraction(photos, backbone, out=folder / "photos.net.h5")
        features, out = folder / "photos.net.h5", folder / "net.head"
        made[name] = train_head(features, head="logreg", tune="none", C=1e-2, out=out).head
    return made


@pytest.mark.parametrize("to", ["openvino", "onnx"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_graph_and_its_head_become_one_model_proven_from_image_files(
    name: str, to: str, heads, photos: Path, tmp_path: Path
):
    head = heads[name]
    path = tmp_path / ("model.xml" if to == "openvino" else "model.onnx")
    done = export(head, to=to, out=path).certificate
    assert (done.flips, done.ties, done.takes) == (0, [], "pixels" if to == "openvino" else "images")
    assert done.largest < 1e-4
    assert done.one_by_one == (name == "one")
    assert ("one at a time" in str(done)) == ("one image at a time" in (tmp_path / f"{path.name}.md").read_text())
    assert ("one at a time" in str(done)) == (name == "one")
    assert Certificate.read(tmp_path / f"{path.name}.certificate.json") == done
    assert verify_export(path, data=photos).verdict == "whole"
    with FeatureFile(head.trained_on["features"]) as file:
        expected = head.network.outputs(file.read(file.rows_of("test"))[0])
    np.testing.assert_allclose(done.expected, expected, atol=1e-6)


def test_an_onnx_model_takes_photos_of_any_size(heads, photos: Path, tmp_path: Path):
    import onnxruntime

    head = heads["map"]
    export(head, to="onnx", out=tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (given,), (told,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, told.name) == ("images", "tensor(uint8)", "probabilities")
    backbone = load_backbone(str(photos.parent / "map" / "net.onnx"), precision="float32")
    rng = np.random.default_rng(5)
    for size in ((50, 70), (31, 200), (36, 36)):
        image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        wanted = head.network.outputs(backbone.rows_of([image]))
        np.testing.assert_allclose(session.run(None, {"images": image[None]})[0], wanted, atol=1e-4)
        both = session.run(None, {"images": np.stack([image, image[:, ::-1]])})[0]
        np.testing.assert_allclose(both[:1], wanted, atol=1e-4)


@pytest.mark.parametrize("kind", ["knn", "rbf-svm", "mlp", "centroid"])
def test_heads_of_every_form_go_behind_a_graph(kind: str, heads, tmp_path: Path):
    settings = {"epochs": 12, "hidden": (16,), "lr": 0.01} if kind == "mlp" else {}
    features = heads["map"].trained_on["features"]
    tune = "none" if settings else "fast"
    head = train_head(features, head=kind, tune=tune, out=tmp_path / "net.head", **settings).head
    for to, name in (("openvino", "model.xml"), ("onnx", "model.onnx")):
        done = export(head, to=to, out=tmp_path / name).certificate
        assert (done.flips, done.largest < 1e-4) == (0, True)


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_the_weights_of_a_graph_can_be_of_reduced_precision(precision: str, heads, tmp_path: Path):
    if precision == "int8":
        pytest.importorskip("nncf", reason="the int8 extra is not installed")
    done = export(heads["map"], to="openvino", precision=precision, out=tmp_path / "model.xml", max_flips=36)
    assert done.certificate.precision == precision
    assert done.certificate.largest < 0.2


@pytest.mark.parametrize("to", ["keras", "h5", "savedmodel", "tflite"])
def test_formats_that_hold_no_graph_are_refused_by_name_before_any_work(to: str, heads, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("onepass.heads.export.run.FeatureFile", lambda *_: pytest.fail("the rows were opened"))
    head = heads["map"]
    told = f"{head.path} stands on net, which is an ONNX graph, and {to} cannot hold it; needed: to='onnx' or openvino."
    with pytest.raises(OptionError, match=f"^{re.escape(told)}$"):
        export(head, to=to)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("to", ["openvino", "onnx"])
def test_exported_models_predict_as_their_head_does(to: str, heads, photos: Path, tmp_path: Path):
    head = heads["tokens"]
    path = tmp_path / ("model.xml" if to == "openvino" else "model.onnx")
    export(head, to=to, out=path)
    some = sorted((photos / "test" / "bee").iterdir())[:4]
    for one, other in zip(predict(path, some), predict(head.path, some), strict=True):
        assert [name for name, _ in one.top] == [name for name, _ in other.top]
        np.testing.assert_allclose([p for _, p in one.top], [p for _, p in other.top], atol=1e-4)
    assert evaluate(path, photos).accuracy == evaluate(head.path, photos).accuracy


def test_a_file_that_moved_is_found_by_weights_and_another_network_is_refused(heads, photos: Path, tmp_path: Path):
    head = heads["pooled"]
    place = Path(head.trained_on["backbone"])
    moved = tmp_path / "moved.onnx"
    moved.write_bytes(place.read_bytes())
    for one in (place, place.with_suffix(".preprocess.json")):
        one.rename(one.with_name(f"away-{one.name}"))
    try:
        done = export(head, to="onnx", out=tmp_path / "model.onnx", weights=str(moved))
        assert done.certificate.flips == 0
        NETWORKS["map"].write(moved)
        other = f"the backbone found here and {head.path} do not hold comparable rows: "
        with pytest.raises(SpecMismatchError) as caught:
            export(head, to="onnx", out=tmp_path / "other.onnx", weights=str(moved))
        assert "weights_hash" in str(caught.value) or other in str(caught.value)
    finally:
        for one in (place, place.with_suffix(".preprocess.json")):
            one.with_name(f"away-{one.name}").rename(one)


def test_everything_that_takes_a_head_takes_one_on_a_graph(photos: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = Tiny(rank=3).write(tmp_path / "net.onnx")
    features = tmp_path / "photos.net.h5"
    backbone = load_backbone(str(network), precision="float32")
    assert run_extraction(photos, backbone, out=features).computed == 72
    assert run_extraction(photos, load_backbone(str(network), precision="float32"), out=features).computed == 0
    assert verify(features).verdict == "whole"

    compared = compare_heads(features, heads="logreg,centroid", split=True)
    assert (len(compared.scores), compared.failed) == (2, {})
    head = train_head(features, head="logreg", tune="none", C=1e-2, out=tmp_path / "net.head").head
    some = sorted((photos / "test" / "ant").iterdir())[:3]
    answers = predict(head.path, some, unknown=0.05)
    assert all(answer.unknown in (True, False) for answer in answers)
    with FeatureFile(features) as file:
        rows, _ = file.read(np.arange(len(file.table)))
        known = dict(zip(file.table.paths, rows, strict=True))
    wanted = head.network.outputs(np.stack([known[f"test/ant/{path.name}"] for path in some]))
    for answer, expected in zip(answers, wanted, strict=True):
        np.testing.assert_allclose([p for _, p in answer.top], np.sort(expected)[::-1], atol=1e-5)
    assert evaluate(head.path, photos).n == 36
    assert nearest(head.path, some[0]).neighbours


def test_a_graph_takes_any_number_of_images_where_its_network_does(heads):
    head = heads["map"]
    graph = GraphBackbone(head.spec, BackboneOrigin.of(head.trained_on), str(head.path))
    image = np.asarray(Image.new("RGB", (32, 32), (90, 30, 200)))[None]
    assert graph.rows(image).shape == (1, head.spec.width)
    assert graph.onnx().many
    assert graph.openvino().input(0).get_partial_shape()[0].is_dynamic
