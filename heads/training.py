"""From a feature file to a head file: fit on the training part, score on what was held out."""

import inspect
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from features import FeatureFile
from features.errors import OptionError, TrainingError
from heads.base import Head
from heads.centroid import CentroidHead
from heads.evaluation import evaluate
from heads.file import SavedHead, save_head
from heads.knn import KNNHead
from heads.lda import LDAHead
from heads.linear import LogisticHead, SVMHead
from heads.mlp import MLPHead
from heads.rbf import RBFSVMHead
from heads.ridge import RidgeHead

HEADS: dict[str, type[Head]] = {
    head.kind: head for head in (LogisticHead, SVMHead, RBFSVMHead, RidgeHead, LDAHead, KNNHead, CentroidHead, MLPHead)
}


@dataclass(frozen=True)
class TrainedHead:
    """What `train_head` made.

    Attributes:
        head: The head as it stands in its file.
        seconds: Duration of the fit, tuning included.
    """

    head: SavedHead
    seconds: float


def make_head(kind: str, **options: Any) -> Head:
    """An unfitted head by name; options that are None keep their default.

    Raises:
        OptionError: No such head, or an option it does not have.
    """
    if kind not in HEADS:
        raise OptionError(f"unknown head {kind!r}; there are {', '.join(HEADS)}.")
    given = {name: value for name, value in options.items() if value is not None}
    known = list(inspect.signature(HEADS[kind]).parameters)
    for name in given:
        if name not in known:
            owners = [other for other, head in HEADS.items() if name in inspect.signature(head).parameters]
            raise OptionError(
                f"--{name.replace('_', '-')} does not go with --head {kind}"
                + (f"; it belongs to {', '.join(owners)}." if owners else f"; {kind} takes {', '.join(known)}.")
            )
    return HEADS[kind](**given)


def train_head(
    features: str | Path, *, head: str = "logreg", out: str | Path | None = None, **options: Any
) -> TrainedHead:
    """Trains a head on the training rows of a feature file, scores it, and saves it.

    It is scored on the plain images of the test split, or of val where there is no test. Training
    and tuning see all views of the training images alone; where there are both val and test, val
    tells the mlp when to stop.

    Args:
        features: The feature file.
        head: logreg, svm or mlp.
        out: The head file; by default the feature file's name with `.<head>.head` for `.h5`, in the
            current folder.
        **options: Parameters of the head: C, hidden, dropout, output, epochs, batch_size, lr,
            patience, seed.

    Raises:
        FeatureFileError: The feature file cannot be read or is not complete.
        TrainingError: It does not hold what training needs.
        OptionError: An option is wrong or belongs to another head.
        HeadFileError: The head file cannot be written.
    """
    estimator = make_head(head, **options)
    with FeatureFile(features) as file:
        file.require_complete()
        rows, held_out = _parts(file)
        x, y = file.read_views(rows)
        started = time.perf_counter()
        if isinstance(estimator, MLPHead) and held_out == "test" and len(file.rows_of("val")):
            estimator.fit(x, y, validation=file.read(file.rows_of("val")))
        else:
            estimator.fit(x, y)
        seconds = time.perf_counter() - started
        saved = SavedHead(
            kind=head,
            network=estimator.network_,
            class_names=file.class_names,
            spec=file.spec,
            parameters=_plain({**estimator.get_params(), **estimator.chosen_}),
            evaluation=evaluate(estimator, file, rows=file.rows_of(held_out), measured_on=held_out),
            trained_on={
                **file.provenance,
                "features": str(file.path.resolve()),
                "features_hash": file.fingerprint(),
                "rows": len(rows),
                "views": file.views,
            },
            golden=file.golden_rows,
            seen=np.ascontiguousarray(file.table.content_hashes[rows, :8]),
            path=Path(out) if out else Path(f"{Path(features).stem}.{head}.head"),
        )
    save_head(saved)
    return TrainedHead(saved, seconds)


def _parts(file: FeatureFile) -> tuple[np.ndarray, str]:
    """Training positions, and the name of the split to score on."""
    rows = file.rows_of("train")
    counts = np.bincount(file.table.labels[rows], minlength=len(file.class_names))
    if missing := [name for name, count in zip(file.class_names, counts, strict=True) if count == 0]:
        raise TrainingError(
            f"{file.path} holds no training image of {', '.join(missing)}. Every class needs some in its train "
            "part; add images and extract again."
        )
    for split in ("test", "val"):
        if len(file.rows_of(split)):
            return rows, split
    raise TrainingError(
        f"{file.path} holds no test or val image, so no honest score is possible. Add images to a test or val "
        "folder, or give every class at least two different images, and extract again."
    )


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
