"""Data sets of Hugging Face and TensorFlow: images undecoded, labels by name, splits as they are there."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onepass.extract import Backbone, repair, run_extraction
from onepass.extract.data.columns import SourceOptions
from onepass.extract.data.data_sets import data_set_of
from onepass.extract.data.source import Source, scan_source
from onepass.extract.data.sources import open_source
from onepass.extract.upkeep.verify import verify
from onepass.features import FeatureFile
from onepass.features.errors import DataError, OptionError
from stand_in_hub import COMMIT, StandInHub
from support import MakeFolder, flip_bit


def opened(named: str | Path, **options: object) -> Source:
    return open_source(named, SourceOptions.of(options))


@pytest.fixture
def photos(make_folder: MakeFolder) -> Path:
    make_folder({"cats": 4, "dogs": 4}, name="photos/train", seed=1)
    return make_folder({"cats": 2, "dogs": 2}, name="photos/test", seed=2).parent


@pytest.fixture
def parquet(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The photos as a folder of Parquet files, as the hub has them."""
    library: Any = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    features = {"image": library.Image(), "label": library.ClassLabel(names=["cats", "dogs"])}
    features["owner"] = library.Value("string")
    library.disable_progress_bars()
    for split in ("train", "test"):
        files = sorted((photos / split).rglob("*.png"))
        columns = {
            "image": [
                {"bytes": file.read_bytes(), "path": file.relative_to(photos / split).as_posix()} for file in files
            ],
            "label": [int(file.parent.name == "dogs") for file in files],
            "owner": [file.stem for file in files],
        }
        path = tmp_path / "set" / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        library.Dataset.from_dict(columns, features=library.Features(features)).to_parquet(path)
    return tmp_path / "set"


def same(one: FeatureFile, other: FeatureFile) -> None:
    assert one.table.class_names == other.table.class_names
    rows = {content.tobytes(): i for i, content in enumerate(other.table.content_hashes)}
    where = [rows[content.tobytes()] for content in one.table.content_hashes]
    np.testing.assert_array_equal(one.rows, other.rows[where])
    np.testing.assert_array_equal(one.table.labels, other.table.labels[where])
    np.testing.assert_array_equal(one.table.splits, other.table.splits[where])


@pytest.mark.parametrize("form", ["folder", "hf", "saved"])
def test_a_local_data_set_is_what_its_folders_are(form: str, parquet: Path, photos: Path, tiny_backbone: Backbone):
    named: str | Path = f"hf:{parquet}" if form == "hf" else parquet
    if form == "saved":
        library: Any = pytest.importorskip("datasets")
        library.load_dataset(str(parquet)).save_to_disk(str(parquet.parent / "saved"))
        named = parquet.parent / "saved"
    done = run_extraction(named, tiny_backbone, out=photos.parent / "set.h5")
    folder = run_extraction(photos, tiny_backbone, out=photos.parent / "folder.h5")
    assert (done.images, done.computed, done.classes) == (12, 12, folder.classes)
    with FeatureFile(done.path) as one, FeatureFile(folder.path) as other:
        same(one, other)
        if form != "saved":  # which keeps the last part of paths alone, so that images are called by their rows
            assert sorted(one.table.paths) == sorted(other.table.paths)
    assert run_extraction(named, tiny_backbone, out=done.path).computed == 0
    flip_bit(done.path, "rows", byte=9)
    assert repair(done.path).computed == 1
    assert verify(done.path).verdict == "whole"


def test_columns_of_a_data_set_are_named_like_those_of_a_table(parquet: Path):
    source = opened(parquet, label="owner", group="label")
    assert source.table.class_names == ("0", "1", "2", "3")
    assert set(source.table.groups) == {"cats", "dogs"}
    assert opened(parquet, unlabelled=True).table.task == "none"
    assert str(data_set_of("hf:owner/beans:small@v2")) == "hf:owner/beans:small@v2"


def test_bytes_with_a_path_are_images_without_anybody_saying_so(parquet: Path, tmp_path: Path):
    import pyarrow.parquet as pq

    plain = tmp_path / "plain" / "a.parquet"
    plain.parent.mkdir()
    pq.write_table(pq.read_table(next(parquet.rglob("train*.parquet"))).replace_schema_metadata(None), plain)
    source = opened(plain.parent, label="label")
    assert source.table.class_names == ("0", "1")
    assert sorted(source.table.paths) == [f"{kind}/{i}.png" for kind in ("cats", "dogs") for i in range(4)]


def test_class_folders_with_a_parquet_file_beside_them_are_class_folders(photos: Path):
    (photos / "facts.parquet").write_bytes(b"PAR1")
    assert data_set_of(photos / "train") is data_set_of(photos) is None


@pytest.mark.parametrize(
    ("module", "opens", "told"),
    [
        (
            "datasets",
            "hf:owner/name",
            "data sets of Hugging Face need the library datasets, which is not all installed (data",
        ),
        (
            "tensorflow_datasets",
            "tfds:name",
            "data sets of TensorFlow need the library tensorflow-datasets, which is not all",
        ),
    ],
)
def test_what_is_not_installed_is_named(module: str, opens: str, told: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError) as caught:
        opened(opens)
    assert str(caught.value).startswith(told)
    assert '. Run: pip install "onepass[' in str(caught.value)


def test_what_is_no_data_set_of_images_is_refused(parquet: Path, tmp_path: Path):
    library: Any = pytest.importorskip("datasets")
    with pytest.raises(DataError, match=r"^path is owner, which holds no images in hf:.*set; image does\.$"):
        opened(parquet, path="owner")
    with pytest.raises(OptionError, match=r"^hf:.*set holds its images itself; leave images out\.$"):
        opened(parquet, images="photos")
    with pytest.raises(DataError, match=r"^hf:@1 names no data set; needed: hf:owner/name, hf:folder/ or tfds:name\.$"):
        opened("hf:@1")
    library.Dataset.from_dict({"text": ["a", "b"]}).to_parquet(tmp_path / "texts" / "a.parquet")
    with pytest.raises(DataError, match=r"^hf:.*texts has no column of images; it has text\.$"):
        opened(tmp_path / "texts")
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "a.csv").write_text("word\nant\n")
    with pytest.raises(
        DataError, match=r"^hf:.*words is a data set of kind csv; needed: parquet, arrow, imagefolder\.$"
    ):
        opened(f"hf:{tmp_path / 'words'}")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match=r"^hf:.*broken cannot be had as a data set: .*or a folder of Parquet files\.$"):
        opened(tmp_path / "broken")


def test_a_data_set_opens_no_file_outside_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    library: Any = pytest.importorskip("datasets")
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    outside = tmp_path / "outside.png"
    outside.write_bytes(b"secret")
    features = library.Features({"image": library.Image(), "label": library.ClassLabel(names=["a", "b"])})
    cells = [{"bytes": None, "path": str(outside)}, {"bytes": None, "path": "../nowhere.png"}]
    (tmp_path / "set").mkdir()
    table = pa.table({"image": cells, "label": [0, 1]}, schema=features.arrow_schema)
    pq.write_table(table, tmp_path / "set" / "a.parquet")
    source = opened(tmp_path / "set")
    assert source.table.paths == ("00000000", "00000001")
    reasons = list(scan_source(source).unread.values())
    assert reasons == ["names a file outside of its data set", "no bytes in this row"]


PROGRAM = "from onepass.cli import onepass_program; onepass_program()"


@pytest.mark.slow
def test_a_data_set_of_the_hub_is_remembered_with_its_commit(parquet: Path, tmp_path: Path, tiny_file: Path):
    home = tmp_path / "home"
    home.mkdir()
    with StandInHub() as hub:
        hub.repositories["owner/beans"] = parquet

        def run(*arguments: object, address: str = hub.address) -> "subprocess.CompletedProcess[str]":
            kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
            return subprocess.run(
                [sys.executable, "-W", "error", "-c", PROGRAM, *map(str, arguments)],
                env={**kept, "HOME": str(home), "HF_ENDPOINT": address, "COLUMNS": "1000"},
                cwd=home,
                capture_output=True,
                text=True,
            )

        first = run("extract", "hf:owner/beans", "--backbone", tiny_file)
        assert first.returncode == 0, first.stderr
        assert first.stdout.startswith("beans.tiny.h5: 12 images, 2 classes (cats 6, dogs 6)")
        with FeatureFile(home / "beans.tiny.h5") as file:
            assert file.provenance["data"] == f"hf:owner/beans@{COMMIT}"
        again = run("extract", "hf:owner/beans", "--backbone", tiny_file)
        assert "0 computed" in again.stdout
        assert run("verify", "beans.tiny.h5").returncode == 0
        gone = run("extract", "hf:owner/none", "--backbone", tiny_file)
        assert gone.returncode == 1
        assert gone.stderr.startswith(
            "error: hf:owner/none cannot be had as a data set: Dataset 'owner/none' doesn't exist"
        )


@pytest.mark.slow
def test_a_data_set_of_tensorflow(photos: Path, tmp_path: Path, tiny_backbone: Backbone):
    tfds: Any = pytest.importorskip("tensorflow_datasets")
    files = {split: sorted((photos / split).rglob("*.png")) for split in ("train", "test")}

    class Pets(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.2.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=["cats", "dogs"]),
                "owner": tfds.features.Text(),
                "age": np.float32,
                "tags": tfds.features.Sequence(tfds.features.ClassLabel(names=["old", "wet"])),
                "mask": tfds.features.Tensor(shape=(2,), dtype=np.int64),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, manager):
            return {split: self._generate_examples(split) for split in files}

        def _generate_examples(self, split):
            for file in files[split]:
                yield (
                    str(file),
                    {
                        "image": str(file),
                        "label": file.parent.name,
                        "owner": "käthe",
                        "age": 1.5,
                        "tags": ["wet"] if file.parent.name == "cats" else [],
                        "mask": [1, 2],
                    },
                )

    tfds.disable_progress_bar()
    Pets(data_dir=tmp_path / "tf").download_and_prepare()
    named = f"tfds:{tmp_path / 'tf' / 'pets' / '1.2.0'}"
    done = run_extraction(named, tiny_backbone, label="label", out=tmp_path / "set.h5")
    folder = run_extraction(photos, tiny_backbone, out=tmp_path / "folder.h5")
    with FeatureFile(done.path) as one, FeatureFile(folder.path) as other:
        same(one, other)
        assert one.provenance["data"] == f"{named}@1.2.0"
    assert run_extraction(named, tiny_backbone, label="label", out=done.path).computed == 0
    assert verify(done.path).verdict == "whole"
    assert opened(named, target="age").table.targets.ravel().tolist() == [1.5] * 12
    tagged = opened(named, label="tags").table
    assert (tagged.task, tagged.class_names, tagged.targets.sum()) == ("labels", ("wet",), 6)
    with pytest.raises(DataError, match=r"^tfds:nonsense cannot be had: .*\.$"):
        opened("tfds:nonsense")
    with pytest.raises(DataError, match=r"^tfds:\.\./x names no data set; needed: tfds:name, .* or a folder\.$"):
        opened("tfds:../x")
