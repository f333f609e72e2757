"""One head trained on some rows and asked about others: what came of it, kept beside the feature file."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from onepass.features import FeatureFile
from onepass.heads.evaluation import evaluate_rows
from onepass.heads.saved_head import head_bytes
from onepass.heads.training import as_saved, fit_on, make_head

_VERSION = 1
_TIMED_ROWS = 256


@dataclass(frozen=True, eq=False)
class Cell:
    """What a head was worth on images it did not see.

    Attributes:
        probabilities: (n, k) float32 of the images asked about.
        fit_seconds: Tuning included.
        predict_microseconds: Per image, rows at hand, in batches.
        head_bytes: Size of the head file, but for what `--unknown` needs, which is the same for all.
        parameters: Of the head, with what tuning found.
    """

    probabilities: np.ndarray
    fit_seconds: float
    predict_microseconds: float
    head_bytes: int
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A head to train, and where.

    Attributes:
        head: Kind.
        options: Its parameters.
        trained: (m,) positions of its training images.
        asked: (n,) positions of the images asked about.
    """

    head: str
    options: Mapping[str, Any]
    trained: np.ndarray
    asked: np.ndarray

    def key(self, fingerprint: str) -> str:
        """Changes with anything that the outcome depends on: rows, labels, positions, options, versions."""
        facts = [_VERSION, version("onepass"), version("scikit-learn"), version("keras"), fingerprint, self.head]
        told = json.dumps([*facts, sorted(self.options.items())], default=str)
        digest = hashlib.sha256(told.encode())
        for positions in (self.trained, self.asked):
            digest.update(np.asarray(positions, np.int64).tobytes() + b"|")
        return digest.hexdigest()[:32]


class CellStore:
    """Finished cells in a folder beside the feature file, so that an interrupted comparison goes on.

    A cell that cannot be read is worked out again; a place that cannot be written costs no more than that.

    Args:
        file: The feature file.
    """

    def __init__(self, file: FeatureFile) -> None:
        self.file = file
        self.folder = file.path.with_name(f"{file.path.stem}.cells")
        self.fingerprint = file.fingerprint()

    def get(self, task: Task) -> Cell | None:
        try:
            with safe_open(self._path(task), framework="numpy") as stored:
                facts = json.loads(stored.metadata()["cell"])
                cell = Cell(stored.get_tensor("probabilities"), **facts)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return None
        expected = (len(task.asked), len(self.file.class_names))
        return cell if cell.probabilities.shape == expected and np.isfinite(cell.probabilities).all() else None

    def put(self, task: Task, cell: Cell) -> None:
        facts = {name: value for name, value in vars(cell).items() if name != "probabilities"}
        data = save({"probabilities": cell.probabilities}, {"cell": json.dumps(facts), "head": task.head})
        path = self._path(task)
        try:
            self.folder.mkdir(exist_ok=True)
            path.with_suffix(".new").write_bytes(data)
            path.with_suffix(".new").replace(path)
        except OSError:
            return

    def _path(self, task: Task) -> Path:
        return self.folder / f"{task.key(self.fingerprint)}.safetensors"


def run_cell(file: FeatureFile, task: Task) -> Cell:
    """Trains the head of a task and asks it."""
    estimator = make_head(task.head, **task.options)
    started = time.perf_counter()
    fit_on(estimator, file, task.trained)
    seconds = time.perf_counter() - started
    x, _ = file.read(task.asked)
    probabilities = np.zeros((len(x), len(file.class_names)), np.float32)
    probabilities[:, estimator.classes_] = estimator.network_.probabilities(x)
    timed = x[:_TIMED_ROWS]
    started = time.perf_counter()
    estimator.network_.probabilities(timed)
    microseconds = 1e6 * (time.perf_counter() - started) / max(len(timed), 1)
    evaluation = evaluate_rows(estimator, file, rows=task.asked)
    saved = as_saved(estimator, file, task.trained, evaluation, path=Path("size.head"))
    return Cell(probabilities, seconds, microseconds, len(head_bytes(saved)), saved.parameters)
