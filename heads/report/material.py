"""What a report about images is made from: the rows, and what a classifier said of those it is scored on."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onepass.features import CLASSES, NUMBER, SPLITS, FeatureFile
from onepass.features.contents import seen_before
from onepass.features.errors import FeatureFileError, OptionError
from onepass.features.names import shown
from onepass.features.progress import phase
from onepass.heads.audit.inspect import inspect
from onepass.heads.audit.report import Inspection
from onepass.heads.evaluation import Answers, match_labels, score
from onepass.heads.export.certificate import Certificate
from onepass.heads.inference.neighbour_table import nearest_first, unit_length
from onepass.heads.inference.network import standardisation
from onepass.heads.saved_head import SavedHead
from onepass.heads.tasks.score import Score
from onepass.heads.tasks.task import TASKS, task_of


@dataclass(frozen=True, eq=False)
class Judged:
    """What a classifier said of images that it was not trained on.

    Attributes:
        positions: (m,) of the images in the feature file.
        y: (m,) true classes, positions in the classifier's own; (m, k) labels of 0 and 1; or (m,) numbers.
        named: What it named, of the same shape.
        outputs: (m, k) probabilities, or (m, 1) numbers; None where only what it named is known.
        copies: (m,) bool, which are copies of its training images.
        score: Of all of them.
    """

    positions: np.ndarray
    y: np.ndarray
    named: np.ndarray
    outputs: np.ndarray | None
    copies: np.ndarray
    score: Score

    @property
    def wrong(self) -> np.ndarray:
        """(m,) bool: whose class it does not name; of several labels, of which not all are right."""
        return np.asarray((self.named != self.y).reshape(len(self.y), -1).any(axis=1))


@dataclass(frozen=True, eq=False)
class Material:
    """A feature file, and if there is one a classifier with its answers.

    Attributes:
        file: Open.
        head: The classifier; None for a report about the images alone.
        judged: Its answers; None likewise, or where it kept none.
        class_names: Of the classifier, or of the file.
    """

    file: FeatureFile
    head: SavedHead | None = None
    judged: Judged | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.head.class_names if self.head else self.file.class_names

    @cached_property
    def positions(self) -> np.ndarray:
        """(n,) of all images that have a row."""
        return np.flatnonzero(self.file.committed)

    @cached_property
    def rows(self) -> np.ndarray:
        """(n, d) float32, plain views of `positions`."""
        return self.file.read(self.positions)[0]

    @cached_property
    def trained(self) -> np.ndarray:
        """Positions of the training images; without a classifier those of the training split."""
        if self.head and len(self.head.seen):
            return np.flatnonzero(self.head.trained_in(self.file))
        return np.asarray(self.positions[self.file.table.splits[self.positions] == SPLITS.index("train")])

    @cached_property
    def names(self) -> list[str]:
        """All n images of the file, as they are printed."""
        return [shown(path) for path in self.file.table.paths]

    @cached_property
    def labels(self) -> list[str]:
        """What all images of the file are labelled with."""
        return [shown(text) for text in self.file.table.label_texts()]

    @cached_property
    def found(self) -> Inspection:
        """Duplicates, labels worth a look, outliers."""
        return inspect(self.file)

    def nearest(self, positions: np.ndarray, count: int = 3) -> np.ndarray:
        """(m, count) positions of the training images whose rows are most like those of images, none of them itself.

        Compared by cosine, standardised over the training images, as `onepass nearest` does.
        """
        trained = self.trained[np.isin(self.trained, self.positions)]
        count = min(count, len(trained) - 1)
        if count < 1 or not len(positions):
            return np.zeros((len(positions), 0), np.int64)
        there = self.rows[np.searchsorted(self.positions, trained)]
        mean, scale = standardisation(there)
        asked = self.rows[np.searchsorted(self.positions, positions)]
        cosines = unit_length((asked - mean) / scale) @ unit_length((there - mean) / scale).T
        cosines[positions[:, None] == trained] = -2
        return np.asarray(trained[nearest_first(cosines, count)])

    def unknown(self, alpha: float) -> np.ndarray | None:
        """(n,) bool: which of `positions` the head calls unknown; None where it keeps nothing to tell them by."""
        if self.head is None or self.head.is_whole:
            return None
        try:
            tell = self.head.unknown_at(alpha)
        except OptionError:
            return None
        return np.asarray(tell(self.rows, self.head.outputs(self.rows)))


def of_head(file: FeatureFile, head: SavedHead) -> Material:
    """A head with its answers to the images that are held out.

    Raises:
        SpecMismatchError, FeatureFileError, TrainingError: File and head do not go together.
    """
    head.require_rows_of(file)
    file.require_complete()
    positions, part = file.rows_to_score(seen=head.seen)
    with phase("scoring"):
        return Material(file, head, _judged(file, head, positions, part))


def _judged(file: FeatureFile, head: SavedHead, positions: np.ndarray, part: str) -> Judged:
    task = task_of(file)
    outputs = np.concatenate([head.outputs(rows) for rows in file.pieces(positions)])
    if head.thresholds is not None:
        named = (outputs >= head.thresholds).astype(np.int64)
    else:
        named = outputs[:, 0] if head.task == NUMBER else outputs.argmax(axis=1)
    y = task.matched(file.wanted(positions), file.class_names, head.class_names)
    copies = head.copies_in(file, positions)
    answers = Answers.of(head, file.pieces(positions), TASKS[head.task].named)
    scored = task.score(answers, y, head.class_names, measured_on=part, copies=copies, weights=file.weights(positions))
    return Judged(positions, y, named, outputs, copies, scored)


def of_certificate(file: FeatureFile, model: SavedHead, proven: Certificate) -> Material:
    """An exported model with the answers that its certificate proves.

    Raises:
        FeatureFileError: The file holds none of the images of the certificate.
    """
    places = places_of(file, proven.content_hashes)
    there = np.flatnonzero(places >= 0)
    if not len(there):
        raise FeatureFileError(f"{file.path} holds none of the images that {model.path} was proven on.", path=file.path)
    outputs, positions = np.array(proven.expected)[there], places[there]
    wanted = proven.y[there]
    if proven.task == NUMBER:
        named = outputs[:, 0]
    else:
        named = outputs.argmax(axis=1) if proven.task == CLASSES else (outputs >= 0.5).astype(np.int64)
    copies = model.copies_in(file, positions)
    scored: Score = model.evaluation
    if proven.task == CLASSES:
        answers = Answers(named, outputs)
        scored = score(answers, wanted, model.class_names, measured_on=proven.measured_on, copies=copies)
    return Material(file, model, Judged(positions, wanted, named, outputs, copies, scored))


def of_answers(file: FeatureFile, model: SavedHead, contents: np.ndarray, named: np.ndarray) -> Material:
    """A fine-tuned model with the classes that it named.

    Args:
        file: The feature file of its training.
        model: What is known of it.
        contents: (m, 32) uint8, of the images it was scored on.
        named: (m,) positions in its classes.
    """
    places = places_of(file, contents)
    there = (places >= 0) & (named >= 0)
    there[there] = file.table.labelled[places[there]]
    positions, named = places[there], named[there]
    if not len(positions):
        return Material(file, model)
    y = match_labels(file.wanted(positions), file.class_names, model.class_names)
    copies = model.copies_in(file, positions)
    part = model.evaluation.measured_on
    scored = score(Answers(named, None), y, model.class_names, measured_on=part, copies=copies)
    return Material(file, model, Judged(positions, y, named, None, copies, scored))


def places_of(file: FeatureFile, contents: np.ndarray) -> np.ndarray:
    """(m,) position of each (m, 32) content that has a row in a file; -1 where there is none."""
    there = np.flatnonzero(file.committed & seen_before(file.table.content_hashes, contents[:, :8]))
    known: dict[bytes, int] = {}
    for i in there.tolist():
        known.setdefault(file.table.content_hashes[i].tobytes(), i)
    return np.array([known.get(content.tobytes(), -1) for content in contents], np.int64)
