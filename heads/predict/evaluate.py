"""Scores a head on labelled images: those of a feature file, of a folder, or of what else holds or names images."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import numpy as np

from onepass.extract import (
    Backbone,
    Source,
    SourceOptions,
    check_running,
    is_source,
    open_like,
    rows_of_images,
    rows_of_source,
)
from onepass.features import CLASSES, FeatureFile, SkippedImage, only_feature_file
from onepass.features.errors import DataError, FileKindError, OptionError, Parameter, TrainingError, opt
from onepass.features.names import shown
from onepass.features.splits import PARTS, require_part_name
from onepass.features.tables import Record, command_line
from onepass.heads.evaluation import Answers, Classifier, Evaluation
from onepass.heads.file_kinds import FileKind, classifier_file, file_kind
from onepass.heads.head_options import LEARNED
from onepass.heads.predict.classify import BackboneOptions, describe_classifier, load_classifier
from onepass.heads.saved_head import SavedHead, load_head
from onepass.heads.tasks.label_evaluation import LabelsEvaluation
from onepass.heads.tasks.number_evaluation import NumberEvaluation
from onepass.heads.tasks.score import Score
from onepass.heads.tasks.task import TASKS, evaluate_rows, task_of

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class _Report(Score):
    """A score with the images that it is about.

    Attributes:
        head: The head file.
        target: The feature file or folder.
        skipped: Images that could not be read, with the reason.
    """

    head: str
    target: str
    skipped: list[SkippedImage] = field(default_factory=list)

    def __str__(self) -> str:
        confused = self.confusions()
        return "\n".join(
            [
                f"{shown(self.head)} on {shown(self.target)} ({self.measured_on}): {self.headline()}",
                self.details(),
                *(["", confused] if confused else []),
            ]
        )

    @property
    def next_command(self) -> str:
        """What to do next, as it is typed."""
        return command_line("onepass", "export", Path(self.head), "--to", "onnx")

    def record(self) -> Record:
        """The same as plain values, for JSON."""
        facts = super().record()
        del facts["head"], facts["target"]
        return facts


@dataclass(frozen=True, kw_only=True)
class EvaluationReport(_Report, Evaluation):
    """An evaluation of classes, with the images that it is about."""


@dataclass(frozen=True, kw_only=True)
class NumberReport(_Report, NumberEvaluation):
    """An evaluation of numbers, with the images that it is about."""


@dataclass(frozen=True, kw_only=True)
class LabelsReport(_Report, LabelsEvaluation):
    """An evaluation of several labels per image, with the images that it is about."""


_REPORTS: dict[type[Score], type[_Report]] = {
    Evaluation: EvaluationReport,
    LabelsEvaluation: LabelsReport,
    NumberEvaluation: NumberReport,
}


def _report(scored: Score, **facts: Any) -> Score:
    return _REPORTS[type(scored)](**{one.name: getattr(scored, one.name) for one in fields(scored)}, **facts)


class EvaluationOptions(BackboneOptions, total=False):
    """How images that are in no feature file are found and turned into rows.

    Attributes:
        images: Where the images lie that a table names; by default beside it.
        path: Column of a table that names the images, or a pattern such as `{id}.jpg`.
        label: Column of classes, or columns of 0 and 1 with commas.
        label_separator: What stands between several labels of an image.
        target_column: Column of numbers. What is not said of a table is as it was for the training of the head, where
            the table has such columns; else it is guessed where one column alone can be meant.
        workers: Decoding threads; by default one per processor.
        progress: Called with (images done, images to do).
    """

    images: str | None
    path: str | None
    label: str | None
    label_separator: str | None
    target_column: str | None
    workers: int | None
    progress: Progress | None


def evaluate(
    head: str | Path | SavedHead | Classifier,
    target: str | Path | FeatureFile | None = None,
    *,
    split: str = "auto",
    rows: np.ndarray | None = None,
    trained: np.ndarray | None = None,
    **options: Unpack[EvaluationOptions],
) -> Score:
    """Scores a head on labelled images, with a 95 % interval, and without copies of training images.

    Args:
        head: Head file, model that `fine_tune` or `export` wrote, its certificate, what `load_head` returned, or any
            fitted classifier, which needs `rows`.
        target: Feature file; or what labelled images come from, such as a folder of class folders, an archive, a
            bucket or a table; by default the feature file in the current folder. A model runs on the image files that
            a feature file knows.
        split: train, val, test, all, unseen, or auto: what was held out. Of a table also the column that says so, as
            `extract` takes it.
        rows: (n,) positions of the images of a feature file to score, instead of a split.
        trained: (m,) positions of the images that a classifier was trained on, to look for copies of them.
        **options: See `EvaluationOptions`; they count for what is no feature file.

    Raises:
        TrainingError: There are no images to score, or they have a class that the head does not know.
        OptionError: An option is wrong.
        UserError: Head, feature file, images or backbone cannot be used; the message says what to do.

    >>> from onepass import evaluate, train_head
    >>> trained = train_head("pets.mine.h5", out="pets.head")
    >>> evaluate("pets.head", "pets/", split="test").measured_on
    'test'
    """
    if rows is not None:
        return _on_rows(head, target, rows, trained)
    if not _may_name_columns(target):
        require_part_name(split)
    check_running(engine=options.get("engine"), workers=options.get("workers"), weights=options.get("weights"))
    if isinstance(head, str | Path):
        path, kind = classifier_file(head)
        if kind is not FileKind.HEAD:
            return _of_model(path, target, split, options)
        head = load_head(path)
    if not isinstance(head, SavedHead):
        raise OptionError(f"a {type(head).__name__} is scored on rows of a feature file; needed: {opt.rows}.")
    if isinstance(target, FeatureFile):
        return _on_file(head, target, split)
    on = _target(target)
    if not _is_labelled(on):
        _require_no_columns(on, options)
    if _is_labelled(on):
        images = _images(head, on, split, options)
        return _on_images(head, head.load_backbone(**_of_backbone(options)), images, options)
    with FeatureFile(on) as file:
        return _on_file(head, file, split)


def _of_backbone(options: EvaluationOptions) -> Any:
    return {name: value for name, value in options.items() if name in BackboneOptions.__annotations__}


def _is_labelled(target: Path) -> bool:
    """True for a folder, or what else holds or names images with labels and is no file of ours."""
    return target.is_dir() or (is_source(target) and file_kind(target) in (FileKind.OTHER, FileKind.MISSING))


def _may_name_columns(target: object) -> bool:
    return isinstance(target, str | Path) and _is_labelled(Path(target)) and not Path(target).is_dir()


def _target(target: str | Path | None) -> Path:
    """The feature file or folder to score on.

    Raises:
        FileKindError: It is another kind of file.
    """
    path = Path(target) if target is not None else only_feature_file()
    if _is_labelled(path):
        return path
    kind = file_kind(path)
    if kind in (FileKind.FEATURES, FileKind.FOLDER, FileKind.MISSING):
        return path  # whoever opens it says that it is missing
    raise FileKindError(
        f"{path} is {kind}; needed to score on: a feature file, a folder of class folders, or a table of images.",
        path=path,
    )


def _of_model(path: Path, target: Any, split: str, options: EvaluationOptions) -> Score:
    """A fine-tuned or exported model, from image files: of a folder, or those that a feature file knows."""
    if not isinstance(target, FeatureFile):
        on = _target(target)
        if not _is_labelled(on):
            with FeatureFile(on) as file:
                return _of_model(path, file, split, options)
        images = _images(describe_classifier(path), on, split, options)
        return _on_images(*load_classifier(path, **_of_backbone(options)), images, options)
    model, backbone = load_classifier(path, **_of_backbone(options))
    _require_task(model, target)
    positions, part = target.rows_to_score(split, seen=model.seen)
    found, read = rows_of_images(
        target, positions, backbone, part=part, workers=options.get("workers"), progress=options.get("progress")
    )
    scored = _scored(model, target, read, Answers.of(model, [found.x], TASKS[model.task].named), part)
    return _report(scored, head=str(path), target=str(target.path), skipped=found.skipped)


def _on_rows(head: Any, target: Any, rows: np.ndarray, trained: np.ndarray | None) -> Score:
    if isinstance(target, FeatureFile):
        return evaluate_rows(
            load_head(head) if isinstance(head, str | Path) else head, target, rows=rows, trained=trained
        )
    with FeatureFile(target if target is not None else only_feature_file()) as file:
        return _on_rows(head, file, rows, trained)


def _on_file(head: SavedHead, file: FeatureFile, split: str) -> Score:
    _require_task(head, file)
    head.require_rows_of(file)
    file.require_complete()
    positions, part = file.rows_to_score(split, seen=head.seen)
    answers = Answers.of(head, file.pieces(positions), TASKS[head.task].named)
    return _report(_scored(head, file, positions, answers, part), head=str(head.path), target=str(file.path))


def _require_task(head: SavedHead, file: FeatureFile) -> None:
    """Refuses labels of another kind than the head gives."""
    task_of(file)
    if file.task != head.task:
        raise TrainingError(
            f"{head.path} gives {LEARNED[head.task]}, and the images of {file.path} have {LEARNED[file.task]}. Needed: "
            "a head trained on such a file.",
            task=head.task,
        )


def _scored(head: SavedHead, file: FeatureFile, positions: np.ndarray, answers: Answers, part: str) -> Score:
    """What a head said of images of a feature file, scored with and without copies of its training images."""
    task, copies = task_of(file), head.copies_in(file, positions)
    labels = task.matched(file.wanted(positions), file.class_names, head.class_names)
    weights = file.weights(positions)
    return task.score(answers, labels, head.class_names, measured_on=part, copies=copies, weights=weights)


def _require_no_columns(target: Path, options: EvaluationOptions) -> None:
    """Refuses what is said of the columns of a table where there is none.

    Raises:
        OptionError: Naming the first.
    """
    names = ("images", "path", "label", "label_separator", "target_column")
    if name := next((name for name in names if options.get(name) is not None), None):
        raise OptionError(f"{Parameter(name)} belongs to a table, and {target} is none. Leave it out.")


class _Images(NamedTuple):
    """Labelled images to score on, which part of them, and how the user calls them."""

    source: Source
    part: str
    name: str


def _images(head: SavedHead, target: Path, split: str, options: EvaluationOptions) -> _Images:
    """Opens what a user names to score on, and refuses labels that the head does not know.

    Raises:
        DataError: It cannot be used, or has a class that the head does not know.
        TrainingError: It has labels of another kind than the head gives.
    """
    said: Record = {name: options.get(name) for name in ("images", "path", "label", "label_separator")}
    said["target"] = options.get("target_column")
    if split not in PARTS:
        said["split"], split = split, "auto"
    table = (source := open_like(target, head.trained_on, SourceOptions.of(said))).table
    if table.task != head.task:
        raise TrainingError(
            f"{head.path} gives {LEARNED[head.task]}, and {source.name} says {table.what()} of its images. Needed: "
            "images labelled with what the head gives.",
            task=head.task,
        )
    if unknown := [name for name in table.class_names if head.task == CLASSES and name not in head.class_names]:
        raise DataError(
            f"{source.name} has the class {unknown[0]!r}, which the head does not know; it knows "
            f"{', '.join(head.class_names)}. Give the images the names of these, or train a head on these images."
        )
    TASKS[head.task].matched(table.wanted(np.arange(len(table))[:1]), table.class_names, head.class_names)
    return _Images(source, split, str(target))


def _on_images(head: SavedHead, backbone: Backbone, images: _Images, options: EvaluationOptions) -> Score:
    task = TASKS[head.task]
    found = rows_of_source(
        images.source,
        backbone,
        part=images.part,
        seen=head.seen,
        seed=int(head.trained_on.get("seed") or 0),
        workers=options.get("workers"),
        progress=options.get("progress"),
    )
    every = np.arange(len(found.table))
    labels = task.matched(found.table.wanted(every), found.table.class_names, head.class_names)
    answers = Answers.of(head, [found.x], task.named)
    weights = found.table.relative_weights(every)
    scored = task.score(answers, labels, head.class_names, measured_on=found.part, weights=weights)
    return _report(scored, head=str(head.path), target=images.name, skipped=found.skipped)
