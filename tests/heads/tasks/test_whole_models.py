"""Heads of several labels and of numbers as whole models: the same answers, in every format."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onepass import evaluate, export, info, load_head, predict, verify_export
from onepass.features.errors import CertificateError, ExportError, OptionError
from onepass.heads.export.certificate import Certificate
from onepass.heads.export.judged import JudgedLabels
from onepass.heads.head_options import HEADS_OF
from onepass.heads.saved_head import SavedHead
from task_files import a_photo, head_of

FORMATS = ("keras", "h5", "savedmodel", "onnx", "openvino", "tflite")
RESIZE = ("savedmodel", "onnx")
"""Formats that resize by TensorFlow, whose pixels may differ from ours by a level."""

OTHERS = [kind for kind in HEADS_OF["labels"] if kind not in ("logreg", "kernel-ridge", "knn", "mlp")]
CASES = [
    *((to, kind) for to in FORMATS for kind in ("logreg", "kernel-ridge", "knn", "mlp")),
    *(("keras", kind) for kind in OTHERS),
]


def exported(folder: Path, labels: str, kind: str, to: str, place: Path) -> Path:
    out = place / {"savedmodel": "model", "openvino": "model.xml"}.get(to, f"model.{to}")
    export(head_of(folder, labels, kind), to=to, features=folder / f"{labels}.h5", data=folder / "photos", out=out)
    return out


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Pictures of nothing that training saw: noise, black and white."""
    folder, rng = tmp_path_factory.mktemp("strange"), np.random.default_rng(3)
    pictures = {
        "noise": rng.integers(0, 256, (32, 32, 3), np.uint8),
        "black": np.zeros((32, 32, 3), np.uint8),
        "white": np.full((32, 32, 3), 255, np.uint8),
    }
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return sorted(folder.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(("to", "kind"), CASES)
def test_labels_are_exported_and_come_back(to: str, kind: str, folder: Path, tmp_path: Path, strange: list[Path]):
    if (kind, to) == ("knn", "h5"):
        with pytest.raises(OptionError, match="has no layer that finds nearest neighbours"):
            exported(folder, "looks", kind, to, tmp_path)
        return
    out = exported(folder, "looks", kind, to, tmp_path)
    head = load_head(head_of(folder, "looks", kind))
    proven = Certificate.read(tmp_path / f"{out.name}.certificate.json")
    assert (proven.task, proven.flips, proven.accuracy) == ("labels", 0, None)
    np.testing.assert_array_equal(proven.decides["thresholds"], head.thresholds)
    before, after = (list(predict(model, [*strange, folder / "photos" / "test"])) for model in (head, out))
    within = 2e-2 if to in RESIZE else 1e-4
    for one, other in zip(before, after, strict=True):
        assert list(other.probabilities.values()) == pytest.approx(list(one.probabilities.values()), abs=within)
        clear = [abs(p - t) > within for p, t in zip(one.probabilities.values(), head.thresholds, strict=True)]
        assert set(one.labels) == set(other.labels) or not all(clear)
    assert verify_export(out, data=folder / "photos").verdict == "whole"
    again = evaluate(out, folder / "looks.h5", split="test")
    assert again.scores["map"] == pytest.approx(proven.score["scores"]["map"], abs=1e-2)
    assert "0 bright, 1 ant, 2 insect" in str(info(out))
    card = (tmp_path / f"{out.name}.md").read_text()
    assert "Gives the probability of each of 3 labels for a photo" in card
    assert f"{head.thresholds[0]:.3f} |" in card
    with pytest.raises(OptionError, match="keeps nothing to tell unknown images by"):
        predict(out, strange, unknown=0.1)


@pytest.mark.slow
def test_an_exported_label_model_is_exported_again(folder: Path, tmp_path: Path):
    first = exported(folder, "looks", "logreg", "keras", tmp_path)
    export(first, to="openvino", features=folder / "looks.h5", data=folder / "photos", out=tmp_path / "again.xml")
    (one,), (other,) = (predict(model, a_photo(folder)) for model in (first, tmp_path / "again.xml"))
    assert other.probabilities == pytest.approx(one.probabilities, abs=1e-4)
    assert other.labels == one.labels


def test_the_layers_of_nearest_neighbours_say_what_the_table_says(folder: Path):
    """Of classes, labels and numbers."""
    from onepass.extract import plain_keras
    from onepass.heads.export.inference_model import head_alone

    rng = np.random.default_rng(1)
    for labels in ("classes", "looks", "bright"):
        head = load_head(head_of(folder, labels, "knn")).network
        rows = (head.mean + 3 * head.scale * rng.normal(size=(40, head.width))).astype(np.float32)
        with plain_keras():
            found = head_alone(head).predict_on_batch(rows)
        np.testing.assert_allclose(found, head.outputs(rows), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("labels", ["classes", "looks"])
def test_nearest_neighbours_predict_the_same_as_a_keras_file(labels: str, folder: Path, tmp_path: Path, strange):
    out = exported(folder, labels, "knn", "keras", tmp_path)
    before, after = (predict(model, strange) for model in (head_of(folder, labels, "knn"), out))
    for one, other in zip(before, after, strict=True):
        if labels == "classes":
            assert dict(other.top) == pytest.approx(dict(one.top), abs=1e-3)
        else:
            assert other.probabilities == pytest.approx(one.probabilities, abs=1e-4)


def spoilt(head: SavedHead, monkeypatch, change) -> None:
    from onepass.heads.export import export_source

    true = export_source.HeadSource.expected
    monkeypatch.setattr(export_source.HeadSource, "expected", lambda self, at: change(true(self, at)))


def test_a_model_that_names_other_labels_is_not_kept(folder: Path, tmp_path: Path, monkeypatch):
    head = load_head(head_of(folder, "looks", "logreg"))
    spoilt(head, monkeypatch, lambda outputs: outputs[:, ::-1])
    with pytest.raises(ExportError, match=r"images get another answer than by the cached way; none may.* before and "):
        exported(folder, "looks", "logreg", "keras", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_label_changes_where_its_probability_crosses_its_threshold():
    judged = JudgedLabels(np.array([0.5, 0.2]))
    expected = np.array([[0.9, 0.1], [0.9, 0.1], [0.49, 0.3]])
    found = np.array([[0.6, 0.19], [0.9, 0.3], [0.51, 0.1]])
    assert judged.changed(found, expected).tolist() == [False, True, True]
    np.testing.assert_allclose(judged.gaps(found, expected)[1:], [0.2, 0.2])
    assert [judged.says(one, ("a", "b")) for one in found] == ["a", "a, b", "a"]
    assert judged.says(np.zeros(2), ("a", "b")) == "no label"


@pytest.mark.parametrize("spoil", [
    {"decision": {}}, {"decision": {"thresholds": [0.5, 0.5]}}, {"decision": {"thresholds": [0.5, 1.5, 0.5]}},
    {"task": "number"}, {"wanted": [[2.0, 0.0, 1.0]]},
])  # fmt: skip
def test_a_certificate_that_makes_no_sense_is_refused(spoil: dict, folder: Path, tmp_path: Path):
    from onepass.features.seal import sealed, unsealed

    path = Path(f"{exported(folder, 'looks', 'ridge', 'keras', tmp_path)}.certificate.json")
    facts, _ = unsealed(json.loads(path.read_text()))
    if "wanted" in spoil:
        spoil = {"wanted": spoil["wanted"] * len(facts["images"])}
    path.write_text(json.dumps(sealed(facts | spoil)))
    with pytest.raises(CertificateError, match="is no certificate of this onepass"):
        Certificate.read(path)


@pytest.mark.slow
@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("kind", ["ridge", "kernel-ridge", "knn", "mlp"])
def test_numbers_are_exported_and_come_back(to: str, kind: str, folder: Path, tmp_path: Path, strange: list[Path]):
    head = head_of(folder, "bright", kind)
    out = tmp_path / {"savedmodel": "model", "openvino": "model.xml"}.get(to, f"model.{to}")
    if (kind, to) == ("knn", "h5"):
        with pytest.raises(OptionError, match="has no layer that finds nearest neighbours"):
            export(head, to=to, features=folder / "bright.h5", data=folder / "photos", out=out)
        return
    made = export(head, to=to, features=folder / "bright.h5", data=folder / "photos", out=out)
    assert (made.certificate.task, made.certificate.flips, made.certificate.accuracy) == ("number", 0, None)
    assert made.certificate.score["mae"] == pytest.approx(made.certificate.score_before["mae"], rel=1e-2)
    assert Certificate.read(tmp_path / f"{out.name}.certificate.json") == made.certificate
    assert "no numbers differ, numbers by" in str(made)
    assert "Gives a number for a photo: brightness." in (tmp_path / f"{out.name}.md").read_text()
    (before,), (after,) = predict(head, a_photo(folder)), predict(out, a_photo(folder))
    assert after.number == pytest.approx(before.number, rel=1e-2 if to in RESIZE else 1e-4)
    ends = load_head(head).predict_interval(np.zeros((1, 8), np.float32))[0]
    assert after.interval[1] - after.interval[0] == pytest.approx(ends[1] - ends[0], rel=1e-6)
    before, after = (predict(model, strange) for model in (head, out))
    for one, other in zip(before, after, strict=True):
        assert other.number == pytest.approx(one.number, rel=1e-2 if to in RESIZE else 1e-3, abs=0.5)
    assert verify_export(out, data=folder / "photos").verdict == "whole"
    assert "brightness" in str(info(out))
    again = evaluate(out, folder / "bright.h5", split="test")
    assert again.mae == pytest.approx(made.certificate.score["mae"], rel=1e-2)


def test_a_model_that_gives_other_numbers_is_not_kept(folder: Path, tmp_path: Path, monkeypatch):
    from onepass.heads.export import export_source

    head = head_of(folder, "bright", "ridge")
    true = export_source.HeadSource.expected
    monkeypatch.setattr(export_source.HeadSource, "expected", lambda self, positions: true(self, positions) * 1.02)
    with pytest.raises(ExportError, match="held-out images get another number than by the cached way; none may"):
        export(head, to="onnx", features=folder / "bright.h5", data=folder / "photos", out=tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())
