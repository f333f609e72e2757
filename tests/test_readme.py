"""The README's words are run: its Python blocks, its commands, its figures."""

import contextlib
import io
import itertools
import json
import re
import shlex
import statistics
from pathlib import Path

import pytest

from onepass.extract import CATALOGUE
from support import MakeFolder, picture, run_process, run_program

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
START = (ROOT / "docs" / "index.md").read_text()
PAGES = README + "".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def photos(make_folder: MakeFolder, tmp_path: Path, rng) -> Path:
    make_folder({"cats": 30, "dogs": 30})
    picture(rng).save(tmp_path / "new.jpg")
    return tmp_path


def test_the_commands_run_as_they_stand(photos: Path):
    (commands,) = blocks("console")
    for line in commands.splitlines():
        done = run_program(*shlex.split(line), cwd=photos)
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(r"(Next: .*\n)?", done.stderr)
    assert done.stdout.startswith("new.jpg  ")
    (command,) = blocks("console", (ROOT / "docs" / "comparison.md").read_text())
    assert command.strip() in commands.splitlines()


def test_the_python_blocks_run_as_they_stand(photos: Path):
    code = "\n".join(blocks("python", START))
    done = run_process("python", "-W", "error", "-c", code, cwd=photos)
    assert done.returncode == 0, done.stderr
    first, second, third, fourth, fifth = done.stdout.splitlines()
    for line in (first, second):
        assert re.fullmatch(r"accuracy [01]\.\d{3} \(0\.\d{3} to [01]\.\d{3}\), n=\d+", line)
    assert (named := re.match(r"new\.jpg \('(cats|dogs)', [01]\.", third))
    assert fourth == "whole"
    assert fifth == f"['{named[1]}']"


def test_the_format_example_reads_a_feature_file(photos: Path):
    assert run_program("extract", "photos", "--image-size", "32", cwd=photos).returncode == 0
    (code,) = blocks("python", (ROOT / "features" / "FORMAT.md").read_text())
    code = code.replace("photos.resnet50.h5", "photos.efficientnet_lite0.h5") + "\nprint(rows.shape, names)"
    shown = io.StringIO()
    with contextlib.chdir(photos), contextlib.redirect_stdout(shown):
        exec(code, {})
    assert shown.getvalue() == "(60, 1280) ['cats', 'dogs']\n"


def test_the_number_of_backbones_is_right():
    assert f"another of the {len(CATALOGUE)}\nbackbones" in README


def test_the_speed_stands_in_the_results():
    for backbone in ("resnet50", "mobilenetv2"):
        path = ROOT / "benchmarks" / "results" / f"extraction-{backbone}-cats_dogs.json"
        result = json.loads(path.read_text())
        for name, rates in result["images_per_second"].items():
            ratio = result["times_keras_predict"][name]
            spread = f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"
            (line,) = (line for line in PAGES.splitlines() if line.startswith(f"| {name} |"))
            assert f"| {statistics.median(rates):.1f} | {spread} |" in line
        assert f"{result['int8']['cosine_mean']:.4f}" in PAGES


def test_the_speed_of_timm_stands_in_the_results():
    path = ROOT / "benchmarks" / "results" / "extraction-timm-mobilenetv2-cats_dogs.json"
    found = json.loads(path.read_text())["times_keras_predict"]
    text = " ".join(PAGES.split())
    for name in ("plain", "bfloat16 channels-last", "compiled"):
        ratio = found[f"timm {name}"]
        spread = f"({ratio['min']:.2f} to {ratio['max']:.2f})"
        assert re.search(rf"{ratio['median']:.2f} (times as fast as Keras )?{re.escape(spread)}", text)


def test_what_the_four_commands_print_stands_in_the_results():
    printed = json.loads((ROOT / "benchmarks" / "results" / "first-run-trashnet.json").read_text())["printed"]
    (block,) = re.findall(r"```\n(trashnet\..*?)```", README, re.DOTALL)
    found = " ".join(" ".join(printed.values()).split())
    pieces = [" ".join(piece.split()) for piece in re.split(r"\n\n|\.\.\.\n|(?<=\d)\n|(?<=\))\n(?=\d)", block)]
    assert len(pieces) == 6
    assert [piece for piece in pieces if piece not in found] == []


def test_what_predict_takes_stands_in_the_results():
    path = ROOT / "benchmarks" / "results" / "predicting-trashnet.mobilenetv2.logreg.json"
    found = json.loads(path.read_text())
    text, ratio, one = " ".join(PAGES.split()), found["times_extract"], found["seconds_for_one"]
    assert f"takes {min(one):.1f} to {max(one):.1f} s for one photo" in text
    spread = f"{ratio['median']:.2f} times ({ratio['min']:.2f} to {ratio['max']:.2f})"
    assert f"{spread} the rate of `extract` ({found['images']:,} photos" in text


def test_what_pretraining_is_worth_stands_in_the_results():
    text = (ROOT / "docs" / "recipes.md").read_text()
    files = sorted((ROOT / "benchmarks" / "results").glob("pretraining-*.json"))
    for path in files:
        found = json.loads(path.read_text())
        cells = [f"{found[way]['accuracy'][0]:.3f} in {found[way]['seconds']:.0f} s" for way in WAYS]
        assert f" | {' | '.join(cells)} |" in text
    assert text.count(" | 0.") == len(WAYS) * len(files)


WAYS = ("scratch", "frozen", "fine-tuned")


def test_what_exports_came_to_stands_in_the_results():
    found = json.loads((ROOT / "benchmarks" / "results" / "exporting.json").read_text())["exports"]
    text = " ".join((ROOT / "docs" / "serving.md").read_text().split())
    every = [(to, one) for exports in found.values() for to, one in exports.items()]
    assert len(found) == 6
    assert len(every) == 36
    assert all((one["images"], one["flips"]) == (200, 0) for _, one in every)
    largest = {
        takes: max(one["largest"] for _, one in every if one["takes"] == takes) for takes in ("pixels", "images")
    }
    assert f"by {largest['pixels']:.1e} at most where the model takes pixels" in text
    assert f"by {largest['images']:.1e} where the resize rule lies inside" in text


def test_what_views_are_worth_stands_in_the_results():
    files = sorted((ROOT / "benchmarks" / "results").glob("views-*.json"))
    figures = {path.stem: json.loads(path.read_text())["figures"] for path in files}

    def points(file: str, train: int, predict: int) -> str:
        (found,) = (
            figure
            for figure in figures[f"views-{file}"]
            if (figure["recipe"], figure["head"]) == ("classic", "svm")
            and (figure["train_views"], figure["predict_views"]) == (train, predict)
        )
        return "{:.1f} ({:.1f} to {:.1f})".format(*(100 * x for x in (found["difference"], *found["interval"])))

    compared = [f for found in figures.values() for f in found if (f["train_views"], f["predict_views"]) != (1, 1)]
    unclear = [figure for figure in compared if figure["interval"][0] <= 0 <= figure["interval"][1]]
    text = " ".join(PAGES.split())
    assert f"in {len(unclear)} of {len(compared)} comparisons" in text
    assert points("mobilenetv2-trashnet", 8, 4) == "2.2 (1.3 to 3.2)"
    assert "2.2 points of accuracy to the SVM (1.3 to 3.2)" in text
    assert points("resnet50-hymenoptera", 8, 4) == "-1.7 (-2.7 to -0.6)"
    assert "the same costs it 1.7 (-2.7 to -0.6)" in text


def test_what_tuning_costs_stands_in_the_results():
    results = ROOT / "benchmarks" / "results"
    heads = json.loads((results / "tuning-trashnet.resnet50.json").read_text())["heads"]
    sweep = json.loads((results / "sweep-10000x2048.json").read_text())["times_a_plain_fit"]
    text = " ".join(PAGES.split())

    def times(ratio: dict) -> str:
        return f"{ratio['median']:.1f} times ({ratio['min']:.1f} to {ratio['max']:.1f})"

    assert f"logreg {times(heads['logreg']['times_faster'])} as fast as LogisticRegressionCV" in text
    assert f"rbf-svm {times(heads['rbf-svm']['times_faster'])} as fast as GridSearchCV(SVC)" in text
    for found in heads.values():
        assert all(one["p"] > 0.05 or one["onepass"] > one["scikit-learn"] for one in found["accuracies"])
    assert f"takes {times(sweep['keras, batch 32']['whole'])} as long as one plain Keras fit" in text
    assert f"{times(sweep['keras, same batch']['whole'])} at the sweep's own batch size" in text


def test_what_inspect_finds_stands_in_the_results():
    path = ROOT / "benchmarks" / "results" / "inspection-resnet50-trashnet.json"
    found = json.loads(path.read_text())["mean"]
    copies, labels = found["near_duplicates"], found["labels"]
    text = " ".join(PAGES.split())
    assert (
        f"it found {100 * copies['recall']:.0f} % of the copies (precision {100 * copies['precision']:.0f} %)" in text
    )
    assert f"{100 * labels['recall']:.0f} % of the wrong labels (precision {100 * labels['precision']:.0f} %)" in text


def test_what_the_boundary_cache_saves_stands_in_the_results():
    found = json.loads((ROOT / "benchmarks" / "results" / "fine-tuning-trashnet.resnet50.logreg.json").read_text())
    cached, whole = found["boundary cache"], found["end to end"]
    text = " ".join(PAGES.split())
    assert (
        f"an epoch of its conv5 took {cached['seconds_per_epoch']:.0f} s from the cache and "
        f"{whole['seconds_per_epoch']:.0f} s end to end, {found['times_faster']:.1f} times as long" in text
    )
    assert max(cached["val_accuracy"]) >= cached["val_accuracy"][0]
    assert cached["val_accuracy"] == whole["val_accuracy"]


def test_what_is_called_unknown_stands_in_the_results():
    found = json.loads((ROOT / "benchmarks" / "results" / "unknown-trashnet.resnet50.json").read_text())
    text = " ".join(PAGES.split())
    left_out = found["left_out_class_unknown"]
    assert f"keeps {found['kept']:.1%} of the held-out photos".replace("%", " %") in text
    assert f"calls {found['unknown']['cats_dogs.resnet50']:.0%} of photos of cats and dogs".replace("%", " %") in text
    mean = sum(left_out.values()) / len(left_out)
    assert f"of a class left out of training {mean:.0%}".replace("%", " %") in text
    (worst, least), (best, most) = (pick(left_out.items(), key=lambda pair: pair[1]) for pick in (min, max))
    assert f"({worst} {least:.0%}, {best} {most:.0%})".replace("%", " %") in text


def test_what_a_recipe_takes_stands_in_the_results():
    found = json.loads((ROOT / "benchmarks" / "results" / "recipe-2-resnet50-trashnet.json").read_text())
    text = " ".join((ROOT / "docs" / "recipes.md").read_text().split())
    ours, theirs = found["onepass"], found["keras"]
    first, later = ([run["seconds"] for run in ours if run["cache"] == name] for name in ("empty", "converted"))
    assert f"took {theirs['seconds']:,.0f} s and reached {theirs['accuracy']['frozen']:.3f}" in text
    assert (
        f"took {first[0]:.0f} and {first[1]:.0f} s the first time and {later[0]:.0f} and {later[1]:.0f} s with" in text
    )
    assert {f"{run['accuracy']['frozen']:.3f}" for run in ours} == {"0.921"}
    assert "and reached 0.921" in text
    ratios = [sorted(found["times_faster"][name]) for name in ("empty", "converted")]
    assert "{:.0f} to {:.0f} times as fast, and {:.0f} to {:.0f}.".format(*ratios[0], *ratios[1]) in text


def test_what_a_sample_chooses_stands_in_the_results():
    found = json.loads((ROOT / "benchmarks" / "results" / "choosing-trashnet.json").read_text())
    text = " ".join((ROOT / "docs" / "backbones.md").read_text().split())
    by_name = {one["name"]: one for one in found["backbones"]}
    first, second = by_name["resnet50"], by_name["efficientnet_lite0"]
    assert f"({found['images']:,} photos, {found['machine']['cores']} cores, {found['precision']})" in text
    assert f'600 photos and four backbones took {found["seconds"]:.0f} s: "{found["answer"]}"' in text
    assert (first["tied_on_all"], second["tied_on_all"]) == (True, True)
    assert f"gave resnet50 {first['all']:.3f} and efficientnet_lite0 {second['all']:.3f}, which cannot be told" in text
    assert f"had not seen, {first['test']:.3f} and {second['test']:.3f}." in text
    others = [one["taken"] for one in found["other_samples"]]
    same, resnet = others.count(found["taken"]), others.count("resnet50")
    assert f"Of {len(others)} other samples of 600 photos {same} take the same and {resnet} take resnet50;" in text
    assert same + resnet == len(others)
    worst = max(one["lost_on_all"] for one in found["other_samples"])
    assert f"worse on all photos by more than {100 * worst:.1f} points" in text
    pets = json.loads((ROOT / "benchmarks" / "results" / "choosing-cats_dogs.json").read_text())
    best, last = pets["backbones"][0], pets["backbones"][-1]
    assert f"of {pets['sample_size']} photos of cats and dogs a network 5 points behind was in the tie set" in text
    assert last["tied_on_sample"]
    assert round(100 * (best["sample"] - last["sample"])) == 5
    assert pets["lost_on_all"] < 0.01


PROGRAMS = "extract|train-head|compare-heads|fine-tune|onepass|python"
RECIPE = re.compile(rf"^\| (.+?) \| `((?:{PROGRAMS}) .+?)` \| (.+?) \|$", re.MULTILINE)


def test_each_recipe_came_to_what_stands_in_the_results():
    found = json.loads((ROOT / "benchmarks" / "results" / "recipes-cats_dogs.json").read_text())
    rows = [(row["recipe"], row["command"], row["came_to"]) for row in found["rows"]]
    text = (ROOT / "docs" / "recipes.md").read_text()
    assert RECIPE.findall(text) == rows
    assert len(rows) > 20
    images = sum(found["images"].values())
    said = f"on {images} photos of cats and dogs ({found['images']['train']} to train) at {found['image_size']} px"
    assert said in " ".join(text.split())


def test_recipes_of_one_folder_do_not_fight_for_a_name():
    text = (ROOT / "docs" / "recipes.md").read_text()
    made = [name for _, command, _ in RECIPE.findall(text) for name in written_by(shlex.split(command))]
    assert len(made) > 18
    assert sorted(set(made)) == sorted(made)
    results = json.loads((ROOT / "benchmarks" / "results" / "recipes-cats_dogs.json").read_text())
    assert set(made) <= set(results["files"])


def written_by(words: list[str]) -> list[str]:
    """Names of the files that a command writes, by what is typed and by the default names."""
    given = dict(itertools.pairwise(words))
    out = given.get("--out")
    if words[0] == "extract":
        return [out or f"photos.{given['--backbone']}.h5"]
    if words[0] == "train-head":
        head = out or f"{Path(words[1]).stem}.{given['--head']}.head"
        return [head, given["--history"]] if "--history" in given else [head]
    if words[0] == "fine-tune":
        features = {"softmax": "photos.resnet50"}.get(Path(words[1]).stem, words[1].removesuffix(".mlp.head"))
        kind = "scratch" if "--from-scratch" in words else "finetuned"
        path = Path(out or f"{features}.{kind}.{given.get('--to', 'keras')}")
        curves = [path.with_suffix(ending).name for ending in (".history.csv", ".history.png")]
        return curves if given.get("--keep") == "never" else [path.name, *curves]
    return [given[option] for option in ("--out", "--csv") if option in given]
