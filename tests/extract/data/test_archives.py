"""Images in archives are what they are in a folder; archives that are not what they claim are refused by name."""

import os
import shutil
import tarfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fuzzing import mutated
from onepass import repair
from onepass.extract import Backbone, named_images
from onepass.extract.data.archives import open_archive
from onepass.extract.data.source import scan_source
from onepass.extract.data.sources import open_source
from onepass.extract.one_pass.run import run_extraction
from onepass.features import SPLITS, FeatureFile, SkippedImage
from onepass.features.errors import DataError, UnreadableImageError, UserError
from packing import KINDS, known, pack, pack_members
from support import MakeFolder, flip_bit, run_program

FUZZ = int(os.environ.get("ONEPASS_FUZZ", "300"))


@pytest.fixture
def data(make_folder: MakeFolder) -> Path:
    """Photos, one of them no image, beside files that do not count."""
    data = make_folder({"cats": 12, "dogs": 11})
    (data / "cats" / "bad.jpg").write_text("text")
    (data / "cats" / "notes.txt").write_text("text")
    (data / "dogs" / ".DS_Store").write_text("x")
    (data / "__MACOSX").mkdir()
    (data / "__MACOSX" / "0.png").write_text("x")
    return data


def rows(path: Path) -> dict[bytes, tuple[np.ndarray, str, int]]:
    with FeatureFile(path) as file:
        table = file.table
        return {
            table.content_hashes[i].tobytes(): (
                np.array(file.rows[i]),
                table.class_names[table.labels[i]],
                int(table.splits[i]),
            )
            for i in np.flatnonzero(file.committed).tolist()
        }


def same_rows(one: Path, other: Path) -> bool:
    first, second = rows(one), rows(other)
    return first.keys() == second.keys() and all(
        np.array_equal(first[key][0], second[key][0]) and first[key][1:] == second[key][1:] for key in first
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_is_what_its_folder_is(data: Path, tmp_path: Path, kind: str):
    folder = scan_source(open_source(data))

    packed = scan_source(open_source(pack(data, tmp_path / kind)))

    assert packed.table.paths == folder.table.paths
    assert known(packed) == known(folder)
    assert packed.unread == folder.unread == {"cats/notes.txt": "not an image by its name (.txt)"}
    assert packed.source.stem == "photos"
    assert bool(packed.source.notes) == (kind not in ("photos.zip", "photos.tar"))


@pytest.mark.parametrize("kind", ["photos.zip", "photos.tar.gz"])
@pytest.mark.filterwarnings("ignore:.*unpacked once a run")
def test_rows_from_an_archive_are_those_of_the_folder(data: Path, tmp_path: Path, tiny_backbone: Backbone, kind: str):
    archive = pack(data, tmp_path / kind)

    of_folder = run_extraction(data, tiny_backbone, out=tmp_path / "folder.h5")
    of_archive = run_extraction(archive, tiny_backbone, out=tmp_path / "archive.h5")

    assert same_rows(of_folder.path, of_archive.path)
    assert [(one.path, one.reason) for one in of_archive.skipped] == [
        (one.path, one.reason) for one in of_folder.skipped
    ]
    again = run_extraction(archive, tiny_backbone, out=tmp_path / "archive.h5")
    assert (again.computed, again.images) == (0, 23)
    # An archive of the folder adds nothing, and the folder adds nothing to what the archive gave.
    assert run_extraction(data, tiny_backbone, out=tmp_path / "archive.h5").computed == 0


@pytest.mark.parametrize("kind", ["photos.zip", "photos.tar"])
def test_a_run_that_was_interrupted_goes_on(data: Path, tmp_path: Path, tiny_backbone: Backbone, kind: str):
    archive = pack(data, tmp_path / kind)
    whole = run_extraction(archive, tiny_backbone, out=tmp_path / "whole.h5").path

    def interrupt(done: int, of: int) -> None:
        if done > 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_extraction(archive, tiny_backbone, out=tmp_path / "f.h5", progress=interrupt, batch_size=4)
    again = run_extraction(archive, tiny_backbone, out=tmp_path / "f.h5")
    assert 0 < again.computed < 23
    assert same_rows(again.path, whole)


@pytest.mark.parametrize("kind", ["photos.zip", "photos.tar"])
def test_repair_finds_images_in_the_archive_again(data: Path, tmp_path: Path, tiny_backbone: Backbone, kind: str):
    archive = pack(data, tmp_path / kind)
    path = run_extraction(archive, tiny_backbone, out=tmp_path / "f.h5").path
    before = rows(path)
    flip_bit(path, "rows", byte=100)
    flip_bit(path, "labels", byte=4)

    assert repair(path).computed == 1
    np.testing.assert_equal(rows(path), before)

    flip_bit(path, "rows", byte=100)
    archive.rename(tmp_path / f"moved-{kind}")
    with pytest.raises(
        DataError, match=r"photos\.\w+ is not there; needed: an archive of images\. Or drop=True|Or drop"
    ):
        repair(path)
    assert repair(path, data=tmp_path / f"moved-{kind}").computed == 1
    np.testing.assert_equal(rows(path), before)


def test_an_image_that_changed_in_the_archive_is_computed_again(data: Path, tmp_path: Path, tiny_backbone: Backbone):
    archive = pack(data, tmp_path / "photos.zip")
    run_extraction(archive, tiny_backbone, out=tmp_path / "f.h5")
    shutil.copy(data / "dogs" / "1.png", data / "cats" / "1.png")
    (data / "dogs" / "1.png").unlink()
    pack(data, archive)
    again = run_extraction(archive, tiny_backbone, out=tmp_path / "f.h5")
    assert (again.computed, again.images, again.dropped) == (0, 22, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_on_top_of_all_counts_for_nothing(make_folder: MakeFolder, tmp_path: Path, kind: str):
    data = make_folder({"cats": 4, "dogs": 4}, name="x/y/photos")
    (tmp_path / "x" / "readme.md").write_text("x")
    scan = scan_source(open_source(pack(tmp_path / "x", tmp_path / kind)))
    assert scan.table.class_names == ("cats", "dogs")
    assert known(scan) == known(scan_source(open_source(data)))
    assert set(scan.table.paths) == {f"y/photos/{label}/{i}.png" for label in ("cats", "dogs") for i in range(4)}


def test_split_folders_in_an_archive_and_archives_named_like_splits_give_the_split(make_folder, tmp_path: Path):
    for i, name in enumerate(("train", "test")):
        data = make_folder({"cats": 3, "dogs": 2}, name=f"photos/{name}", seed=i)
        pack(data, tmp_path / f"{name}.zip")
    together = open_source(pack(data.parent, tmp_path / "photos.zip"))
    apart = open_source([tmp_path / "train.zip", tmp_path / "test.zip"])
    for source in (together, apart):
        assert source.said
        for path, split in zip(source.table.paths, source.table.splits, strict=True):
            assert SPLITS[split] == ("train" if path.startswith("train") else "test")
    assert apart.table.paths[0] == "test.zip/cats/0.png"
    assert known(scan_source(together)) == known(scan_source(apart))


def test_several_archives_are_put_together_class_by_class(make_folder: MakeFolder, tmp_path: Path, tiny_backbone):
    first = pack(make_folder({"cats": 3, "dogs": 2}, name="a"), tmp_path / "a.zip")
    second = pack(make_folder({"dogs": 3, "owls": 2}, name="b", seed=1), tmp_path / "b.tar")
    done = run_extraction([first, second], tiny_backbone, out=tmp_path / "f.h5")
    assert done.classes == {"cats": 3, "dogs": 5, "owls": 2}
    flip_bit(done.path, "rows", byte=10)
    assert repair(done.path).computed == 1


def test_archives_and_folders_are_not_mixed_and_none_is_named_twice(make_folder: MakeFolder, tmp_path: Path):
    data = make_folder({"cats": 3, "dogs": 2})
    archive = pack(data, tmp_path / "a.zip")
    with pytest.raises(DataError, match=r"a\.zip is an archive and .*photos is none\. Name either .* folders\.$"):
        open_source([archive, data])
    with pytest.raises(DataError, match=r"a\.zip is named twice, so its images would count twice\. Name it once\.$"):
        open_source([archive, archive])
    with pytest.raises(DataError, match=r"b\.zip is not there; needed: an archive of images\.$"):
        open_source(tmp_path / "b.zip")


@pytest.mark.parametrize("kind", ["photos.zip", "photos.tar"])
def test_names_that_lead_out_are_left_out_with_a_reason(make_folder: MakeFolder, tmp_path: Path, kind: str):
    data = make_folder({"cats": 3, "dogs": 2})
    image = (data / "cats" / "0.png").read_bytes()
    members = [(path.relative_to(data).as_posix(), path.read_bytes()) for path in sorted(data.rglob("*.png"))]
    hostile = ["../cats/x.png", "/etc/x.png", "cats/../../x.png"]
    archive = pack_members(tmp_path / kind, [*members, *((name, image) for name in hostile)])
    source = open_source(archive)
    assert len(source.table) == 5
    assert source.other == {name.lstrip("/"): "its name leads out of the archive" for name in hostile}
    with pytest.raises(DataError, match="does not lie below"):
        source.store.file("../cats/x.png")


@pytest.mark.parametrize("kind", ["photos.zip", "photos.tar"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_occurs_twice_is_not_read(make_folder: MakeFolder, tmp_path: Path, kind: str):
    data = make_folder({"cats": 3, "dogs": 2})
    members = [(path.relative_to(data).as_posix(), path.read_bytes()) for path in sorted(data.rglob("*.png"))]
    scan = scan_source(open_source(pack_members(tmp_path / kind, [*members, ("cats/0.png", b"other")])))
    assert scan.unread == {"cats/0.png": "occurs more than once in the archive"}


def test_links_in_an_archive_lead_to_members_alone(make_folder: MakeFolder, tmp_path: Path):
    data = make_folder({"cats": 3, "dogs": 2})
    (data / "cats" / "soft.png").symlink_to("../dogs/1.png")
    os.link(data / "cats" / "1.png", data / "cats" / "hard.png")
    (data / "cats" / "out.png").symlink_to("/etc/passwd")
    (data / "cats" / "self.png").symlink_to("self.png")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(data, ".")
    scan = scan_source(open_source(tmp_path / "a.tar"))
    content = dict(zip(scan.table.paths, map(bytes, scan.table.content_hashes), strict=True))
    assert content["cats/soft.png"] == content["dogs/1.png"]
    assert content["cats/hard.png"] == content["cats/1.png"]
    gone = "a link to what is not in the archive"
    assert scan.unread == {"cats/out.png": gone, "cats/self.png": gone}


def test_a_link_in_a_zip_leads_to_a_member(make_folder: MakeFolder, tmp_path: Path):
    archive = pack(make_folder({"cats": 3, "dogs": 2}), tmp_path / "a.zip")
    for name, target in (("soft.png", "../dogs/1.png"), ("out.png", "../../x.png")):
        link = zipfile.ZipInfo(f"cats/{name}")
        link.external_attr = 0o120777 << 16
        with zipfile.ZipFile(archive, "a") as opened:
            opened.writestr(link, target)
    scan = scan_source(open_source(archive))
    content = dict(zip(scan.table.paths, map(bytes, scan.table.content_hashes), strict=True))
    assert content["cats/soft.png"] == content["dogs/1.png"]
    assert scan.unread == {"cats/out.png": "a link to what is not in the archive"}


def test_an_encrypted_member_says_so(make_folder: MakeFolder, tmp_path: Path):
    archive = pack(make_folder({"cats": 3, "dogs": 2}), tmp_path / "a.zip")
    data = bytearray(archive.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # of the first member, as the central directory says
    archive.write_bytes(data)
    scan = scan_source(open_source(archive))
    assert scan.unread == {"cats/0.png": "encrypted; unpack the archive with its password"}


def test_a_member_whose_bytes_are_damaged_is_skipped(make_folder: MakeFolder, tmp_path: Path):
    data = make_folder({"cats": 3, "dogs": 2})
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as opened:
        for path in sorted(data.rglob("*.png")):
            opened.write(path, path.relative_to(data))
    packed = bytearray(archive.read_bytes())
    packed[packed.index((data / "cats" / "1.png").read_bytes()) + 60] ^= 1
    archive.write_bytes(packed)
    assert scan_source(open_source(archive)).unread == {
        "cats/1.png": "damaged in the archive: Bad CRC-32 for file 'cats/1.png'"
    }


def test_bombs_are_refused(make_folder: MakeFolder, tmp_path: Path):
    bomb = bytes(200 * 2**20)
    archive = pack_members(tmp_path / "bomb.zip", [("cats/1.png", bomb), ("dogs/1.png", b"x")])
    declared = r"cannot be read as an archive: its 20\d kB declare 210 MB; 16\.8 MB are read of such a file at most\."
    with pytest.raises(DataError, match=declared):
        open_source(archive)
    archive = pack_members(tmp_path / "bomb.tar.gz", [("cats/1.png", bomb), ("dogs/1.png", b"x")])
    with pytest.raises(DataError, match=r"bomb\.tar\.gz cannot be read as an archive: its 20\d kB declare 1\d\.\d MB"):
        open_source(archive)
    # Much is stored beside it, so that the archive as a whole declares no more than it may.
    noise = np.random.default_rng(0).bytes(12 * 2**20)
    archive = pack_members(tmp_path / "one.zip", [("cats/1.png", bomb), ("cats/2.png", noise)])
    with pytest.raises(UnreadableImageError, match=r"^20\d kB in the archive that declare 210 MB$"):
        open_archive(archive).read("cats/1.png")


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_that_is_cut_off_is_refused(data: Path, tmp_path: Path, kind: str):
    archive = pack(data, tmp_path / kind)
    whole = archive.read_bytes()
    # Between two members too, where tar itself sees nothing.
    for size in (len(whole) // 3, len(whole) // 2, 512 * 3, 0):
        archive.write_bytes(whole[:size])
        with pytest.raises(DataError) as caught:
            open_source(archive)
        assert str(caught.value).startswith(f"{archive} cannot be read as an archive: ")
        assert str(caught.value).endswith(". Copy or download it again, or unpack it and name the folder.")


def test_a_damaged_header_in_the_middle_of_a_tar_does_not_hide_what_follows(data: Path, tmp_path: Path):
    archive = pack(data, tmp_path / "a.tar")
    packed = bytearray(archive.read_bytes())
    packed[packed.index(b"dogs/1.png") + 3] ^= 1
    archive.write_bytes(packed)
    with pytest.raises(DataError, match=r"cannot be read as an archive: it is damaged or cut off at \d+"):
        open_source(archive)


def test_members_are_read_from_many_threads_at_once(make_folder: MakeFolder, tmp_path: Path):
    data = make_folder({"cats": 40, "dogs": 40})
    for kind in ("photos.zip", "photos.tar"):
        archive = open_archive(pack(data, tmp_path / kind))
        barrier = threading.Barrier(8)

        def read_all(start: int, archive=archive, barrier=barrier) -> bool:
            barrier.wait()
            names = list(archive.names())
            return all(archive.read(name) == (data / name).read_bytes() for name in names[start:] + names[:start])

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(read_all, range(0, 80, 10)))


def test_names_that_are_utf_8_without_saying_so_are_read_as_such(make_folder: MakeFolder, tmp_path: Path):
    archive = pack(make_folder({"Käfer": 3, "dogs": 2}), tmp_path / "a.zip")
    data = archive.read_bytes()
    for mark, offset in ((b"PK\x03\x04", 7), (b"PK\x01\x02", 9)):
        at = data.find(mark)
        while at >= 0:
            data = data[: at + offset] + bytes([data[at + offset] & ~8]) + data[at + offset + 1 :]
            at = data.find(mark, at + 1)
    archive.write_bytes(data)
    assert open_source(archive).table.class_names == ("Käfer", "dogs")


def test_every_member_of_an_archive_is_answered(data: Path, tmp_path: Path):
    archive = pack(data, tmp_path / "photos.zip")
    in_folder = [(type(one), str(one.path if isinstance(one, SkippedImage) else one)) for one in named_images([data])]
    in_archive = [
        (type(one), str(one.path if isinstance(one, SkippedImage) else one)) for one in named_images([archive])
    ]
    assert [name.removeprefix(f"{archive}/") for _, name in in_archive] == [
        name.removeprefix(f"{data}/") for _, name in in_folder
    ]
    (tmp_path / "no.zip").write_text("x")
    (damaged,) = named_images([tmp_path / "no.zip"])
    assert isinstance(damaged, SkippedImage)
    assert damaged.reason.startswith(f"{tmp_path / 'no.zip'} cannot be read as an archive")


@pytest.mark.slow
def test_predict_and_evaluate_take_an_archive(make_folder: MakeFolder, tmp_path: Path):
    archive = pack(make_folder({"cats": 20, "dogs": 20}), tmp_path / "photos.zip")
    assert run_program("extract", "photos.zip", "--image-size", "32", cwd=tmp_path).returncode == 0
    assert run_program("train-head", cwd=tmp_path).returncode == 0
    (head,) = tmp_path.glob("*.head")
    done = run_program("onepass", "predict", str(head), "photos.zip", "--out", "csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 41
    assert lines[1].startswith("photos.zip/cats/0.png,")
    of_file = run_program("onepass", "evaluate", str(head), cwd=tmp_path)
    of_archive = run_program("onepass", "evaluate", str(head), str(archive), cwd=tmp_path)
    assert of_archive.returncode == 0, of_archive.stderr
    first, second = (done.stdout.splitlines()[0].partition("accuracy")[2] for done in (of_file, of_archive))
    assert first.split()[0] == second.split()[0]


@pytest.mark.parametrize("kind", ["photos.zip", "photos.tar", "photos.tar.gz"])
def test_a_mutated_archive_is_an_error_or_read_as_far_as_it_says(make_folder, tmp_path: Path, kind: str):
    original = pack(make_folder({"cats": 3, "dogs": 3}), tmp_path / kind).read_bytes()
    opened = 0
    for number in range(FUZZ):
        path = tmp_path / f"{number}{kind}"
        path.write_bytes(mutated(original, number))
        try:
            scan = scan_source(open_source(path, least_classes=1))
            opened += 1
            assert all(scan.unread.values())
        except UserError as error:
            assert str(error)
        finally:
            path.unlink()
    assert opened or kind == "photos.tar.gz"  # whose checksum covers all
