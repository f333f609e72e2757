"""Compares new images with those of a training: test, images, accuracy, and one adaptation."""

from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np

from onepass.extract import check_running
from onepass.features import CLASSES, FeatureFile, only_feature_file
from onepass.features.contents import seen_before
from onepass.features.copies import copy_groups, threshold_for
from onepass.features.errors import FileKindError, HeadFileError, OptionError, TrainingError, opt
from onepass.features.groups import group_ids
from onepass.features.places import require_place
from onepass.features.progress import phase
from onepass.heads.evaluation import Answers, match_labels
from onepass.heads.file_kinds import FileKind, classifier_file, file_kind
from onepass.heads.fitting.blas import one_blas_thread
from onepass.heads.head_options import LEARNED
from onepass.heads.saved_head import SavedHead, load_head, require_no_other_file, save_head
from onepass.heads.shift.accuracy import Share, detectable_difference, estimated_accuracy, unpaired_difference
from onepass.heads.shift.new_images import NewImages, NewOptions, Progress, classes_known, new_images
from onepass.heads.shift.recentring import Recentred, Recentring, Spread, try_recentring, unlabelled_recentring
from onepass.heads.shift.report import AccuracyShift, DifferentImage, Shift
from onepass.heads.shift.sheet import write_most_different
from onepass.heads.shift.two_sample import PERMUTATIONS, two_sample_test
from onepass.heads.tasks.task import TASKS, task_of

MOST_IMAGES = 4000
"""Training and new images, each, that the test looks at."""

FEWEST = 10
"""Training and new images, each, that it needs."""


class ShiftOptions(TypedDict, total=False):
    """How new images are found and turned into rows; see `NewOptions`, which has their meaning and defaults."""

    images: str | None
    path: str | None
    label: str | None
    label_separator: str | None
    weights: str | None
    engine: str
    accept_drift: bool
    workers: int | None
    progress: Progress | None


def shift(
    features: str | Path | FeatureFile | None,
    data: str | Path | FeatureFile,
    *,
    head: str | Path | SavedHead | None = None,
    out: str | Path | None = None,
    sheet: str | Path | None = None,
    seed: int = 0,
    **options: Unpack[ShiftOptions],
) -> Shift:
    """Says how far new images lie from those of a training, which lie farthest, and what that does to a head.

    Args:
        features: Feature file of the training; None for the one in the current folder. New images are compared with
            those that `head` was trained on, or else with its train part.
        data: New images: a folder, a table, an archive, a bucket; or a feature file of the same spec. Labels are used
            where they are classes that the head knows.
        head: Head file trained on it, for classes.
        out: Where to put the head recentred on the new images. It is written only where labelled new images show that
            it is better; these are not the ones that its score is from.
        sheet: PNG or WebP file with the new images that look newest, as the network sees them.
        seed: Of folds, permutations and halves.
        **options: See `ShiftOptions`.

    Raises:
        OptionError: `out` without `head`, or another option is wrong.
        TrainingError: There are too few images, or the head is not for classes.
        UserError: Features, data or head cannot be used; the message says what to do.

    >>> found = shift("photos.h5", "photos.h5")
    >>> found.n, found.training, found.copies, found.found
    (120, 96, 96, False)
    """
    settings = NewOptions(**options)
    check_running(engine=settings.engine, workers=settings.workers, weights=settings.weights)
    if out is not None and head is None:
        raise OptionError(f"{opt.out} is for a recentred head; needed with it: {opt.head}, the head to begin with.")
    saved = _head(head)
    if out is not None:
        require_place(out)
        require_no_other_file(Path(out))
    if sheet is not None:
        require_place(sheet, endings=(".png", ".webp"), fresh=True, option="sheet")
    if isinstance(features, FeatureFile):
        return _shift(features, data, saved, out, sheet, seed, settings)
    if features is not None and (kind := file_kind(Path(features))) in (FileKind.HEAD, FileKind.TUNED):
        raise FileKindError(
            f"{features} is {kind}; needed: the feature file of the training, and the head by {opt.head}.",
            path=Path(features),
        )
    with FeatureFile(features if features is not None else only_feature_file()) as file:
        return _shift(file, data, saved, out, sheet, seed, settings)


def _head(head: str | Path | SavedHead | None) -> SavedHead | None:
    if isinstance(head, str | Path):
        path, kind = classifier_file(head)
        if kind is not FileKind.HEAD:
            raise HeadFileError(
                f"{path} is {kind}, which takes no rows; needed: a head file, such as the one it was made from.",
                path=path,
            )
        head = load_head(path)
    if head and head.task != CLASSES:
        raise TrainingError(
            f"{head.path} gives {LEARNED[head.task]}; needed: a head of classes. Leave {opt.head} out to test the "
            "images alone.",
            task=head.task,
        )
    return head


@one_blas_thread
def _shift(
    file: FeatureFile,
    data: str | Path | FeatureFile,
    head: SavedHead | None,
    out: str | Path | None,
    sheet: str | Path | None,
    seed: int,
    options: NewOptions,
) -> Shift:
    old = _training_images(file, head)
    with phase("reading the new images"):
        new = new_images(data, file, head, options)
    if len(new.x) < FEWEST:
        raise TrainingError(f"{new.name} holds {len(new.x)} images; needed: {FEWEST} or more.", images=len(new.x))
    with phase("looking for copies"):
        both = _Both.of(file, old, new)
    with phase("testing"):
        places = _sample(both, seed)
        x = np.concatenate([file.read(old[places[places < len(old)]])[0], new.x[places[places >= len(old)] - len(old)]])
        tested = two_sample_test(x, places >= len(old), both.groups[places], seed=seed)
    names = [new.table.paths[i - len(old)] for i in places if i >= len(old)]
    scores = tested.scores[places >= len(old)]
    order = [i for i in np.argsort(-scores, kind="stable") if np.isfinite(scores[i])]
    found = Shift(
        features=str(file.path),
        data=new.name,
        n=len(new.x),
        training=len(old),
        copies=int(both.copied.sum()),
        auc=tested.auc,
        p=tested.p,
        permutations=PERMUTATIONS,
        found=tested.found,
        detectable=tested.detectable,
        images=[DifferentImage(names[i], float(scores[i])) for i in order],
        skipped=new.skipped,
    )
    if sheet is not None:
        found = replace(found, sheet=str(write_most_different(found.images, new, file, sheet).path))
    return _with_head(found, file, old, new, both, head, out, seed) if head else found


def _training_images(file: FeatureFile, head: SavedHead | None) -> np.ndarray:
    """Positions of the images that new ones are compared with."""
    if head:
        head.require_rows_of(file)
        file.require_complete()
        old = np.flatnonzero(head.trained_in(file))
    else:
        file.require_complete()
        old = file.rows_of("train")
        old = old if len(old) else np.flatnonzero(file.committed)
    if len(old) < FEWEST:
        whose = f"of the images that {head.path} was trained on" if head else "training images"
        raise TrainingError(
            f"{file.path} holds {len(old)} {whose}; needed: {FEWEST} or more. Give the feature file of the training.",
            path=file.path,
        )
    return old


@dataclass(frozen=True, eq=False)
class _Both:
    """Training images and then new ones, n and m.

    Attributes:
        groups: (n + m,) int64, equal for images that must stay together: of one group, or copies of one picture.
        copied: (m,) bool, which new images are copies of training images.
    """

    groups: np.ndarray
    copied: np.ndarray

    @classmethod
    def of(cls, file: FeatureFile, old: np.ndarray, new: NewImages) -> "_Both":
        table = file.table
        thumbnails = np.concatenate([file.thumbnails[old], new.thumbnails])
        copies = copy_groups(lambda: chain(file.pieces(old), [new.x]), thumbnails, threshold=threshold_for(file.spec))
        hashes = np.concatenate([table.content_hashes[old], new.table.content_hashes])
        pictures = group_ids((), hashes, copies)
        names = [*(table.groups[i] for i in old.tolist()), *new.table.groups]
        return cls(group_ids(names, hashes, copies), np.isin(pictures[len(old) :], pictures[: len(old)]))


def _sample(both: _Both, seed: int) -> np.ndarray:
    """Places of the images to test, at most so many of either kind."""
    new = len(both.copied)
    old = len(both.groups) - new
    generator = np.random.default_rng(seed)
    drawn = [generator.permutation(count)[:MOST_IMAGES] for count in (old, new)]
    return np.concatenate([np.sort(drawn[0]), old + np.sort(drawn[1])])


def _with_head(
    found: Shift,
    file: FeatureFile,
    old: np.ndarray,
    new: NewImages,
    both: _Both,
    head: SavedHead,
    out: str | Path | None,
    seed: int,
) -> Shift:
    task_of(file)
    known, part = file.rows_to_score("auto", seen=head.seen)
    known = known[~head.copies_in(file, known)]
    if not len(known):
        raise TrainingError(
            f"{file.path} holds no labelled image that {head.path} was not trained on, so its accuracy there is not "
            f"known. Leave {opt.head} out to test the images alone.",
            path=file.path,
        )
    told_known = np.concatenate([head.network.outputs(rows) for rows in file.pieces(known)])
    right = told_known.argmax(axis=1) == match_labels(file.wanted(known), file.class_names, head.class_names)
    told = head.network.outputs(new.x)
    judged, y = np.zeros(0, np.int64), np.zeros(0, np.int64)
    if classes_known(new.table, head):
        judged = np.flatnonzero(new.table.labelled & ~both.copied)
        y = match_labels(new.table.wanted(judged), new.table.class_names, head.class_names)
    new_right = told[judged].argmax(axis=1) == y
    some = bool(len(judged))
    accuracy = AccuracyShift(
        held_out=Share.of(right),
        measured_on=part,
        new=Share.of(new_right) if some else None,
        copies=int((both.copied & new.table.labelled).sum()),
        shared=int(seen_before(file.table.content_hashes[known], new.table.content_hashes[judged]).sum()),
        difference=unpaired_difference(new_right, right) if some else None,
        detectable=detectable_difference(float(right.mean()), len(right), len(judged)) if some else None,
        estimated=estimated_accuracy(told_known, right, told, seed=seed),
    )
    tried: Recentred | Recentring = unlabelled_recentring()
    if some:
        spread = Spread.of(file.pieces(old))
        groups, hashes = both.groups[len(old) :][judged], new.table.content_hashes[judged]
        tried = try_recentring(head.network, spread, new.x[judged], y, groups=groups, hashes=hashes, seed=seed)
    outcome = tried.found if isinstance(tried, Recentred) else tried
    written = ""
    if isinstance(tried, Recentred) and outcome.kept and out is not None:
        save_head(_recentred_head(head, tried, new, judged, y, Path(out)))
        written = str(out)
    return replace(found, head=str(head.path), accuracy=accuracy, recentring=outcome, out=written)


def _recentred_head(
    head: SavedHead, tried: Recentred, new: NewImages, judged: np.ndarray, y: np.ndarray, path: Path
) -> SavedHead:
    """An ordinary head, scored on the new images that decided nothing; what tells unknown images held for old rows."""
    x = new.x[judged[tried.reported]]
    outputs = tried.network.outputs(x)
    scored = TASKS[head.task].score(
        Answers(outputs.argmax(axis=1), outputs), y[tried.reported], head.class_names, measured_on="new images"
    )
    decided = new.table.content_hashes[judged[tried.decided], :8]
    return replace(
        head,
        network=tried.network,
        parameters={**head.parameters, "recentred_on": new.name},
        evaluation=scored,
        seen=np.ascontiguousarray(np.concatenate([head.seen, decided])),
        path=path,
        out_of_distribution=None,
        abstention=None,
    )
