"""choose_backbone from end to end, on networks of the user's own."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from onepass import cache, choose_backbone, run_extraction
from onepass.extract.one_pass import trial
from onepass.features import FeatureFile
from onepass.features.errors import BackboneError, OptionError, WeightsError
from onepass.heads.compare.choice import BackboneChoice
from support import picture, run_program, write_folder

NAMES = ["tiny.keras", "wide.keras"]
ADVICE = (
    r"Name others, or files with weights, such as candidates='efficientnet_lite0,resnet50=resnet50\.weights\.h5'\.$"
)


@pytest.fixture(scope="module")
def wide_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another small network, 32 px in, 12 wide."""
    from onepass.extract.frameworks import import_keras

    keras = import_keras()
    keras.utils.set_random_seed(2)
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((32, 32, 3)), layers.Rescaling(1 / 127.5, offset=-1), layers.Conv2D(12, 3, activation="relu")]
    )
    path = tmp_path_factory.mktemp("wide") / "wide.keras"
    model.save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path, tiny_file: Path, wide_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two networks and 350 images, 280 of them outside the test part."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(tiny_file, "tiny.keras")
    shutil.copy(wide_file, "wide.keras")
    return write_folder(Path("photos"), {"cats": 200, "dogs": 150})


def rows_of(path: Path) -> dict[bytes, np.ndarray]:
    with FeatureFile(path) as file:
        contents = [one.tobytes() for one in file.table.content_hashes]
        return dict(zip(contents, np.array(file.rows[:, 0]), strict=True))


def choose(*args: object, **settings: object) -> BackboneChoice:
    """With a head that trains in a moment."""
    return choose_backbone(*args, head="ridge", **settings)


def test_backbones_are_compared_on_a_sample_whose_rows_the_extraction_takes_over(photos: Path):
    said = []
    found = choose_backbone("photos", NAMES, sample=200, say=said.append)
    assert found.comparison.images == 200
    assert found.images == 350
    assert {one.name for one in found.tried} == set(NAMES)
    assert found.taken.tied
    for one in found.tried:
        assert one.seconds == pytest.approx(350 / one.images_per_second)
        assert one.images_per_second > 0
        assert one.memory >= 0
        with FeatureFile(one.features) as file:
            assert np.bincount(file.table.labels).tolist() == [114, 86]
            assert set(file.table.splits.tolist()) == {0}
    assert re.fullmatch(
        r"200 of 350 images through 2 backbones take about \d+ s \(tiny\.keras \d+ s, wide\.keras \d+ s\); then logreg "
        r"is trained 10 times on the rows of each",
        said[0],
    )
    done = run_program(*shlex.split(found.next_command), "--json", cwd=Path.cwd())
    extracted = json.loads(done.stdout)
    assert (extracted["computed"], extracted["images"]) == (150, 350)
    whole, sample = rows_of(Path(extracted["path"])), rows_of(found.taken.features)
    assert all((whole[content] == row).all() for content, row in sample.items())


def test_no_test_image_is_looked_at(photos: Path):
    found = choose("photos", NAMES, sample=200)
    whole = run_extraction("photos", "tiny.keras")
    with FeatureFile(whole.path) as file, FeatureFile(found.tried[0].features) as sample:
        test = {row.tobytes() for row in file.table.content_hashes[file.rows_of("test")]}
        assert not test & {row.tobytes() for row in sample.table.content_hashes}


def test_a_folder_with_fewer_images_is_tried_whole_but_for_its_test_part(photos: Path):
    for part, seed in (("train", 1), ("test", 2)):
        write_folder(Path("small") / part, {"a": 30, "b": 30}, seed=seed)
    found = choose("small", ",".join(NAMES))
    assert (found.comparison.images, found.images) == (60, 120)


def test_an_interrupted_choice_goes_on_where_it_was(photos: Path, monkeypatch: pytest.MonkeyPatch):
    def stop(done: int, of: int, name: str) -> None:
        assert of == 400
        if name == "wide.keras" and done >= 300:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        choose("photos", NAMES, sample=200, progress=stop)
    computed = []
    original = trial.run_extraction

    def counted(*args, **kwargs):
        done = original(*args, **kwargs)
        computed.append(done.computed)
        return done

    monkeypatch.setattr(trial, "run_extraction", counted)
    resumed = choose("photos", NAMES, sample=200)
    assert computed[0] == 0
    assert 0 < computed[1] <= 100
    shutil.rmtree("photos.trials")
    whole = choose("photos", NAMES, sample=200)
    assert computed[2:] == [200, 200]
    assert [(one.name, one.score, one.interval) for one in resumed.tried] == [
        (one.name, one.score, one.interval) for one in whole.tried
    ]


def test_a_second_call_measures_and_computes_nothing(photos: Path, monkeypatch: pytest.MonkeyPatch):
    first = choose("photos", NAMES, sample=200)
    monkeypatch.setattr(trial.Trial, "_pilot", lambda *_: pytest.fail("measured again"))
    said = []
    again = choose("photos", NAMES, sample=200, say=said.append)
    assert "take about 0 s (tiny.keras 0 s, wide.keras 0 s)" in said[0]
    assert again.record() | {"comparison": None} == first.record() | {"comparison": None}


def test_names_of_images_do_not_matter(photos: Path):
    first = choose("photos", NAMES, sample=200)
    before = rows_of(first.tried[0].features).keys()
    for number, path in enumerate(sorted(Path("photos").rglob("*.png"), reverse=True)):
        path.rename(path.with_name(f"again {number}.png"))
    again = choose("photos", NAMES, sample=200)
    assert rows_of(again.tried[0].features).keys() == before


def test_groups_stay_together_and_come_along(photos: Path):
    found = choose("photos", NAMES, sample=200, group_pattern=r"(\w+/\d+?)\d?\.png")
    with FeatureFile(found.tried[0].features) as file:
        assert all(file.table.groups)
    assert r" --group-pattern '(\w+/\d+?)\d?\.png' " in found.next_command


def test_a_backbone_that_cannot_be_had_is_named_and_the_others_are_compared(photos: Path):
    shutil.copy("tiny.keras", "broken.keras")
    Path("broken.keras").write_bytes(Path("broken.keras").read_bytes()[:500])
    found = choose("photos", ["broken.keras", *NAMES], sample=200)
    assert list(found.failed) == ["broken.keras"]
    assert f"broken.keras could not be tried: {found.failed['broken.keras']}" in str(found).splitlines()
    assert {one.name for one in found.tried} == set(NAMES)


def test_one_that_is_left_alone_is_refused(photos: Path, monkeypatch: pytest.MonkeyPatch):
    without(monkeypatch, "wide")
    with pytest.raises(
        BackboneError,
        match=r"^only one of the 2 backbones can be used here; needed: two to compare\. wide\.keras: no weights of "
        rf"wide\. {ADVICE}",
    ):
        choose("photos", NAMES)
    assert list(Path("photos.trials").glob("*.h5")) == []


def test_all_that_fail_are_an_error(photos: Path, monkeypatch: pytest.MonkeyPatch):
    without(monkeypatch, "wide", "tiny")
    with pytest.raises(
        BackboneError,
        match=r"^none of the 2 backbones can be used here; needed: two to compare\. tiny\.keras: no weights of tiny; "
        rf"wide\.keras: no weights of wide\. {ADVICE}",
    ):
        choose("photos", NAMES)


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    """Some networks cannot be had."""
    original = trial.load_backbone

    def refused(name: str, **settings: object):
        if Path(name).stem in missing:
            raise WeightsError(f"no weights of {Path(name).stem}.")
        return original(name, **settings)

    monkeypatch.setattr(trial, "load_backbone", refused)


def test_unreadable_images_of_the_sample_are_left_out(photos: Path, rng: np.random.Generator):
    for path in sorted(Path("photos/cats").glob("*.png"))[:100]:
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + path.read_bytes()[8:60])
    picture(rng).save("photos/cats/new.png")
    found = choose("photos", NAMES, sample=200)
    assert 120 < found.comparison.images < 200


def test_weights_come_by_name(photos: Path):
    with pytest.raises(WeightsError, match=r"^there is no weights file no\.h5\.$"):
        choose("photos", {"tiny.keras": "imagenet", "resnet50": "no.h5"})
    with pytest.raises(OptionError, match=r"^candidates names resnet50 twice; needed: each backbone once\.$"):
        choose("photos", "resnet50,resnet50=x.h5")


def test_what_is_left_behind_is_known_to_cache(photos: Path):
    choose("photos", NAMES, sample=200)
    (kept,) = (one for one in cache().kept if one.kind == "trials")
    assert (kept.made_for, kept.what) == ("photos", "rows of 2 backbones")
    assert "comparisons" not in {one.kind for one in cache().kept}
    assert [one.path for one in cache(clear="trials").cleared] == [Path("photos.trials")]
    assert not Path("photos.trials").exists()


def test_the_command_prints_the_table_and_what_to_do_next(photos: Path):
    done = run_program(
        "onepass", "choose", "photos", "--head", "ridge", "--try", ",".join(NAMES), "--sample", "200", cwd=Path.cwd()
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "accuracy of ridge on 5 folds x 2 of 200 images outside the test part"
    assert lines[-1].startswith("Take ")
    estimate, following = done.stderr.splitlines()
    assert estimate.startswith("200 of 350 images through 2 backbones take about ")
    assert re.fullmatch(
        r"Next: extract photos --backbone (tiny|wide)\.keras --base photos\.trials/\1\.[0-9a-f]{8}\.h5", following
    )
    as_json = run_program(
        "onepass",
        "choose",
        "photos",
        "--head",
        "ridge",
        "--try",
        ",".join(NAMES),
        "--sample",
        "200",
        "--json",
        cwd=Path.cwd(),
    )
    assert json.loads(as_json.stdout)["answer"] == lines[-1]


def test_the_command_says_how_weights_are_given(photos: Path, monkeypatch: pytest.MonkeyPatch):
    without(monkeypatch, "wide")
    done = run_program("onepass", "choose", "photos", "--try", ",".join(NAMES), cwd=Path.cwd())
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "error: only one of the 2 backbones can be used here; needed: two to compare. wide.keras: no weights of wide. "
        "Name others, or files with weights, such as --try efficientnet_lite0,resnet50=resnet50.weights.h5.\n"
    )
