"""What is written for other tools is what their own readers, or their documents, say they take."""

import base64
import io
import json
import os
import re
import shutil
import zlib
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from onepass import label, load_head, share, train_head
from onepass.extract.one_pass.run import run_extraction
from onepass.features import FeatureFile
from onepass.features.errors import DataError, OptionError
from onepass.features.names import unshown
from support import MakeFolder

HOSTILE = ('tab\tquote".png', "line\nend.png", "a&b=c+d%41;?#.png", "ü é.png", os.fsdecode(b"caf\xe9.png"))


@pytest.fixture
def features(tmp_path: Path, make_folder: MakeFolder, tiny_backbone) -> Path:
    photos = make_folder({"cats": 14, "dogs": 14})
    for name, image in zip(HOSTILE, sorted((photos / "cats").iterdir()), strict=False):
        try:
            image.rename(image.with_name(name))
        except OSError:
            pytest.skip("this file system takes no such names")
    run_extraction(photos, tiny_backbone, out=tmp_path / "f.h5")
    return tmp_path / "f.h5"


@pytest.fixture
def head(features: Path) -> Path:
    path = features.with_name("f.head")
    train_head(features, head="ridge", out=path)
    return path


def test_tensorboard_reads_rows_names_and_pictures(head: Path, features: Path, tmp_path: Path):
    shared = share(head, to="projector", out=tmp_path / "logs")
    assert shared.files == ["metadata.tsv", "projector_config.pbtxt", "sprite.png", "tensors.tsv"]
    lines = (tmp_path / "logs" / "metadata.tsv").read_text().split("\n")
    with FeatureFile(features) as file:
        rows, paths, thumbnails = file.read(np.arange(28))[0], file.paths, file.thumbnails
    cells = [line.split("\t") for line in lines[:-1]]
    assert lines[-1] == ""
    assert len(cells) == 29
    assert cells[0] == ["image", "label", "split", "predicted", "confidence"]
    assert {len(row) for row in cells} == {5}
    assert tuple(unshown(row[0]) for row in cells[1:]) == paths
    found = np.loadtxt(tmp_path / "logs" / "tensors.tsv", delimiter="\t")
    np.testing.assert_allclose(found, rows, rtol=1e-6, atol=1e-12)
    sprite = np.asarray(Image.open(tmp_path / "logs" / "sprite.png"))
    assert sprite.shape == (6 * 24, 6 * 24)
    np.testing.assert_array_equal(sprite[24:48, 48:72], thumbnails[8])  # the ninth, in the second line

    plugin = pytest.importorskip("tensorboard.plugins.projector.projector_plugin")
    from google.protobuf import text_format
    from tensorboard.plugins.projector import ProjectorConfig

    config = text_format.Parse((tmp_path / "logs" / "projector_config.pbtxt").read_text(), ProjectorConfig())
    (embedding,) = config.embeddings
    assert list(embedding.tensor_shape) == [28, 8]
    assert list(embedding.sprite.single_image_dim) == [24, 24]
    for path in (embedding.tensor_path, embedding.metadata_path, embedding.sprite.image_path):
        assert (tmp_path / "logs" / path).is_file()
    np.testing.assert_allclose(plugin._read_tensor_tsv_file(str(tmp_path / "logs" / "tensors.tsv")), rows, rtol=1e-6)


def test_fiftyone_gets_labels_predictions_confidence_and_rows(head: Path, features: Path, tmp_path: Path):
    shared = share(head, to="fiftyone", out=tmp_path / "five")
    metadata = json.loads((tmp_path / "five" / "metadata.json").read_text())
    assert "version" not in metadata  # or it is read as a dump of FiftyOne's own data base
    assert (metadata["media_type"], metadata["default_classes"]) == ("image", ["cats", "dogs"])
    samples = json.loads((tmp_path / "five" / "samples.json").read_text())["samples"]
    assert shared.notes == ["left out: 1 images whose names are no UTF-8, which FiftyOne does not take"]
    assert len(samples) == 27
    saved = load_head(head)
    with FeatureFile(features) as file:
        of = {str(tmp_path / "photos" / path): i for i, path in enumerate(file.paths)}
        for sample in samples:
            assert Path(sample["filepath"]).is_file()
            assert not {name for name in sample if name.startswith("_") or "$" in name}
            position = of[sample["filepath"]]
            row = file.read(np.array([position]))[0]
            packed = sample["embedding"]["$binary"]
            assert packed["subType"] == "00"
            stored = np.load(io.BytesIO(zlib.decompress(base64.b64decode(packed["base64"]))), allow_pickle=False)
            np.testing.assert_array_equal(stored, row[0])
            told = saved.outputs(row)[0]
            prediction = {"_cls": "Classification", "tags": [], "label": saved.class_names[int(told.argmax())]}
            assert sample["prediction"] == {**prediction, "confidence": pytest.approx(float(told.max()), abs=1e-6)}
            assert sample["ground_truth"]["label"] == Path(sample["filepath"]).parent.name
            assert sample["tags"] == [file.splits[position]]


def test_corrections_made_in_label_studio_come_back(head: Path, features: Path, tmp_path: Path):
    share(head, to="label-studio", out=tmp_path / "studio")
    tasks = json.loads((tmp_path / "studio" / "tasks.json").read_text())
    screen = ElementTree.parse(tmp_path / "studio" / "labels.xml").getroot()
    choices = {one.get("value") for one in screen.iter("Choice")}
    with FeatureFile(features) as file:
        before = dict(zip(file.paths, file.table.label_values(), strict=True))
    assert len(tasks) == len(before)
    exported = []
    for number, task in enumerate(tasks, 1):
        assert set(task) == {"data", "predictions"}
        for prediction in task["predictions"]:
            assert set(prediction) <= {"model_version", "result", "score"}
            (result,) = prediction["result"]
            assert screen.find("Choices").get("name") == result["from_name"]
            assert screen.find("Image").get("name") == result["to_name"]
            assert result["type"] == "choices"
            assert set(result["value"]["choices"]) <= choices
        said = {**task["predictions"][-1]["result"][0], "id": f"r{number}", "origin": "manual"}
        turned = "dogs" if said["value"]["choices"] == ["cats"] else "cats"
        annotation = {"id": number, "was_cancelled": False, "ground_truth": False}
        annotation["result"] = [{**said, "value": {"choices": [turned]}}]
        exported.append({"id": number, "project": 1, "annotations": [annotation], **task})
    (tmp_path / "export.json").write_text(json.dumps(exported))
    put = label(features, tmp_path / "export.json")
    assert (put.changed, put.unknown, put.unlabelled) == (28, (), 0)
    with FeatureFile(features) as file:
        after = dict(zip(file.paths, file.table.label_values(), strict=True))
    assert all({before[path], after[path]} == {"cats", "dogs"} for path in before)


def test_rows_are_shared_without_a_head_or_images(features: Path, tmp_path: Path):
    shutil.rmtree(tmp_path / "photos")
    assert share(features, to="projector", out=tmp_path / "p").images == 28
    with pytest.raises(DataError, match=r"are not in .*photos any more\. Say where with data\.$"):
        share(features, to="fiftyone", out=tmp_path / "five")
    assert not (tmp_path / "five").exists()


def test_images_of_an_archive_are_refused_by_what_opens_files(tmp_path: Path, make_folder: MakeFolder, tiny_backbone):
    make_folder({"cats": 4, "dogs": 4})
    shutil.make_archive(str(tmp_path / "photos"), "zip", tmp_path, "photos")
    run_extraction(tmp_path / "photos.zip", tiny_backbone, out=tmp_path / "z.h5")
    with pytest.raises(DataError, match=r"is no file of its own, and Label Studio opens files; needed: images in a"):
        share(tmp_path / "z.h5", to="label-studio", out=tmp_path / "studio")
    assert share(tmp_path / "z.h5", to="projector", out=tmp_path / "p").images == 8


@pytest.mark.parametrize("tool", ["projector", "fiftyone", "label-studio"])
@pytest.mark.parametrize("column", ["tags", "age"])
def test_labels_and_numbers_are_shared(tool: str, column: str, tmp_path: Path, make_folder: MakeFolder, tiny_backbone):
    photos = make_folder({"cats": 8, "dogs": 8})
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    lines = [f"{name},{'young;indoors' if i % 2 else 'indoors'},{i}.5" for i, name in enumerate(names)]
    (tmp_path / "t.csv").write_text("\n".join(["file,tags,age", *lines]))
    labelling = {"target": "age"} if column == "age" else {"label": "tags", "label_separator": ";"}
    run_extraction(
        tmp_path / "t.csv", tiny_backbone, images=str(photos), path="file", out=tmp_path / "t.h5", **labelling
    )
    train_head(tmp_path / "t.h5", head="ridge", out=tmp_path / "t.head")
    share(tmp_path / "t.head", to=tool, out=tmp_path / "out")
    if tool == "fiftyone":
        sample = json.loads((tmp_path / "out" / "samples.json").read_text())["samples"][1]
        truth = sample["ground_truth"]
        if column == "age":
            assert truth == {"_cls": "Regression", "tags": [], "value": 1.5}
            assert sample["prediction"]["_cls"] == "Regression"
        else:
            assert truth["_cls"] == "Classifications"
            assert {one["label"] for one in truth["classifications"]} == {"indoors", "young"}
    if tool == "label-studio":
        task = json.loads((tmp_path / "out" / "tasks.json").read_text())[1]
        value = task["predictions"][-1]["result"][0]["value"]
        assert value == {"number": 1.5} if column == "age" else set(value["choices"]) == {"indoors", "young"}
        assert re.search(
            "<Number" if column == "age" else 'choice="multiple"', (tmp_path / "out" / "labels.xml").read_text()
        )


def test_images_without_labels_are_shared_to_get_some(tmp_path: Path, make_folder: MakeFolder, tiny_backbone):
    run_extraction(make_folder({"a": 3}) / "a", tiny_backbone, unlabelled=True, out=tmp_path / "u.h5")
    shared = share(tmp_path / "u.h5", to="label-studio", out=tmp_path / "studio")
    assert shared.notes[-1].startswith("labels.xml has no class to choose yet")
    tasks = json.loads((tmp_path / "studio" / "tasks.json").read_text())
    assert [task["predictions"] for task in tasks] == [[], [], []]
    assert [task["data"]["image"] for task in tasks] == [f"/data/local-files/?d=a/{i}.png" for i in range(3)]
    assert share(tmp_path / "u.h5", to="fiftyone", out=tmp_path / "five").images == 3


def test_wrong_tools_and_places_are_refused(features: Path, tmp_path: Path):
    with pytest.raises(OptionError, match=r"^to is 'excel'; needed: one of projector, fiftyone, label-studio\.$"):
        share(features, to="excel", out=tmp_path / "x")
    (tmp_path / "there").mkdir()
    with pytest.raises(OptionError, match=r"there exists and is not overwritten\."):
        share(features, to="projector", out=tmp_path / "there")
    with pytest.raises(OptionError, match=r"^features goes with a head, and .* is a feature file\. Leave it out\.$"):
        share(features, to="projector", out=tmp_path / "x", features=features)
