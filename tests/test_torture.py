"""Kills and full disks at random moments. `make torture` runs many more of them: ONEPASS_TORTURE=100."""

import errno
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from onepass.extract import Backbone
from onepass.extract.one_pass.run import run_extraction
from onepass.features import FeatureFile
from onepass.features.errors import FeatureFileError
from onepass.features.integrity import check_file
from support import PATIENCE, MakeFolder, started

pytestmark = pytest.mark.slow
TIMES = int(os.environ.get("ONEPASS_TORTURE", "8"))

VICTIM = """
import sys, time
from pathlib import Path
from onepass.extract import load_backbone
from onepass.extract.one_pass.run import run_extraction

tiny, data, out, log = sys.argv[1:]
# The size is given because Keras would otherwise be loaded to find it out.
backbone = load_backbone(tiny, image_size=32, precision="float32")
infer, stream = backbone.engine.run, backbone.stream

def slowly(images):
    for item in infer(images):
        time.sleep(0.002)
        yield item

def logged(files, **options):
    files = list(files)
    Path(log).write_text("\\n".join(content.hex() for content, _ in files))
    return stream(files, **options)

backbone.engine.run, backbone.stream = slowly, logged
print("start", flush=True)
run_extraction(Path(data), backbone, out=out, batch_size=7, views=2, augment="flip,rotate=20")
print("end", flush=True)
"""


def test_killed_at_random_moments_nothing_is_lost_and_nothing_computed_twice(
    make_folder: MakeFolder, tiny_file: Path, tiny_backbone: Backbone, tmp_path: Path
):
    """Between the kills images are renamed and relabelled, so that rewriting the file is interrupted too."""
    data, out, log = make_folder({"cats": 60, "dogs": 60}), tmp_path / "f.h5", tmp_path / "log"
    whole = run_extraction(data, tiny_backbone, out=tmp_path / "whole.h5", views=2, augment="flip,rotate=20")
    expected = rows_by_content(whole.path)
    generator, kills, runs = random.Random(7), 0, 0
    while kills < TIMES:
        if generator.random() < 0.4:
            shuffle_names(data, generator)
        before = rows_by_content(out) if out.exists() else {}
        log.unlink(missing_ok=True)
        kills += killed(tiny_file, data, out, log, after=generator.uniform(0, 0.6))
        runs += 1

        assert not ({tuple(c) for c in contents_in(log)} & set(map(tuple, before))), "a committed image was computed"
        if not out.exists():
            continue
        assert check_file(out).damage == []
        after = rows_by_content(out)
        assert before.keys() <= after.keys(), "a committed row was lost"
        for content, rows in after.items():
            np.testing.assert_array_equal(rows, expected[content])
        if len(after) == len(expected):
            out.unlink()  # finished: start from nothing
    run_extraction(data, tiny_backbone, out=out, views=2, augment="flip,rotate=20")
    final = rows_by_content(out)
    assert final.keys() == expected.keys()
    for content, rows in final.items():
        np.testing.assert_array_equal(rows, expected[content])


def killed(tiny_file: Path, data: Path, out: Path, log: Path, *, after: float) -> bool:
    """Runs an extraction and kills it; False if it had ended before."""
    command = ["python", "-c", VICTIM, *map(str, (tiny_file, data, out, log))]
    with started(*command, cwd=data.parent, stderr=None) as process:
        assert process.stdout
        assert process.stdout.readline() == "start\n"
        time.sleep(after)
        process.send_signal(signal.SIGKILL)
        return "end" not in process.communicate(timeout=PATIENCE)[0]


def shuffle_names(data: Path, generator: random.Random) -> None:
    for path in generator.sample(sorted(data.glob("*/*.png")), 3):
        path.rename(data / generator.choice(("cats", "dogs")) / f"{generator.random()}.png")


def contents_in(log: Path) -> list[bytes]:
    return [bytes.fromhex(line) for line in log.read_text().splitlines()] if log.exists() else []


def rows_by_content(path: Path) -> dict[bytes, np.ndarray]:
    with FeatureFile(path) as file:
        hashes = file.table.content_hashes
        return {hashes[i].tobytes(): np.array(file.rows[i]) for i in np.flatnonzero(file.committed)}


@pytest.mark.parametrize("seed", range(max(6, TIMES // 3)))
def test_a_disk_that_fills_up_at_any_moment_loses_nothing(
    seed: int, make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data, out = make_folder({"cats": 12, "dogs": 12}), tmp_path / "f.h5"
    expected = rows_by_content(run_extraction(data, tiny_backbone, out=tmp_path / "whole.h5").path)
    generator = random.Random(seed)
    for _ in range(3):
        before = rows_by_content(out) if out.exists() else {}
        with monkeypatch.context() as patched:
            fill_disk_after(generator.randrange(60), patched)
            try:
                run_extraction(data, tiny_backbone, out=out, batch_size=4)
            except FeatureFileError as error:
                assert "Everything committed before is kept; free disk space or choose another place" in str(error)
        if out.exists():
            assert check_file(out).damage == []
            assert before.keys() <= rows_by_content(out).keys()
        shuffle_names(data, generator)

    run_extraction(data, tiny_backbone, out=out)

    final = rows_by_content(out)
    assert final.keys() == expected.keys()
    for content, rows in final.items():
        np.testing.assert_array_equal(rows, expected[content])


def fill_disk_after(calls: int, patched: pytest.MonkeyPatch) -> None:
    """From the given call on, every write fails as it does on a full disk; half of a row may have been written."""
    left = [calls]

    def failing(real):
        def call(descriptor: int, *arguments: object) -> object:
            left[0] -= 1
            if left[0] >= 0:
                return real(descriptor, *arguments)
            if real is os_pwrite and left[0] == -1:
                data, offset = arguments
                real(descriptor, data[: len(data) // 2], offset)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        return call

    os_pwrite = os.pwrite
    for name in ("pwrite", "posix_fallocate", "fsync"):
        patched.setattr(os, name, failing(getattr(os, name)))


def test_a_small_file_system_that_is_really_full(make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path):
    """A tmpfs of 300 kB; skipped where mounting is not allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)],
            capture_output=True,
            check=False,
            timeout=PATIENCE,
        ).returncode
    ):
        pytest.skip("mounting is not allowed here")
    try:
        data = make_folder({"cats": 20, "dogs": 20})
        run_extraction(data, tiny_backbone, out=disk / "f.h5")
        before = rows_by_content(disk / "f.h5")
        (disk / "ballast").write_bytes(bytes(8192 * ((os.statvfs(disk).f_bavail * 4096) // 8192)))
        make_folder({"owls": 30}, seed=5)
        with pytest.raises(FeatureFileError, match="cannot write .*free disk space or choose another place"):
            run_extraction(data, tiny_backbone, out=disk / "f.h5")
        assert check_file(disk / "f.h5").damage == []
        (disk / "ballast").unlink()
        assert run_extraction(data, tiny_backbone, out=disk / "f.h5").computed == 30
        after = rows_by_content(disk / "f.h5")
        assert before.keys() <= after.keys()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True, timeout=PATIENCE)
