"""From a feature file to a head file: fit on the training part, score on what was held out."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onepass.extract import free_memory
from onepass.features import CLASSES, FeatureFile, only_feature_file
from onepass.features.errors import OptionError, TrainingError, opt
from onepass.features.names import shown
from onepass.features.places import require_place
from onepass.features.progress import log, phase
from onepass.features.tables import command_line, plain
from onepass.heads.evaluation import Answers
from onepass.heads.fitting.blas import one_blas_thread
from onepass.heads.fitting.folds import assign_folds
from onepass.heads.fitting.memory import require_memory, some_of
from onepass.heads.fitting.pca import SharedComponents
from onepass.heads.fitting.row_chunks import FileRows
from onepass.heads.head_options import EPOCHED, head_options, require_known_classes, require_positive, require_task
from onepass.heads.inference.out_of_distribution import MOST_IMAGES, USUAL_ALPHA, OutOfDistribution
from onepass.heads.saved_head import SavedHead, require_no_other_file, save_head
from onepass.heads.tasks.score import Score
from onepass.heads.tasks.task import task_of
from onepass.heads.zero_shot.prompts import check_prompts, class_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from onepass.heads.audit.quick_look import Suggestion
    from onepass.heads.classifiers.base import Head

_OUT_OF_DISTRIBUTION_BYTES = 2**26
"""Of the rows that out-of-distribution images are told by; learning takes four times as much."""


@dataclass(frozen=True)
class TrainedHead:
    """A head that `train_head` trained and saved.

    Attributes:
        head: The head as it is in its file.
        seconds: Duration of the fit, tuning included.
        suggestion: Another head that would do clearly better, as far as a quick look at the training images tells.
    """

    head: SavedHead
    seconds: float
    suggestion: "Suggestion | None" = None

    def __str__(self) -> str:
        head, scored = self.head, self.head.evaluation
        return "\n".join(
            [
                f"{shown(head.path)}: {head.kind}, {scored.measured_on} {scored}, fitted in {self.seconds:.1f} s",
                f"parameters: {plain({name: plain(value) for name, value in head.parameters.items()})}",
                scored.details(),
                *(["", confused, ""] if (confused := scored.confusions()).startswith("confusion") else []),
                *([str(self.head.coverage)] if self.head.coverage else []),
                *([str(self.suggestion)] if self.suggestion else []),
            ]
        )

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """The figure of its score; see `Score.plot`."""
        return self.head.evaluation.plot(ax)

    def _repr_html_(self) -> str:
        return self.head.evaluation._repr_html_()

    @property
    def next_command(self) -> str:
        """What to do next, as it is typed: train the head that would do better, or predict."""
        if self.suggestion:
            features = Path(str(self.head.trained_on["features"]))
            return command_line("train-head", features, "--head", self.suggestion.head)
        return command_line("onepass", "predict", self.head.path, "IMAGES")

    def record(self) -> dict[str, object]:
        """The same as plain values, for JSON."""
        scored = self.head.evaluation.record()
        split, _ = scored.pop("measured_on"), scored.pop("confusion", None)
        if self.head.coverage:
            scored["coverage"] = asdict(self.head.coverage)
        return {
            "path": str(self.head.path),
            "head": self.head.kind,
            "split": split,
            **scored,
            "seconds": round(self.seconds, 3),
            "parameters": self.head.parameters,
            "history": self.head.history.record() if self.head.history else None,
            "suggestion": self.suggestion.record() if self.suggestion else None,
        }


def make_head(kind: str, *, task: str = CLASSES, **options: object) -> "Head":
    """An unfitted head of a task by name; options that are None keep their default.

    Layers and class weights may be text, as on the command line.

    >>> make_head("mlp", hidden="256,128", class_weight="cats=2,dogs=1", lr=None).hidden
    (256, 128)

    Raises:
        OptionError: No such head, an option it does not have, or a value out of range.
    """
    options = head_options(kind, options)
    from onepass.heads.classifiers.kinds import HEADS

    require_task(kind, options, task)
    return HEADS[kind](**options) if task == CLASSES else HEADS[kind](**options, task=task)


@one_blas_thread
def train_head(
    features: str | Path | None = None,
    *,
    head: str | None = None,
    parts: Sequence[str] = ("train",),
    max_images: int | None = None,
    memory: int | None = None,
    out: str | Path | None = None,
    history: str | Path | None = None,
    **options: object,
) -> TrainedHead:
    """Trains a head on the training rows of a feature file, scores it, and saves it.

    It is scored on the plain images of the test split, or of val where there is no test. Training and
    tuning see the training images alone, with all their views; a group and exact copies stay in one fold.

    >>> print(train_head("photos.h5", head="logreg"))
    photos.logreg.head: logreg, test accuracy 1.000 (0.862 to 1.000), n=24, fitted in ... s
    parameters: C ...
    log loss ..., calibration error ...
    class   n  precision  recall  f1
    ...

    Args:
        features: The feature file; by default the one in the current folder.
        head: A kind in `HEADS`; by default logreg, for numbers ridge.
        parts: Splits to train on: train, or train and val.
        max_images: Most images to train on; every class keeps its share.
        memory: Bytes that training may take; by default what is free. The Keras heads read the file in pieces
            where their rows need more.
        out: The head file; by default the feature file's name with `.<head>.head` for `.h5`, in the
            current folder.
        history: CSV file for the epochs of a Keras head, mlp or linear: loss and accuracy of the rows it learned from
            and of held-out ones; `trained.head.history` has them too.
        **options: Parameters of the head, such as C, hidden, tune, class_weight; None means the default.
            `prompts` are needed by the heads text and text-logreg: templates such as "a photo of a {}", or files of
            them; `hidden` may be text ("256,128", "0" for none), `class_weight` is "balanced", class name -> weight,
            or the same as text ("cats=2,dogs=1").

    Raises:
        FeatureFileError: The feature file cannot be read or is not complete.
        TrainingError: It does not hold what training needs.
        OptionError: An option is wrong or belongs to another head.
        HeadFileError: The head file cannot be written.
    """
    if head is not None:
        head_options(head, options)
    if history is not None:
        require_history_place(history, head)
    require_positive(max_images=max_images, memory=memory)
    features = only_feature_file() if features is None else features
    path = head_path(features, head, out) if head else None
    with FeatureFile(features) as file:
        file.require_complete()
        task = task_of(file)
        head = head or task.usual_head
        path = path or head_path(features, head, out)
        given = head_options(head, options)
        task.require_options(head, given, file)
        rows, scored, measured_on = training_parts(file, parts)
        if "prompts" in given:
            check_prompts(file)
        from onepass.heads.audit.quick_look import QuickLook

        estimator = make_head(head, task=file.task, **given)
        rows = some_of(rows, file.table.strata()[rows], max_images, seed=estimator.seed)
        copies = file.leaked(scored, rows)
        # Where there is room for both, more is learned meanwhile: much of a fit keeps one processor busy.
        needed = estimator.memory_needed(len(rows), file.views, file.spec.width) + 4 * _OUT_OF_DISTRIBUTION_BYTES
        with ThreadPoolExecutor(1) as pool:

            def look() -> tuple[Future[tuple[OutOfDistribution | None, np.ndarray]], Future[QuickLook]]:
                learned = pool.submit(learn_out_of_distribution, file, rows, seed=estimator.seed)
                return learned, pool.submit(QuickLook.at, file, rows, head=estimator)

            looking = look() if needed <= (memory or free_memory()) else None
            started = time.perf_counter()
            log.info("%d training images, %d of %s; %.2g GB needed", len(rows), len(scored), measured_on, needed / 1e9)
            with phase(f"fitting {head}"):
                fit_on(estimator, file, rows, memory=memory)
            seconds = time.perf_counter() - started
            log.info("chosen: %s", plain(estimator.chosen_))
            learned, others = looking or look()
            with phase(f"scoring on {measured_on}"):
                answers, wanted = Answers.of(estimator, file.pieces(scored), task.named), file.wanted(scored)
            weights = file.weights(scored)
            evaluation = task.score(
                answers, wanted, file.class_names, measured_on=measured_on, copies=copies, weights=weights
            )
            with phase("learning what is unknown"):
                out_of_distribution, places = learned.result()
            suggestion = others.result().suggestion(estimator.held_out_)
        saved = as_saved(estimator, file, rows, evaluation, path=path)
        saved = replace(saved, **task.measured(vars(saved), answers, wanted))
        if out_of_distribution:
            if estimator.held_out_ is not None and file.task == CLASSES:
                out_of_distribution = out_of_distribution.with_probabilities(estimator.held_out_[places])
            saved = with_out_of_distribution(saved, out_of_distribution, file, scored, answers)
    save_head(saved)
    if history is not None and saved.history:
        saved.history.write_csv(history)
    return TrainedHead(saved, seconds, suggestion)


def fit_on(
    estimator: "Head",
    file: FeatureFile,
    rows: np.ndarray,
    *,
    memory: int | None = None,
    shared: SharedComponents | None = None,
) -> "Head":
    """Fits a head on all views of the images at the given positions.

    Args:
        estimator: It learns positions in the file's class names; its class weights may use the names.
        file: The feature file.
        rows: (n,) positions.
        memory: Bytes it may take; by default what is free.
        shared: As for `Head.fit`.

    Raises:
        TrainingError: The rows need more, and the head cannot be trained in pieces.
        BackboneError, OptionError, SpecMismatchError: It is made from texts, and the network gives no rows of these.
    """
    from onepass.heads.classifiers.net_head import NetHead

    needed, free = estimator.memory_needed(len(rows), file.views, file.spec.width), memory or free_memory()
    wanted, named = file.wanted(rows), estimator.class_weight
    if isinstance(named, Mapping):
        estimator.class_weight = by_position(named, file.class_names, wanted)
    try:
        if isinstance(estimator, NetHead) and needed > free:
            return estimator.fit_chunks(FileRows(file, rows, memory=free // 2))
        require_memory(estimator.kind, needed, free, len(rows))
        prompts = getattr(estimator, "prompts", None)
        texts = class_rows(file, prompts)[np.unique(wanted)] if prompts else None
        x, groups = file.read_views(rows)[0], file.group_ids()[rows]
        return estimator.fit(x, wanted, groups=groups, weights=file.weights(rows), shared=shared, texts=texts)
    finally:
        estimator.class_weight = named


def as_saved(estimator: "Head", file: FeatureFile, rows: np.ndarray, evaluation: Score, *, path: Path) -> SavedHead:
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
        parameters=_parameters(estimator),
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
        task=file.task,
        thresholds=estimator.thresholds_,
        history=estimator.history_,
        **task_of(file).kept(estimator.held_out_, file.wanted(rows), file.weights(rows)),
    )


def learn_out_of_distribution(
    file: FeatureFile, rows: np.ndarray, *, seed: int
) -> tuple[OutOfDistribution | None, np.ndarray]:
    """Learns to tell out-of-distribution images from training images, or from a sample of them if there are many.

    Args:
        file: The feature file.
        rows: (n,) positions of the training images.
        seed: Of the choice and of the folds.

    Returns:
        What was learned, None if no image can be held out; and (m,) indices into `rows` of the images used.
    """
    # Images of no class are told from all others together.
    y = file.table.labels[rows] if file.task == CLASSES else np.zeros(len(rows), np.int64)
    groups = file.group_ids()[rows]
    most = max(min(MOST_IMAGES, _OUT_OF_DISTRIBUTION_BYTES // (4 * file.spec.width)), 200)
    places = some_of(np.arange(len(rows)), y, most, seed=seed)
    fold_of = assign_folds(y[places], groups=groups[places], seed=seed)
    places, fold_of = places[fold_of >= 0], fold_of[fold_of >= 0]
    if len(np.unique(fold_of)) < 2:
        return None, places
    return OutOfDistribution.of(file.read(rows[places])[0], y[places], fold_of), places


def with_out_of_distribution(
    saved: SavedHead, out_of_distribution: OutOfDistribution, file: FeatureFile, scored: np.ndarray, answers: Answers
) -> SavedHead:
    """A head that can call images unknown, with the measured effect of doing so.

    Args:
        saved: The head.
        out_of_distribution: From `learn_out_of_distribution`.
        file: The feature file.
        scored: (s,) positions of held-out images.
        answers: The head's predictions for these.
    """
    of_classes = file.task == CLASSES
    if (of_classes and answers.probabilities is None) or len(out_of_distribution.labels) < 1 / USUAL_ALPHA - 1:
        return replace(saved, out_of_distribution=out_of_distribution)
    distances = np.concatenate([out_of_distribution.subspace.distances(x) for x in file.pieces(scored)])
    labels = file.table.labels[scored] if of_classes else np.zeros(len(scored), np.int64)
    shares = np.ones((len(scored), 1))
    if of_classes and answers.probabilities is not None:
        shares = answers.probabilities
    measured = out_of_distribution.measured(USUAL_ALPHA, distances, shares, labels, saved.unknown_of)
    return replace(saved, out_of_distribution=out_of_distribution, abstention=measured)


def head_path(features: str | Path, head: str, out: str | Path | None) -> Path:
    """Where a head file goes: `out`, or the feature file's name with `.<head>.head` in the current folder.

    Raises:
        OptionError: There is no such folder, or a folder stands there.
        HeadFileError: A file that is no head stands there.
        OutputError: The folder may not be written.
    """
    path = Path(out) if out else Path(f"{Path(features).stem}.{head}.head")
    require_place(path)
    require_no_other_file(path)
    return path


def require_history_place(path: str | Path, head: str | None) -> None:
    """Refuses to write a history of a head that trains in no epochs, or where no CSV file can be.

    Raises:
        OptionError: It does, the name does not end in .csv, or there is no such folder.
        OutputError: The folder may not be written.
    """
    if head not in EPOCHED:
        named = " or ".join(str(opt.head(kind)) for kind in EPOCHED)
        raise OptionError(
            f"{opt.history} is for heads that train in epochs; add {named}.",
            history=path,
            head=head,
        )
    require_place(path, endings=(".csv",), option="history")


def training_parts(file: FeatureFile, parts: Sequence[str] = ("train",)) -> tuple[np.ndarray, np.ndarray, str]:
    """Positions to train on, positions to score, and what the latter are called.

    Raises:
        TrainingError: A class has no training image, or there is nothing to score.
    """
    rows = np.sort(np.concatenate([file.rows_of(part) for part in parts]))
    task_of(file).require_images(file, rows)
    for split in ("test", "val"):
        if split not in parts and len(scored := file.rows_of(split)):
            return rows, scored, split
    raise TrainingError(
        f"{file.path} holds no test or val image, so no honest score is possible. Add images to a test or val "
        "folder, or give every class at least two different images, and extract again.",
        path=file.path,
    )


def by_position(
    weights: Mapping[str, float] | Mapping[int, float], class_names: tuple[str, ...], y: np.ndarray
) -> dict[int, float]:
    """Class weights by position in `class_names`; classes that are not named count 1."""
    require_known_classes(weights, class_names)
    by_key: dict[object, float] = {key: float(weight) for key, weight in weights.items()}
    named = {name: by_key.get(name, by_key.get(i, 1.0)) for i, name in enumerate(class_names)}
    return {int(i): named[class_names[i]] for i in np.unique(y)}


def _parameters(estimator: "Head") -> dict[str, object]:
    """What a head was trained with, as JSON takes it; the task has a place of its own."""
    values = {**estimator.get_params(), **estimator.chosen_}
    values.pop("task", None)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
