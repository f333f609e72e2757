"""Frames of videos: those at the times that are asked for, each video a group."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onepass.extract import Backbone, repair, run_extraction
from onepass.extract.data.columns import SourceOptions
from onepass.extract.data.source import Source
from onepass.extract.data.sources import open_source
from onepass.extract.pixels.decode import decode_whole
from onepass.extract.pixels.image_bytes import read_bytes
from onepass.extract.upkeep.verify import verify
from onepass.features import FeatureFile
from onepass.features.errors import DataError, OptionError, UnreadableImageError
from support import flip_bit, picture

av: Any = pytest.importorskip("av")


def write_video(path: Path, frames: list[np.ndarray], *, rate: int = 4) -> Path:
    """Without loss, so that the pixels are known."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def shades(n: int, *, first: int = 0) -> list[np.ndarray]:
    return [np.full((24, 32, 3), first + 10 * i, np.uint8) for i in range(n)]


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    for kind, first in (("ants", 0), ("bees", 100)):
        for i in range(3):
            write_video(tmp_path / "videos" / kind / f"{i}.mkv", shades(10, first=first + i))
    return tmp_path / "videos"


def opened(data: Path, /, **options: object) -> Source:
    return open_source(data, SourceOptions.of(options))


@pytest.mark.parametrize(("every", "shown"), [("1s", [0, 40, 80]), ("500ms", [0, 20, 40, 60, 80]), ("2", [0, 80])])
def test_the_frames_at_these_times(videos: Path, every: str, shown: list[int]):
    source = opened(videos, every=every)
    first = [path for path in source.table.paths if path.startswith("ants/0.mkv")]
    pixels = [decode_whole(read_bytes(source.store.file(path)), resize="squash") for path in first]
    assert [int(one[0, 0, 0]) for one in pixels] == shown
    assert first == sorted(first)
    assert source.table.class_names == ("ants", "bees")
    assert set(source.table.groups) == {f"{kind}/{i}.mkv" for kind in ("ants", "bees") for i in range(3)}


def test_a_file_of_frames_is_kept_up_like_any_other(videos: Path, tiny_backbone: Backbone):
    done = run_extraction(videos, tiny_backbone, every="1s", out=videos.parent / "f.h5")
    assert (done.images, done.computed) == (18, 18)
    assert run_extraction(videos, tiny_backbone, every="1s", out=done.path).computed == 0
    flip_bit(done.path, "rows", byte=9)
    assert repair(done.path).computed == 1
    assert verify(done.path).verdict == "whole"
    with FeatureFile(done.path) as file:
        for group in set(file.table.groups):
            assert (
                len({side for one, side in zip(file.table.groups, file.table.splits, strict=True) if one == group}) == 1
            )
    more = run_extraction(videos, tiny_backbone, every="500ms", out=done.path)
    assert (more.images, more.computed) == (30, 12)


def test_images_beside_videos_count_and_what_is_damaged_has_a_reason(videos: Path, rng: np.random.Generator):
    picture(rng).save(videos / "ants" / "photo.png")
    (videos / "ants" / "broken.mp4").write_bytes(b"no video")
    whole = (videos / "bees" / "0.mkv").read_bytes()
    (videos / "bees" / "half.mkv").write_bytes(whole[: len(whole) // 2])
    source = opened(videos, every="1s")
    assert "ants/photo.png" in source.table.paths
    assert source.other["ants/broken.mp4"].startswith("damaged: ")
    half = [source.store.file(path) for path in source.table.paths if path.startswith("bees/half")]
    reasons = []
    for frame in half:
        try:
            assert read_bytes(frame).startswith(b"BM")
        except UnreadableImageError as error:
            reasons.append(str(error))
    assert all(reasons)
    assert half or source.other["bees/half.mkv"]


def test_frames_without_labels(videos: Path):
    source = opened(videos, every="1s", unlabelled=True)
    assert (source.table.task, len(source.table), source.record["source"]) == (
        "none",
        18,
        {"unlabelled": True, "every": "1s"},
    )


@pytest.mark.parametrize("every", ["0", "fast", "1h", "-1s", "1e400s"])
def test_what_is_no_time_is_refused(videos: Path, every: str):
    with pytest.raises(OptionError) as caught:
        opened(videos, every=every)
    needed = "needed: the time between two frames, such as 1s, 500ms or 2min."
    assert str(caught.value) == f"every is {every!r}; {needed}"


def test_a_playlist_opens_no_other_file(videos: Path):
    (videos / "ants" / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:10,\n{videos / 'ants' / '0.mkv'}\n#EXT-X-ENDLIST\n")
    assert opened(videos, every="1s").other["ants/list.mp4"].startswith("damaged: ")


def test_time_without_videos_is_refused(tmp_path: Path, rng: np.random.Generator):
    for kind in ("ants", "bees"):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        picture(rng).save(tmp_path / "photos" / kind / "0.png")
    with pytest.raises(DataError, match=r"photos holds no video \(\.avi, .*\)\. Leave every out\.$"):
        opened(tmp_path / "photos", every="1s")
    (tmp_path / "t.csv").write_text("file,breed\n")
    with pytest.raises(
        OptionError, match=r"^every belongs to folders of videos, and .*t\.csv is none\. Leave it out\.$"
    ):
        opened(tmp_path / "t.csv", every="1s")
