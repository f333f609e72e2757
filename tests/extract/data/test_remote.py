"""Images in buckets: what a folder holds gives the same rows, each file is fetched once, and a server may fail."""

import functools
import http.server
import importlib.util
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from onepass import repair
from onepass.extract import Backbone, named_images
from onepass.extract.data.downloads import Downloads
from onepass.extract.data.remote import address_of, remote_store
from onepass.extract.data.source import scan_source
from onepass.extract.data.sources import open_source
from onepass.extract.one_pass.run import run_extraction
from onepass.features import FeatureFile
from onepass.features.errors import DataError, UnreachableImageError
from onepass.heads.caches import cache
from packing import known, pack, pack_shards
from support import MakeFolder, flip_bit, run_process

fsspec = pytest.importorskip("fsspec", reason="onepass[remote] is not installed")


@pytest.fixture(autouse=True)
def _own_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEPASS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("onepass.extract.data.remote.time.sleep", lambda seconds: None)


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


@pytest.fixture
def data(make_folder: MakeFolder) -> Path:
    data = make_folder({"cats": 12, "dogs": 11})
    (data / "cats" / "bad.jpg").write_text("text")
    (data / "cats" / "notes.txt").write_text("text")
    (data / "dogs" / ".DS_Store").write_text("x")
    return data


@pytest.fixture
def asked(memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was fetched."""
    count: Counter[str] = Counter()
    original = type(memory).cat_file

    def cat_file(self: object, path: str, *args: object, **options: object) -> bytes:
        count[path] += 1
        return original(self, path, *args, **options)

    monkeypatch.setattr(type(memory), "cat_file", cat_file)
    return count


def upload(data: Path, to: fsspec.AbstractFileSystem, root: str) -> str:
    for path in sorted(data.rglob("*")):
        if path.is_file():
            to.pipe_file(f"{root}/{path.relative_to(data).as_posix()}", path.read_bytes())
    return f"memory://{root.lstrip('/')}"


def rows(path: Path) -> dict[bytes, bytes]:
    with FeatureFile(path) as file:
        contents = file.table.content_hashes
        return {contents[i].tobytes(): file.rows[i].tobytes() for i in np.flatnonzero(file.committed).tolist()}


def test_a_bucket_is_what_its_folder_is(data: Path, memory, tmp_path: Path):
    scan = scan_source(open_source(upload(data, memory, "/bucket/photos")))
    folder = scan_source(open_source(data))
    assert scan.table.paths == folder.table.paths
    assert known(scan) == known(folder)
    assert scan.unread == folder.unread
    assert scan.source.stem == "photos"
    assert scan.source.record == {"data": "memory://bucket/photos", "folders": ["memory://bucket/photos"]}


def test_each_file_is_fetched_once_and_a_second_run_fetches_nothing(
    data: Path, memory, asked: Counter[str], tmp_path: Path, tiny_backbone: Backbone
):
    address = upload(data, memory, "/bucket/photos")

    done = run_extraction(address, tiny_backbone, out=tmp_path / "f.h5")

    assert rows(done.path) == rows(run_extraction(data, tiny_backbone, out=tmp_path / "folder.h5").path)
    assert set(asked.values()) == {1}
    assert len(asked) == 24
    assert run_extraction(address, tiny_backbone, out=tmp_path / "f.h5").computed == 0
    # A path, as the command line makes it, has one slash less.
    assert run_extraction(Path(address), tiny_backbone, out=tmp_path / "f.h5").computed == 0
    assert len(asked) == asked.total() == 24


def test_a_file_that_changed_in_the_bucket_is_fetched_and_computed_again(
    data: Path, memory, asked: Counter[str], tmp_path: Path, tiny_backbone: Backbone
):
    address = upload(data, memory, "/bucket/photos")
    run_extraction(address, tiny_backbone, out=tmp_path / "f.h5")
    memory.pipe_file("/bucket/photos/cats/1.png", (data / "cats" / "1.png").read_bytes() + b" ")
    assert run_extraction(address, tiny_backbone, out=tmp_path / "f.h5").computed == 1
    assert asked["/bucket/photos/cats/1.png"] == 2
    assert asked.total() == 25


def test_repair_fetches_what_it_needs(data: Path, memory, tmp_path: Path, tiny_backbone: Backbone):
    address = upload(data, memory, "/bucket/photos")
    path = run_extraction(address, tiny_backbone, out=tmp_path / "f.h5").path
    before = rows(path)
    flip_bit(path, "rows", byte=100)
    flip_bit(path, "labels", byte=4)
    assert repair(path).computed == 1
    assert rows(path) == before


def test_a_server_that_stays_away_leaves_images_undone_and_the_next_run_does_them(
    data: Path, memory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_backbone: Backbone
):
    address = upload(data, memory, "/bucket/photos")
    original, tries = type(memory).cat_file, Counter()

    def cat_file(self: object, path: str, *args: object, **options: object) -> bytes:
        tries[path] += 1
        if path.endswith("cats/3.png") or (path.endswith("dogs/3.png") and tries[path] < 3):
            raise ConnectionError("the server hangs up")
        return original(self, path, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(type(memory), "cat_file", cat_file)
        done = run_extraction(address, tiny_backbone, out=tmp_path / "f.h5")
    assert [(one.path, one.reason) for one in done.undone] == [
        ("cats/3.png", "could not be fetched: the server hangs up")
    ]
    assert done.images == 22
    assert tries["/bucket/photos/cats/3.png"] == tries["/bucket/photos/dogs/3.png"] == 3
    again = run_extraction(address, tiny_backbone, out=tmp_path / "f.h5")
    assert (again.computed, again.images, again.undone) == (1, 23, [])


def test_a_row_is_kept_while_its_changed_file_cannot_be_fetched(
    data: Path, memory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_backbone: Backbone
):
    address = upload(data, memory, "/bucket/photos")
    path = run_extraction(address, tiny_backbone, out=tmp_path / "f.h5").path
    before = rows(path)
    memory.pipe_file("/bucket/photos/cats/1.png", b"other")

    def refuse(*args: object, **options: object) -> bytes:
        raise TimeoutError("too slow")

    with monkeypatch.context() as patched:
        patched.setattr(type(memory), "cat_file", refuse)
        assert run_extraction(address, tiny_backbone, out=path).computed == 0
    assert rows(path) == before


def test_what_cannot_be_listed_says_what_to_do(memory, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(DataError, match=r"^there is nothing in memory://bucket/none\. Check the address\.$"):
        open_source("memory://bucket/none")
    monkeypatch.setattr(type(memory), "find", lambda *args, **options: 1 / 0)
    with pytest.raises(DataError) as caught:
        open_source("memory://bucket/none")
    assert str(caught.value) == (
        "memory://bucket/none could not be fetched: division by zero. Check the address, the network and the "
        "credentials in the environment, and run the same command again."
    )
    with pytest.raises(DataError, match=r"^https://host/photos is on the web, where no folder is listed\. Name an arc"):
        open_source("https://host/photos")
    with pytest.raises(
        DataError, match=r"^memory://a/b lies in memory://a, so its images would count twice\. Name onl"
    ):
        open_source(["memory://a", "memory://a/b"])
    with pytest.raises(
        DataError, match=r"^memory://a and s3://b are addresses of different kinds\. Name those of one "
    ):
        open_source(["memory://a", "s3://b"])
    with pytest.raises(
        DataError, match=r"^memory://a is an address and photos is none\. Name either addresses or fold"
    ):
        open_source(["memory://a", "photos"])


def test_classes_that_cannot_be_meant_are_told_by_their_address(memory, make_folder: MakeFolder):
    address = upload(make_folder({"cats": 3}), memory, "/bucket/photos")
    with pytest.raises(DataError, match=r"^memory://bucket/photos holds only one class, cats\. Needed: a folder each"):
        open_source(address)


def test_a_name_with_a_password_is_refused_without_repeating_it():
    with pytest.raises(DataError) as caught:
        address_of("https://me:secret@host/a.zip")
    assert "secret" not in str(caught.value)
    assert str(caught.value).endswith("Give these to the environment, as the AWS and Google tools take them.")


def test_an_archive_in_a_bucket_is_fetched_once(data: Path, memory, tmp_path: Path, tiny_backbone: Backbone):
    for kind in ("photos.zip", "photos.tar"):
        memory.pipe_file(f"/bucket/{kind}", pack(data, tmp_path / kind).read_bytes())
        done = run_extraction(f"memory://bucket/{kind}", tiny_backbone, out=tmp_path / f"{kind}.h5")
        assert done.images == 23
        with FeatureFile(done.path) as file:
            assert file.provenance["data"] == f"memory://bucket/{kind}"
            table = file.table
        flip_bit(done.path, "rows", byte=3)
        assert repair(done.path).computed == 1
        again = run_extraction(f"memory://bucket/{kind}", tiny_backbone, out=done.path)
        assert again.computed == 0
        with FeatureFile(done.path) as file:
            np.testing.assert_array_equal(file.table.file_mtimes, table.file_mtimes)
    assert len(list((tmp_path / "cache" / "downloads").glob("*/*"))) == 2


def test_shards_in_a_bucket_are_named_by_a_range(make_folder: MakeFolder, memory, tmp_path: Path):
    data = make_folder({"cats": 9, "dogs": 8})
    for shard in pack_shards(data, tmp_path):
        memory.pipe_file(f"/bucket/{shard.name}", shard.read_bytes())
    scan = scan_source(open_source("memory://bucket/part-{000..002}.tar"))
    assert known(scan) == known(scan_source(open_source(data)))
    assert scan.source.record["folders"][2] == "memory://bucket/part-002.tar"


def test_images_to_predict_are_named_by_address(data: Path, memory):
    upload(data, memory, "/bucket/photos")
    (one,) = named_images([Path("memory://bucket/photos/cats/1.png")])
    assert one.read() == (data / "cats" / "1.png").read_bytes()
    assert str(one) == "memory://bucket/photos/cats/1.png"
    found = list(named_images([Path("memory://bucket/photos")]))
    assert len(found) == 25
    (gone,) = named_images([Path("memory://bucket/gone.png")])
    with pytest.raises(UnreachableImageError, match=r"^could not be fetched: it is not there\. Check the address"):
        gone.read()


def test_the_disk_holds_no_more_than_it_may_and_what_was_not_used_goes_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("ONEPASS_DOWNLOADS", "0.00001")  # 10 kB
    downloads = Downloads()
    for number in range(8):
        downloads.data(str(number), 1000, lambda: bytes(1000))
    downloads.data("0", 1000, lambda: pytest.fail("it is kept"))
    for number in range(8, 14):
        downloads.data(str(number), 1000, lambda: bytes(1000))
    assert sum(path.stat().st_size for path in downloads.folder.glob("*/*")) <= 10_000
    downloads.data("0", 1000, lambda: pytest.fail("it was used"))
    fetched = []
    downloads.data("1", 1000, lambda: fetched.append(1) or bytes(1000))
    assert fetched
    # What another process or a full disk has cut off is fetched again.
    for path in downloads.folder.glob("*/*"):
        path.write_bytes(b"x")
    assert downloads.data("0", 1000, lambda: bytes(1000)) == bytes(1000)


def test_a_disk_that_cannot_be_written_keeps_nothing_and_stops_nothing(tmp_path: Path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("ONEPASS_CACHE", str(tmp_path / "file"))
    assert Downloads().data("0", 3, lambda: b"abc") == b"abc"


def test_the_cache_command_lists_and_clears_downloads(data: Path, memory, tmp_path: Path):
    scan_source(open_source(upload(data, memory, "/bucket/photos")))
    (found,) = [one for one in cache(tmp_path).kept if one.kind == "downloads"]
    assert (found.what, found.made_for) == ("24 files", "buckets and the web")
    assert [one.kind for one in cache(tmp_path, clear="downloads").cleared] == ["downloads"]
    assert not (tmp_path / "cache" / "downloads").exists()


def test_many_threads_fetch_from_one_store(data: Path, memory):
    store = remote_store(upload(data, memory, "/bucket/photos"))
    names = [name for name in store.names() if name.endswith(".png")]
    threads = [threading.Thread(target=lambda: [store.read(name) for name in names]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(store.read(name) == (data / name).read_bytes() for name in names)


def test_an_archive_on_the_web_is_fetched_without_keeping_what_signs_its_address(data: Path, tmp_path: Path):
    if importlib.util.find_spec("aiohttp") is None:
        pytest.skip("aiohttp is not installed")
    pack(data, tmp_path / "photos.zip")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/photos.zip?signature=secret"
    try:
        source = open_source(Path(address))
        assert known(scan_source(source)) == known(scan_source(open_source(data)))
        assert "secret" not in str(source.record)
        with pytest.raises(DataError, match="could not be fetched") as caught:
            open_source(address.replace("photos", "gone"))
        assert "secret" not in str(caught.value)
    finally:
        server.shutdown()
        server.server_close()


S3 = """
import os, sys
import boto3
from moto.server import ThreadedMotoServer
from pathlib import Path
from onepass.extract.data.source import scan_source
from onepass.extract.data.sources import open_source

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
client = boto3.client("s3")
client.create_bucket(Bucket="bucket")
data = Path(sys.argv[1])
for path in sorted(data.rglob("*.png")):
    client.upload_file(str(path), "bucket", f"photos/{path.relative_to(data)}")
first = scan_source(open_source("s3://bucket/photos"))
folder = scan_source(open_source(data))
assert first.table.paths == folder.table.paths
assert (first.table.content_hashes == folder.table.content_hashes).all()
client.upload_file(str(data / "dogs" / "1.png"), "bucket", "photos/cats/1.png")
second = scan_source(open_source("s3://bucket/photos"), known=first.table)
changed = first.table.file_mtimes != second.table.file_mtimes
assert [first.table.paths[i] for i in changed.nonzero()[0]] == ["cats/1.png"]
try:
    open_source("s3://nowhere/photos")
except Exception as error:
    print(type(error).__name__, error)
server.stop()
"""


def test_a_bucket_of_a_real_server_is_what_its_folder_is(make_folder: MakeFolder, tmp_path: Path):
    for needed in ("moto", "s3fs", "flask", "boto3"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    data = make_folder({"cats": 4, "dogs": 4})
    done = run_process("python", "-c", S3, str(data), cwd=tmp_path, ONEPASS_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("DataError s3://nowhere/photos could not be fetched: it is not there."), done.stdout


def test_several_prefixes_are_put_together_as_folders_are(
    make_folder: MakeFolder, memory, tmp_path: Path, tiny_backbone: Backbone
):
    parts = [make_folder({"cats": 5, "dogs": 4}, name=name, seed=seed) for seed, name in enumerate(("train", "val"))]
    addresses = [upload(part, memory, f"/bucket/{part.name}") for part in parts]
    scan, folders = scan_source(open_source(addresses)), scan_source(open_source(parts))
    assert scan.table.paths == folders.table.paths
    assert known(scan) == known(folders)
    assert scan.source.stem == folders.source.stem == "train+val"
    assert scan.source.record == {"data": "memory://bucket", "folders": addresses}
    done = run_extraction(addresses, tiny_backbone, out=tmp_path / "f.h5")
    flip_bit(done.path, "rows", byte=3)
    assert repair(done.path).computed == 1
    assert run_extraction([Path(one) for one in addresses], tiny_backbone, out=tmp_path / "f.h5").computed == 0
    apart = open_source([upload(part, memory, f"/{part.name}/photos") for part in parts])
    assert apart.table.paths[0] == "train/photos/cats/0.png"


def test_images_without_labels_come_from_buckets_and_archives_too(
    data: Path, memory, tmp_path: Path, tiny_backbone: Backbone
):
    wanted = run_extraction(data, tiny_backbone, unlabelled=True, out=tmp_path / "wanted.h5")
    places = [upload(data, memory, "/bucket/photos"), str(pack(data, tmp_path / "photos.zip"))]
    for number, place in enumerate(places):
        done = run_extraction(place, tiny_backbone, unlabelled=True, out=tmp_path / f"{number}.h5")
        assert (done.images, done.classes) == (wanted.images, {})
        assert rows(done.path) == rows(wanted.path)
        with FeatureFile(done.path) as file, FeatureFile(wanted.path) as reference:
            assert file.table.paths == reference.table.paths
            assert file.task == "none"
        assert [one.path for one in done.skipped] == [one.path for one in wanted.skipped]
        flip_bit(done.path, "labels", byte=5)
        assert repair(done.path).dropped == 0
        assert run_extraction(place, tiny_backbone, unlabelled=True, out=done.path).computed == 0
