"""Weights of images, in every head of every task: a weight of 2 is an image that is there twice."""

import numpy as np
import pytest

from onepass.heads.classifiers.base import Head
from onepass.heads.head_options import HEADS_OF
from onepass.heads.training import make_head
from support import FAST_NETS
from task_files import labelled, numbers

NETS = ("mlp", "linear")
WHOLE = {"knn": {"neighbours": 10**6, "decay": 0.5}}
"""Neighbours are counted, not weighed, so all of them vote."""

CASES = [(task, kind) for task, kinds in HEADS_OF.items() for kind in kinds]


def targets(task: str, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, and two ways to label each."""
    if task == "number":
        x, y = numbers(rng, n)
        return x, y, y + 150 * rng.normal(size=n)
    x, y = labelled(rng, n)
    other = (rng.random(y.shape) < 0.5).astype(float)
    if task == "labels":
        return x, y, other
    return x, y.sum(axis=1).astype(int) % 3, other.sum(axis=1).astype(int) % 3


def outputs(head: Head, x: np.ndarray) -> np.ndarray:
    """Scores, where the form of the network allows it: probabilities saturate."""
    return head.network_.scores(x)


@pytest.mark.parametrize(("task", "kind"), [case for case in CASES if case[1] not in NETS])
def test_a_weight_of_two_is_an_image_that_is_there_twice(task: str, kind: str, rng: np.random.Generator):
    """Each picture is there with two labels, so that the rows have one mean and spread however often they come."""
    x, y, other = targets(task, rng, 60)
    options = {"tune": "none", **WHOLE.get(kind, {})}
    weighted = make_head(kind, task=task, **options).fit(
        np.concatenate([x, x]), np.concatenate([y, other]), weights=np.repeat([1.0, 2.0], 60)
    )
    repeated = make_head(kind, task=task, **options).fit(np.concatenate([x, x, x]), np.concatenate([y, other, other]))
    alike = make_head(kind, task=task, **options).fit(np.concatenate([x, x]), np.concatenate([y, other]))
    found, expected = outputs(weighted, x), outputs(repeated, x)
    scale = np.abs(expected - expected.mean(axis=0)).max()
    np.testing.assert_allclose(found, expected, atol=2e-3 * scale)
    assert np.abs(outputs(alike, x) - expected).max() > 2e-2 * scale


@pytest.mark.parametrize(("task", "kind"), [case for case in CASES if case[1] in NETS])
def test_nets_follow_the_heavier_labels(task: str, kind: str, rng: np.random.Generator):
    x, y, other = targets(task, rng, 80)
    told = []
    for weights in ([9.0, 1.0], [1.0, 9.0]):
        head = make_head(kind, task=task, **(FAST_NETS[kind] | {"tune": "none"}))
        fitted = head.fit(np.concatenate([x, x]), np.concatenate([y, other]), weights=np.repeat(weights, 80))
        told.append(fitted.outputs(x))
    if task == "classes":
        y, other = (np.eye(3)[one] for one in (y, other))
    first, second = (one.reshape(len(x), -1) for one in (y, other))
    assert ((told[0] - told[1]) * (first - second)).sum() > 0.02 * np.square(first - second).sum()


@pytest.mark.parametrize("task", list(HEADS_OF))
@pytest.mark.parametrize("kind", ["ridge", "mlp"])
def test_the_size_of_equal_weights_does_not_matter_to_what_is_said_of_the_held_out(
    task: str, kind: str, rng: np.random.Generator
):
    """Feature files scale theirs to 1 on average, and what is in this scale, such as a penalty, is tuned in it."""
    x, y, _ = targets(task, rng, 60)
    found = [
        make_head(kind, task=task, **FAST_NETS.get(kind, {})).fit(x, y, weights=np.full(60, size)).held_out_
        for size in (1.0, 4.0)
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=2e-2, atol=2e-2 * np.abs(found[0]).max())
