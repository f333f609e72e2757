import json
import os
import time
from pathlib import Path

import pytest

from onepass import cache
from onepass.features.errors import DataError, OptionError
from support import started

DAY = 24 * 3600


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two networks, one of them int8, in the cache; a boundary cache, comparison results and a trial below a folder."""
    networks, folder = tmp_path / "cache", tmp_path / "work"
    monkeypatch.setenv("ONEPASS_CACHE", str(networks))
    facts = {"backbone": "resnet50", "weights_hash": "ab", "image_size": 224, "pooling": "avg", "width": 2048}
    quantised = {
        "calibration": "0123456789abcdef",
        "images": 9,
        "seconds": 1.0,
        "cosine_mean": 1.0,
        "cosine_min": 1.0,
        "sample": 9,
        "golden_min": 1.0,
    }
    for name, more in (("one", {}), ("two", {"quantisation": quantised, "sizes": {}})):
        (networks / name).mkdir(parents=True)
        (networks / name / "backbone.json").write_text(json.dumps({**facts, **more}))
        (networks / name / "model.bin").write_bytes(bytes(5000))
    (folder / "deep" / "photos.cells").mkdir(parents=True)
    (folder / "deep" / "photos.cells" / "ab.safetensors").write_bytes(bytes(3000))
    (folder / "deep" / "photos.h5").touch()
    (folder / "pets.finetuned.work").mkdir()
    (folder / "pets.finetuned.work" / "boundary-conv4.h5").write_bytes(bytes(7000))
    (folder / "pets.finetuned.work" / "checkpoint.safetensors").touch()
    (folder / "mine.h5").write_bytes(bytes(100))
    (folder / "deep" / "pets.trials" / "tiny.cells").mkdir(parents=True)
    (folder / "deep" / "pets.trials" / "tiny.h5").write_bytes(bytes(8000))
    (folder / "deep" / "pets.trials" / "tiny.cells" / "cd.safetensors").write_bytes(bytes(1000))
    return folder


def kinds(folder: Path, **options: object) -> list[str]:
    return [one.kind for one in cache(folder, **options).kept]


def test_all_that_is_kept_is_shown(folder: Path):
    found = cache(folder)
    told = [(one.made_for, one.kind, one.what) for one in found.kept]
    assert told == [
        ("resnet50", "networks", "224 px, avg"),
        ("resnet50", "int8", "224 px, avg, 01234567"),
        ("pets.finetuned", "boundaries", "conv4"),
        ("photos.h5", "comparisons", "1 results"),
        ("pets", "trials", "rows of 1 backbones"),
    ]
    assert found.kept[2].bytes == 7000
    assert str(found).splitlines()[2:] == [
        "for             kind         what                   size    age",
        f"resnet50        networks     224 px, avg            {found.kept[0].bytes / 1e3:.1f} kB  0 h",
        f"resnet50        int8         224 px, avg, 01234567  {found.kept[1].bytes / 1e3:.1f} kB  0 h",
        "pets.finetuned  boundaries   conv4                  7.0 kB  0 h",
        "photos.h5       comparisons  1 results              3.0 kB  0 h",
        "pets            trials       rows of 1 backbones    9.0 kB  0 h",
        f"5 kept, {found.bytes / 1e3:.1f} kB",
    ]
    assert json.loads(json.dumps(found.record()))["kept"][2]["path"].endswith("boundary-conv4.h5")


@pytest.mark.parametrize("kind", ["networks", "int8", "boundaries", "comparisons", "trials"])
def test_one_kind_is_removed_and_nothing_else(folder: Path, kind: str):
    before = kinds(folder)
    found = cache(folder, clear=kind)
    assert [one.kind for one in found.cleared] == [kind]
    assert kinds(folder) == [one for one in before if one != kind]
    assert (folder / "mine.h5").exists()
    assert (folder / "deep" / "photos.h5").exists()
    assert (folder / "pets.finetuned.work" / "checkpoint.safetensors").exists()


def test_all_of_them_are_removed(folder: Path):
    assert len(cache(folder, clear="all").cleared) == 5
    assert kinds(folder) == []


def test_what_is_younger_stays(folder: Path):
    old = time.time() - 10 * DAY
    for file in (folder / "deep" / "photos.cells", folder / "deep" / "photos.cells" / "ab.safetensors"):
        os.utime(file, (old, old))
    assert [one.kind for one in cache(folder, clear="all", older=5).cleared] == ["comparisons"]
    assert len(kinds(folder)) == 4


def test_what_a_running_process_has_open_stays(folder: Path):
    held = folder / "pets.finetuned.work" / "boundary-conv4.h5"
    script = f"import time; file = open({str(held)!r}); print('open', flush=True); time.sleep(1000)"
    with started("python", "-c", script, cwd=folder) as process:
        assert process.stdout
        assert process.stdout.readline() == "open\n"
        found = cache(folder, clear="all")
        assert [(one.kind, one.in_use) for one in found.kept] == [("boundaries", True)]
        assert str(found).splitlines()[-3].endswith("in use")
        process.kill()
        process.wait()
    assert [one.kind for one in cache(folder, clear="all").cleared] == ["boundaries"]


def test_wrong_wishes_are_refused(folder: Path):
    with pytest.raises(OptionError, match=r"^clear is 'x'; needed: one of networks, int8, boundaries, .* or all\.$"):
        cache(folder, clear="x")
    with pytest.raises(OptionError, match=r"^older is -1; needed: days, 0 or more, with clear='all' or one kind\.$"):
        cache(folder, clear="all", older=-1)
    with pytest.raises(OptionError, match=r"^older is 3; needed: days, 0 or more, with clear='all' or one kind\.$"):
        cache(folder, older=3)
    with pytest.raises(DataError, match=r"none is no folder; name one with feature files in it\.$"):
        cache(folder / "none")


def test_results_of_a_feature_file_that_is_gone_say_so(folder: Path):
    (folder / "deep" / "photos.h5").unlink()
    assert cache(folder).kept[-2].made_for == "photos.h5, which is gone"


def test_folders_are_looked_into_three_deep(folder: Path):
    far = folder / "a" / "b" / "c" / "d.cells"
    far.mkdir(parents=True)
    (far / "x.safetensors").touch()
    assert len(kinds(folder)) == 5
    assert len(kinds(folder / "a")) == 3  # the networks and this one
