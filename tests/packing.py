"""The photos of a folder in every kind of archive, and what is known of them wherever they lie."""

import io
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from onepass.extract.data.source import Scan

KINDS = ("photos.zip", "photos.tar", "photos.tar.gz", "photos.tgz", "photos.tar.bz2", "photos.tar.xz")


def pack(data: Path, to: Path) -> Path:
    """The files of a folder as an archive of the kind that its name says."""
    files = [
        (path.relative_to(data).as_posix(), path.read_bytes()) for path in sorted(data.rglob("*")) if path.is_file()
    ]
    return pack_members(to, files)


def pack_members(to: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """An archive of names with bytes, in their order."""
    if to.suffix == ".zip":
        with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members:
                archive.writestr(name, data)
        return to
    way = {"gz": "gz", "tgz": "gz", "bz2": "bz2", "xz": "xz"}.get(to.name.rpartition(".")[2], "")
    with tarfile.open(to, f"w:{way}") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return to


def pack_shards(data: Path, to: Path, count: int = 3) -> list[Path]:
    """The photos of class folders as shards: key.png beside key.cls."""
    images = sorted(data.rglob("*.png"))
    shards = []
    for number in range(count):
        members = []
        for i, image in enumerate(images[number::count]):
            members += [(f"{i:04d}.png", image.read_bytes()), (f"{i:04d}.cls", image.parent.name.encode())]
        shards.append(pack_members(to / f"part-{number:03d}.tar", members))
    return shards


def known(scan: Scan) -> dict[bytes, tuple[str, int]]:
    """Content -> class and split."""
    table = scan.table
    entries = zip(table.content_hashes, table.labels, table.splits, strict=True)
    return {content.tobytes(): (table.class_names[label], int(split)) for content, label, split in entries}
