"""From a feature file to a head file: fit on the training part, score on what was held out."""

import inspect
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from onepass.features import FeatureFile
from onepass.features.errors import OptionError, Parameter, TrainingError, opt
from onepass.heads.classifiers.base import Head, require_positive
from onepass.heads.classifiers.centroid import CentroidHead
from onepass.heads.classifiers.knn import KNNHead
from onepass.heads.classifiers.lda import LDAHead
from onepass.heads.classifiers.linear import LogisticHead, SVMHead
from onepass.heads.classifiers.mlp import MLPHead, SoftmaxHead
from onepass.heads.classifiers.net_head import NetHead
from onepass.heads.classifiers.rbf_svm import RBFSVMHead
from onepass.heads.classifiers.ridge import RidgeHead
from onepass.heads.evaluation import Answers, Evaluation, score
from onepass.heads.fitting.blas import one_blas_thread
from onepass.heads.fitting.folds import assign_folds
from onepass.heads.fitting.memory import free_memory, require_memory, some_of
from onepass.heads.fitting.row_chunks import FileRows
from onepass.heads.inference.out_of_distribution import MOST_IMAGES, USUAL_ALPHA, OutOfDistribution
from onepass.heads.near_duplicates import LEAKED_MEMORY, leaked
from onepass.heads.saved_head import SavedHead, save_head

HEADS: dict[str, type[Head]] = {
    head.kind: head
    for head in (
        LogisticHead,
        SVMHead,
        RBFSVMHead,
        RidgeHead,
        LDAHead,
        KNNHead,
        CentroidHead,
        MLPHead,
        SoftmaxHead,
    )
}


_NOVELTY_BYTES = 2**26
"""Of the rows that are looked at for what is unknown; it takes about four times as much, less than `LEAKED_MEMORY`."""


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
                f"{Parameter(name)} does not go with {opt.head(kind)}"
                + (f"; it belongs to {', '.join(owners)}." if owners else f"; {kind} takes {', '.join(known)}.")
            )
    return HEADS[kind](**given)


@one_blas_thread
def train_head(
    features: str | Path,
    *,
    head: str = "logreg",
    parts: Sequence[str] = ("train",),
    max_images: int | None = None,
    memory: int | None = None,
    out: str | Path | None = None,
    **options: Any,
) -> TrainedHead:
    """Trains a head on the training rows of a feature file, scores it, and saves it.

    It is scored on the plain images of the test split, or of val where there is no test. Training and
    tuning see all views of the training images alone, groups and exact copies in one fold each.

    Args:
        features: The feature file.
        head: A kind in `HEADS`.
        parts: Splits to train on: train, or train and val.
        max_images: Train on so many of them at most, each class with its share.
        memory: Bytes it may take; by default what is free. The Keras heads read the file in pieces where
            their rows need more.
        out: The head file; by default the feature file's name with `.<head>.head` for `.h5`, in the
            current folder.
        **options: Parameters of the head, such as C, hidden, tune, class_weight; None means the default.
            Class weights are named by class.

    Raises:
        FeatureFileError: The feature file cannot be read or is not complete.
        TrainingError: It does not hold what training needs.
        OptionError: An option is wrong or belongs to another head.
        HeadFileError: The head file cannot be written.
    """
    estimator = make_head(head, **options)
    with FeatureFile(features) as file:
        file.require_complete()
        rows, scored, measured_on = training_parts(file, parts)
        require_positive(max_images=max_images, memory=memory)
        rows = some_of(rows, file.table.labels[rows], max_images, seed=estimator.seed)
        # Where there is room for both, other images are looked at meanwhile: much of a fit keeps one processor busy.
        needed = estimator.memory_needed(len(rows), file.views, file.spec.width) + LEAKED_MEMORY
        with ThreadPoolExecutor(1) as pool:

            def look() -> tuple[Future[np.ndarray], Future[tuple[OutOfDistribution | None, np.ndarray]]]:
                copies = pool.submit(leaked, file, scored, rows)
                return copies, pool.submit(learn_out_of_distribution, file, rows, seed=estimator.seed)

            looking = look() if needed <= (memory or free_memory()) else None
            started = time.perf_counter()
            fit_on(estimator, file, rows, memory=memory)
            seconds = time.perf_counter() - started
            copies, strangers = looking or look()
            answers, labels = Answers.of(estimator, file.pieces(scored)), file.table.labels[scored]
            evaluation = score(answers, labels, file.class_names, measured_on=measured_on, copies=copies.result())
            out_of_distribution, places = strangers.result()
        path = Path(out) if out else Path(f"{Path(features).stem}.{head}.head")
        saved = as_saved(estimator, file, rows, evaluation, path=path)
        if out_of_distribution:
            saved = with_out_of_distribution(
                saved, out_of_distribution, estimator.held_out_, places, file, scored, answers
            )
    save_head(saved)
    return TrainedHead(saved, seconds)


def fit_on(estimator: Head, file: FeatureFile, rows: np.ndarray, *, memory: int | None = None) -> Head:
    """Fits a head on all views of the images at the given positions.

    Args:
        estimator: It learns positions in the file's class names; its class weights may use the names.
        file: The feature file.
        rows: (n,) positions.
        memory: Bytes it may take; by default what is free.

    Raises:
        TrainingError: The rows need more, and the head cannot be trained in pieces.
    """
    needed, free = estimator.memory_needed(len(rows), file.views, file.spec.width), memory or free_memory()
    labels, named = file.table.labels[rows].astype(np.int64), estimator.class_weight
    if isinstance(named, Mapping):
        estimator.class_weight = by_position(named, file.class_names, labels)
    try:
        if isinstance(estimator, NetHead) and needed > free:
            return estimator.fit_chunks(FileRows(file, rows, memory=free // 2))
        require_memory(estimator.kind, needed, free, len(rows))
        return estimator.fit(file.read_views(rows)[0], labels, groups=file.table.group_ids()[rows])
    finally:
        estimator.class_weight = named


def as_saved(estimator: Head, file: FeatureFile, rows: np.ndarray, evaluation: Evaluation, *, path: Path) -> SavedHead:
    """A fitted head with all that its file holds.

    Args:
        estimator: Fitted.
        file: Where its rows came from.
        rows: (m,) positions it was trained on.
        evaluation: Its score on others.
        path: Of the head file to be.
    """
    return SavedHead(
        kind=estimator.kind,
        network=estimator.network_,
        class_names=file.class_names,
        spec=file.spec,
        parameters=_plain({**estimator.get_params(), **estimator.chosen_}),
        evaluation=evaluation,
        trained_on={
            **file.provenance,
            "features": str(file.path.resolve()),
            "features_hash": file.fingerprint(),
            "rows": len(rows),
            "views": file.views,
        },
        golden=file.golden_rows,
        seen=np.ascontiguousarray(file.table.content_hashes[rows, :8]),
        path=path,
    )


def learn_out_of_distribution(
    file: FeatureFile, rows: np.ndarray, *, seed: int
) -> tuple[OutOfDistribution | None, np.ndarray]:
    """What training images have in common, from some of them if there are many.

    Args:
        file: The feature file.
        rows: (n,) positions of the training images.
        seed: Of the choice and of the folds.

    Returns:
        What tells others, None if no image can be held out; and (m,) places in `rows` of the images in it.
    """
    y, groups = file.table.labels[rows], file.table.group_ids()[rows]
    most = max(min(MOST_IMAGES, _NOVELTY_BYTES // (4 * file.spec.width)), 200)
    places = some_of(np.arange(len(rows)), y, most, seed=seed)
    fold_of = assign_folds(y[places], groups=groups[places], seed=seed)
    places, fold_of = places[fold_of >= 0], fold_of[fold_of >= 0]
    if len(np.unique(fold_of)) < 2:
        return None, places
    return OutOfDistribution.of(file.read(rows[places])[0], y[places], fold_of), places


def with_out_of_distribution(
    saved: SavedHead,
    out_of_distribution: OutOfDistribution,
    held_out: np.ndarray | None,
    places: np.ndarray,
    file: FeatureFile,
    scored: np.ndarray,
    answers: Answers,
) -> SavedHead:
    """A head that can call images unknown, with how that goes.

    Args:
        saved: The head.
        out_of_distribution: From `learn_out_of_distribution`, with its `places`.
        held_out: (n, k) probabilities of the training images by heads that did not see them.
        places: (m,) of the images in `out_of_distribution` among those.
        file: The feature file.
        scored: (s,) positions of held-out images.
        answers: To them.
    """
    if held_out is not None:
        out_of_distribution = out_of_distribution.doubting(held_out[places])
    if answers.probabilities is None or len(places) < 1 / USUAL_ALPHA - 1:
        return replace(saved, out_of_distribution=out_of_distribution)
    distances = np.concatenate([out_of_distribution.subspace.distances(x) for x in file.pieces(scored)])
    labels = file.table.labels[scored]
    measured = out_of_distribution.measured(USUAL_ALPHA, distances, answers.probabilities, labels, saved.class_names)
    return replace(saved, out_of_distribution=out_of_distribution, abstention=measured)


def training_parts(file: FeatureFile, parts: Sequence[str] = ("train",)) -> tuple[np.ndarray, np.ndarray, str]:
    """Positions to train on, positions to score, and what the latter are called.

    Raises:
        TrainingError: A class has no training image, or there is nothing to score.
    """
    rows = np.sort(np.concatenate([file.rows_of(part) for part in parts]))
    counts = np.bincount(file.table.labels[rows], minlength=len(file.class_names))
    if missing := [name for name, count in zip(file.class_names, counts, strict=True) if count == 0]:
        raise TrainingError(
            f"{file.path} holds no training image of {', '.join(missing)}. Every class needs some in its train "
            "part; add images and extract again."
        )
    for split in ("test", "val"):
        if split not in parts and len(scored := file.rows_of(split)):
            return rows, scored, split
    raise TrainingError(
        f"{file.path} holds no test or val image, so no honest score is possible. Add images to a test or val "
        "folder, or give every class at least two different images, and extract again."
    )


def by_position(weights: Mapping[Any, float], class_names: tuple[str, ...], y: np.ndarray) -> dict[int, float]:
    """Class weights by position in `class_names`; classes that are not named count 1."""
    if unknown := [str(name) for name in weights if name not in class_names and name not in range(len(class_names))]:
        raise OptionError(f"class weights name {unknown[0]!r}; the classes are {', '.join(class_names)}.")
    named = {name: float(weights.get(name, weights.get(i, 1.0))) for i, name in enumerate(class_names)}
    return {int(i): named[class_names[i]] for i in np.unique(y)}


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
