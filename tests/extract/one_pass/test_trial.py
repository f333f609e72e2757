"""What a backbone costs, measured on a sample."""

import json
import shutil
from pathlib import Path

import pytest

from onepass.extract import Trial, draw_sample
from onepass.extract.one_pass import trial
from onepass.features.errors import DataError
from support import write_folder


@pytest.fixture
def photos(tmp_path: Path, tiny_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(tiny_file, "tiny.keras")
    return write_folder(Path("photos"), {"cats": 20, "dogs": 20})


def test_the_rate_leaves_the_warm_up_out(monkeypatch: pytest.MonkeyPatch):
    moments = iter([*[5.0] * 31, 5.0, *(5.0 + 0.1 * image for image in range(1, 69))])
    monkeypatch.setattr(trial.time, "perf_counter", lambda: next(moments))
    reports = []
    watch = trial._Watch(lambda *told: reports.append(told))
    for done in range(1, 101):
        watch(done, 100)
    cost = watch.cost()
    assert cost
    assert cost.images == 68
    assert cost.images_per_second == pytest.approx(10)
    assert reports == [(done, 100) for done in range(1, 101)]


def test_a_pass_that_is_over_too_soon_measures_nothing():
    watch = trial._Watch()
    for done in range(1, 33):
        watch(done, 32)
    assert watch.cost() is None


def test_the_memory_is_what_was_taken_beyond_what_was_there():
    watch = trial._Watch()
    for done in range(1, 40):
        block = bytearray(b"x") * 200_000_000 if done == 35 else None
        watch(done, 40)
        del block
    cost = watch.cost()
    assert cost
    assert 190e6 < cost.memory < 260e6


def test_few_images_are_timed_again_and_again(photos: Path):
    one = Trial("tiny.keras", draw_sample(photos, 200))
    assert one.missing == 32
    assert one.cost.images == trial.PILOT
    assert one.seconds_left == pytest.approx(32 / one.cost.images_per_second)
    assert one.seconds_for_all == pytest.approx(40 / one.cost.images_per_second)
    one.run()
    assert one.missing == 0
    assert Trial("tiny.keras", draw_sample(photos, 200)).cost == one.cost


def test_what_another_processor_measured_does_not_count(photos: Path):
    one = Trial("tiny.keras", draw_sample(photos, 200))
    facts = one.path.with_suffix(".json")
    known = json.loads(facts.read_text())
    for spoilt in ({**known, "environment": {"processor": "another"}}, {"cost": 3}, []):
        facts.write_text(
            json.dumps(spoilt | {"cost": {"images_per_second": 1e9, "memory": 1, "images": 1}} if spoilt else spoilt)
        )
        assert Trial("tiny.keras", draw_sample(photos, 200)).cost.images_per_second < 1e8


def test_settings_keep_their_rows_apart(photos: Path):
    sample = draw_sample(photos, 200)
    paths = {Trial("tiny.keras", sample, pooling=pooling).path for pooling in ("avg", "max")}
    assert len(paths) == 2
    assert all(path.parent == Path("photos.trials") for path in paths)


def test_images_that_cannot_be_read_are_told(photos: Path):
    for path in photos.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:60] + path.name.encode())
    with pytest.raises(
        DataError,
        match=r"^32 of 32 images cannot be read, too many to time tiny\.keras; "
        r"photos/.*\.png, for one: .+\. Replace these files, or move them away\.$",
    ):
        Trial("tiny.keras", draw_sample(photos, 200))
