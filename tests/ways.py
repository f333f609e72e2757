"""The images of a folder in every way that they may come: the same names, bytes, classes and splits in each."""

import csv
import importlib.util
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from onepass.extract.data.class_folders import SPLIT_FOLDERS
from packing import pack, pack_members
from stand_in_gcs import GoogleStandIn, google_stand_in

_google: list[GoogleStandIn] = []
"""The server for gs:// while `bucket_servers` runs."""

WAYS = ("folder", "csv", "parquet", "zip", "tar.gz", "shards", "hf", "memory", "s3", "gs")
"""What the images of a folder are laid out as."""

NEEDED = {
    "parquet": ("pyarrow",),
    "hf": ("datasets",),
    "memory": ("fsspec",),
    "s3": ("s3fs", "boto3", "moto", "flask", "flask_cors"),
    "gs": ("gcsfs",),
}
"""Packages that a way needs; without them its tests are skipped."""


@dataclass(frozen=True)
class Laid:
    """Images as a user has them.

    Attributes:
        data: What the user names.
        options: What the user says of a table, by the library's names.
    """

    data: tuple[str, ...]
    options: dict[str, str] = field(default_factory=dict)

    @property
    def flags(self) -> list[str]:
        """The options as they are typed."""
        return [part for name, value in self.options.items() for part in (f"--{name.replace('_', '-')}", value)]


def require(way: str) -> None:
    """Skips a test where a package for the way is missing."""
    for package in NEEDED.get(way, ()):
        pytest.importorskip(package, reason=f"{package} is not installed")


def lay_out(way: str, folder: Path, to: Path) -> Laid:
    """The files of a folder of class folders, also below split folders, in another way.

    Args:
        way: One of `WAYS`; servers of buckets must run.
        folder: The folder.
        to: Where it is written on the disk.
    """
    return _LAYING[way](folder, to)


def _files(folder: Path) -> list[tuple[str, str, str, bytes]]:
    """Name, class, split and bytes of every file."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        split = SPLIT_FOLDERS.get(name.split("/")[0], "")
        found.append((name, path.parent.name, split, path.read_bytes()))
    return found


def _columns(splits: bool) -> dict[str, str]:
    return {"label": "kind", **({"split": "part"} if splits else {})}


def _as_csv(folder: Path, to: Path) -> Laid:
    files = _files(folder)
    with open(to / "table.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "kind", "part"), *((name, kind, part) for name, kind, part, _ in files)])
    options = {"images": str(folder), "path": "file", **_columns(bool(files[0][2]))}
    return Laid((str(to / "table.csv"),), options)


def _as_parquet(folder: Path, to: Path) -> Laid:
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = _files(folder)
    columns = {
        "image": [{"bytes": data, "path": name} for name, _, _, data in files],
        "kind": [kind for _, kind, _, _ in files],
        "part": [part for _, _, part, _ in files],
    }
    pq.write_table(pa.table(columns), to / "photos.parquet", row_group_size=7)
    return Laid((str(to / "photos.parquet"),), _columns(bool(files[0][2])))


def _as_archive(name: str) -> Callable[[Path, Path], Laid]:
    return lambda folder, to: Laid((str(pack(folder, to / name)),))


def _as_shards(folder: Path, to: Path) -> Laid:
    """Shards of seven images; those of a split begin with its name. Keys are the names without their first folder."""
    files, shards = _files(folder), []
    for split in sorted({split for _, _, split, _ in files}):
        chosen = [(name, kind, data) for name, kind, part, data in files if part == split]
        for start in range(0, len(chosen), 7):
            members = []
            for name, kind, data in chosen[start : start + 7]:
                above, slash, last = name.rpartition("/")
                stem, _, ending = last.rpartition(".")
                key = above + slash + stem.replace(".", "-")  # which ends at its first dot
                members += [(f"{key}.{ending}", data), (f"{key}.cls", kind.encode())]
            shards.append(pack_members(to / f"{split or 'part'}-{start // 7:03d}.tar", members))
    return Laid(tuple(map(str, shards)))


def _as_data_set(folder: Path, to: Path) -> Laid:
    """A folder of Parquet files as the hub of Hugging Face has them, one a split; names are those below the split."""
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = _files(folder)
    shutil.rmtree(to / "photos-set", ignore_errors=True)
    features = {"image": datasets.Image(), "kind": datasets.ClassLabel(names=sorted({kind for _, kind, _, _ in files}))}
    for split in sorted({split for _, _, split, _ in files}):
        some = [(name, kind, data) for name, kind, part, data in files if part == split]
        schema = datasets.Features(features).arrow_schema
        columns = {
            "image": [{"bytes": data, "path": name.removeprefix(f"{split}/")} for name, _, data in some],
            "kind": [features["kind"].str2int(kind) for _, kind, _ in some],
        }
        place = to / "photos-set" / "data" / f"{split or 'train'}-00000-of-00001.parquet"
        place.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns, schema=schema), place)
    return Laid((f"hf:{to / 'photos-set'}",))


def _prefix(to: Path) -> str:
    """Each folder of a test has one of its own; what lay below it is replaced."""
    return f"bucket/{to.parent.name}-{to.name}/photos"


def _in_memory(folder: Path, to: Path) -> Laid:
    import fsspec

    prefix, files = _prefix(to), fsspec.filesystem("memory")
    if files.exists(f"/{prefix}"):
        files.rm(f"/{prefix}", recursive=True)
    for name, _, _, data in _files(folder):
        files.pipe_file(f"/{prefix}/{name}", data)
    return Laid((f"memory://{prefix}",))


def _in_s3(folder: Path, to: Path) -> Laid:
    import boto3

    client, prefix = boto3.client("s3"), _prefix(to).removeprefix("bucket/")
    for one in client.list_objects_v2(Bucket="bucket", Prefix=prefix).get("Contents", []):
        client.delete_object(Bucket="bucket", Key=one["Key"])
    for name, _, _, data in _files(folder):
        client.put_object(Bucket="bucket", Key=f"{prefix}/{name}", Body=data)
    return Laid((f"s3://bucket/{prefix}",))


def _in_google(folder: Path, to: Path) -> Laid:
    prefix, objects = _prefix(to), _google[-1].objects
    for name in [name for name in objects if name.startswith(prefix)]:
        del objects[name]
    objects.update({f"{prefix}/{name}": data for name, _, _, data in _files(folder)})
    return Laid((f"gs://{prefix}",))


_LAYING: dict[str, Callable[[Path, Path], Laid]] = {
    "folder": lambda folder, to: Laid((str(folder),)),
    "csv": _as_csv,
    "parquet": _as_parquet,
    "zip": _as_archive("photos.zip"),
    "tar.gz": _as_archive("photos.tar.gz"),
    "shards": _as_shards,
    "hf": _as_data_set,
    "memory": _in_memory,
    "s3": _in_s3,
    "gs": _in_google,
}


@contextmanager
def bucket_servers() -> Iterator[GoogleStandIn]:
    """Stand-ins for the servers of S3 and Google Cloud Storage on this machine, as far as their packages are there.

    Both have a bucket called bucket. Clients of fsspec that know earlier servers are forgotten.
    """
    with pytest.MonkeyPatch.context() as patched, ExitStack() as stack:
        server = stack.enter_context(google_stand_in())
        patched.setenv("STORAGE_EMULATOR_HOST", server.address)
        patched.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # or gcsfs asks for the kind of bucket by gRPC
        _google.append(server)
        stack.callback(_google.pop)
        if all(importlib.util.find_spec(package) for package in NEEDED["s3"]):
            from moto.server import ThreadedMotoServer

            logging.getLogger("werkzeug").setLevel(logging.ERROR)
            amazon = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
            amazon.start()
            stack.callback(amazon.stop)
            host, port = amazon.get_host_and_port()
            for name, value in {
                "AWS_ACCESS_KEY_ID": "key",
                "AWS_SECRET_ACCESS_KEY": "secret",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            }.items():
                patched.setenv(name, value)
            import boto3

            boto3.client("s3").create_bucket(Bucket="bucket")
        _forget_clients()
        stack.callback(_forget_clients)
        yield server


def _forget_clients() -> None:
    for name, package, kind in (("s3", "s3fs", "S3FileSystem"), ("gs", "gcsfs", "GCSFileSystem")):
        if all(importlib.util.find_spec(needed) for needed in NEEDED[name]):
            getattr(importlib.import_module(package), kind).clear_instance_cache()
