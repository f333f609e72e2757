"""Labels that were put on the rows of a feature file stay there when its images are read again."""

from dataclasses import replace

import numpy as np

from onepass.features import ImageTable
from onepass.features.tasks import CLASSES, LABELS, NUMBER


def keep_labels(table: ImageTable, known: ImageTable) -> ImageTable:
    """A table with the labels and weights that images had in another one, told by content and path, else by content.

    Images that the other one does not know keep the class that `table` says, if the task is classes in both; else they
    have no label.

    Args:
        table: As the source of the images says it.
        known: Of the feature file whose labels count.
    """
    contents = [content.tobytes() for content in known.content_hashes]
    by_both = {pair: i for i, pair in enumerate(zip(known.paths, contents, strict=True))}
    by_content = {content: i for i, content in enumerate(contents)}
    by_content.pop(bytes(32), None)
    where = np.array(
        [
            by_both.get((path, row.tobytes()), by_content.get(row.tobytes(), -1))
            for path, row in zip(table.paths, table.content_hashes, strict=True)
        ],
        np.int64,
    )
    new = where < 0
    names = list(known.class_names)
    own = np.full(len(table), -1, np.int32)
    if known.task == table.task == CLASSES:
        names = sorted({*names, *(table.class_names[label] for label in table.labels[new & table.labelled].tolist())})
        number = {name: i for i, name in enumerate(names)}
        own = np.array([number[table.class_names[i]] if i >= 0 else -1 for i in table.labels.tolist()], np.int32)
        moved = np.array([number[name] for name in known.class_names] or [0], np.int32)
        had = np.where(known.labels >= 0, moved[np.maximum(known.labels, 0)], -1)
    else:
        had = known.labels
    targets = np.full((len(table), known.targets.shape[1]), np.nan)
    targets[~new] = known.targets[where[~new]]
    labels = own
    labels[~new] = had[where[~new]]
    weights = table.weights.copy()
    weights[~new] = known.weights[where[~new]]
    return replace(
        table,
        class_names=tuple(names),
        task=known.task,
        labels=labels.astype(np.int32),
        targets=targets,
        weights=weights,
    )


def merged(table: ImageTable, new: ImageTable, positions: np.ndarray, *, keep_others: bool) -> ImageTable:
    """A table with the labels of another one put on some of its images.

    Args:
        table: Of a feature file.
        new: With m entries, whose task, names, labels and targets count.
        positions: (m,) of its images in `table`.
        keep_others: Whether the other images keep their labels, which then are of the same task; else they have none.
    """
    n, task = len(table), new.task
    names = tuple(sorted({*table.class_names, *new.class_names})) if keep_others else new.class_names
    if keep_others and task == NUMBER:  # whatever the column of corrections is called
        names = table.class_names
    number = {name: i for i, name in enumerate(names)}
    labels = np.full(n, -1, np.int32)
    width = len(names) if task == LABELS else new.targets.shape[1]
    targets = np.full((n, width), np.nan)
    for one, where in ((table, np.arange(n)), (new, positions)) if keep_others else ((new, positions),):
        if task == CLASSES:
            moved = np.array([number[name] for name in one.class_names] or [0], np.int32)
            labels[where] = np.where(one.labels >= 0, moved[np.maximum(one.labels, 0)], -1)
        else:
            labels[where] = one.labels
        if task == LABELS:
            found = np.full((len(where), width), np.nan)
            found[one.labelled] = 0
            found[:, [number[name] for name in one.class_names]] = one.targets
            targets[where] = found
        else:
            targets[where] = one.targets
    return replace(table, class_names=names, task=task, labels=labels, targets=targets)
