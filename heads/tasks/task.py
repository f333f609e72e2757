"""The seam between a feature file's task and all that is done with heads: what is learned, refused and scored."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from onepass.features import CLASSES, LABELS, NONE, NUMBER, FeatureFile
from onepass.features.errors import TrainingError
from onepass.features.tables import command_line
from onepass.heads.evaluation import Answers, Classifier, match_labels, score
from onepass.heads.fitting.blas import one_blas_thread
from onepass.heads.head_options import USUAL_HEAD, require_known_classes, require_task, require_two_classes
from onepass.heads.stats.metrics import METRICS_OF
from onepass.heads.tasks.conformal import Residuals
from onepass.heads.tasks.label_evaluation import score_labels
from onepass.heads.tasks.number_evaluation import score_numbers
from onepass.heads.tasks.score import Score

LEAST = 5
"""Numbers to train on, at least."""


class Task(ABC):
    """What the labels of a feature file are.

    Attributes:
        name: One of `features.TASKS`.
        named: Type of what a head names.
    """

    name: ClassVar[str]
    named: ClassVar[type]

    @property
    def usual_head(self) -> str:
        """Kind of head where none is asked for."""
        return USUAL_HEAD[self.name]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics of a comparison, the usual one first."""
        return METRICS_OF[self.name]

    def require_options(self, kind: str, options: Mapping[str, Any], file: FeatureFile) -> None:  # noqa: ARG002
        """Refuses a head or parameters that do not go with the labels of a feature file.

        Raises:
            OptionError: With what does.
        """
        require_task(kind, options, self.name)

    @abstractmethod
    def require_images(self, file: FeatureFile, rows: np.ndarray) -> None:
        """Refuses (n,) training images that no head can learn from.

        Raises:
            TrainingError: With what is missing.
        """

    @abstractmethod
    def answers(self, outputs: np.ndarray, thresholds: np.ndarray | None = None) -> Answers:
        """(n, k) outputs of a head -> what they say; labels by (k,) thresholds, which the other tasks do without."""

    @abstractmethod
    def score(
        self,
        answers: Answers,
        y: np.ndarray,
        names: tuple[str, ...],
        *,
        measured_on: str = "the rows given",
        copies: np.ndarray | None = None,
        weights: np.ndarray | None = None,
    ) -> Score:
        """Scores what a head said of n images.

        Args:
            answers: As `Answers.of` gives them.
            y: As `FeatureFile.wanted` gives it.
            names: The file's class names.
            measured_on: What to call these images.
            copies: (n,) bool, True for copies of training images, if that is known.
            weights: (n,) how much each image counts; all alike by default.

        Raises:
            TrainingError: n is 0.
        """

    def matched(self, y: np.ndarray, names: tuple[str, ...], head_names: tuple[str, ...]) -> np.ndarray:
        """Labels of one data set as a head has them.

        Raises:
            TrainingError: They are of what the head does not know.
        """
        if names != head_names:
            raise TrainingError(
                f"the images have {', '.join(names)}, and the head knows {', '.join(head_names)}. Needed: images "
                "labelled with the same."
            )
        return y

    def kept(
        self,
        held_out: np.ndarray | None,  # noqa: ARG002
        y: np.ndarray,  # noqa: ARG002
        weights: np.ndarray,  # noqa: ARG002
    ) -> dict[str, Any]:
        """What a head file keeps to be used: by the names of `SavedHead`.

        Args:
            held_out: (n, k) what fits that did not see a training image say of it; see `Head.held_out_`.
            y: Its labels.
            weights: (n,) of the images.
        """
        return {}

    def measured(
        self,
        kept: Mapping[str, Any],  # noqa: ARG002
        answers: Answers,  # noqa: ARG002
        y: np.ndarray,  # noqa: ARG002
    ) -> dict[str, Any]:
        """How what is kept does on held-out images: by the names of `SavedHead`."""
        return {}


class ClassesTask(Task):
    """One class per image."""

    name, named = CLASSES, np.int64

    def answers(self, outputs: np.ndarray, thresholds: np.ndarray | None = None) -> Answers:  # noqa: ARG002
        return Answers(outputs.argmax(axis=1), outputs)

    def require_options(self, kind: str, options: Mapping[str, Any], file: FeatureFile) -> None:
        super().require_options(kind, options, file)
        require_known_classes(options.get("class_weight"), file.class_names)
        require_two_classes(options.get("output"), len(file.class_names))

    def require_images(self, file: FeatureFile, rows: np.ndarray) -> None:
        counts = np.bincount(file.table.labels[rows], minlength=len(file.class_names))
        if missing := [name for name, count in zip(file.class_names, counts, strict=True) if count == 0]:
            raise TrainingError(
                f"{file.path} holds no training image of {', '.join(missing)}. Every class needs some in its train "
                "part; add images and extract again.",
                path=file.path,
                classes=tuple(missing),
            )

    def score(
        self,
        answers: Answers,
        y: np.ndarray,
        names: tuple[str, ...],
        *,
        measured_on: str = "the rows given",
        copies: np.ndarray | None = None,
        weights: np.ndarray | None = None,
    ) -> Score:
        return score(answers, y, names, measured_on=measured_on, copies=copies, weights=weights)

    def matched(self, y: np.ndarray, names: tuple[str, ...], head_names: tuple[str, ...]) -> np.ndarray:
        return match_labels(y, names, head_names)


class LabelsTask(Task):
    """Several labels or none per image."""

    name, named = LABELS, np.int64

    def matched(self, y: np.ndarray, names: tuple[str, ...], head_names: tuple[str, ...]) -> np.ndarray:
        if not set(names) <= set(head_names):
            return super().matched(y, names, head_names)
        found = np.zeros((len(y), len(head_names)))  # no image has a label that its data set does not know
        found[:, [head_names.index(name) for name in names]] = y
        return found

    def answers(self, outputs: np.ndarray, thresholds: np.ndarray | None = None) -> Answers:
        return Answers((outputs >= (0.5 if thresholds is None else thresholds)).astype(np.int64), outputs)

    def require_images(self, file: FeatureFile, rows: np.ndarray) -> None:
        counts = file.wanted(rows).sum(axis=0)
        if missing := [name for name, count in zip(file.class_names, counts, strict=True) if count == 0]:
            raise TrainingError(
                f"{file.path} holds no training image with the label {', '.join(missing)}. Every label needs some in "
                "the train part; add images and extract again.",
                path=file.path,
                classes=tuple(missing),
            )

    def score(
        self,
        answers: Answers,
        y: np.ndarray,
        names: tuple[str, ...],
        *,
        measured_on: str = "the rows given",
        copies: np.ndarray | None = None,
        weights: np.ndarray | None = None,
    ) -> Score:
        told = answers.named if answers.probabilities is None else answers.probabilities
        return score_labels(
            answers.named, told.astype(float), y, names, measured_on=measured_on, copies=copies, weights=weights
        )


class NumberTask(Task):
    """A number per image."""

    name, named = NUMBER, np.float64

    def answers(self, outputs: np.ndarray, thresholds: np.ndarray | None = None) -> Answers:  # noqa: ARG002
        return Answers(outputs[:, 0], None)

    def require_images(self, file: FeatureFile, rows: np.ndarray) -> None:
        if len(rows) < LEAST:
            raise TrainingError(
                f"{file.path} holds {len(rows)} training images with a number; needed: {LEAST} or more. Give more "
                "images a number and extract again.",
                path=file.path,
                images=len(rows),
            )

    def score(
        self,
        answers: Answers,
        y: np.ndarray,
        names: tuple[str, ...],
        *,
        measured_on: str = "the rows given",
        copies: np.ndarray | None = None,
        weights: np.ndarray | None = None,
    ) -> Score:
        told = answers.named[:, None]
        return score_numbers(told, y, names[0], measured_on=measured_on, copies=copies, weights=weights)

    def kept(self, held_out: np.ndarray | None, y: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
        return {} if held_out is None else {"residuals": Residuals.of(held_out[:, 0], y, weights)}

    def measured(self, kept: Mapping[str, Any], answers: Answers, y: np.ndarray) -> dict[str, Any]:
        residuals = kept.get("residuals")
        return {"coverage": residuals.measured(answers.named, y)} if residuals else {}


TASKS: dict[str, Task] = {task.name: task for task in (ClassesTask(), LabelsTask(), NumberTask())}
"""By the name in the feature file."""


def task_of(file: FeatureFile) -> Task:
    """The task of a feature file.

    Raises:
        TrainingError: Its images have no labels.
    """
    if file.task == NONE:
        raise TrainingError(
            f"{file.path} has no labels. Give them with `{command_line('onepass', 'label', file.path)}`.",
            path=file.path,
        )
    return TASKS[file.task]


def require_classes(file: FeatureFile, what: str, instead: str) -> None:
    """Refuses a feature file whose images have no class each.

    Args:
        file: The feature file.
        what: Has no meaning for it; begins the sentence.
        instead: What to do instead, as a sentence.

    Raises:
        TrainingError: It has another task.
    """
    task_of(file)
    if file.task != CLASSES:
        raise TrainingError(f"{what} is for one class per image; {file.path} holds {file.table.what()}. {instead}")


@one_blas_thread
def evaluate_rows(
    head: Classifier,
    file: FeatureFile,
    *,
    rows: np.ndarray,
    trained: np.ndarray | None = None,
    measured_on: str = "the rows given",
) -> Score:
    """Scores a head on rows of a feature file.

    Args:
        head: Anything with `predict` that returns positions in `file.class_names`, or numbers.
        file: The feature file.
        rows: (n,) positions of the images to score.
        trained: (m,) positions of the images it was trained on; if given, copies of them are looked for.
        measured_on: What to call the images.

    Raises:
        TrainingError: There are no rows to score.
    """
    task = task_of(file)
    copies = None if trained is None else file.leaked(rows, trained)
    answers = Answers.of(head, file.pieces(rows), task.named)
    weights = file.weights(rows)
    return task.score(
        answers, file.wanted(rows), file.class_names, measured_on=measured_on, copies=copies, weights=weights
    )
