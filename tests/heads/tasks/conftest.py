"""Photos with numbers and several labels, which are rows of the same feature file."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onepass.extract import run_extraction
from onepass.features import FeatureFile
from support import write_folder
from task_files import relabelled


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
