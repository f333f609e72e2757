"""Exported models: every format proven from image files in its own runtime, and what the gate and its proof refuse."""

import json
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from onepass.extract import (
    BackboneOrigin,
    ImageFiles,
    LabelledPixels,
    load_backbone,
    load_trainable,
    run_extraction,
)
from onepass.extract.frameworks import import_keras, plain_keras
from onepass.extract.pixels.resize_graph import resizer
from onepass.features import FeatureFile
from onepass.features.errors import (
    CertificateError,
    DataError,
    ExportError,
    OptionError,
    SpecMismatchError,
    TrainingError,
    UserError,
)
from onepass.heads import fine_tune, predict_images, train_head
from onepass.heads.export.certificate import Certificate, hashes_of
from onepass.heads.export.equivalence import HeldOut, prove
from onepass.heads.export.export_source import ExportInputs
from onepass.heads.export.formats import format_of
from onepass.heads.export.run import Exported, export, export_model
from onepass.heads.export.verify import verify_model
from onepass.heads.finetune.model_file import as_head, load_model, logits_of, require_place, tuned_model
from onepass.heads.saved_head import SavedHead
from support import FAST_NETS, run_process, run_program, write_folder

FORMATS = ("keras", "h5", "savedmodel", "onnx", "openvino", "tflite")
KINDS = ("logreg", "svm", "rbf-svm", "ridge", "lda", "knn", "centroid", "mlp", "linear")


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory, tiny_backbone) -> Path:
    folder = tmp_path_factory.mktemp("export")
    for part, seed in (("train", 1), ("test", 3)):
        write_folder(folder / "photos" / part, {"ant": 14, "bee": 12, "fly": 10}, seed=seed)
    run_extraction(folder / "photos", tiny_backbone, out=folder / "photos.h5")
    return folder / "photos.h5"


@pytest.fixture(scope="module")
def head_of(features: Path) -> Callable[[str], SavedHead]:
    made: dict[str, SavedHead] = {}

    def head(kind: str) -> SavedHead:
        if kind not in made:
            settings = {**FAST_NETS, "logreg": {"C": 1e-3}}.get(kind, {})
            tune = "none" if settings else "fast"
            path = features.with_name(f"photos.{kind}.head")
            made[kind] = train_head(features, head=kind, tune=tune, out=path, **settings).head
        return made[kind]

    return head


@pytest.fixture(scope="module")
def tuned(features: Path, head_of) -> SavedHead:
    path = features.with_name("tuned.keras")
    fine_tune(head_of("logreg"), unfreeze=3, lr=1e-3, epochs=1, keep="always", boundary_cache="off", out=path)
    return tuned_model(path)


def inputs(file: FeatureFile, head: SavedHead, *, data: Path | None = None) -> ExportInputs:
    return ExportInputs.of(head, file, data=[data] if data else [])


def exported_model(features: Path, head: SavedHead, out: Path, **options) -> Exported:
    return export(head, features=features, out=out, **options)


def place(folder: Path, to: str) -> Path:
    return folder / {"savedmodel": "model", "openvino": "model.xml"}.get(to, f"model.{to}")


def names_in(path: Path, to: str) -> list[str]:
    """The class names in the metadata of a format, read as its users would."""
    if to == "keras":
        return json.loads(zipfile.ZipFile(path).read("onepass.json"))["class_names"]
    if to == "h5":
        return json.loads(h5py.File(path).attrs["onepass.json"])["class_names"]
    if to == "savedmodel":
        return json.loads(json.loads((path / "assets.extra" / "onepass.json").read_text())["class_names"])
    if to == "onnx":
        import onnxruntime

        return json.loads(onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map["class_names"])
    if to == "openvino":
        import openvino

        return json.loads(openvino.Core().read_model(path).get_rt_info(["onepass", "class_names"]).astype(str))
    return zipfile.ZipFile(path).read("labels.txt").decode().splitlines()


@pytest.mark.parametrize("to", FORMATS)
def test_every_format_gives_from_image_files_what_the_cached_rows_gave(to: str, features: Path, head_of, tmp_path):
    head, path = head_of("logreg"), place(tmp_path, to)
    done = exported_model(features, head, path, to=to)
    found = done.certificate
    with FeatureFile(features) as file:
        test = file.rows_of("test")
        expected = head.network.outputs(file.read(test)[0])
        hashes = [file.table.content_hashes[i].tobytes().hex() for i in test]
    assert (found.flips, found.max_flips, found.measured_on) == (0, 0, "test")
    assert found.images == hashes
    assert found.largest < 1e-4
    assert found.ties == []
    np.testing.assert_allclose(found.expected, expected, atol=1e-6)
    assert found.accuracy == found.before == head.evaluation.accuracy
    assert [one.batch for one in found.latency] == [1, 32]
    assert found.files == hashes_of(path)
    assert Certificate.read(tmp_path / f"{path.name}.certificate.json") == found
    assert names_in(path, to) == ["ant", "bee", "fly"]
    card = (tmp_path / f"{path.name}.md").read_text()
    for words in ("## Data", "## Scores", "## Limits", "## How to load", f"{head.evaluation.accuracy:.3f}"):
        assert words in card
    weights = {"model.bin"} if to == "openvino" else set()
    left = {path.name, f"{path.name}.md", f"{path.name}.certificate.json"} | weights
    assert {p.name for p in tmp_path.iterdir()} == left


@pytest.mark.parametrize("kind", KINDS)
def test_every_head_becomes_layers(kind: str, features: Path, head_of, tmp_path: Path):
    done = exported_model(features, head_of(kind), tmp_path / "model.keras", to="keras")
    assert done.certificate.flips == 0
    assert done.certificate.largest < 1e-4


@pytest.mark.parametrize(("kind", "to"), [("rbf-svm", "h5"), ("rbf-svm", "onnx"), ("knn", "onnx"), ("knn", "tflite")])
def test_heads_without_dense_layers_alone_go_into_other_formats_too(
    kind: str, to: str, features: Path, head_of, tmp_path
):
    assert exported_model(features, head_of(kind), place(tmp_path, to), to=to).certificate.flips == 0


def test_nearest_neighbours_do_not_fit_the_legacy_format(features: Path, head_of, tmp_path: Path):
    with pytest.raises(
        OptionError,
        match=re.escape(
            "the legacy .h5 format has no layer that finds nearest neighbours. Export the knn head with to='keras', "
            "savedmodel, onnx, openvino or tflite, or train a logreg, svm or mlp head."
        )
        + "$",
    ):
        exported_model(features, head_of("knn"), tmp_path / "model.h5", to="h5")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("to", FORMATS)
def test_a_fine_tuned_model_passes_too(to: str, features: Path, tuned: SavedHead, tmp_path: Path):
    done = exported_model(features, tuned, place(tmp_path, to), to=to)
    assert done.certificate.flips == 0
    assert done.certificate.head == "tuned.keras, fine-tuned"
    with FeatureFile(features) as file, plain_keras():
        pixels = LabelledPixels(file).read(file.rows_of("test"))
        wanted = load_model(tuned.path).predict(pixels, verbose=0)
    np.testing.assert_allclose(done.certificate.expected, wanted, atol=1e-5)


def test_an_exported_keras_file_predicts_as_its_head_does(features: Path, head_of, tmp_path: Path, tiny_backbone):
    head = head_of("mlp")
    exported_model(features, head, tmp_path / "model.keras", to="keras")
    backbone = load_backbone(**logits_of(tmp_path / "model.keras"))
    photos = sorted((features.parent / "photos" / "test" / "bee").iterdir())
    whole = predict_images(as_head(tmp_path / "model.keras", backbone), backbone, photos)
    alone = predict_images(head, tiny_backbone, photos)
    for one, other in zip(whole, alone, strict=True):
        assert [name for name, _ in one.top] == [name for name, _ in other.top]
        np.testing.assert_allclose([p for _, p in one.top], [p for _, p in other.top], atol=1e-4)


def test_a_saved_model_holds_every_weight_once(features: Path, head_of, tmp_path: Path):
    import tensorflow as tf

    head = head_of("logreg")
    exported_model(features, head, tmp_path / "model", to="savedmodel")
    weights = tf.train.list_variables(str(tmp_path / "model" / "variables" / "variables"))
    held = sum(int(np.prod(shape)) for name, shape in weights if "VARIABLE_VALUE" in name)
    with plain_keras():
        network = load_trainable(head.spec, source=BackboneOrigin.of(head.trained_on), needed_by="the test").network
    in_the_head = sum(array.size for array in (*head.network.kernels, *head.network.biases))
    assert held == network.count_params() + in_the_head


def test_a_saved_model_takes_encoded_files(features: Path, head_of, tmp_path: Path):
    done = exported_model(features, head_of("logreg"), tmp_path / "model", to="savedmodel", takes_bytes=True)
    assert (done.certificate.takes, done.certificate.flips) == ("bytes", 0)
    import tensorflow as tf

    photo = features.parent / "photos" / "test" / "ant" / "0.png"
    serve = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    found = serve(files=tf.constant([photo.read_bytes()] * 3))["probabilities"].numpy()
    assert found.shape == (3, 3)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("to", ["openvino", "tflite"])
@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_reduced_precision_is_counted_and_shown(to: str, precision: str, features: Path, head_of, tmp_path: Path):
    path = place(tmp_path, to)
    done = exported_model(features, head_of("logreg"), path, to=to, precision=precision, max_flips=36)
    found = done.certificate
    assert found.precision == precision
    assert found.flips <= 8
    assert 1e-7 < found.largest < (0.01 if precision == "float16" else 1)
    low, high = found.interval
    assert f"accuracy {found.accuracy:.3f} ({low:.3f} to {high:.3f})" in str(done)
    assert ("float16" if precision == "float16" else "int8") in kinds_of_numbers(path)


def kinds_of_numbers(path: Path) -> set[str]:
    """What the weights of an OpenVINO or LiteRT model are stored as."""
    if path.suffix == ".tflite":
        from ai_edge_litert.interpreter import Interpreter

        return {np.dtype(tensor["dtype"]).name for tensor in Interpreter(str(path)).get_tensor_details()}
    import openvino

    operations = openvino.Core().read_model(path).get_ops()
    return {
        np.dtype(operation.get_element_type().to_dtype()).name
        for operation in operations
        if operation.get_type_name() == "Constant" and np.prod(operation.get_output_shape(0)) > 8
    }


def test_wrong_preprocessing_is_caught(features: Path, head_of, tmp_path: Path):
    head = head_of("svm")

    def shifted(part=None):
        """The backbone with the pixels of another scale, as other Keras networks take them."""
        backbone = load_trainable(head.spec, source=BackboneOrigin.of(head.trained_on), needed_by="the test")
        keras = import_keras()
        pixels = keras.Input(backbone.model.input_shape[1:], dtype="uint8")
        wrong = keras.Model(pixels, backbone.model(keras.ops.cast(pixels, "float32") / 127.5 - 1))
        return replace(backbone, model=wrong)

    with FeatureFile(features) as file:
        given = replace(inputs(file, head), backbone=shifted)
        with pytest.raises(ExportError) as caught:
            export_model(head, file, given, to="onnx", out=tmp_path / "model.onnx")
    assert re.fullmatch(
        rf"{re.escape(str(tmp_path))}/model\.onnx was not written: \d+ of 36 held-out images get another label than by "
        r"the cached way; none may\. Accuracy 0\.\d{3} \(0\.\d{3} to 0\.\d{3}\), \d\.\d{3} from cached rows\. Most of "
        r"all differs test/\w+/\d+\.png, \w+ before and \w+ now, mostly in the backbone \(decode and resize: pixels by "
        r"0\.\d\d of 255 on average, \d at most; backbone: its row has a cosine of -?0\.\d{6} to the cached one; head: "
        r"probabilities by \d\.\de[-+]\d\d on that row; runtime: probabilities by \d\.\de[-+]\d\d from Keras, the "
        r"difference of pixels included\)\. Allow it with max_flips=\d+, or choose another format or precision\.",
        str(caught.value),
    )
    assert not list(tmp_path.iterdir())


def test_a_wrong_resize_is_caught(features: Path, head_of, tmp_path: Path):
    head = head_of("svm")
    with FeatureFile(features) as file:
        rule = resizer("squash", 32)
        given = replace(inputs(file, head), resizer=lambda: lambda images: rule(255 - images))
        with pytest.raises(ExportError, match="mostly in the decode and resize"):
            export_model(head, file, given, to="savedmodel", out=tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_wrong_head_is_caught(features: Path, head_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from onepass.heads.export import export_source as origin

    head, right = head_of("svm"), origin.with_head
    swapped = replace(head.network, kernels=(head.network.kernels[0][:, ::-1],))
    monkeypatch.setattr(origin, "with_head", lambda backbone, _, **options: right(backbone, swapped, **options))
    with pytest.raises(ExportError, match="mostly in the head"):
        exported_model(features, head, tmp_path / "model.keras", to="keras")
    assert not list(tmp_path.iterdir())


def nearly(sign: int) -> Callable[[Any], Any]:
    """The resize rule with one level more or less in every second pixel."""
    import tensorflow as tf

    rule = resizer("squash", 32)

    def off(images: Any) -> Any:
        pixels = tf.cast(rule(images), tf.int32)
        moved = pixels + sign * (tf.range(32) % 2)[None, None, :, None]
        return tf.cast(tf.clip_by_value(moved, 0, 255), tf.uint8)

    return off


def between_two_classes(file: FeatureFile, head: SavedHead) -> tuple[SavedHead, int, int]:
    """The head, moved until a level decides the label of some test image; which image, and the level's sign."""
    backbone = load_trainable(head.spec, source=BackboneOrigin.of(head.trained_on), needed_by="the test").model
    test = file.rows_of("test")
    rows, images = file.read(test)[0], LabelledPixels(file)
    for some, position in enumerate(test.tolist()):
        scores = head.network.scores(rows[[some]])[0]
        second, first = np.argsort(scores)[-2:]
        for sign in (1, -1):
            row = backbone.predict_on_batch(nearly(sign)(images.whole(position)[None]))
            moved = head.network.scores(row)[0] - scores
            if moved[second] - moved[first] > 1e-3:
                bias = head.network.biases[-1].copy()
                bias[second] += scores[first] - scores[second] - (moved[second] - moved[first]) / 2
                return replace(head, network=replace(head.network, biases=(bias,))), some, sign
    raise AssertionError("no image is moved by a level")


def test_a_photo_that_a_pixel_level_moves_across_is_a_tie_and_no_flip(features: Path, head_of, tmp_path: Path):
    with FeatureFile(features) as file, plain_keras():
        head, some, sign = between_two_classes(file, head_of("logreg"))
        given = replace(inputs(file, head), resizer=lambda: nearly(sign))
        found = export_model(head, file, given, to="savedmodel", out=tmp_path / "model").certificate
    assert (found.flips, found.max_flips) == (0, 0)
    assert some in found.ties
    ties = len(found.ties)
    gap = np.ptp(np.sort(found.expected[some])[-2:])
    assert 0 < gap < found.tie_gap < 0.1
    told = f"beside {ties} {'tie' if ties == 1 else 'ties'} of two classes within {found.tie_gap:.1e}, probabilities by"
    assert f"no labels differ {told}" in str(found)
    again = verified(tmp_path / "model", features.parent / "photos")
    assert (again.verdict, again.flips, again.ties) == ("whole", 0, ties)
    assert f"0 labels differ (0 may) {told}" in str(again)
    old = verified(tmp_path / "model", features.parent / "photos", ties=[], tie_gap=0.0)
    assert (old.verdict, old.flips, old.ties) == ("drifted", ties, 0)


def test_only_what_a_known_difference_explains_is_a_tie(features: Path):
    expected = np.array([[0.50005, 0.49995], [0.51, 0.49], [0.50005, 0.49995], [0.9, 0.1]])
    found = np.array([[0.49995, 0.50005], [0.49, 0.51], [0.3, 0.7], [0.9, 0.1]])
    with FeatureFile(features) as file:
        images = LabelledPixels(file)
        held_out = HeldOut(images, np.arange(4), ["a", "b", "c", "d"], np.zeros(4, np.int64), expected)
        plain = prove(lambda _: found, "pixels", held_out)
        wide = prove(lambda _: found, "pixels", held_out, {0: 1e-4, 1: 0.011, 2: 0.011}.__getitem__)
    assert (plain.ties.tolist(), plain.flipped.tolist(), plain.tie_gap) == ([0], [1, 2], 2e-4)
    assert (wide.ties.tolist(), wide.flipped.tolist(), wide.tie_gap) == ([0, 1], [2], 0.022)


def test_flips_that_are_allowed_are_written_down(features: Path, head_of, tmp_path: Path):
    head = head_of("svm")
    with FeatureFile(features) as file:
        rule = resizer("squash", 32)
        given = replace(inputs(file, head), resizer=lambda: lambda images: rule(255 - images))
        done = export_model(head, file, given, to="savedmodel", out=tmp_path / "model", max_flips=36)
    assert 0 < done.certificate.flips <= 36 == done.certificate.max_flips
    assert done.certificate.accuracy < done.certificate.before


def test_a_model_that_its_runtime_cannot_run_leaves_nothing(features: Path, head_of, tmp_path, monkeypatch):
    from onepass.heads.export import formats

    def broken(self, whole, path, precision, sample):
        path.write_bytes(b"no model")

    monkeypatch.setattr(formats.Onnx, "write", broken)
    with pytest.raises(ExportError, match=r"^the onnx model in float32 cannot be had: InvalidProtobuf: "):
        exported_model(features, head_of("logreg"), tmp_path / "model.onnx", to="onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "pickle"}, "to is 'pickle'; needed: one of keras, h5, savedmodel, onnx, openvino, tflite."),
        (
            {"to": "onnx", "precision": "int8"},
            "precision='int8' does not go with to='onnx'; needed: float32, or to openvino or tflite.",
        ),
        (
            {"to": "onnx", "precision": "int4"},
            "precision='int4' does not go with to='onnx'; needed: float32.",
        ),
        ({"to": "onnx", "takes_bytes": True}, "takes_bytes goes with to='savedmodel' alone."),
        ({"to": "onnx", "max_flips": -1}, "max_flips is -1; needed: 0 or more."),
        ({"to": "tflite"}, "out is {out}; needed: a name that ends in .tflite."),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict, message: str, features: Path, head_of, tmp_path: Path):
    out = tmp_path / "model.onnx"
    with pytest.raises(OptionError) as caught:
        exported_model(features, head_of("logreg"), out, **options)
    assert str(caught.value) == message.format(out=out)


def test_nothing_is_overwritten(features: Path, head_of, tmp_path: Path):
    for name in ("model.xml", "model.bin", "model.xml.md", "model.xml.certificate.json"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(OptionError) as caught:
            exported_model(features, head_of("logreg"), tmp_path / "model.xml", to="openvino")
        assert str(caught.value) == (
            f"{tmp_path / name} exists and is not overwritten. Choose another name with out, or delete it."
        )
        (tmp_path / name).unlink()
    with pytest.raises(OptionError, match=r"does not exist\. Make it, or name another one\.$"):
        exported_model(features, head_of("logreg"), tmp_path / "none" / "model.xml", to="openvino")


def test_rows_of_another_backbone_prove_nothing(features: Path, head_of, feature_file: Path, tmp_path: Path):
    head = head_of("logreg")
    with FeatureFile(features) as file, FeatureFile(feature_file) as other, pytest.raises(SpecMismatchError):
        export_model(head, other, inputs(file, head), to="keras", out=tmp_path / "model.keras")


def test_a_format_whose_package_is_missing_is_refused(features: Path, head_of, tmp_path: Path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(OptionError) as caught:
        exported_model(features, head_of("logreg"), tmp_path / "model.onnx", to="onnx")
    assert str(caught.value) == 'onnx needs tf2onnx, which is not installed. Run: pip install "onepass[onnx]".'


def test_a_photo_that_changed_is_named(features: Path, head_of, tmp_path: Path):
    shutil.copytree(features.parent / "photos", tmp_path / "photos")
    write_folder(tmp_path / "photos" / "test", {"ant": 1, "bee": 1}, seed=9)
    with FeatureFile(features) as file:
        given = inputs(file, head_of("logreg"), data=tmp_path / "photos")
        with pytest.raises(
            DataError, match=r"photos/test/ant/0\.png: it is not the file that its row was computed from"
        ):
            export_model(head_of("logreg"), file, given, to="keras", out=tmp_path / "model.keras")
    assert not (tmp_path / "model.keras").exists()


def test_paths_in_a_feature_file_do_not_lead_out_of_its_folder(features: Path, tmp_path: Path):
    with FeatureFile(features) as file:
        for path in ("../secret.png", "/etc/passwd", "a/../../b.png"):
            forged = replace(file.table, paths=(path, *file.table.paths[1:]))
            file.__dict__["table"] = forged
            with pytest.raises(DataError, match=f"^{path} does not lie below .*; nothing there is opened."):
                LabelledPixels(file).read(np.array([0]))
            assert LabelledPixels(file).data(1)


def test_images_of_the_training_prove_nothing(features: Path, head_of, tmp_path: Path, tiny_backbone):
    photos = tmp_path / "photos"
    shutil.copytree(features.parent / "photos" / "train", photos / "test")
    shutil.copytree(features.parent / "photos" / "test", photos / "train")
    run_extraction(photos, tiny_backbone, out=tmp_path / "swapped.h5")
    with pytest.raises(OptionError) as caught:
        exported_model(tmp_path / "swapped.h5", head_of("logreg"), tmp_path / "model.keras", to="keras")
    assert str(caught.value) == (
        f"{tmp_path / 'swapped.h5'} holds no image that {head_of('logreg').path} was not trained on, so nothing can "
        "prove the export. Extract photos that are new to it as well, and give their feature file by features."
    )
    exported_model(features, head_of("logreg"), tmp_path / "model.keras", to="keras")
    with pytest.raises(OptionError, match="so nothing can prove the export"):
        exported_model(
            tmp_path / "swapped.h5", tuned_model(tmp_path / "model.keras"), tmp_path / "again.keras", to="keras"
        )


def test_classes_are_matched_by_name_and_copies_count_once(features: Path, head_of, tmp_path: Path, tiny_backbone):
    photos = tmp_path / "photos"
    shutil.copytree(features.parent / "photos", photos)
    shutil.copy(photos / "test" / "bee" / "0.png", photos / "test" / "bee" / "copy.png")
    run_extraction(photos, tiny_backbone, out=tmp_path / "copies.h5")
    done = exported_model(tmp_path / "copies.h5", head_of("logreg"), tmp_path / "model.keras", to="keras")
    assert len(done.certificate.images) == len(set(done.certificate.images)) == 36
    for part in ("train", "test"):
        write_folder(photos / part, {"aaa": 3}, seed=5)
    run_extraction(photos, tiny_backbone, out=tmp_path / "more.h5")
    with pytest.raises(TrainingError, match=r"the images have the class 'aaa', which the head does not know"):
        exported_model(tmp_path / "more.h5", head_of("logreg"), tmp_path / "other.keras", to="keras")


def test_rows_in_half_precision_may_flip_a_label(features: Path, head_of, tmp_path: Path, tiny_backbone):
    run_extraction(features.parent / "photos", tiny_backbone, out=tmp_path / "half.h5", row_dtype="float16")
    done = exported_model(tmp_path / "half.h5", head_of("logreg"), tmp_path / "model.keras", to="keras")
    assert done.certificate.max_flips == 1


def test_encoded_files_of_other_formats_are_named(features: Path, head_of, tmp_path: Path, tiny_backbone):
    photos = tmp_path / "photos"
    shutil.copytree(features.parent / "photos", photos)
    for path in sorted((photos / "test").rglob("*.png")):
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    run_extraction(photos, tiny_backbone, out=tmp_path / "bmp.h5")
    with pytest.raises(ExportError, match=r"^test/\w+/\d+\.bmp is neither JPEG nor PNG, .* Leave takes_bytes out\.$"):
        exported_model(tmp_path / "bmp.h5", head_of("logreg"), tmp_path / "model", to="savedmodel", takes_bytes=True)
    assert not (tmp_path / "model").exists()


def test_names_that_are_not_utf_8_are_written_escaped(head_of, tmp_path: Path, tiny_backbone):
    write_folder(tmp_path / "photos", {"be\udcff": 12, "a|b": 12})
    run_extraction(tmp_path / "photos", tiny_backbone, out=tmp_path / "odd.h5")
    head = train_head(tmp_path / "odd.h5", head="logreg", out=tmp_path / "odd.head").head
    done = exported_model(tmp_path / "odd.h5", head, tmp_path / "model.tflite", to="tflite", max_flips=9)
    assert Certificate.read(tmp_path / "model.tflite.certificate.json").class_names == ["a|b", "be\udcff"]
    assert "| a\\|b |" in (tmp_path / "model.tflite.md").read_text()
    assert done.path.exists()


def test_a_model_that_names_other_classes_than_it_gives_is_refused(features: Path, tuned: SavedHead, tmp_path: Path):
    forged = replace(tuned, class_names=(*tuned.class_names, "wasp"))
    with pytest.raises(ExportError) as caught:
        exported_model(features, forged, tmp_path / "model.onnx", to="onnx")
    assert str(caught.value) == (
        f"{tuned.path} names 4 classes and gives an output of shape (None, 3). It is damaged; fine-tune or export it "
        "again."
    )


@pytest.mark.parametrize("out", [".", "/"])
def test_a_place_without_a_name_is_refused(out: str, features: Path, head_of):
    with pytest.raises(OptionError, match=r"needed: the name of a new file or folder\.$"):
        exported_model(features, head_of("logreg"), Path(out), to="savedmodel")


def test_a_link_that_leads_nowhere_is_not_replaced(features: Path, head_of, tmp_path: Path):
    (tmp_path / "model.keras").symlink_to(tmp_path / "gone")
    with pytest.raises(OptionError, match="exists and is not overwritten"):
        exported_model(features, head_of("logreg"), tmp_path / "model.keras", to="keras")


def test_fine_tuning_does_not_write_over_an_exported_model(features: Path, head_of, tuned: SavedHead, tmp_path: Path):
    exported_model(features, head_of("logreg"), tmp_path / "model.keras", to="keras")
    with pytest.raises(OptionError, match="exists and is no model that fine-tune wrote; it is left alone"):
        require_place(tmp_path / "model.keras")
    require_place(tuned.path)


# Verifying


@pytest.fixture(scope="module")
def exported(features: Path, head_of, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    for to in ("onnx", "savedmodel", "openvino"):
        exported_model(features, head_of("logreg"), place(folder, to), to=to)
    return folder


def verified(model: Path, photos: Path, **changes):
    proven = replace(Certificate.read(Path(f"{model}.certificate.json")), **changes)
    size, rule = proven.image_size, proven.resize
    files, found = ImageFiles.found_in([photos], proven.content_hashes, image_size=size, resize=rule, depth=16)
    return verify_model(model, proven, files, found)


@pytest.mark.parametrize("to", ["onnx", "savedmodel", "openvino"])
def test_a_certificate_is_proven_again_elsewhere(to: str, exported: Path, features: Path, tmp_path: Path):
    shutil.copytree(exported, tmp_path / "there")
    write_folder(tmp_path / "elsewhere", {"x": 2}, seed=77)
    shutil.copytree(features.parent / "photos" / "test", tmp_path / "elsewhere" / "deep" / "down")
    found = verified(place(tmp_path / "there", to), tmp_path / "elsewhere")
    assert (found.verdict, found.images, found.missing, found.flips) == ("whole", 36, 0, 0)
    assert str(found).endswith("it does what was certified")


def test_images_that_are_missing_are_counted(exported: Path, features: Path, tmp_path: Path):
    found = verified(exported / "model.onnx", features.parent / "photos" / "test" / "bee")
    assert (found.images, found.missing, found.verdict) == (12, 24, "incomplete")
    assert "24 images of the certificate were not found; name their folders with data" in str(found)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        verified(exported / "model.onnx", tmp_path / "empty")
    assert str(caught.value) == (
        f"none of the 36 images that {exported / 'model.onnx'} was certified with is here. Name the folders they lie "
        "in by data."
    )


def test_the_flips_that_are_allowed_shrink_with_the_images_found(exported: Path, features: Path):
    other = np.roll(Certificate.read(exported / "model.onnx.certificate.json").expected, 1, axis=1).tolist()
    bees = features.parent / "photos" / "test" / "bee"
    found = verified(exported / "model.onnx", bees, expected=other, max_flips=35)
    assert (found.max_flips, found.flips, found.verdict) == (11, 12, "drifted")


def test_a_model_that_does_something_else_has_drifted(exported: Path, features: Path):
    other = np.roll(Certificate.read(exported / "model.onnx.certificate.json").expected, 1, axis=1).tolist()
    found = verified(exported / "model.onnx", features.parent / "photos", expected=other)
    assert (found.verdict, found.flips) == ("drifted", 36)
    assert str(found).endswith("it does NOT do what was certified")


def test_another_file_than_the_certified_one_is_not_loaded(exported: Path, features: Path, tmp_path: Path):
    shutil.copytree(exported, tmp_path / "there")
    model = tmp_path / "there" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    with pytest.raises(CertificateError) as caught:
        verified(model, features.parent / "photos")
    assert str(caught.value) == (
        f"{model} is not the model that was certified, so it was not loaded: model.onnx differs. Export it again, or "
        "give the certificate that lies beside it."
    )
    with pytest.raises(CertificateError, match=r"^there is no model .*gone\.onnx\. `onepass export` writes one\.$"):
        verify_model(
            tmp_path / "gone.onnx", Certificate.read(exported / "model.onnx.certificate.json"), None, np.arange(3)
        )


@pytest.mark.parametrize(
    "spoil",
    [
        lambda facts: facts.pop("to"),
        lambda facts: facts.update(version=2),
        lambda facts: facts.update(image_size="224"),
        lambda facts: facts.update(image_size=10**9),
        lambda facts: facts.update(flips=10**400),
        lambda facts: facts["images"].__setitem__(0, " " * 62 + "00"),
        lambda facts: facts.update(flips=True),
        lambda facts: facts.update(largest=float("nan")),
        lambda facts: facts.update(resize="rm -rf"),
        lambda facts: facts.update(takes="shells"),
        lambda facts: facts["images"].pop(),
        lambda facts: facts.update(images=["../" * 21 + "x"] * 36),
        lambda facts: facts["expected"][0].pop(),
        lambda facts: facts["labels"].__setitem__(0, 99),
        lambda facts: facts.update(latency=[{"batch": 1}]),
        lambda facts: facts.update(interval=[0.5]),
        lambda facts: facts.update(files=["a"]),
        lambda facts: facts.update(ties=[99]),
        lambda facts: facts.update(tie_gap=1.5),
        lambda facts: facts.update(versions={"onepass": 1}),
    ],
)
def test_a_damaged_certificate_is_refused(spoil, exported: Path, tmp_path: Path):
    facts = json.loads((exported / "model.onnx.certificate.json").read_text())
    spoil(facts)
    (tmp_path / "x.json").write_text(json.dumps(facts))
    with pytest.raises(CertificateError, match=r"is no certificate of this onepass \(.*\)\. Export the model again\.$"):
        Certificate.read(tmp_path / "x.json")


def test_a_missing_certificate_is_told(tmp_path: Path):
    with pytest.raises(CertificateError, match=r"^there is no certificate .*x\.json\. `onepass export` writes one\.$"):
        Certificate.read(tmp_path / "x.json")


# Safety


def test_a_lambda_in_a_legacy_file_is_not_loaded(tmp_path: Path):
    keras = import_keras()
    model = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x + 1)])
    model.save(tmp_path / "x.h5")
    with pytest.raises(TrainingError) as caught:
        load_model(tmp_path / "x.h5")
    assert str(caught.value) == f"{tmp_path / 'x.h5'} holds a Lambda layer, which is code, and is not loaded."
    (tmp_path / "y.h5").write_bytes(b"no HDF5")
    with pytest.raises(TrainingError, match=r"y\.h5 holds no model in the legacy format of Keras\.$"):
        load_model(tmp_path / "y.h5")


# The commands


def test_export_and_verify_as_commands(features: Path, head_of, tmp_path: Path):
    head = head_of("svm").path
    done = run_program("onepass", "export", str(head), "--to", "tflite", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "Next: onepass verify photos.svm.tflite\n")
    assert done.stdout.startswith("photos.svm.tflite: 36 test images from their files: no labels differ, probabilities")
    again = run_program("onepass", "export", str(head), "--to", "tflite", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.startswith("error: photos.svm.tflite exists and is not overwritten.")
    command = ("onepass", "verify", "photos.svm.tflite", "--data", str(features.parent / "photos"), "--json")
    proven = run_program(*command, cwd=tmp_path)
    assert proven.returncode == 0, proven.stderr
    assert json.loads(proven.stdout)["verdict"] == "whole"
    nothing = run_program("onepass", "verify", "photos.svm.tflite", "photos.svm.tflite.certificate.json", cwd=tmp_path)
    assert (nothing.returncode, nothing.stdout) == (1, "")
    assert nothing.stderr.startswith("error: none of the 36 images that photos.svm.tflite was certified with is here.")


def test_verify_says_what_an_exported_model_lacks(tmp_path: Path):
    (tmp_path / "x.onnx").write_bytes(b"model")
    done = run_program("onepass", "verify", "x.onnx", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        1,
        "error: there is no certificate x.onnx.certificate.json. `onepass export` writes one.\n",
    )
    done = run_program("onepass", "verify", "x.h5", "--data", ".", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "error: --data says where the images of an exported model's certificate lie; name the model.\n",
    )


def test_all_errors_are_the_users(tmp_path: Path):
    done = run_program("onepass", "export", "none.head", "--to", "onnx", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        1,
        "error: there is no head file none.head. Make one with: train-head FEATURES\n",
    )
    assert issubclass(ExportError, UserError)
    assert format_of("keras").runtime == "keras"


QUIET = """
import numpy as np, onnx
from onepass.heads.export.formats import Onnx
helper, kind = onnx.helper, onnx.TensorProto.FLOAT
values = [helper.make_tensor_value_info(name, kind, [1]) for name in ("images", "y")]
graph = helper.make_graph([helper.make_node("Relu", ["images"], ["y"])], "g", values[:1], values[1:])
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), "relu.onnx")
from pathlib import Path
assert Onnx().load(Path("relu.onnx"))(np.ones(1, np.float32)) == 1
"""


def test_onnxruntime_leaves_nothing_in_the_users_home(tmp_path: Path):
    home = tmp_path / "home"
    home.mkdir()
    done = run_process("python", "-c", QUIET, cwd=tmp_path, HOME=str(home), XDG_CACHE_HOME=str(home / "cache"))
    assert done.returncode == 0, done.stderr
    assert list(home.rglob("*")) == []
