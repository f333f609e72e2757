"""What a head says of itself, read from JSON and arrays: refused where it makes no sense, not only by its types."""

import itertools
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from onepass.features import CLASSES, LABELS, NUMBER
from onepass.features.header import wrong_provenance
from onepass.features.tables import Record
from onepass.heads.evaluation import ClassScore, Evaluation, LeakFree
from onepass.heads.inference.out_of_distribution import Abstention
from onepass.heads.schema import require_kinds
from onepass.heads.tasks.conformal import Coverage, Residuals
from onepass.heads.tasks.label_evaluation import SCORED, LabelScore, LabelsEvaluation, LabelsLeakFree
from onepass.heads.tasks.number_evaluation import NumberEvaluation, NumberLeakFree
from onepass.heads.tasks.score import Score

_KIND = re.compile("[a-z][a-z0-9_-]*")
_HASH = re.compile("[0-9a-f]{64}")
_ROUNDING = 1e-6
OUTPUT_OF = {CLASSES: ("softmax", "sigmoid"), LABELS: ("sigmoids",), NUMBER: ("linear",)}
"""Task -> outputs that a network may have."""


def kind(found: object) -> str:
    """logreg, svm, mlp, ...

    Raises:
        ValueError: It is no name of a head.
    """
    if not isinstance(found, str) or not _KIND.fullmatch(found):
        raise ValueError(f"the head is a {str(found)[:40]!r}")
    return found


def task(found: object) -> str:
    """What a head was trained for, if that is not classes.

    Raises:
        ValueError: There is no such task.
    """
    if found not in OUTPUT_OF or found == CLASSES:
        raise ValueError(f"the task is {str(found)[:40]!r}")
    return str(found)


def require_output(output: str, task: str) -> None:
    """Refuses a network whose output is that of another task.

    Raises:
        ValueError: It is.
    """
    if output not in OUTPUT_OF[task]:
        raise ValueError(f"an output of {output} for {task}")


def class_names(found: object, task: str = CLASSES) -> tuple[str, ...]:
    """Names of the classes: two or more, all different, none empty; or of labels, or of a number.

    Raises:
        ValueError: They are not.
    """
    if task == NUMBER and isinstance(found, list) and len(found) == 1 and isinstance(found[0], str):
        return tuple(found)
    if (
        not isinstance(found, list)
        or len(found) < (1 if task == LABELS else 2)
        or not all(isinstance(name, str) and name for name in found)
    ):
        raise ValueError(f"the class names are {str(found)[:60]}; needed: two or more texts")
    if len(set(found)) < len(found):
        raise ValueError(f"the class name {next(n for n in found if found.count(n) > 1)!r} is there twice")
    return tuple(found)


def parameters(found: object) -> Record:
    """What a head was trained with: names and plain, finite values.

    Raises:
        TypeError, ValueError: One is not.
    """
    if not isinstance(found, dict):
        raise TypeError(f"the parameters are {str(found)[:40]!r}")
    _require_plain("parameters", found)
    dropout, seed = found.get("dropout"), found.get("seed")
    if not (dropout is None or (_is_number(dropout) and 0 <= dropout < 1)):
        raise ValueError(f"dropout is {str(dropout)[:40]!r}; needed: 0 or more, below 1")
    if not (seed is None or (type(seed) is int and 0 <= seed < 2**63)):
        raise ValueError(f"seed is {str(seed)[:40]!r}; needed: a whole number")
    return found


def score(found: Mapping[str, Any], classes: tuple[str, ...], task: str) -> Score:
    """A score of any task whose numbers go together; arguments and errors as `evaluation`."""
    read = {CLASSES: evaluation, LABELS: labels_evaluation, NUMBER: number_evaluation}[task]
    return read(found, classes)


def labels_evaluation(found: Mapping[str, Any], names: tuple[str, ...]) -> LabelsEvaluation:
    """A score of labels; arguments and errors as `evaluation`."""
    values = dict(found)
    values["intervals"] = {name: _pair(ends) for name, ends in values["intervals"].items()}
    values["per_label"] = {name: LabelScore(**one) for name, one in values["per_label"].items()}
    if rest := values.get("leak_free"):
        values["leak_free"] = LabelsLeakFree(**rest)
    scored = LabelsEvaluation(**values)
    require_kinds(scored)
    if not scored.measured_on or scored.n < 1 or tuple(scored.per_label) != names or scored.log_loss < 0:
        raise ValueError(f"{len(scored.per_label)} labels were scored on {scored.n} images of {scored.measured_on!r}")
    if set(scored.scores) != set(SCORED) or set(scored.intervals) != set(SCORED):
        raise ValueError(f"the scores {str(list(scored.scores))[:60]}; needed: {', '.join(SCORED)}")
    _require_shares(**scored.scores, calibration_error=scored.calibration_error)
    for name, one in scored.per_label.items():
        if not 0 <= one.n <= scored.n:
            raise ValueError(f"{one.n} of {scored.n} images have {name!r}")
        shares = {part: getattr(one, part) for part in ("precision", "recall", "f1", "average_precision")}
        _require_shares(**shares)
        _require_calibration(name, one, scored.n)
    if (rest := scored.leak_free) and (rest.leaked < 0 or rest.n < 0 or rest.leaked + rest.n != scored.n):
        raise ValueError(f"{rest.leaked} copies and {rest.n} others are not the {scored.n} images scored")
    return scored


def _require_calibration(name: str, one: LabelScore, images: int) -> None:
    for told, share, count in one.calibration:
        _require_shares(**{f"probability of {name}": told, f"share of {name}": share})
        if count < 1:
            raise ValueError(f"{count} images of {name!r} in a tenth of the probabilities")
    if one.calibration and sum(count for _, _, count in one.calibration) != images:
        raise ValueError(f"the calibration of {name!r} is not of the {images} images scored")


def thresholds(arrays: Mapping[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray:
    """(k,) float32, from which probability on each label is named.

    Raises:
        ValueError, LookupError: They are not.
    """
    found = arrays["decision.thresholds"]
    if found.dtype != np.float32 or found.shape != (len(names),) or not ((found > 0) & (found < 1)).all():
        raise ValueError(f"thresholds of shape {found.shape}, {found.dtype}")
    return found


def decision(found: Mapping[str, Any], names: tuple[str, ...], task: str) -> dict[str, Any]:
    """What a whole model keeps beside its outputs, by the names of `SavedHead`; see `SavedHead.decision`.

    Raises:
        ValueError, LookupError, TypeError: It makes no sense.
    """
    if task == LABELS:
        return {"thresholds": thresholds({"decision.thresholds": np.array(found["thresholds"], np.float32)}, names)}
    if task != NUMBER or not found:
        return {}
    return {"residuals": Residuals.of_record(found["residuals"]), "coverage": coverage(found["coverage"])}


def number_evaluation(found: Mapping[str, Any], names: tuple[str, ...]) -> NumberEvaluation:
    """A score of numbers; arguments and errors as `evaluation`."""
    values = dict(found)
    for name in ("mae_interval", "rmse_interval", "r2_interval"):
        values[name] = _pair(values[name])
    if rest := values.get("leak_free"):
        values["leak_free"] = NumberLeakFree(**{**rest, "interval": _pair(rest["interval"])})
    scored = NumberEvaluation(**values)
    require_kinds(scored)
    if not scored.measured_on or scored.n < 1 or (scored.name,) != names:
        raise ValueError(f"{scored.name!r} was scored on {scored.n} images of {scored.measured_on!r}")
    errors = (scored.mae, scored.rmse)
    if min(errors) < 0 or scored.mae > scored.rmse * (1 + _ROUNDING) or (scored.r2 or 0) > 1 + _ROUNDING:
        raise ValueError(f"errors of {errors} with an R2 of {scored.r2}")
    for low, high in filter(None, (scored.mae_interval, scored.rmse_interval, scored.r2_interval)):
        if low > high:
            raise ValueError(f"an interval from {low} to {high}")
    if (rest := scored.leak_free) and (rest.leaked < 0 or rest.n < 0 or rest.leaked + rest.n != scored.n):
        raise ValueError(f"{rest.leaked} copies and {rest.n} others are not the {scored.n} images scored")
    return scored


def coverage(found: Mapping[str, Any] | None) -> Coverage | None:
    """What prediction intervals do.

    Raises:
        TypeError, ValueError, LookupError: Its numbers do not go together, or are of another kind.
    """
    if found is None:
        return None
    told = Coverage(**{**found, "interval": tuple(found["interval"])})
    require_kinds(told)
    _require_interval("coverage", told.coverage, told.interval)
    if told.n < 1 or not 0 < told.alpha < 1 or told.half_width < 0:
        raise ValueError(f"alpha is {told.alpha} for {told.n} images, half width {told.half_width}")
    return told


def _pair(found: Any) -> tuple[float, float] | None:
    return None if found is None else tuple(found)


def evaluation(found: Mapping[str, Any], classes: tuple[str, ...]) -> Evaluation:
    """A score whose numbers go together.

    Args:
        found: As `asdict` of an `Evaluation` in JSON.
        classes: k names.

    Raises:
        TypeError, ValueError, LookupError: They do not, or are of another kind.
    """
    values = dict(found)
    values["per_class"] = {name: ClassScore(**score) for name, score in values["per_class"].items()}
    values["interval"] = tuple(values["interval"])
    if rest := values.get("leak_free"):
        values["leak_free"] = LeakFree(**{**rest, "interval": tuple(rest["interval"])})
    scored = Evaluation(**values)
    require_sense(scored, classes)
    return scored


def require_sense(scored: Evaluation, classes: tuple[str, ...]) -> None:
    """Refuses a score whose numbers do not go together.

    Raises:
        TypeError, ValueError: They do not, or are of another kind.
    """
    require_kinds(scored)
    if not scored.measured_on or scored.n < 1:
        raise ValueError(f"it was scored on {scored.n} images of {scored.measured_on!r}")
    _require_interval("accuracy", scored.accuracy, scored.interval)
    _require_shares(calibration_error=scored.calibration_error)
    if scored.log_loss is not None and scored.log_loss < -_ROUNDING:
        raise ValueError(f"log_loss is {scored.log_loss}; needed: 0 or more")
    if scored.per_class or scored.confusion:
        _require_confusion(scored, classes)
    if rest := scored.leak_free:
        _require_interval("accuracy without copies", rest.accuracy if rest.n else rest.interval[0], rest.interval)
        if rest.leaked < 0 or rest.n < 0 or rest.leaked + rest.n != scored.n:
            raise ValueError(f"{rest.leaked} copies and {rest.n} others are not the {scored.n} images scored")


def abstention(found: Mapping[str, Any] | None, classes: tuple[str, ...]) -> Abstention | None:
    """What calling images unknown does, in shares.

    Raises:
        TypeError, ValueError: They are none, or of other classes.
    """
    if found is None:
        return None
    told = Abstention(**found)
    require_kinds(told)
    _require_shares(alpha=told.alpha, coverage=told.coverage, abstained=told.abstained)
    for name, share in told.per_class.items():
        if name not in classes:
            raise ValueError(f"images of {name!r} were called unknown, which is no class")
        _require_shares(**{name: share})
    if told.n < 1 or not 0 < told.alpha < 1:
        raise ValueError(f"alpha is {told.alpha} for {told.n} images")
    return told


def origin(found: object) -> Record:
    """Where training rows came from.

    Raises:
        TypeError, ValueError: What it says is of another kind than `extract` and `train-head` write.
    """
    if not isinstance(found, dict):
        raise TypeError(f"its origin is {str(found)[:40]!r}")
    if wrong := wrong_provenance(found):
        raise ValueError(wrong)
    for name in ("rows", "views"):
        if not (found.get(name) is None or (type(found[name]) is int and found[name] >= 1)):
            raise ValueError(f"{name} is {str(found[name])[:40]!r}; needed: a whole number above 0")
    if not isinstance(found.get("features", ""), str) or not _HASH.fullmatch(str(found.get("features_hash", "0" * 64))):
        raise ValueError(f"the feature file is {str(found.get('features'))[:60]!r} with another hash than SHA-256")
    return found


def golden_rows(found: np.ndarray, width: int) -> np.ndarray:
    """(e, g, width) float32, finite.

    Raises:
        ValueError: They are not.
    """
    if found.dtype != np.float32 or found.ndim != 3 or found.shape[2] != width or not found.size:
        raise ValueError(f"golden rows of shape {found.shape}, {found.dtype}")
    if not np.isfinite(found).all():
        raise ValueError("golden rows that are not finite")
    return found


def seen_contents(found: np.ndarray) -> np.ndarray:
    """(m, 8) uint8.

    Raises:
        ValueError: They are not.
    """
    if found.dtype != np.uint8 or found.ndim != 2 or found.shape[1] != 8:
        raise ValueError(f"hashes of training images of shape {found.shape}, {found.dtype}")
    return found


def _require_confusion(scored: Evaluation, classes: tuple[str, ...]) -> None:
    counts, k = scored.confusion, len(classes)
    if tuple(scored.per_class) != classes or [len(row) for row in counts] != [k] * k:
        raise ValueError(f"scores of {len(scored.per_class)} classes and {len(counts)} lines of confusion for {k}")
    if min(itertools.chain(*counts)) < 0 or sum(map(sum, counts)) != scored.n:
        raise ValueError(f"the confusion matrix is not of the {scored.n} images scored")
    right = sum(counts[i][i] for i in range(k))
    if not scored.weighted and abs(right / scored.n - scored.accuracy) > _ROUNDING:
        raise ValueError(f"accuracy is {scored.accuracy} with {right} of {scored.n} images right")
    for row, (name, one) in zip(counts, scored.per_class.items(), strict=True):
        if one.n != sum(row):
            raise ValueError(f"{one.n} images of {name!r} are {sum(row)} in the confusion matrix")
        _require_shares(**{f"{name} {part}": getattr(one, part) for part in ("precision", "recall", "f1")})


def _require_interval(name: str, share: float, interval: tuple[float, float]) -> None:
    low, high = interval
    if not -_ROUNDING <= low <= share + _ROUNDING <= high + 2 * _ROUNDING <= 1 + 3 * _ROUNDING:
        raise ValueError(f"{name} is {share} within {low} to {high}")


def _require_shares(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not -_ROUNDING <= value <= 1 + _ROUNDING:
            raise ValueError(f"{name} is {value}; needed: 0 to 1")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _require_plain(name: str, value: object) -> None:
    if isinstance(value, dict):
        for key, one in value.items():
            _require_plain(str(key), one)
    elif isinstance(value, list):
        for one in value:
            _require_plain(name, one)
    elif not (value is None or isinstance(value, bool | str) or _is_number(value)):
        raise ValueError(f"{name} is {str(value)[:40]}; needed: a finite number")
