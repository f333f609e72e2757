"""Explaining: exact where it can be, by hiding places else; pictures, words, and what is refused."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onepass import explain, load_head, train_head
from onepass.extract import import_keras, load_backbone, run_extraction
from onepass.features.errors import BackboneError, OptionError, UnreadableImageError
from onepass.heads.why.occlusion import GREY, OccludingEngine, hidden, passes
from support import FAST_NETS, run_program, write_folder

LINEAR = ("logreg", "svm", "ridge", "lda", "centroid", "linear")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_file: Path) -> Path:
    """Photos, their rows by a small network, and a head."""
    place = tmp_path_factory.mktemp("why")
    photos = write_folder(place / "photos", {"ants": 12, "bees": 12, "cats": 12})
    backbone = load_backbone(str(tiny_file), precision="float32", engine="openvino", resize="crop")
    run_extraction(photos, backbone, out=place / "f.h5")
    train_head(place / "f.h5", out=place / "f.head")
    return place


def photos(work: Path) -> list[Path]:
    return sorted(work.glob("photos/*/1.png"))


@pytest.mark.parametrize("kind", LINEAR)
def test_heat_adds_up_to_the_score_of_the_head(kind: str, work: Path, tmp_path: Path):
    train_head(work / "f.h5", head=kind, out=tmp_path / "x.head", **FAST_NETS.get(kind, {}))
    head = load_head(tmp_path / "x.head")
    found = explain(tmp_path / "x.head", photos(work), method="exact")
    rows = head.backbone.rows_of(photos(work))
    scores, outputs = head.network.scores(rows), head.outputs(rows)
    for one, score, output in zip(found, scores, outputs, strict=True):
        label = int(output.argmax())
        assert (one.method, one.class_name) == ("exact", head.class_names[label])
        assert one.logit == pytest.approx(score[label], abs=1e-4)
        assert one.heat.sum() + one.intercept + one.constant == pytest.approx(one.logit, abs=1e-9)
        assert one.output == pytest.approx(output[label], abs=1e-4)
        assert one.heat.shape == (16, 16)


def test_the_bundled_backbone_is_explained(lite0, tmp_path: Path):
    data = write_folder(tmp_path / "photos", {"ants": 8, "bees": 8})
    run_extraction(data, lite0, out=tmp_path / "l.h5")
    train_head(tmp_path / "l.h5", out=tmp_path / "l.head")
    head = load_head(tmp_path / "l.head")
    images = sorted(data.glob("*/0.png"))
    scores = head.network.scores(head.backbone.rows_of(images))
    for name in head.class_names:
        found = explain(head, images, label_class=name)
        position = head.class_names.index(name)
        np.testing.assert_allclose([one.logit for one in found], scores[:, position], atol=1e-4)
        assert {one.class_name for one in found} == {name}
        assert found[0].heat.shape == (2, 2)


def test_images_keep_their_order_and_those_that_cannot_be_read_are_told(work: Path, tmp_path: Path):
    (tmp_path / "no.png").write_bytes(b"nothing")
    first, second, third = photos(work)
    found = explain(work / "f.head", [third, tmp_path / "no.png", first, second])
    assert [one.path for one in found] == [str(third), str(first), str(second)]
    assert [one.path for one in found.skipped] == [str(tmp_path / "no.png")]
    with pytest.raises(UnreadableImageError, match="no image could be read"):
        explain(work / "f.head", tmp_path / "no.png")


def test_names_are_looked_up_in_the_data(work: Path):
    (one,) = explain(work / "f.head", "bees/1.png", data=work / "photos")
    assert one.path == str(work / "photos" / "bees" / "1.png")


class Brightness:
    """An engine whose row is the mean of the image and of its right half."""

    name = "brightness"

    def run(self, images):
        for key, image in images:
            yield key, np.array([image.mean(), image[:, len(image) // 2 :].mean()], np.float32)


def test_every_place_is_hidden_once():
    image = np.full((70, 70, 3), 255, np.uint8)
    covered = np.stack([one != 255 for one in hidden(image, 7)])[..., 0]
    assert covered.shape == (49, 70, 70)
    assert covered.any(axis=0).all()
    # Of 7 places of 10 pixels, the patch over the middle is 20 pixels wide, and that in a corner ends with the image.
    assert covered[24].sum() == 20 * 20
    assert covered[24][25:45, 25:45].all()
    assert covered[0].sum() == 15 * 15
    assert set(np.unique(next(hidden(image, 7)))) == {GREY, 255}


def test_the_rows_of_an_image_come_together_whatever_order_they_are_computed_in():
    class Shuffled(Brightness):
        def run(self, images):
            done = list(super().run(images))
            np.random.default_rng(0).shuffle(done)
            yield from done

    images = [(i, np.full((8, 8, 3), 10 * i, np.uint8)) for i in range(3)]
    found = dict(OccludingEngine(Shuffled(), 2).run(images))
    assert sorted(found) == [0, 1, 2]
    for i, image in images:
        expected = [row for _, row in Brightness().run(enumerate([image, *hidden(image, 2)]))]
        np.testing.assert_array_equal(found[i], expected)


@pytest.mark.parametrize("kind", ["mlp", "rbf-svm", "knn"])
def test_other_heads_are_explained_by_hiding(kind: str, work: Path, tmp_path: Path):
    train_head(work / "f.h5", head=kind, out=tmp_path / "x.head", **FAST_NETS.get(kind, {}))
    head, said = load_head(tmp_path / "x.head"), []
    found = explain(tmp_path / "x.head", photos(work), places=3, say=said.append)
    assert said == [
        f"by occlusion, because {tmp_path / 'x.head'} ({kind}) is not linear: 10 passes an image, 30 in all"
    ]
    assert (found.method, found.passes) == ("occlusion", passes(3))
    pixels = head.backbone.pixels(photos(work)[0].read_bytes())
    rows = head.backbone.rows(np.stack([pixels, *hidden(pixels, 3)]))
    probabilities = head.outputs(rows)
    label = int(probabilities[0].argmax())
    expected = (probabilities[0, label] - probabilities[1:, label]).reshape(3, 3)
    np.testing.assert_allclose(found[0].heat, expected, atol=1e-6)
    assert found[0].intercept is None
    with pytest.raises(BackboneError) as refused:
        explain(tmp_path / "x.head", photos(work), method="exact")
    assert str(refused.value) == (
        f"there is no exact explanation: {tmp_path / 'x.head'} ({kind}) is not linear. Needed: method='occlusion', "
        "or auto."
    )


def test_rows_that_are_no_means_are_explained_by_hiding(work: Path, tiny_file: Path, tmp_path: Path):
    backbone = load_backbone(str(tiny_file), precision="float32", engine="openvino", pooling="max")
    run_extraction(work / "photos", backbone, out=tmp_path / "m.h5")
    train_head(tmp_path / "m.h5", out=tmp_path / "m.head")
    found = explain(tmp_path / "m.head", photos(work), places=2)
    assert found.method == "occlusion"
    assert found.reason == "the rows of tiny by the pooling max are not the mean of a feature map over its positions"


@pytest.mark.slow
def test_a_whole_model_is_explained_by_hiding(work: Path, tmp_path: Path):
    from onepass import export, fine_tune

    tuned = fine_tune(work / "f.head", unfreeze="3", epochs=1, keep="always", out=tmp_path / "t.keras")
    found = explain(tuned.path, photos(work), places=2)
    assert found.method == "occlusion"
    export(work / "f.head", to="savedmodel", takes_bytes=True, out=tmp_path / "saved")
    with pytest.raises(OptionError, match="takes whole images, of which no part can be hidden; explain the head file"):
        explain(tmp_path / "saved", photos(work))
    import_keras().backend.clear_session()


@pytest.mark.parametrize("ending", ["png", "webp"])
def test_pictures_are_written_under_names_of_their_own(ending: str, work: Path, tmp_path: Path):
    found = explain(work / "f.head", work / "photos", out=tmp_path / "out", picture=ending)
    assert len(found) == 36
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == sorted(one.picture.name for one in found)
    assert {f"0.{ending}", f"0-2.{ending}", f"0-3.{ending}"} <= set(names)
    with Image.open(found[0].picture) as drawn:
        assert drawn.width == 40  # of the photo, which is 40 x 30
    with pytest.raises(OptionError, match="exists and is not overwritten"):
        explain(work / "f.head", work / "photos", out=tmp_path / "out")


def test_a_large_photo_is_drawn_smaller(work: Path, tmp_path: Path):
    Image.new("RGB", (3000, 1500), (90, 120, 30)).save(tmp_path / "large.jpg")
    (one,) = explain(work / "f.head", tmp_path / "large.jpg")
    assert one.overlay().width == 1024
    heat = one.heat_on(3000, 1500)
    assert np.isnan(heat[:, :750]).all()  # the rows are of the square in the middle
    assert np.isfinite(heat[:, 750:2250]).all()


def test_nothing_is_left_of_a_run_that_fails(work: Path, tmp_path: Path):
    def stop(done: int, of: int) -> None:
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        explain(work / "f.head", photos(work), out=tmp_path / "out", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_where_to_look(work: Path, tmp_path: Path):
    head, image = str(work / "f.head"), str(photos(work)[0])
    done = run_program("onepass", "explain", head, image, "--out", "o", "--label-class", "bees", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.splitlines()
    assert first.startswith(f"{image}  bees 0.")
    said = re.search(r"score (\S+) = (\S+) over the places ([+-]) (\S+)$", first)
    assert float(said[1]) == pytest.approx(float(said[2]) + float(said[3] + said[4]), abs=0.002)
    assert last == "o: 1 picture, red for the class, blue against it"
    assert (tmp_path / "o" / "1.png").is_file()
    done = run_program(
        "onepass", "explain", head, image, "--method", "occlusion", "--places", "2", "--json", cwd=tmp_path
    )
    found = json.loads(done.stdout)
    assert (found["method"], found["passes"]) == ("occlusion", 5)
    assert "5 passes an image, 5 in all" in done.stderr
