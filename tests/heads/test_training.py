import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from onepass import info
from onepass.features import FeatureFile
from onepass.features.errors import FeatureFileError, HeadFileError, OptionError, SpecMismatchError, TrainingError
from onepass.features.writer import RowWriter, write_feature_file
from onepass.heads import load_head, train_head
from onepass.heads.saved_head import head_bytes
from onepass.heads.training import make_head
from support import GOLDEN, make_spec, make_table, plain


@pytest.fixture
def head_file(feature_file: Path, tmp_path: Path) -> Path:
    return train_head(feature_file, head="logreg", out=tmp_path / "x.head").head.path


@pytest.mark.parametrize(("kind", "options"), [("logreg", {}), ("svm", {"C": 0.1}), ("mlp", {"epochs": 3})])
def test_a_saved_head_answers_as_the_fitted_one(feature_file: Path, tmp_path: Path, kind: str, options: dict):
    trained = train_head(feature_file, head=kind, out=tmp_path / "x.head", **options)
    loaded = load_head(tmp_path / "x.head")
    x, _ = FeatureFile(feature_file).read(np.arange(40))
    np.testing.assert_array_equal(loaded.predict_proba(x), trained.head.predict_proba(x))
    assert loaded.evaluation == trained.head.evaluation
    assert loaded.spec == FeatureFile(feature_file).spec
    assert loaded.class_names == ("class0", "class1")
    assert loaded.trained_on["features_hash"] == FeatureFile(feature_file).fingerprint()
    assert loaded.trained_on["features"] == str(feature_file)
    assert loaded.evaluation.n == 8
    assert loaded.evaluation.measured_on == "test"
    for name, value in options.items():
        assert loaded.parameters[name] == value


def test_training_sees_the_train_part_alone(feature_file: Path, tmp_path: Path):
    first = train_head(feature_file, head="logreg", out=tmp_path / "a.head").head
    rows = np.array(FeatureFile(feature_file).rows)
    with RowWriter(feature_file) as writer:
        test = range(4, 40, 5)
        writer.commit(plain(test), -10 * rows[list(test)])
    second = train_head(feature_file, head="logreg", out=tmp_path / "b.head").head
    np.testing.assert_array_equal(first.network.kernels[0], second.network.kernels[0])
    assert first.evaluation != second.evaluation


def test_the_head_file_is_named_after_features_and_head(
    feature_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert train_head(feature_file, head="svm").head.path == Path("ready.svm.head")
    assert (tmp_path / "ready.svm.head").exists()


def test_a_head_may_be_replaced_but_no_other_file(feature_file: Path, head_file: Path, tmp_path: Path):
    train_head(feature_file, head="svm", out=head_file)
    assert load_head(head_file).kind == "svm"
    (tmp_path / "thesis.doc").write_text("x")
    with pytest.raises(HeadFileError, match="thesis.doc exists and is no head file; it is left alone. Choose another"):
        train_head(feature_file, out=tmp_path / "thesis.doc")
    with pytest.raises(OptionError, match=r"^the folder of out='.*no/x.head' does not exist. Make it, or name another"):
        train_head(feature_file, out=tmp_path / "no" / "x.head")


def test_rows_of_another_spec_are_refused_by_both_specs(head_file: Path, tmp_path: Path):
    write_feature_file(tmp_path / "other.h5", make_spec(backbone="vgg16", width=6), make_table(4), {}, GOLDEN)
    with pytest.raises(
        SpecMismatchError, match=r"(?s)other.h5 holds vgg16.*x.head needs resnet50.*or train a new head"
    ):
        load_head(head_file).require_rows_of(FeatureFile(tmp_path / "other.h5"))


@pytest.mark.parametrize(("options", "message"), [
    (
        {"head": "forest"},
        (
            "unknown head 'forest'; there are logreg, svm, rbf-svm, ridge, kernel-ridge, lda, knn, centroid, mlp, "
            "linear, text, text-logreg."
        ),
    ),
    ({"head": "svm", "hidden": (3,)}, "hidden does not go with head='svm'; it belongs to mlp."),
    ({"head": "mlp", "C": 1.0}, "C does not go with head='mlp'; it belongs to logreg, svm, rbf-svm, text-logreg."),
    (
        {"head": "svm", "trees": 1},
        "trees does not go with head='svm'; svm takes C, class_weight, tune, time_limit, seed.",
    ),
])  # fmt: skip
def test_options_of_another_head_are_refused(feature_file: Path, options: dict, message: str):
    with pytest.raises(OptionError) as caught:
        train_head(feature_file, **options)
    assert str(caught.value) == message


def with_splits(path: Path, splits: np.ndarray, labels: np.ndarray) -> Path:
    table = replace(make_table(len(splits)), splits=splits.astype(np.uint8), labels=labels.astype(np.int32))
    write_feature_file(path, make_spec(), table, {}, GOLDEN)
    rows = np.random.default_rng(0).normal(size=(len(splits), 6)).astype(np.float32)
    with RowWriter(path) as writer:
        writer.commit(plain(range(len(splits))), rows + 3 * labels[:, None].astype(np.float32))
    return path


def test_without_held_out_images_there_is_no_score_and_no_head(tmp_path: Path):
    path = with_splits(tmp_path / "f.h5", np.zeros(10), np.arange(10) % 2)
    with pytest.raises(TrainingError, match="holds no test or val image, so no honest score is possible. Add images"):
        train_head(path, out=tmp_path / "x.head")
    assert not (tmp_path / "x.head").exists()


def test_a_file_half_extracted_is_not_trained_on(tmp_path: Path):
    write_feature_file(tmp_path / "half.h5", make_spec(), make_table(10), {}, GOLDEN)
    with RowWriter(tmp_path / "half.h5") as writer:
        writer.commit(plain(range(6)), np.ones((6, 6), np.float32))
        writer.skip(6, "empty file")
    with pytest.raises(FeatureFileError) as caught:
        train_head(tmp_path / "half.h5", out=tmp_path / "x.head")
    assert str(caught.value) == (
        f"{tmp_path / 'half.h5'} is not complete: 3 of 10 images have no row yet. "
        "Run the same extract command again to finish it."
    )


def test_a_class_without_training_images_is_refused(tmp_path: Path):
    path = with_splits(tmp_path / "f.h5", np.array([0, 0, 2, 2]), np.array([0, 0, 1, 1]))
    with pytest.raises(TrainingError, match="holds no training image of class1. Every class needs some in its train"):
        train_head(path, out=tmp_path / "x.head")


def test_val_is_scored_where_there_is_no_test_and_stops_the_mlp_where_there_is(tmp_path: Path):
    labels = np.arange(60) % 2
    two = with_splits(tmp_path / "two.h5", np.repeat([0, 1], [40, 20]), labels)
    three = with_splits(tmp_path / "three.h5", np.repeat([0, 1, 2], [30, 10, 20]), labels)
    assert train_head(two, out=tmp_path / "a.head").head.evaluation.measured_on == "val"
    trained = train_head(three, head="mlp", epochs=3, out=tmp_path / "b.head").head
    assert trained.evaluation.measured_on == "test"
    assert trained.trained_on["rows"] == 30


def test_others_may_read_a_head_as_any_new_file(head_file: Path, tmp_path: Path):
    (tmp_path / "any").write_text("")
    assert head_file.stat().st_mode == (tmp_path / "any").stat().st_mode


def test_a_missing_head_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(HeadFileError, match=r"there is no head file .*no.head. Make one with: train-head FEATURES$"):
        load_head(tmp_path / "no.head")


def test_damaged_heads_end_in_one_line(head_file: Path, tmp_path: Path):
    data = head_file.read_bytes()
    for keep in (0, 5, 100, len(data) - 1):
        (tmp_path / "cut.head").write_bytes(data[:keep])
        with pytest.raises(HeadFileError, match="cut.head cannot be read as a head file: .*Train the head again"):
            load_head(tmp_path / "cut.head")


def rewritten(head_file: Path, change) -> Path:
    with safe_open(head_file, framework="numpy") as file:
        facts = json.loads(file.metadata()["onepass"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(facts, arrays)
    save_file(arrays, head_file, {"onepass": json.dumps(facts)})
    return head_file


@pytest.mark.parametrize("change", [
    lambda f, a: f.pop("spec"),
    lambda f, a: f.update(class_names=["one"]),
    lambda f, a: f["settings"].update(output="exec"),
    lambda f, a: f["settings"].update(activation="eval"),
    lambda f, a: f.update(form="lambda"),
    lambda f, a: f.update(evaluation=7),
    lambda f, a: f["spec"].update(width=7),
    lambda f, a: a.update(kernel_0=np.zeros((3, 2), np.float32)),
    lambda f, a: a.update(mean=a["mean"].astype(np.float64)),
    lambda f, a: a.pop("bias_0"),
    lambda f, a: a.update(seen=np.zeros((3, 7), np.uint8)),
    lambda f, a: a.update(bias_0=a["bias_0"] * np.nan),
    lambda f, a: a.update(scale=-a["scale"]),
    lambda f, a: a.update(golden=a["golden"] * np.inf),
    lambda f, a: f.update(class_names=["same", "same"]),
    lambda f, a: f.update(class_names=["", "b"]),
    lambda f, a: f.update(class_names="ab"),
    lambda f, a: f.update(kind="../x"),
    lambda f, a: f.update(parameters=[]),
    lambda f, a: f["parameters"].update(C=float("inf")),
    lambda f, a: f["parameters"].update(dropout=1.5),
    lambda f, a: f["parameters"].update(seed="x"),
    lambda f, a: f["spec"].update(image_size=-224),
    lambda f, a: f["spec"].update(image_size=2**20),
    lambda f, a: f["spec"].update(weights_hash="xy"),
    lambda f, a: f["spec"].update(backbone=""),
    lambda f, a: f["spec"].update(precision="int7"),
    lambda f, a: f["evaluation"].update(accuracy=1.5),
    lambda f, a: f["evaluation"].update(accuracy=0.123456),
    lambda f, a: f["evaluation"].update(interval=[0.9, 0.1]),
    lambda f, a: f["evaluation"].update(interval=[-1.0, 2.0]),
    lambda f, a: f["evaluation"].update(n=0),
    lambda f, a: f["evaluation"].update(n=f["evaluation"]["n"] + 1),
    lambda f, a: f["evaluation"].update(log_loss=-2.0),
    lambda f, a: f["evaluation"].update(calibration_error=1.2),
    lambda f, a: f["evaluation"].update(measured_on=""),
    lambda f, a: f["evaluation"].update(confusion=[[1]]),
    lambda f, a: f["evaluation"]["confusion"][0].__setitem__(0, -1),
    lambda f, a: f["evaluation"]["per_class"]["class0"].update(recall=3.0),
    lambda f, a: f["evaluation"]["per_class"].update(other=f["evaluation"]["per_class"].pop("class0")),
    lambda f, a: f["evaluation"].update(leak_free={"leaked": 3, "n": 99, "accuracy": 0.5, "interval": [0.4, 0.6]}),
    lambda f, a: f["abstention"].update(alpha=0.0),
    lambda f, a: f["abstention"].update(coverage=7.0),
    lambda f, a: f["abstention"].update(per_class={"nobody": 0.1}),
    lambda f, a: f["trained_on"].update(rows=-3),
    lambda f, a: f["trained_on"].update(features_hash="short"),
    lambda f, a: f["trained_on"].update(folders="photos"),
    lambda f, a: a.update({"unknown.distances": -1 - a["unknown.distances"]}),
    lambda f, a: a.update({"unknown.doubts": 2 + a["unknown.doubts"]}),
    lambda f, a: a.update({"unknown.axes": a["unknown.axes"] * np.float16(3)}),
])  # fmt: skip
def test_heads_that_do_not_fit_together_are_refused(head_file: Path, change):
    with pytest.raises(HeadFileError, match=r"x.head is damaged( \(.*\).|: .*\.) Train the head again.$"):
        load_head(rewritten(head_file, change))


def test_a_head_says_what_makes_no_sense(head_file: Path):
    share = r"accuracy is 1.5 within 0.\d+ to 0.\d+"
    with pytest.raises(HeadFileError, match=rf"x.head is damaged \(ValueError: {share}\). Train the head again.$"):
        load_head(rewritten(head_file, lambda f, a: f["evaluation"].update(accuracy=1.5)))
    size = "the spec's image_size is '4'; needed: 8 to 4096 pixels. The file is damaged."
    with pytest.raises(HeadFileError, match=f"x.head is damaged: {size} Train the head again.$"):
        load_head(rewritten(head_file, lambda f, a: f["spec"].update(image_size=4)))


def test_a_flipped_bit_in_a_head_is_told(head_file: Path):
    data = bytearray(head_file.read_bytes())
    data[-40] ^= 1
    head_file.write_bytes(data)
    with pytest.raises(
        HeadFileError,
        match="x.head cannot be read as a head file: its bytes do not match their checksum. Train the head again.$",
    ):
        load_head(head_file)


def test_a_head_without_a_checksum_says_so_when_it_is_looked_at(head_file: Path):
    assert "onepass 0.1" not in str(info(head_file))
    assert info(head_file).record()["checksum"] is True
    rewritten(head_file, lambda f, a: None)
    assert "none, since onepass 0.1 wrote it; a head trained anew has one" in str(info(head_file))
    assert info(head_file).record()["checksum"] is False


def test_a_newer_head_and_another_safetensors_file_are_refused(head_file: Path, tmp_path: Path):
    save_file({"x": np.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(HeadFileError, match="is a safetensors file but no head. Needed: a file that train-head wrote."):
        load_head(tmp_path / "other.safetensors")
    with pytest.raises(
        HeadFileError, match="head format onepass-head 9; this onepass reads onepass-head 4 and 5. Upgr"
    ):
        load_head(rewritten(head_file, lambda f, a: f.update(version=9)))


def test_a_trained_head_prints_its_parameters_and_its_scores_per_class(feature_file: Path, tmp_path: Path):
    trained = train_head(feature_file, head="ridge", alpha=2.0, out=tmp_path / "x.head")
    scored = trained.head.evaluation
    lines = str(trained).splitlines()
    low, high = scored.interval
    assert lines[0] == (
        f"{tmp_path / 'x.head'}: ridge, test accuracy {scored.accuracy:.3f} ({low:.3f} to {high:.3f}), n={scored.n}, "
        f"fitted in {trained.seconds:.1f} s"
    )
    assert lines[1] == "parameters: alpha 2.0, class_weight None, seed 0, time_limit None, tune fast"
    assert lines[2] == f"log loss {scored.log_loss:.3f}, calibration error {scored.calibration_error:.3f}"
    rows = [line.split() for line in lines[3:6]]
    assert lines[6:9] == [
        "fewer than 10 images of class0, class1: what a line says of such a class hangs on single images",
        "",
        "confusion (rows: true class, columns: predicted)",
    ]
    assert [line.split()[0] for line in lines[9:12]] == ["class0", *scored.per_class]
    assert rows[0] == ["class", "n", "precision", "recall", "f1"]
    assert [row[0] for row in rows[1:]] == list(scored.per_class)


def test_the_record_of_a_trained_head_is_json(feature_file: Path, tmp_path: Path):
    trained = train_head(feature_file, head="ridge", out=tmp_path / "x.head")
    record = json.loads(json.dumps(trained.record()))
    assert list(record) == [
        "path", "head", "split", "n", "accuracy", "interval", "per_class", "log_loss", "calibration_error", "leak_free",
        "weighted", "seconds", "parameters", "history", "suggestion",
    ]  # fmt: skip
    assert (record["head"], record["split"]) == ("ridge", "test")


def test_layers_and_class_weights_may_be_text():
    head = make_head("mlp", hidden="64,32", class_weight="cats=2,a=b=1")
    assert (head.hidden, head.class_weight) == ((64, 32), {"cats": 2.0, "a=b": 1.0})
    assert make_head("mlp", hidden="0", class_weight="balanced").get_params()["hidden"] == ()


@pytest.mark.parametrize(("options", "message"), [
    ({"hidden": "64x32"}, "hidden is '64x32'; needed: units of each layer, such as 256,128, or 0."),
    ({"class_weight": "cats=two"}, "class_weight is 'cats=two'; needed: balanced, or such as cats=2,dogs=1."),
])  # fmt: skip
def test_text_of_another_form_is_refused(options: dict, message: str):
    with pytest.raises(OptionError) as caught:
        make_head("mlp", **options)
    assert str(caught.value) == message
    assert caught.value.facts == options


def test_a_head_is_written_the_same_each_time(head_file: Path):
    head = load_head(head_file)
    assert {head_bytes(head) for _ in range(20)} == {head_file.read_bytes()}
