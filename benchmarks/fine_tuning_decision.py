"""Which fine-tunings are kept, and whether the reported gain is true: simulated, with the project's own decision.

    python benchmarks/fine_tuning_decision.py [--kept 600] [--most 40000]

No network is trained. A model is a margin per image, right where it is above 0; frozen and tuned margins correlate
so that about 8 of 100 images are right with one of them alone, and those of successive epochs differ little. The true
gain rises to the one named and falls again over ten epochs. The epoch is chosen by validation loss
(`best_epoch`); three rules decide; reported is the gain on n test images with its interval (`paired_accuracy`):

validation  the rule of `fine-tune`: validation images, a fifth of the 4 n training images, by `decide`
test        the rule before: the test images that are reported, validation being a seventh; by the interval
halves      for comparison: one half of the validation images chooses the epoch, the other one decides

Each cell ends with `--kept` kept cases or `--most` tunings. Writes benchmarks/results/fine-tuning-decision.json:
share of tunings kept (power, where the gain is real), share of kept cases whose interval holds the true gain of the
epoch kept, and mean gain as reported and in truth, in points.
"""

import json
from dataclasses import replace
from statistics import NormalDist
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from common import versions, write_result

from onepass.heads.finetune.decision import Decision, Hits, beats_start, best_epoch, decide
from onepass.heads.stats.intervals import Difference
from onepass.heads.stats.paired_tests import paired_accuracy

SHAPE = np.array([0.4, 0.7, 0.9, 1.0, 1.0, 0.95, 0.9, 0.8, 0.7, 0.6])
"""True gain of each epoch as a share of the largest."""
ACCURACY = 0.87
TESTS = (150, 504, 1311)
GAINS = (-0.01, 0.0, 0.01, 0.03)
RULES = ("validation", "test", "halves")


class Tuning(NamedTuple):
    """One simulated fine-tuning: whether it was kept, what was reported, and what is true."""

    kept: bool
    reported: Difference
    truth: float
    decision: Decision | None


def main(
    kept: Annotated[int, typer.Option(help="Kept cases after which a cell ends.")] = 600,
    most: Annotated[int, typer.Option(help="Tunings of a cell at most.")] = 40_000,
) -> None:
    cells = [
        {"test_images": n, "true_gain": 100 * gain, "rule": rule, **cell(n, gain, rule, kept, most)}
        for n in TESTS
        for gain in GAINS
        for rule in RULES
    ]
    detected = [detection(n, min(most, 1000)) for n in TESTS]
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
    holds = [one.reported.interval[0] <= one.truth <= one.reported.interval[1] for one in taken]
    result = {
        "tunings": count,
        "kept": len(taken),
        "kept_share": round(len(taken) / count, 4),
        "interval_holds": round(float(np.mean(holds)), 3) if taken else None,
        "mean_reported": round(100 * float(np.mean([one.reported.difference for one in taken])), 2) if taken else None,
        "mean_true": round(100 * float(np.mean([one.truth for one in taken])), 2) if taken else None,
    }
    print(f"n={n} gain={100 * gain:+.0f} {rule}: {json.dumps(result)}", flush=True)
    return result


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
    val = margins(random, 4 * n // (7 if rule == "test" else 5), limits)
    test = margins(random, n, limits) > 0
    choosing = val[:, ::2] if rule == "halves" else val
    losses, scores = np.logaddexp(0, -2 * choosing).mean(axis=1).tolist(), (choosing > 0).mean(axis=1).tolist()
    epoch = best_epoch(losses, scores)
    improved = beats_start(epoch, losses, scores)
    reported = paired_accuracy(test[epoch], test[0])
    decision = None
    if rule == "test":
        better = improved and reported.difference > 0 and reported.interval[0] > 0
    else:
        hits = hits_of(val > 0, epoch)
        if rule == "halves":
            hits = replace(hits_of(val[:, 1::2] > 0, epoch), tuned=val[[epoch], 1::2] > 0, chosen=0)
        decision = decide(hits, improved=improved) if improved else None  # else nothing is kept, and nothing to ask
        better = decision is not None and decision.better
    return Tuning(better, reported, float(accuracies[epoch] - accuracies[0]), decision)


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
