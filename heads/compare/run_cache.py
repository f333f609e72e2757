"""Results of fits in a comparison, kept beside the feature file so that an interrupted one resumes."""

import contextlib
import hashlib
import json
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from onepass.features import CLASSES, FeatureFile
from onepass.features.atomic import remove_leftovers, replacing
from onepass.features.errors import OnepassWarning
from onepass.heads.fitting.pca import SharedComponents
from onepass.heads.saved_head import head_bytes
from onepass.heads.tasks.task import evaluate_rows, task_of
from onepass.heads.tensor_file import read_tensors, tensor_bytes
from onepass.heads.training import as_saved, fit_on, make_head

_VERSION = 4
_ENDING = ".cells"
_TIMED_ROWS = 256


@dataclass(frozen=True, eq=False)
class FitResult:
    """Predictions of a head on images it was not trained on, and its costs.

    Attributes:
        outputs: (n, k) float32 probabilities, or (n, 1) float64 numbers, of the scored images.
        thresholds: (k,) float32, the probability from which on each of several labels is named; else of no length.
        fit_seconds: Tuning included.
        predict_microseconds: Per image, rows at hand, in batches.
        head_bytes: Size of the head file, without what tells unknown images, which is the same for all heads.
        parameters: Of the head, with what tuning found.
    """

    outputs: np.ndarray
    thresholds: np.ndarray
    fit_seconds: float
    predict_microseconds: float
    head_bytes: int
    parameters: dict[str, object]


@dataclass(frozen=True)
class FitRequest:
    """A head to fit, the images to train it on, and those to score.

    Attributes:
        head: Kind.
        options: Its parameters.
        trained: (m,) positions of its training images.
        scored: (n,) positions of the images to score.
    """

    head: str
    options: Mapping[str, object]
    trained: np.ndarray
    scored: np.ndarray

    def key(self) -> str:
        """Changes with everything of the request that the result depends on: head, options, positions."""
        text = json.dumps([self.head, sorted(self.options.items())], default=str)
        digest = hashlib.sha256(text.encode())
        for positions in (self.trained, self.scored):
            digest.update(np.asarray(positions, np.int64).tobytes() + b"|")
        return digest.hexdigest()[:32]


class RunCache:
    """Results of finished fits, in a folder beside the feature file.

    A result that is damaged is computed again, which is said once; a folder that cannot be written costs no more
    than that. Results of other rows, or by other versions, go when a comparison of the file starts: they can never be
    used again.

    Args:
        file: The feature file.
    """

    def __init__(self, file: FeatureFile) -> None:
        self.file = file
        self.folder = file.path.with_name(f"{file.path.stem}{_ENDING}")
        facts = [_VERSION, *map(version, ("onepass", "scikit-learn", "keras")), file.fingerprint()]
        self._of_now = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]
        self._told = False
        with contextlib.suppress(OSError):
            self._tidy()

    def get(self, request: FitRequest) -> FitResult | None:
        """The result that is kept, None if there is none.

        Warns:
            OnepassWarning: It is damaged; said of the first one.
        """
        try:
            return self._read(request)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            if not self._told:
                warnings.warn(
                    f"a kept result of an earlier comparison, {self._path(request)}, is damaged "
                    f"({type(error).__name__}: {error}). It is computed again, and so is every other such one.",
                    OnepassWarning,
                    stacklevel=2,
                )
            self._told = True
            return None

    def _read(self, request: FitRequest) -> FitResult:
        found = read_tensors(self._path(request))
        result = FitResult(found.arrays["outputs"], found.arrays["thresholds"], **(found.facts or {}))
        expected = (len(request.scored), len(self.file.class_names))
        if not found.guarded or result.outputs.shape != expected or not np.isfinite(result.outputs).all():
            raise ValueError(f"outputs of the shape {result.outputs.shape}; needed: {expected}, finite")
        return result

    def put(self, request: FitRequest, result: FitResult) -> None:
        facts = {name: value for name, value in vars(result).items() if name not in ("outputs", "thresholds")}
        data = tensor_bytes(facts, {"outputs": result.outputs, "thresholds": result.thresholds})
        path = self._path(request)
        try:
            self.folder.mkdir(exist_ok=True)
            with replacing(path) as beside:
                beside.write_bytes(data)
        except OSError:
            return

    def _tidy(self) -> None:
        """Removes what no later comparison of this file can use, and what killed ones left half written."""
        remove_leftovers(self.folder)
        for result in self.folder.glob("*.safetensors"):
            if not result.name.startswith(f"{self._of_now}-"):
                result.unlink(missing_ok=True)

    def _path(self, request: FitRequest) -> Path:
        return self.folder / f"{self._of_now}-{request.key()}.safetensors"


def fit_and_score(
    file: FeatureFile, request: FitRequest, shared: SharedComponents | None = None, memory: int | None = None
) -> FitResult:
    """Fits a head and predicts the images to score.

    Args:
        file: The feature file.
        request: What to fit.
        shared: Keeps the principal components for further heads on the same rows.
        memory: Bytes that fitting may take; by default what is free.

    Raises:
        TrainingError: The head cannot be fitted on these images, or not in this memory.
    """
    task_of(file)
    estimator = make_head(request.head, task=file.task, **request.options)
    started = time.perf_counter()
    fit_on(estimator, file, request.trained, memory=memory, shared=shared)
    seconds = time.perf_counter() - started
    x, _ = file.read(request.scored)
    outputs = estimator.network_.outputs(x)
    if file.task == CLASSES:
        every = np.zeros((len(x), len(file.class_names)), np.float32)
        every[:, estimator.classes_] = outputs
        outputs = every
    timed = x[:_TIMED_ROWS]
    started = time.perf_counter()
    estimator.network_.outputs(timed)
    microseconds = 1e6 * (time.perf_counter() - started) / max(len(timed), 1)
    evaluation = evaluate_rows(estimator, file, rows=request.scored)
    saved = as_saved(estimator, file, request.trained, evaluation, path=Path("size.head"))
    thresholds = np.zeros(0, np.float32) if estimator.thresholds_ is None else estimator.thresholds_
    return FitResult(outputs, thresholds, seconds, microseconds, len(head_bytes(saved)), saved.parameters)
