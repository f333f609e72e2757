"""What a report says, against what the rows and other functions say; and that nothing it is given breaks it."""

import base64
import csv
import json
import re
import shlex
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onepass import evaluate, fine_tune, inspect, report, train_head
from onepass.extract import run_extraction
from onepass.features import FeatureFile
from onepass.features.errors import FeatureFileError, FileKindError, HeadFileError, OptionError, TrainingError
from onepass.features.names import shown
from onepass.features.writer import RowWriter, write_feature_file
from onepass.heads import compare_heads, load_head
from onepass.heads.compare.choice import BackboneChoice, TriedBackbone
from onepass.heads.compare.report import HeadsComparison, HeadScore
from onepass.heads.export.run import export
from onepass.heads.file_kinds import FileKind, file_kind
from onepass.heads.finetune.model_file import read_facts
from onepass.heads.finetune.result import FineTuned
from onepass.heads.predict.nearest import nearest_images
from onepass.heads.report.material import of_head
from onepass.heads.report.page.parts import RowMap
from onepass.heads.report.performance import abstaining, reliability
from onepass.heads.report.row_map import layouts_of, principal
from onepass.heads.report.tuning import told_of
from onepass.heads.stats.intervals import Difference
from onepass.heads.stats.metrics import calibration_error
from onepass.heads.stats.multiple_comparison import Comparison
from support import GOLDEN, make_spec, make_table, plain, run_program, write_folder, write_rows
from task_files import labelled, numbers, write_labels, write_numbers

HOSTILE = (
    "<script>alert(1)</script>.png",
    "\"quotes' & <b>.png",
    "</style></script><img src=x onerror=alert(1)>.png",
    "\u202egnp.exe.png",
    "new\nline.png",
    "line\u2028separator.png",
    "<!--.png",
    "=cmd|calc.png",
)


class Tags(HTMLParser):
    """The elements of a page, and the texts of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._script = tag == "script"

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts.append(data)
            self._script = False

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, tiny_backbone) -> Path:
    """A folder with photos of three classes, some copied, some labelled wrongly, one broken; their features; a head."""
    folder = tmp_path_factory.mktemp("report")
    for part, seed in (("train", 1), ("val", 2), ("test", 3)):
        write_folder(folder / "photos" / part, {"ant": 16, "bee": 15, "fly": 12}, seed=seed)
    shutil.copy(folder / "photos/train/ant/0.png", folder / "photos/test/ant/0.png")
    shutil.copy(folder / "photos/train/bee/1.png", folder / "photos/train/fly/1.png")
    odd = write_folder(folder / "odd", {"ant": 3, "bee": 3, "fly": 3}, seed=9)
    for i in range(3):  # labelled wrongly, so that there are mistakes
        shutil.copy(odd / f"fly/{i}.png", folder / f"photos/test/ant/odd{i}.png")
    (folder / "photos/train/bee/broken.png").write_bytes(b"no image")
    run_extraction(folder / "photos", tiny_backbone, out=folder / "photos.h5")
    train_head(folder / "photos.h5", head="logreg", out=folder / "photos.head")
    return folder


def parts_of(record: dict, section: str) -> list[dict]:
    (found,) = (one for one in record["sections"] if one["section"] == section)
    return found["parts"]


def test_the_answer_is_that_of_evaluate(photos: Path, tmp_path: Path):
    done = report(photos / "photos.head", out=tmp_path / "x.html")
    scored = evaluate(photos / "photos.head", photos / "photos.h5")
    rest = scored.leak_free
    assert done.story.title == f"{100 * rest.accuracy:.1f} % of {rest.n} test images are named correctly"
    low, high = scored.interval
    assert f"{100 * low:.1f} to {100 * high:.1f} %" in done.story.words[0]
    assert scored.leak_free.leaked == 1
    assert f"Without them it is {100 * scored.leak_free.accuracy:.1f} % of {scored.leak_free.n}" in done.story.words[1]


def test_the_confusion_matrix_counts_the_images_of_each_cell(photos: Path, tmp_path: Path):
    done = report(photos / "photos.head", out=tmp_path / "x.html")
    matrix = next(part for part in done.story.every_part() if hasattr(part, "counts"))
    head = load_head(photos / "photos.head")
    with FeatureFile(photos / "photos.h5") as file:
        test = file.rows_of("test")
        named, true = head.predict(file.read(test)[0]), file.labels[test]
        for i in range(3):
            for j in range(3):
                images = {shown(file.paths[at]) for at in test[(true == i) & (named == j)]}
                cards = matrix.cells[i, j].cards if images else ()
                assert matrix.counts[i, j] == len(images)
                assert {card.name for card in cards} == images


def test_the_worst_mistake_is_the_one_with_the_least_probability_of_the_truth(photos: Path, tmp_path: Path):
    mistakes = parts_of(report(photos / "photos.head", out=tmp_path / "x.html").record(), "mistakes")
    head = load_head(photos / "photos.head")
    with FeatureFile(photos / "photos.h5") as file:
        test = file.rows_of("test")
        p, y = head.predict_proba(file.read(test)[0]), file.labels[test]
        wrong = np.flatnonzero(p.argmax(axis=1) != y)
        worst = test[wrong[p[wrong, y[wrong]].argmin()]]
        first = mistakes[0]["images"][0]
        assert first["image"] == shown(file.paths[worst])
        beside = nearest_images(head, file.read(np.array([worst]))[0][0], file, k=3)
        assert [one["image"] for one in first["beside"]] == [shown(one.path) for one in beside]


def test_duplicates_and_unreadable_files_are_those_of_inspect(photos: Path, tmp_path: Path):
    record = report(photos / "photos.h5", out=tmp_path / "x.html").record()
    found = inspect(photos / "photos.h5")
    pairs = [card for part in parts_of(record, "duplicates") for card in part["images"]]
    assert len(pairs) == len(found.copies) + len(found.near_duplicates)
    assert pairs[0]["title"] == "in two classes"
    table = next(part for part in parts_of(record, "doubts") if part.get("title") == "Files that could not be read")
    assert table["table"][1:] == [[one.path, one.reason] for one in found.unreadable]


def test_principal_components_explain_what_a_singular_value_decomposition_says(rng: np.random.Generator):
    rows = (rng.normal(size=(60, 9)) @ rng.normal(size=(9, 9))).astype(np.float32)
    along, shares = principal(rows, 2)
    # The divisor of a feature is its deviation, but not below the root mean square of all deviations.
    deviations = rows.std(axis=0, dtype=np.float64)
    z = (rows - rows.mean(axis=0)) / np.maximum(deviations, np.sqrt(np.square(deviations).mean()))
    singular = np.linalg.svd(z.astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(shares, (singular**2 / (singular**2).sum())[:2], rtol=1e-4)
    np.testing.assert_allclose(np.square(along).sum(axis=0), singular[:2] ** 2, rtol=1e-4)
    assert abs(float(along[:, 0] @ along[:, 1])) < 1e-3 * singular[0] ** 2


def test_neighbours_stay_together_and_the_map_is_the_same_each_time(rng: np.random.Generator):
    y = np.arange(80) % 2
    rows = (rng.normal(size=(80, 12)) + 12 * y[:, None]).astype(np.float32)
    first, again = layouts_of(rows), layouts_of(rows)
    assert [one.name for one in first] == ["t-SNE", "PCA", *["UMAP"] * (find_spec("umap") is not None)]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.places, other.places)
        distances = np.linalg.norm(one.places[:, None] - one.places, axis=2) + 1e9 * np.eye(80)
        assert (y[distances.argmin(axis=1)] == y).mean() > 0.95


def test_reliability_bins_add_up_to_the_calibration_error(rng: np.random.Generator):
    p = rng.dirichlet(np.ones(4), 300)
    y = rng.integers(0, 4, 300)
    n, sure, right = reliability(p, y, bins=15).T
    assert n.sum() == 300
    assert (n * abs(sure - right)).sum() / 300 == pytest.approx(calibration_error(p, y, bins=15))


def test_abstaining_says_what_the_head_says(photos: Path):
    head = load_head(photos / "photos.head")
    with FeatureFile(photos / "photos.h5") as file:
        material = of_head(file, head)
        rows = file.read(file.rows_of("test"))[0]
        found = abstaining(material, material.judged)
        assert found
        for alpha, away, right in found:
            unknown = head.unknown_at(alpha)(rows, head.outputs(rows))
            assert away == pytest.approx(unknown.mean())
            kept = ~unknown
            assert right == pytest.approx((head.predict(rows) == file.labels[file.rows_of("test")])[kept].mean())


def test_the_same_input_gives_the_same_bytes(photos: Path, tmp_path: Path):
    report(photos / "photos.head", out=tmp_path / "x.html")
    first = (tmp_path / "x.html").read_bytes()
    report(photos / "photos.head", out=tmp_path / "x.html")
    assert (tmp_path / "x.html").read_bytes() == first


def test_pictures_are_small_limited_or_left_out(photos: Path, tmp_path: Path):
    every = report(photos / "photos.head", out=tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text()
    assert text.count("<image ") == every.pictures > 20
    data = re.search(r'<image [^>]*href="data:image/webp;base64,([^"]+)"', text)[1]
    (tmp_path / "x.webp").write_bytes(base64.b64decode(data))
    with Image.open(tmp_path / "x.webp") as picture:
        assert (picture.format, max(picture.size)) == ("WEBP", 40)
    few = report(photos / "photos.head", out=tmp_path / "x.html", max_images=5)
    assert (tmp_path / "x.html").read_text().count("<image ") == few.pictures == 5
    none = report(photos / "photos.head", out=tmp_path / "x.html", images=False)
    assert none.pictures == 0
    assert "data:image" not in (tmp_path / "x.html").read_text()
    assert "test/ant" in (tmp_path / "x.html").read_text()


def test_images_that_are_gone_are_told_and_not_fatal(photos: Path, tmp_path: Path):
    shutil.copytree(photos, tmp_path / "all")
    work = tmp_path / "all"
    train_head(work / "photos.h5", out=work / "photos.head")
    shutil.copytree(work / "photos", tmp_path / "moved")
    path = work / "photos.h5"
    with FeatureFile(path) as file:
        facts = {**file.provenance, "data": str(work / "photos"), "folders": [str(work / "photos")]}
        there = np.flatnonzero(file.committed)
        table, spec, golden, rows = file.table, file.spec, file.golden_rows, file.read(there)[0]
    write_feature_file(tmp_path / "own.h5", spec, table, facts, golden)
    with RowWriter(tmp_path / "own.h5") as writer:
        writer.commit(plain(there), rows)
    shutil.rmtree(work / "photos")
    gone = report(tmp_path / "own.h5", out=tmp_path / "x.html")
    assert gone.gone > 0
    assert "images are gone" in str(gone)
    assert "not where it should be" in (tmp_path / "x.html").read_text()
    moved = report(tmp_path / "own.h5", out=tmp_path / "x.html", data=tmp_path / "moved")
    assert (moved.gone, moved.pictures) == (0, gone.gone)


@pytest.fixture
def hostile(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A feature file whose classes and names are what an attacker would choose."""
    n = 10 * len(HOSTILE)
    table = make_table(n, 2)
    names = tuple(f"{i}/{HOSTILE[i % len(HOSTILE)]}" for i in range(n))
    table = replace(table, paths=names, class_names=("</script><script>alert(2)</script>", "a\u202eb\n<i>"))
    write_feature_file(tmp_path / "x<b>.h5", make_spec(), table, {"data": "<u>"}, GOLDEN)
    with RowWriter(tmp_path / "x<b>.h5") as writer:
        writer.commit(plain(range(n)), rng.normal(size=(n, 6)).astype(np.float32) + table.labels[:, None])
    return tmp_path / "x<b>.h5"


def test_hostile_names_stay_text(hostile: Path, tmp_path: Path):
    head = train_head(hostile, out=tmp_path / "x<i>.head").head.path
    for path in (hostile, head):
        report(path, out=tmp_path / "x.html")
        text = (tmp_path / "x.html").read_text()
        page = Tags(text)
        assert page.count("script") == text.count("<script") == 2
        assert page.count("style") == 1
        assert not {"b", "i", "u"} & {tag for tag, _ in page.tags}
        assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]
        assert [tag for tag, attrs in page.tags if "style" in attrs] == []
        assert not re.search("[\u202e\u2028]", text)
        data = json.loads(page.scripts[0])
        with FeatureFile(hostile) as file:
            assert data["names"].split("\n") == [shown(name) for name in file.paths]


def test_the_policy_lets_nothing_in_but_what_is_there(photos: Path, tmp_path: Path):
    report(photos / "photos.head", out=tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text()
    page = Tags(text)
    (policy,) = (attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    addresses = [
        attrs[name] for _, attrs in page.tags for name in ("src", "href", "action", "srcset") if attrs.get(name)
    ]
    assert {address.partition(":")[0] if ":" in address else address[0] for address in addresses} == {"data", "#"}
    assert set(re.findall(r"https?://[^\"' ]*", text)) == {"http://www.w3.org/2000/svg"}  # a name, not an address


@pytest.fixture(scope="module")
def tuned(photos: Path) -> FineTuned:
    out = photos / "tuned.keras"
    return fine_tune(photos / "photos.head", unfreeze="3", epochs=1, lr=1e-2, keep="always", out=out)


@pytest.mark.slow
def test_a_fine_tuning_shows_what_it_changed(tuned: FineTuned, tmp_path: Path):
    done = tuned
    record = report(tuned.path, out=tmp_path / "x.html").record()
    told = parts_of(record, "fine-tuning")
    corrected, broken = (sum(getattr(one, name) for one in done.per_class.values()) for name in ("corrected", "broken"))
    shown_images = {part["pictures"]: len(part["images"]) for part in told if "pictures" in part}
    assert sum(n for title, n in shown_images.items() if "better" in title) == corrected
    assert sum(n for title, n in shown_images.items() if "worse" in title) == broken
    counts = next(part["confusion"] for part in parts_of(record, "performance") if "confusion" in part)
    assert np.trace(counts) / np.sum(counts) == pytest.approx(done.after[0])


@pytest.mark.slow
def test_a_model_that_says_nonsense_of_its_training_is_refused(photos: Path, tuned: FineTuned):
    out = tuned.path
    facts = read_facts(out)
    with FeatureFile(photos / "photos.h5") as file:
        for name in ("gain", "history", "per_class"):
            with pytest.raises(TrainingError, match=r"tuned\.keras does not say how its training went"):
                told_of(out, {**facts, "report": {**facts["report"], name: 3}}, file)
        for name, value in (("images", "zz"), ("before", [[1]]), ("after", [99])):
            with pytest.raises(TrainingError, match="make no sense"):
                told_of(out, {**facts, "answers": {**facts["answers"], name: value}}, file)
        del facts["answers"]
        assert "is not known" in told_of(out, facts, file).section.words[0]


@pytest.mark.slow
def test_an_exported_model_is_told_by_its_certificate(photos: Path, tmp_path: Path):
    done = export(photos / "photos.head", to="keras", out=tmp_path / "x.keras")
    for path in (tmp_path / "x.keras", tmp_path / "x.keras.certificate.json"):
        record = report(path, out=tmp_path / "x.html").record()
        counts = next(part["confusion"] for part in parts_of(record, "performance") if "confusion" in part)
        assert np.trace(counts) / np.sum(counts) == pytest.approx(done.certificate.accuracy)
        assert np.sum(counts) == len(done.certificate.images)


def test_a_comparison_is_told_from_its_json(photos: Path, tmp_path: Path):
    found = compare_heads(photos / "photos.h5", heads="logreg,ridge,knn", learning_curve=True)
    (tmp_path / "x.json").write_text(json.dumps(found.record(), indent=1))
    assert file_kind(tmp_path / "x.json") is FileKind.COMPARISON
    record = report(tmp_path / "x.json", out=tmp_path / "x.html").record()
    assert " ".join(record["words"]).replace(".", ";").lower().startswith(found.answer().split(";")[0].lower())
    table = record["answer"][0]["table"]
    assert [row[0] for row in table[1:]] == [one.name for one in found.scores]
    assert [row[1].split(" %")[0] for row in table[1:]] == [f"{100 * one.score:.1f}" for one in found.scores]
    curves = parts_of(record, "more-images")
    assert [part["chart"] for part in curves] == list(found.learning)
    forecast = next(iter(found.learning.values()))
    low, high = (forecast.scores[-1] + end for end in forecast.gain_interval)
    assert f"{100 * low:.1f} % to {100 * high:.1f} %" in str(curves[0]["table"])


def test_a_choice_of_backbones_is_told_from_its_json(tmp_path: Path):
    gap = Difference(-0.008, (-0.02, 0.004), 0.2)
    none, big, small = Difference(0, (0, 0), 1), Path("t/big.h5"), Path("t/small.h5")
    best = TriedBackbone("big", "imagenet", big, 0.871, (0.84, 0.89), none, True, 10, 9, 240, "")
    other = replace(best, name="small", features=small, score=0.863, interval=(0.83, 0.88), to_best=gap, seconds=80)
    scores = [
        HeadScore(f"{one.name}/logreg", "logreg", str(one.features), {}, one.score, one.interval, 1, 1, None, 1, 1, 9)
        for one in (best, other)
    ]
    names = tuple(score.name for score in scores)
    test = Comparison(names, names[0], names, {names[0]: best.to_best, names[1]: gap}, {}, {names[1]: 0.021})
    compared = HeadsComparison("folds", 600, "accuracy", scores, test)
    found = BackboneChoice([best, other], compared, "logreg", 2527, data=[Path("photos")])
    (tmp_path / "x.json").write_text(json.dumps(found.record(), indent=1))
    record = report(tmp_path / "x.json", out=tmp_path / "x.html").record()
    assert record["title"] == "Take small"
    said, answer = (re.sub("[.;]", "", words).lower() for words in (" ".join(record["words"]), found.answer()))
    assert said == answer
    assert record["next"][0]["command"] == found.next_command
    table = record["answer"][0]["table"]
    assert [row[1] for row in table[1:]] == ["87.1 % (84.0 to 89.0 %)", "86.3 % (83.0 to 88.0 %)"]


@pytest.mark.parametrize(
    "text",
    [
        '{"higher_is_better": true}',
        '{"take": "x", "higher_is_better": 3, "heads": [1]}',
        '{"metric": "accuracy", "heads": [{"name": {}}], "cheapest": "x", "higher_is_better": 0}',
        '{"higher_is_better": ',
        '{"backbones": 3, "take": 2}',
    ],
)
def test_half_a_comparison_is_refused(text: str, tmp_path: Path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(FileKindError, match=r"x\.json .* with (--|\ue000)?json"):
        report(tmp_path / "x.json", out=tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()


def test_numbers_and_several_labels_have_their_own_charts(tmp_path: Path, rng: np.random.Generator):
    write_numbers(tmp_path / "ages.h5", *numbers(rng))
    write_labels(tmp_path / "labels.h5", *labelled(rng))
    ages = train_head(tmp_path / "ages.h5", out=tmp_path / "ages.head").head
    record = report(ages.path, out=tmp_path / "x.html").record()
    assert record["title"] == f"On average age is off by {ages.evaluation.mae:.3g}"
    with FeatureFile(tmp_path / "ages.h5") as file:
        test = file.rows_of("test")
        off = ages.predict(file.read(test)[0]) - file.wanted(test)
        farthest = parts_of(record, "mistakes")[0]["images"][0]
        assert farthest["image"] == shown(file.paths[test[abs(off).argmax()]])
    charts = [part["chart"] for part in parts_of(record, "performance")]
    assert charts == ["Predicted against true", "How far off, and to which side", "Where it is off"]
    several = train_head(tmp_path / "labels.h5", head="ridge", out=tmp_path / "labels.head").head
    record = report(several.path, out=tmp_path / "x.html").record()
    (bars,) = parts_of(record, "performance")
    assert [row[0] for row in bars["table"][1:]] == list(several.class_names)


def test_what_the_map_gives_back_changes_nothing_but_what_is_corrected(tmp_path: Path, rng: np.random.Generator):
    write_numbers(tmp_path / "ages.h5", *numbers(rng))
    write_labels(tmp_path / "labels.h5", *labelled(rng))
    for name, new in (("ages", "123.5"), ("labels", "red;round")):
        story = report(tmp_path / f"{name}.h5", out=tmp_path / "x.html", images=False).story
        (drawn,) = (part for part in story.every_part() if isinstance(part, RowMap))
        for values, changed in ((drawn.labels[:9], 0), ([new, *drawn.labels[1:9]], 1)):
            with open(tmp_path / "selected.csv", "w", newline="") as file:
                csv.writer(file).writerows([("path", drawn.column), *zip(drawn.names, values, strict=False)])
            done = run_program(*shlex.split(drawn.command), cwd=tmp_path)
            assert f"{changed} label{'' if changed == 1 else 's'} changed" in done.stdout, done.stderr


def test_many_classes_show_who_is_confused_most_often_instead_of_a_matrix(tmp_path: Path, rng: np.random.Generator):
    y = np.arange(320) % 40
    rows = rng.normal(size=(40, 16))[y] + 0.7 * rng.normal(size=(320, 16))
    path = write_rows(tmp_path / "x.h5", rows, y, (np.arange(320) % 80 < 40).astype(np.uint8) * 2)
    head = train_head(path, head="ridge", tune="none", out=tmp_path / "x.head").head
    record = report(head.path, out=tmp_path / "x.html").record()
    parts = parts_of(record, "performance")
    assert not [part for part in parts if "confusion" in part]
    confusion = np.array(head.evaluation.confusion)
    np.fill_diagonal(confusion, 0)
    i, j = np.unravel_index(confusion.argmax(), confusion.shape)
    assert parts[0]["pictures"].startswith(f"class{i}, called class{j}: {confusion.max()} image")
    assert len(parts[0]["images"]) == confusion.max()
    assert len(record["answer"][0]["table"]) == 3


def test_images_without_labels_have_a_report_too(tmp_path: Path, make_folder, tiny_backbone):
    run_extraction(make_folder({"a": 6, "b": 6}), tiny_backbone, out=tmp_path / "x.h5", unlabelled=True)
    record = report(tmp_path / "x.h5", out=tmp_path / "x.html").record()
    assert [one["section"] for one in record["sections"]] == ["map", "duplicates", "doubts"]
    assert record["title"].startswith("12 images, no labels: ")


def test_what_is_no_file_of_onepass_is_refused(photos: Path, tmp_path: Path):
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(
        FileKindError, match=r"x\.txt is no file that onepass writes; needed: a feature file, .* printed\."
    ):
        report(tmp_path / "x.txt", out=tmp_path / "x.html")
    with pytest.raises(FeatureFileError, match=r"^there is no feature file .*no\.h5\. Make one with: extract DATA$"):
        report(tmp_path / "no.h5", out=tmp_path / "x.html")
    with pytest.raises(HeadFileError, match=r"^there is no head file .*no\.head\."):
        report(tmp_path / "no.head", out=tmp_path / "x.html")
    with pytest.raises(OptionError, match=r"^max_images is -1; needed: 0 or more\.$"):
        report(photos / "photos.h5", out=tmp_path / "x.html", max_images=-1)
    with pytest.raises(OptionError, match=r"needed: a name that ends in \.html or \.htm\.$"):
        report(photos / "photos.h5", out=tmp_path / "x.pdf")


def test_a_dense_net_shows_how_it_was_trained(photos: Path, tmp_path: Path):
    trained = train_head(photos / "photos.h5", head="mlp", hidden=(8,), epochs=4, tune="none", out=tmp_path / "n.head")
    found = report(tmp_path / "n.head", out=tmp_path / "x.html", features=photos / "photos.h5", images=False).record()
    (chart,) = (one for one in parts_of(found, "performance") if one.get("chart") == "Loss while it was trained")
    columns = trained.head.history.columns
    told = [[float(value) for value in row[1:]] for row in chart["table"][1:]]
    assert np.allclose(told, np.array([*columns.values()]).T, rtol=1e-3)
    assert chart["note"].startswith("The weights are those of epoch 4. Held out: ")


def test_heat_stands_beside_a_mistake(photos: Path, tmp_path: Path):
    mistakes = parts_of(report(photos / "photos.head", out=tmp_path / "x.html").record(), "mistakes")
    name = mistakes[0]["images"][0]["image"]
    assert (tmp_path / "x.html").read_text().count("what the answer came from in ") == len(mistakes[0]["images"])
    report(photos / "photos.head", out=tmp_path / "x.html", explain=False)
    assert "what the answer came from in " not in (tmp_path / "x.html").read_text()
    report(photos / "photos.head", out=tmp_path / "x.html", heat={name: np.full((9, 9, 3), 200, np.uint8)})
    text = (tmp_path / "x.html").read_text()
    assert text.count("what the answer came from in ") == 1
    assert len(re.findall('<image id="h', text)) == 1


def test_the_command_writes_the_file_and_prints_the_answer(photos: Path, tmp_path: Path):
    done = run_program("onepass", "report", str(photos / "photos.head"), "--out", "x.html", "--no-images", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("x.html: ")
    assert (tmp_path / "x.html").stat().st_size > 10_000
    done = run_program("onepass", "report", str(photos / "photos.h5"), "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert found["path"] == "report.html"
    places = parts_of(found, "map")[0]["images"]
    with FeatureFile(photos / "photos.h5") as file:
        assert len(places) == file.committed.sum()
    assert set(places[0]) >= {"image", "label", "PCA", "t-SNE", "class", "split"}
