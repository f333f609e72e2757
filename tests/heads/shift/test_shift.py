"""`shift` from end to end: what it compares, what it says of a head, when it writes another one."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from onepass import FeatureFile, evaluate, export, load_head, predict_stream, shift, train_head
from onepass.extract.one_pass.run import run_extraction
from onepass.features.errors import HeadFileError, OptionError, SpecMismatchError, TrainingError
from onepass.features.writer import RowWriter, write_feature_file
from onepass.heads.saved_head import save_head
from onepass.heads.shift.recentring import Spread, recentred
from support import GOLDEN, MakeFolder, blobs, make_spec, make_table, plain, run_program


def write(path: Path, x: np.ndarray, y: np.ndarray, *, seed: int, train: bool = False, groups: tuple = ()) -> Path:
    table = make_table(len(y), 3, seed=seed)
    splits = table.splits if train else np.zeros(len(y), np.uint8)
    table = replace(table, labels=y.astype(np.int32), splits=splits, groups=groups or ("",) * len(y))
    golden = GOLDEN[..., :1].repeat(x.shape[1], axis=2)
    write_feature_file(path, make_spec(width=x.shape[1]), table, {"data": "photos"}, golden)
    with RowWriter(path) as writer:
        writer.commit(plain(range(len(y))), x.astype(np.float32))
    return path


@pytest.fixture
def trained(tmp_path: Path, rng: np.random.Generator) -> Path:
    write(tmp_path / "old.h5", *blobs(rng, 400), seed=1, train=True)
    train_head(tmp_path / "old.h5", head="lda", out=tmp_path / "old.head")
    return tmp_path


def moved(rng: np.random.Generator, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    x, y = blobs(rng, n)
    fixed = np.random.default_rng(3)
    return x * fixed.uniform(0.4, 2.5, x.shape[1]) + 4 * fixed.normal(size=x.shape[1]), y


def test_rows_like_those_of_the_training_show_no_shift(trained: Path, rng: np.random.Generator):
    write(trained / "new.h5", *blobs(rng, 150), seed=2)
    found = shift(trained / "old.h5", trained / "new.h5", head=trained / "old.head", out=trained / "out.head")
    assert (found.n, found.training, found.copies, found.found) == (150, 320, 0, False)
    assert "shift: none found" in str(found)
    assert "most different" not in str(found)
    assert found.accuracy.measured_on == "test"
    scored = evaluate(trained / "old.head", trained / "old.h5")
    assert found.accuracy.held_out.accuracy == scored.accuracy
    assert found.accuracy.difference.p > 0.05
    assert not found.recentring.kept
    assert found.out == ""
    assert not (trained / "out.head").exists()


def test_a_recentred_head_that_is_better_is_written_and_used(trained: Path, rng: np.random.Generator):
    x, y = moved(rng, 600)
    write(trained / "new.h5", x[:300], y[:300], seed=2)
    write(trained / "later.h5", x[300:], y[300:], seed=3)
    found = shift(trained / "old.h5", trained / "new.h5", head=trained / "old.head", out=trained / "out.head")
    assert found.found
    assert found.p == 0.001
    assert found.recentring.kept
    assert found.out == str(trained / "out.head")
    assert found.accuracy.difference.interval[1] < 0
    head = load_head(trained / "out.head")
    assert head.evaluation.accuracy == found.recentring.after.accuracy
    assert head.evaluation.n == found.recentring.after.n
    before, after = (
        evaluate(trained / name, trained / "later.h5", split="all").accuracy for name in ("old.head", "out.head")
    )
    assert after > before + 0.03
    assert after == pytest.approx(found.recentring.after.accuracy, abs=0.1)
    # Those that decided count as seen, those that were reported do not.
    with FeatureFile(trained / "new.h5") as file:
        assert head.trained_in(file).sum() == found.recentring.decided_on
    with pytest.raises(OptionError, match="keeps nothing to tell unknown images by"):
        head.unknown_at(0.1)


def test_without_labels_accuracy_is_an_estimate_and_nothing_is_kept(trained: Path, rng: np.random.Generator):
    x, _ = moved(rng)
    write(trained / "new.h5", x, np.full(len(x), -1), seed=2)
    found = shift(trained / "old.h5", trained / "new.h5", head=trained / "old.head", out=trained / "out.head")
    assert found.found
    assert found.accuracy.new is None
    assert found.accuracy.difference is None
    assert not found.recentring.kept
    assert found.recentring.before is None
    assert "only labels of new images can show that it is better" in " ".join(str(found).split())
    assert "estimated from confidence alone (average thresholded confidence)" in " ".join(str(found).split())
    assert not (trained / "out.head").exists()


def test_copies_of_training_images_do_not_count_as_new(trained: Path):
    found = shift(trained / "old.h5", trained / "old.h5", head=trained / "old.head")
    assert (found.copies, found.found) == (320, False)
    assert found.accuracy.copies == 320
    assert found.accuracy.new.n == 80
    assert found.accuracy.shared == 80
    assert "80 of the held-out images are among the new ones" in str(found)


def test_the_record_is_plain_json(trained: Path, rng: np.random.Generator):
    write(trained / "new.h5", *moved(rng), seed=2)
    done = run_program("onepass", "shift", "old.h5", "new.h5", "--head", "old.head", "--json", cwd=trained)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert len(record["images"]) == record["n"] == 300
    scores = [image["score"] for image in record["images"]]
    assert scores == sorted(scores, reverse=True)
    assert record["recentring"]["kept"]
    assert record["out"] == ""
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_a_folder_of_darker_photos_is_a_shift(tmp_path: Path, make_folder: MakeFolder, tiny_backbone, tiny_file: Path):
    photos = make_folder({"cats": 30, "dogs": 30})
    run_extraction(photos, tiny_backbone, out=tmp_path / "f.h5")
    train_head(tmp_path / "f.h5", head="ridge", out=tmp_path / "f.head")
    like, dark = make_folder({"cats": 15, "dogs": 15}, name="like", seed=7), tmp_path / "dark"
    dark.mkdir()
    for i, path in enumerate(sorted(like.rglob("*.png"))):
        ImageEnhance.Brightness(Image.open(path)).enhance(0.3).save(dark / f"{i}.png")
    (dark / "broken.png").write_bytes(b"no image")
    same = shift(tmp_path / "f.h5", like, head=tmp_path / "f.head", weights=str(tiny_file))
    assert not same.found
    assert same.accuracy.new.n == 30
    found = shift(tmp_path / "f.h5", dark, head=tmp_path / "f.head", weights=str(tiny_file))
    assert found.found
    assert found.auc > 0.9
    assert found.accuracy.new is None
    assert [image.path for image in found.skipped] == ["broken.png"]
    drawn = shift(tmp_path / "f.h5", dark, weights=str(tiny_file), sheet=tmp_path / "sheet.png")
    assert (drawn.p, drawn.sheet) == (found.p, str(tmp_path / "sheet.png"))
    with Image.open(drawn.sheet) as picture:
        assert np.ptp(np.asarray(picture)) == 255
    assert "sheet.png: the images that look newest" in " ".join(str(drawn).split())


@pytest.mark.slow
def test_a_recentred_head_predicts_and_is_exported(tmp_path: Path, make_folder: MakeFolder, tiny_backbone, tiny_file):
    photos = make_folder({"cats": 20, "dogs": 20})
    run_extraction(photos, tiny_backbone, out=tmp_path / "f.h5")
    train_head(tmp_path / "f.h5", head="ridge", out=tmp_path / "f.head")
    head = load_head(tmp_path / "f.head")
    with FeatureFile(tmp_path / "f.h5") as file:
        x = file.read(np.arange(40))[0]
    network = recentred(head.network, Spread.of([x]), Spread.of([x * 2]))
    save_head(replace(head, network=network, path=tmp_path / "r.head", out_of_distribution=None, abstention=None))
    image = photos / "cats" / "0.png"
    answers = list(predict_stream(tmp_path / "r.head", [image], weights=str(tiny_file)))
    expected = network.outputs(tiny_backbone.rows_of([image]))[0].max()
    assert answers[0].top[0][1] == pytest.approx(expected, abs=1e-4)
    exported = export(tmp_path / "r.head", to="keras", weights=str(tiny_file), out=tmp_path / "r.keras")
    answers = list(predict_stream(exported.path, [image]))
    assert answers[0].top[0][1] == pytest.approx(expected, abs=1e-3)


def test_what_cannot_be_compared_is_refused(trained: Path, rng: np.random.Generator):
    new = write(trained / "new.h5", *blobs(rng, 60), seed=2)
    with pytest.raises(OptionError, match=r"^out is for a recentred head; needed with it: head, the head to begin"):
        shift(trained / "old.h5", new, out=trained / "x.head")
    with pytest.raises(SpecMismatchError, match="They differ in"):
        shift(trained / "old.h5", write(trained / "wide.h5", *blobs(rng, 60, 24), seed=2))
    few = write(trained / "few.h5", *blobs(rng, 6), seed=2)
    with pytest.raises(TrainingError, match=r"few\.h5 holds 6 images; needed: 10 or more\.$"):
        shift(trained / "old.h5", few)
    with pytest.raises(TrainingError, match=r"holds 0 of the images that .* was trained on; needed: 10 or more\."):
        shift(new, new, head=trained / "old.head")
    shutil.copy(new, trained / "model.keras")
    with pytest.raises(HeadFileError):
        shift(trained / "old.h5", new, head=trained / "model.keras")
    with pytest.raises(OptionError, match=r"^label belongs to a table, and .*new\.h5 is none\. Leave it out\.$"):
        shift(trained / "old.h5", new, label="breed")


def test_groups_of_the_training_are_held_together(trained: Path, rng: np.random.Generator):
    """Images of twenty videos, each of its own place: no shift, although single images are easily told apart."""
    places, y = rng.normal(size=(20, 20)) * 4, np.arange(200) % 3
    videos = np.arange(200) // 10
    x = places[videos] + rng.normal(size=(200, 20))
    names = tuple(f"video {video}" for video in videos)
    write(trained / "a.h5", x[:120], y[:120], seed=5, groups=names[:120])
    write(trained / "b.h5", x[120:], y[120:], seed=6, groups=names[120:])
    assert shift(trained / "a.h5", trained / "b.h5").p > 0.01
    alone = shift(write(trained / "c.h5", x[:120], y[:120], seed=5), write(trained / "d.h5", x[120:], y[120:], seed=6))
    assert alone.p == 0.001
