"""Photos with numbers and several labels, which are rows of the same feature file."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onepass.extract import run_extraction
from onepass.features import FeatureFile, ImageTable
from onepass.features.writer import RowWriter, write_feature_file
from support import plain, write_folder


def relabelled(source: Path, path: Path, **changes: object) -> Path:
    """A feature file with the rows of another one, and other labels."""
    with FeatureFile(source) as file:
        table: ImageTable = dataclasses.replace(file.table, **changes)
        write_feature_file(path, file.spec, table, file.provenance, file.golden_rows)
        with RowWriter(path) as writer:
            writer.commit(plain(range(len(file))), file.read(np.arange(len(file)))[0])
    return path


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_backbone) -> Path:
    """Photos, and their rows by class, by how bright they are, and with several labels."""
    folder = tmp_path_factory.mktemp("tasks")
    for part, seed in (("train", 1), ("test", 3)):
        write_folder(folder / "photos" / part, {"ant": 16, "bee": 16, "fly": 16}, seed=seed)
    run_extraction(folder / "photos", tiny_backbone, out=folder / "classes.h5")
    with FeatureFile(folder / "classes.h5") as file:
        brightness = np.array([np.asarray(Image.open(folder / "photos" / path)).mean() for path in file.paths])
    numbers = {"class_names": ("brightness",), "labels": np.zeros(len(brightness), np.int32), "task": "number"}
    relabelled(folder / "classes.h5", folder / "bright.h5", targets=brightness[:, None], **numbers)
    with FeatureFile(folder / "classes.h5") as file:
        ant, bee = (file.table.labels == place for place in range(2))
    looks = np.stack([brightness > np.median(brightness), ant, ant | bee], axis=1).astype(np.float64)
    several = {"class_names": ("bright", "ant", "insect"), "labels": np.zeros(len(looks), np.int32), "task": "labels"}
    relabelled(folder / "classes.h5", folder / "looks.h5", targets=looks, **several)
    return folder
