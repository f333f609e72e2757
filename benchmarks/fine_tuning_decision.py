"""Which fine-tunings are kept, and whether the reported gain is true: simulated, with the project's own decision.

    python benchmarks/fine_tuning_decision.py [--kept 400] [--most 10000]

No network is trained. A model is a margin per image, right where it is above 0; frozen and tuned margins correlate
so that about 8 of 100 images are right with one of them alone, and those of successive epochs differ little. The true
gain rises to the one named and falls again over ten epochs. The epoch is chosen by validation loss (`best_epoch`), and
two rules decide; reported is the gain on n test images with its interval (`paired_accuracy`):

validation  the rule of `fine-tune`: validation images, a fifth of the 4 n training images, by `decide`
test        the rule before: the test images that are reported, by that interval; validation is a seventh

Each cell ends with `--kept` kept cases or `--most` tunings. Writes benchmarks/results/fine-tuning-decision.json:
share of tunings kept (power, where the gain is real), share of kept cases whose interval holds the true gain of the
epoch kept, and mean gain as reported and in truth, in points. Then, for each n and for the smallest validation part
that is called enough, how often a gain is kept of which the report says "about four of five".
"""

import json
from statistics import NormalDist
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from common import versions, write_result

from onepass.heads.finetune.splits import ENOUGH
from onepass.heads.stats.decision import Decision, Hits, best_epoch, decide, is_better
from onepass.heads.stats.intervals import Difference
from onepass.heads.stats.paired_tests import paired_accuracy

SHAPE = np.array([0.4, 0.7, 0.9, 1.0, 1.0, 0.95, 0.9, 0.8, 0.7, 0.6])
"""True gain of each epoch as a share of the largest."""
ACCURACY = 0.87
TESTS = (150, 504, 1311)
GAINS = (-0.01, 0.0, 0.01, 0.03)
RULES = ("validation", "test")


class Epoch(NamedTuple):
    """What the choice of an epoch goes by."""

    val_loss: float
    val_accuracy: float


class Tuning(NamedTuple):
    """One simulated fine-tuning: whether it was kept, what was reported, and what is true."""

    kept: bool
    reported: Difference | None
    truth: float
    decision: Decision | None


def main(
    kept: Annotated[int, typer.Option(help="Kept cases after which a cell ends.")] = 400,
    most: Annotated[int, typer.Option(help="Tunings of a cell at most.")] = 10_000,
) -> None:
    cells = [
        {"test_images": n, "true_gain": 100 * gain, "rule": rule, **cell(n, gain, rule, kept, most)}
        for n in TESTS
        for gain in GAINS
        for rule in RULES
    ]
    detected = [detection(n, min(most, 1000)) for n in (ENOUGH * 5 // 4, *TESTS)]
    write_result(
        "fine-tuning-decision",
        {"versions": versions("numpy"), "kept": kept, "most": most, "cells": cells, "detectable": detected},
    )


def cell(n: int, gain: float, rule: str, kept: int, most: int) -> dict[str, Any]:
    """Tunings of one true gain, decided by one rule."""
    random = np.random.default_rng((n, round(1000 * gain) + 100, RULES.index(rule)))
    taken: list[Tuning] = []
    count = 0
    while len(taken) < kept and count < most:
        found, count = tune(random, n, gain, rule), count + 1
        if found.kept:
            taken.append(found)
    gains = [(one.reported, one.truth) for one in taken if one.reported]
    holds = [gain.interval[0] <= truth <= gain.interval[1] for gain, truth in gains]
    result = {
        "tunings": count,
        "kept": len(taken),
        "kept_share": round(len(taken) / count, 4),
        "interval_holds": mean_of(holds, 3),
        "mean_reported": mean_of([100 * gain.difference for gain, _ in gains], 2),
        "mean_true": mean_of([100 * truth for _, truth in gains], 2),
    }
    print(f"n={n} gain={100 * gain:+.0f} {rule}: {json.dumps(result)}", flush=True)
    return result


def mean_of(values: list[Any], digits: int) -> float | None:
    return round(float(np.mean(values)), digits) if values else None


def detection(n: int, tunings: int) -> dict[str, Any]:
    """How often a gain is kept of which `Decision.detectable` says in about four of five cases."""
    random = np.random.default_rng(n)
    decisions = [found.decision for _ in range(200) if (found := tune(random, n, 0.0, "validation")).decision]
    gain = float(np.median([one.detectable for one in decisions]))
    share = np.mean([tune(random, n, gain, "validation", flat=True).kept for _ in range(tunings)])
    result = {"test_images": n, "validation_images": 4 * n // 5, "points": round(100 * gain, 1), "kept": float(share)}
    print(json.dumps(result), flush=True)
    return result


def tune(random: np.random.Generator, n: int, gain: float, rule: str, *, flat: bool = False) -> Tuning:
    """One fine-tuning: validation chooses the epoch, the rule decides, test reports.

    Args:
        random: Of the images.
        n: Test images, a fifth of all.
        gain: Largest true gain.
        rule: One of `RULES`.
        flat: Whether all epochs have that gain.
    """
    accuracies = ACCURACY + gain * np.concatenate([[0], np.ones(len(SHAPE)) if flat else SHAPE])
    limits = np.array([NormalDist().inv_cdf(accuracy) for accuracy in accuracies])
    val, test = margins(random, 4 * n // (7 if rule == "test" else 5), limits), margins(random, n, limits) > 0
    losses, scores = np.logaddexp(0, -2 * val).mean(axis=1), (val > 0).mean(axis=1)
    history = list(map(Epoch, losses.tolist(), scores.tolist()))
    epoch = best_epoch(history)
    truth = float(accuracies[epoch] - accuracies[0])
    if not is_better(history[epoch], history[0]):  # then nothing is kept, whatever the images say
        return Tuning(False, None, truth, None)
    decision = decide(hits_of(val > 0, epoch)) if rule == "validation" else None
    if decision and not decision.better:
        return Tuning(False, None, truth, decision)
    reported = paired_accuracy(test[epoch], test[0])
    return Tuning(decision is not None or reported.interval[0] > 0, reported, truth, decision)


def margins(random: np.random.Generator, n: int, limits: np.ndarray, *, alike: float = 0.9) -> np.ndarray:
    """(1 + epochs, n) margins: the frozen model's first, each correlated by `alike` with that before it.

    Args:
        random: Of the images.
        n: Images.
        limits: (1 + epochs,) means of the margins, whose standard deviation is 1.
        alike: Correlation of frozen and tuned margins, and of what is new in successive epochs.
    """
    frozen, new = random.normal(size=(2, n))
    found = [limits[0] + frozen]
    for limit in limits[1:]:
        found.append(limit + alike * frozen + np.sqrt(1 - alike**2) * new)
        new = alike * new + np.sqrt(1 - alike**2) * random.normal(size=n)
    return np.array(found)


def hits_of(right: np.ndarray, epoch: int) -> Hits:
    """(1 + epochs, m) bool of validation images without copies and groups."""
    m = right.shape[1]
    return Hits("val", right[0], right[1:], epoch - 1, np.zeros(m, bool), np.arange(m))


if __name__ == "__main__":
    typer.run(main)
