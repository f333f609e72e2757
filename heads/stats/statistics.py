"""The statistics of honest comparison in one place, and the right test for each metric.

Two heads on the same images: `paired_accuracy`, `paired_balanced`, or `paired_bootstrap` for any other metric and
wherever images come in groups; `paired_differences` chooses. Scores of cross-validation:
`corrected_resampled_t`. More than two heads: `compare_all` over any of these.
"""

from collections.abc import Callable, Sequence

import numpy as np

from onepass.heads.stats.bootstrap import (
    RESAMPLES,
    Resampled,
    bootstrap_interval,
    paired_bootstrap,
    paired_difference,
    resample,
)
from onepass.heads.stats.cross_validation_tests import corrected_interval, corrected_resampled_t
from onepass.heads.stats.multiple_comparison import Comparison, compare_all, holm
from onepass.heads.stats.paired_tests import ALPHA, Difference, mcnemar, paired_accuracy, paired_balanced

__all__ = [
    "ALPHA",
    "Comparison",
    "Difference",
    "Resampled",
    "bootstrap_interval",
    "compare_all",
    "corrected_interval",
    "corrected_resampled_t",
    "holm",
    "mcnemar",
    "paired_accuracy",
    "paired_balanced",
    "paired_bootstrap",
    "paired_difference",
    "paired_differences",
    "resample",
]


def paired_differences(
    name: str,
    probabilities: Sequence[np.ndarray],
    y: np.ndarray,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> Callable[[int, int], Difference]:
    """Prepares heads for `compare_all`: (i, j) -> head i minus head j by the test that suits the metric.

    Accuracy and balanced accuracy of independent images are tested by counting; all else, and all images
    in groups, by a bootstrap, for which each head is scored once.

    Args:
        name: One of `METRICS`; pass `higher_is_better=HIGHER_IS_BETTER[name]` to `compare_all`.
        probabilities: m arrays (n, k).
        y: (n,) true classes.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
        groups: (n,) what belongs together, if not every image is on its own.

    Raises:
        OptionError: The metric is unknown or `resamples` too small.
        TrainingError: There are too few images, groups or classes.
    """
    if groups is None and name in {"accuracy", "balanced"}:
        right = [p.argmax(axis=1) == y for p in probabilities]
        if name == "accuracy":
            return lambda i, j: paired_accuracy(right[i], right[j])
        return lambda i, j: paired_balanced(right[i], right[j], y)
    heads = [resample(name, p, y, resamples=resamples, seed=seed, groups=groups) for p in probabilities]
    return lambda i, j: paired_difference(heads[i], heads[j])
