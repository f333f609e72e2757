"""The images that a classifier gets most wrong, each beside what it learnt from; and what is typical of each class."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onepass.features import CLASSES, LABELS, NUMBER
from onepass.features.names import shown
from onepass.heads.report.material import Judged, Material
from onepass.heads.report.page.parts import Card, Cards, Part, Section
from onepass.heads.report.words import chance, count_of, sentence

Heat = Mapping[str, np.ndarray]
"""Name of an image in the feature file -> (h, w, 3) uint8, the image with what its answer came from marked."""

Explained = Callable[[Sequence[str]], tuple[Heat, Sequence[str]]]
"""Names of images -> what is marked in them, and what to say of that."""

WORST = 15
"""Mistakes that are shown."""
_LARGE = 3
_TYPICAL = 3
_MOST_CLASSES = 12
_LEAST = 1e-12


def mistakes(material: Material, explained: Explained | None = None) -> Section | None:
    """The worst mistakes, the surest first; None where a classifier kept no probabilities.

    Args:
        material: With a classifier.
        explained: What marks in images what their answers came from; by default nothing does.
    """
    judged = material.judged
    if judged is None or judged.outputs is None:
        return None
    order = _worst_first(material, judged)[:WORST]
    nearest = material.nearest(judged.positions[order])
    names = [material.file.table.paths[position] for position in judged.positions[order].tolist()]
    heat, words = explained(names) if explained and names else ({}, ())
    cards = [
        _mistake(material, judged, int(i), beside, heat.get(name))
        for i, name, beside in zip(order, names, nearest, strict=True)
    ]
    wrong = int(judged.wrong.sum())
    title, note = _words(material, wrong, len(judged.y), len(cards))
    parts: list[Part] = []
    if cards:
        parts.append(Cards("The worst of them", cards, note, rank=0, large=_LARGE))
    if material.file.task == CLASSES:
        parts += _typical(material, judged)
    return Section("mistakes", title, words, parts)


def _worst_first(material: Material, judged: Judged) -> np.ndarray:
    """Indices into the judged images that are wrong, or farthest off."""
    if material.file.task == NUMBER:
        return np.argsort(-np.abs(judged.named - judged.y), kind="stable")
    wrong = np.flatnonzero(judged.wrong)
    return wrong[np.argsort(-losses(material, judged)[wrong], kind="stable")]


def losses(material: Material, judged: Judged) -> np.ndarray:
    """(m,) negative log probability of what is true of each image; over labels their mean."""
    assert judged.outputs is not None
    if material.file.task == LABELS:
        p = np.where(judged.y == 1, judged.outputs, 1 - judged.outputs)
        return np.asarray(-np.log(np.maximum(p, _LEAST)).mean(axis=1))
    return np.asarray(-np.log(np.maximum(judged.outputs[np.arange(len(judged.y)), judged.y], _LEAST)))


def _words(material: Material, wrong: int, of: int, shown_count: int) -> tuple[str, str]:
    beside = "Below each stand the training images that the network finds most like it."
    if material.file.task == NUMBER:
        return f"The {shown_count} images that are farthest off", beside
    if not wrong:
        return f"All {of:,} images are right; there is no mistake to show", ""
    which = "here they are" if wrong <= shown_count else f"these {shown_count} most confidently"
    are = "image is" if of == 1 else "images are"
    return f"{wrong:,} of {of:,} {are} named wrongly; {which}", beside


def _mistake(material: Material, judged: Judged, i: int, beside: np.ndarray, heat: np.ndarray | None) -> Card:
    position = int(judged.positions[i])
    title, words = _told(material, judged, i)
    copy = " A copy of a training image." if judged.copies[i] else ""
    return Card(
        position,
        material.names[position],
        title,
        words + copy,
        tuple(Card(int(j), material.names[j], material.labels[j]) for j in beside),
        "Most like it in training",
        heat,
    )


def _told(material: Material, judged: Judged, i: int) -> tuple[str, str]:
    """What was said of an image, and what is true."""
    names, task = [shown(name) for name in material.class_names], material.file.task
    assert judged.outputs is not None
    if task == NUMBER:
        off = judged.named[i] - judged.y[i]
        return f"{judged.named[i]:.4g} instead of {judged.y[i]:.4g}", f"Off by {off:+.4g}."
    if task == LABELS:
        missed = [name for name, y, n in zip(names, judged.y[i], judged.named[i], strict=True) if y and not n]
        added = [name for name, y, n in zip(names, judged.y[i], judged.named[i], strict=True) if n and not y]
        words = [f"missed: {', '.join(missed)}"] * bool(missed) + [f"wrongly named: {', '.join(added)}"] * bool(added)
        return "; ".join(words) or "right", f"It has {material.labels[judged.positions[i]] or 'no label'}."
    y, named = int(judged.y[i]), int(judged.named[i])
    sure = chance(float(judged.outputs[i, named]))
    if named == y:
        return names[y], f"Called so with {sure}."
    true = chance(float(judged.outputs[i, y]))
    return f"labelled {names[y]}, named {names[named]}", sentence(
        f"{sure} sure of {names[named]}; {true} for {names[y]}"
    )


def _typical(material: Material, judged: Judged) -> list[Part]:
    """Per class the images it is surest of, and of the right ones those it doubts most."""
    assert judged.outputs is not None
    known, parts = judged.outputs[np.arange(len(judged.y)), judged.y], list[Part]()
    for k, name in list(enumerate(material.class_names))[:_MOST_CLASSES]:
        right = np.flatnonzero((judged.y == k) & ~judged.wrong)
        if not len(right):
            continue
        order = right[np.argsort(-known[right], kind="stable")]
        best = order[:_TYPICAL]
        doubted = order[len(best) :][-_TYPICAL:][::-1]
        cards = [
            Card(
                int(judged.positions[i]),
                material.names[judged.positions[i]],
                kind,
                sentence(f"{chance(float(known[i]))} sure"),
            )
            for kind, some in (("typical", best), ("doubtful, but right", doubted))
            for i in some
        ]
        title = f"{shown(name)}: the most typical, and the most doubtful that are right"
        parts.append(Cards(title, cards, rank=4))
    return parts


def changes(material: Material, before: np.ndarray, after: np.ndarray, positions: np.ndarray) -> list[Part]:
    """What a fine-tuned model gets right that the frozen one did not, and the other way round.

    Args:
        material: With the file of both.
        before, after: (m,) classes that the two name.
        positions: (m,) of the images.
    """
    y, names = material.file.wanted(positions), [shown(name) for name in material.file.class_names]
    better, worse = (after == y) & (before != y), (before == y) & (after != y)
    parts: list[Part] = []
    for which, title in ((better, "got better"), (worse, "got worse")):
        cards = [
            Card(
                int(positions[i]),
                material.names[positions[i]],
                names[y[i]],
                f"Before: {_class(names, before[i])}. After: {_class(names, after[i])}.",
            )
            for i in np.flatnonzero(which)[:18]
        ]
        if cards:
            parts.append(Cards(f"{count_of(int(which.sum()), 'image')} that {title}", cards, rank=1))
    return parts


def _class(names: list[str], place: int) -> str:
    return names[place] if place >= 0 else "no answer"
