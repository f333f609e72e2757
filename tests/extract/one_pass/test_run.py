import os
import shutil
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onepass.extract import Backbone, Extraction, extract_features, load_backbone
from onepass.extract.data.sources import open_source
from onepass.extract.one_pass.resolve import output_path
from onepass.extract.one_pass.run import run_extraction
from onepass.features import FeatureFile, OnepassWarning
from onepass.features.errors import DataError, FeatureFileError, LockedError, OptionError, SpecMismatchError, UserError
from onepass.features.lock import writer_lock
from support import PATIENCE, READ, MakeFolder, flip_bit, picture, run_process, run_program, write_folder


def run(data: Path, backbone: Backbone, out: Path, **options: object) -> Extraction:
    return run_extraction(data, backbone, out=out, **options)


def rows_by_path(path: Path) -> dict[str, np.ndarray]:
    with FeatureFile(path) as file:
        return {file.table.paths[i]: np.array(file.rows[i, 0]) for i in np.flatnonzero(file.committed)}


def test_every_row_is_the_backbones_own_of_that_image(make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path):
    data = make_folder({"cats": 7, "dogs": 6})
    done = run(data, tiny_backbone, tmp_path / "f.h5")

    assert (done.images, done.computed, done.reused, done.skipped) == (13, 13, 0, [])
    assert done.classes == {"cats": 7, "dogs": 6}
    for path, row in rows_by_path(done.path).items():
        pixels = np.asarray(Image.open(data / path).resize((32, 32), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(row, tiny_backbone.rows(pixels[None])[0], err_msg=path)


def test_the_same_command_again_computes_nothing(make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path):
    data = make_folder({"cats": 7, "dogs": 6})
    run(data, tiny_backbone, tmp_path / "f.h5")
    before = (tmp_path / "f.h5").read_bytes()
    again = run(data, tiny_backbone, tmp_path / "f.h5")
    assert (again.computed, again.reused) == (0, 13)
    assert (tmp_path / "f.h5").read_bytes() == before


def test_only_new_content_is_computed(make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path):
    data = make_folder({"cats": 7, "dogs": 6})
    run(data, tiny_backbone, tmp_path / "f.h5")
    before = rows_by_path(tmp_path / "f.h5")
    (data / "cats" / "0.png").rename(data / "cats" / "renamed.png")
    (data / "cats" / "1.png").rename(data / "dogs" / "relabelled.png")
    (data / "cats" / "2.png").unlink()
    make_folder({"birds": 3}, seed=8)

    again = run(data, tiny_backbone, tmp_path / "f.h5")

    after = rows_by_path(tmp_path / "f.h5")
    assert (again.images, again.computed, again.reused) == (15, 3, 12)
    np.testing.assert_array_equal(after["cats/renamed.png"], before["cats/0.png"])
    np.testing.assert_array_equal(after["dogs/relabelled.png"], before["cats/1.png"])
    assert "cats/2.png" not in after
    assert FeatureFile(tmp_path / "f.h5").class_names == ("birds", "cats", "dogs")


def test_duplicates_are_computed_once(make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path):
    data = make_folder({"cats": 3, "dogs": 3})
    for i in range(4):
        shutil.copy(data / "cats" / "0.png", data / "dogs" / f"copy{i}.png")
    done = run(data, tiny_backbone, tmp_path / "f.h5")
    rows = rows_by_path(done.path)
    assert (done.images, done.computed, done.reused) == (10, 6, 4)
    np.testing.assert_array_equal(rows["dogs/copy3.png"], rows["cats/0.png"])


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 5, "workers": 1}, {"workers": 7}])
def test_rows_do_not_depend_on_batch_size_or_workers(
    make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path, options: dict
):
    data = make_folder({"cats": 9, "dogs": 8})
    expected = rows_by_path(run(data, tiny_backbone, tmp_path / "a.h5").path)
    found = rows_by_path(run(data, tiny_backbone, tmp_path / "b.h5", **options).path)
    for path, row in expected.items():
        np.testing.assert_array_equal(found[path], row, err_msg=path)


def test_bad_files_are_skipped_with_a_reason_and_shift_no_label(
    make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path, rng: np.random.Generator
):
    data = make_folder({"cats": 6, "dogs": 6})
    clean = run(data, tiny_backbone, tmp_path / "clean.h5")
    good = (data / "cats" / "0.png").read_bytes()
    (data / "cats" / "00 empty.jpg").write_bytes(b"")
    (data / "cats" / "01 also empty.jpg").write_bytes(b"")
    (data / "cats" / "02 text.jpg").write_text("just text")
    (data / "cats" / "03 cut.png").write_bytes(good[: len(good) // 2])
    (data / "dogs" / "04 link.jpg").symlink_to("nowhere")
    (data / "dogs" / "05 movie.mp4").write_bytes(b"x")
    picture(rng).save(data / "dogs" / "06 gut ü.png")

    done = run(data, tiny_backbone, tmp_path / "f.h5")

    reasons = {s.path: s.reason for s in done.skipped}
    assert reasons.pop("cats/03 cut.png").startswith("damaged: ")
    assert reasons == {
        "cats/00 empty.jpg": "empty file",
        "cats/01 also empty.jpg": "empty file",
        "cats/02 text.jpg": f"not an image ({READ})",
        "dogs/04 link.jpg": "no such file or directory",
        "dogs/05 movie.mp4": "not an image by its name (.mp4)",
    }
    assert done.images == 13
    with FeatureFile(done.path) as file:
        for i in np.flatnonzero(file.committed):
            assert file.table.paths[i].startswith(file.class_names[file.table.labels[i]])
    for path, row in rows_by_path(clean.path).items():
        np.testing.assert_array_equal(rows_by_path(done.path)[path], row)


def test_a_mended_image_gets_its_row_in_the_next_run(
    make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path, rng: np.random.Generator
):
    data = make_folder({"cats": 4, "dogs": 4})
    (data / "cats" / "0.png").write_bytes(b"broken")
    assert len(run(data, tiny_backbone, tmp_path / "f.h5").skipped) == 1
    picture(rng).save(data / "cats" / "0.png")
    again = run(data, tiny_backbone, tmp_path / "f.h5")
    assert (again.computed, again.reused, again.skipped) == (1, 7, [])


def test_a_class_without_a_readable_image_is_told_and_the_rest_kept(
    make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path
):
    data = make_folder({"cats": 4, "dogs": 1})
    (data / "dogs" / "0.png").write_bytes((data / "dogs" / "0.png").read_bytes()[:100])
    with pytest.raises(DataError, match=r"^no image of dogs could be read \(1 skipped; `onepass info .*f.h5` lists"):
        run(data, tiny_backbone, tmp_path / "f.h5")
    assert FeatureFile(tmp_path / "f.h5").committed.sum() == 4


def test_black_images_are_told_at_the_end(make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path):
    data = make_folder({"cats": 4, "dogs": 4})
    for i, path in enumerate(sorted(data.rglob("*.png"))):
        Image.new("RGB", (20 + i, 30)).save(path)
    done = run(data, tiny_backbone, tmp_path / "f.h5")
    assert done.record()["equal_rows"]
    assert str(done).splitlines()[-1] == (
        "all 8 rows are equal, so no head can tell the classes apart. Look at the images: are they all black, or "
        "copies of one picture?"
    )


def test_another_spec_under_the_same_name_is_refused_side_by_side(
    make_folder: MakeFolder, tiny_file: Path, tiny_backbone: Backbone, tmp_path: Path
):
    data = make_folder({"cats": 4, "dogs": 4})
    run(data, tiny_backbone, tmp_path / "f.h5")
    before = (tmp_path / "f.h5").read_bytes()
    with pytest.raises(SpecMismatchError) as caught:
        run(data, load_backbone(str(tiny_file), pooling="max", precision="float32"), tmp_path / "f.h5")
    assert str(caught.value).endswith(
        "  pooling  avg".ljust(13 + len(str(tmp_path / "f.h5"))) + "max\n"
        "Repeat the settings of the file, or choose another file with out."
    )
    assert (tmp_path / "f.h5").read_bytes() == before


def test_a_file_of_other_images_is_not_overwritten(make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path):
    run(make_folder({"cats": 4, "dogs": 4}), tiny_backbone, tmp_path / "f.h5")
    other = make_folder({"cats": 4, "dogs": 4}, name="elsewhere", seed=5)
    with pytest.raises(
        FeatureFileError, match=r"holds rows of 8 images from .*photos, none of which is in .*elsewhere"
    ):
        run(other, tiny_backbone, tmp_path / "f.h5")


def test_a_file_of_another_kind_is_left_alone(make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path):
    (tmp_path / "f.h5").write_text("my thesis")
    with pytest.raises(FeatureFileError, match="cannot be read as a feature file"):
        run(make_folder({"cats": 2, "dogs": 2}), tiny_backbone, tmp_path / "f.h5")
    assert (tmp_path / "f.h5").read_text() == "my thesis"


def test_two_runs_on_one_file_do_not_mix(make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path):
    data = make_folder({"cats": 2, "dogs": 2})
    with writer_lock(tmp_path / "f.h5"), pytest.raises(LockedError, match=f"written by process {os.getpid()} on "):
        run(data, tiny_backbone, tmp_path / "f.h5")


def test_an_unwritable_folder_is_told_before_any_work(make_folder: MakeFolder, tiny_backbone: Backbone):
    with pytest.raises(UserError, match=r"cannot write in /proc: .*Choose another file with out"):
        run(make_folder({"cats": 2, "dogs": 2}), tiny_backbone, Path("/proc/f.h5"))


def test_sizes_below_one_are_refused(make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path):
    with pytest.raises(OptionError, match=r"^workers is 0; needed: at least 1\.$"):
        run(make_folder({"cats": 2, "dogs": 2}), tiny_backbone, tmp_path / "f.h5", workers=0)


def test_the_default_name_joins_folder_and_backbone(tmp_path: Path):
    for name in ("my data", "a", "b", "data"):
        write_folder(tmp_path / name, {"cats": 1, "dogs": 1})
    one, two = open_source(tmp_path / "my data"), open_source([tmp_path / "a", tmp_path / "b"])
    assert output_path(one, "resnet50", None) == Path("my data.resnet50.h5")
    assert output_path(two, "resnet50", None) == Path("a+b.resnet50.h5")
    assert output_path(open_source(tmp_path / "data" / "."), "tiny", None) == Path("data.tiny.h5")
    assert output_path(one, "tiny", "x.h5") == Path("x.h5")


def test_an_exception_midway_keeps_what_was_computed(make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path):
    data = make_folder({"cats": 9, "dogs": 8})

    def stop(done: int, _: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(data, tiny_backbone, tmp_path / "f.h5", progress=stop)
    assert FeatureFile(tmp_path / "f.h5").committed.sum() == 7
    assert run(data, tiny_backbone, tmp_path / "f.h5").computed == 10


def test_the_library_call_returns_the_path(make_folder: MakeFolder, tiny_file: Path, tmp_path: Path):
    path = extract_features(make_folder({"cats": 2, "dogs": 2}), backbone=str(tiny_file), out=tmp_path / "f.h5")
    assert str(FeatureFile(path)) == "4 images x 1 view, 8 wide, 2 classes, tiny own"


PASS = """
import resource, sys
from pathlib import Path
from onepass.extract import load_backbone
from onepass.extract.one_pass.run import run_extraction
run_extraction(Path(sys.argv[2]), load_backbone(sys.argv[1]), out=sys.argv[3])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_images(tmp_path: Path, tiny_file: Path, rng: np.random.Generator):
    """Peak of 150 against 900 images of 0.75 MB each when decoded: far less than the images' own size."""
    peaks = []
    for count in (150, 900):
        for i in range(count):
            folder = tmp_path / str(count) / "ab"[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (512, 512), tuple(rng.integers(0, 256, 3).tolist())).save(folder / f"{i}.png")
        places = map(str, (tiny_file, tmp_path / str(count), tmp_path / f"{count}.h5"))
        done = run_process("python", "-c", PASS, *places, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] - peaks[0] < 60


def test_files_that_cannot_be_opened_never_share_a_row(
    make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data = make_folder({"cats": 4, "dogs": 4})
    locked = {data / "cats" / "0.png", data / "dogs" / "0.png"}
    original = Path.stat

    def stat(self: Path, **options: object):
        if self in locked:
            raise PermissionError(13, "Permission denied")
        return original(self, **options)

    monkeypatch.setattr(Path, "stat", stat)
    first = run(data, tiny_backbone, tmp_path / "f.h5")
    monkeypatch.undo()
    second = run(data, tiny_backbone, tmp_path / "f.h5")

    assert {s.path: s.reason for s in first.skipped} == {
        "cats/0.png": "permission denied",
        "dogs/0.png": "permission denied",
    }
    assert (second.computed, second.reused, second.skipped) == (2, 6, [])
    rows = rows_by_path(tmp_path / "f.h5")
    assert not np.array_equal(rows["cats/0.png"], rows["dogs/0.png"])


def test_a_file_replaced_while_it_is_read_gets_no_row(
    make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data = make_folder({"cats": 4, "dogs": 4})
    from onepass.extract.one_pass import resolve as prepare_module

    scan = prepare_module.scan_source

    def scan_then_replace(*args: object, **options: object):
        result = scan(*args, **options)
        (data / "cats" / "0.png").write_bytes((data / "dogs" / "1.png").read_bytes())
        return result

    monkeypatch.setattr(prepare_module, "scan_source", scan_then_replace)
    done = run(data, tiny_backbone, tmp_path / "f.h5")
    assert [(s.path, s.reason) for s in done.skipped] == [
        ("cats/0.png", "no longer the file whose content was recorded; extract again with rehash")
    ]


def test_images_that_vanish_or_change_meanwhile_are_no_success(
    make_folder: MakeFolder, tiny_backbone: Backbone, tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data = make_folder({"cats": 6, "dogs": 6})
    from onepass.extract.one_pass import resolve as prepare_module

    scan = prepare_module.scan_source

    def scan_then_lose(*args: object, **options: object):
        result = scan(*args, **options)
        (data / "cats" / "0.png").unlink(missing_ok=True)
        picture(np.random.default_rng(7)).save(data / "dogs" / "0.png")
        return result

    monkeypatch.setattr(prepare_module, "scan_source", scan_then_lose)
    done = run_program("extract", str(data), "--backbone", str(tiny_file), "--out", "f.h5", cwd=tmp_path)
    assert done.returncode == 1
    assert "NOT DONE: 2 of the images changed or vanished while the pass ran; run the same command again" in done.stdout
    (data / "cats" / "0.png").write_bytes((data / "cats" / "1.png").read_bytes() + b"x")
    with pytest.warns(OnepassWarning, match="1 of the images changed or vanished while the pass ran; extract again"):
        extract_features(data, str(tiny_file), out=tmp_path / "g.h5")
    monkeypatch.undo()
    again = run_program("extract", str(data), "--backbone", str(tiny_file), "--out", "f.h5", cwd=tmp_path)
    assert again.returncode == 0
    assert "11 images" in again.stdout
    assert "NOT DONE" not in again.stdout


def test_a_damaged_row_is_computed_again(make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path):
    data = make_folder({"cats": 4, "dogs": 4})
    run(data, tiny_backbone, tmp_path / "f.h5")
    before = rows_by_path(tmp_path / "f.h5")
    flip_bit(tmp_path / "f.h5", "rows", byte=5 * 32 + 3)
    again = run(data, tiny_backbone, tmp_path / "f.h5")
    assert (again.computed, again.reused) == (1, 7)
    for path, row in rows_by_path(tmp_path / "f.h5").items():
        np.testing.assert_array_equal(row, before[path])


def test_two_streams_of_one_backbone_do_not_mix(make_folder: MakeFolder, tiny_backbone: Backbone):
    files = sorted(make_folder({"cats": 6}).glob("*/*.png"))
    both = zip(
        tiny_backbone.stream(enumerate(files), on_skip=lambda *_: None),
        tiny_backbone.stream(enumerate(files[::-1]), on_skip=lambda *_: None),
        strict=True,
    )
    forward, backward = zip(*both, strict=True)
    for i, row in forward:
        np.testing.assert_array_equal(row, dict(backward)[5 - i])


def test_what_a_run_left_that_was_killed_at_its_very_end_goes_with_the_next(
    make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path
):
    """Everything is computed, so the next run writes nothing, and still has to look for it."""
    data, out = make_folder({"cats": 4, "dogs": 4}), tmp_path / "f.h5"
    run_extraction(data, tiny_backbone, out=out)
    ended = subprocess.Popen(["true"])
    ended.wait(timeout=PATIENCE)
    left = tmp_path / f".f.h5.new-{socket.gethostname()}-{ended.pid}-0a1b2c3d"
    left.mkdir()

    assert run_extraction(data, tiny_backbone, out=out).computed == 0
    assert not left.exists()
