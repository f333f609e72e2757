"""Parameters of the heads, judged by their values alone, before any framework is loaded or any row is read."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from onepass.features import CLASSES, LABELS, NUMBER
from onepass.features.errors import OptionError, Parameter, opt
from onepass.heads.fitting.net_settings import OPTIMIZERS, require_name, require_share
from onepass.heads.inference.network import ACTIVATIONS, OUTPUTS
from onepass.heads.zero_shot.prompts import prompts_of

TUNE = ("none", "fast", "thorough")

ClassWeight = str | Mapping[str, float] | Mapping[int, float] | None
"""None, "balanced", or label -> weight; as in scikit-learn."""

_EVERY = ("class_weight", "tune", "time_limit", "seed")
_NETS = ("lr", "weight_decay", "optimizer", "label_smoothing", "epochs", "batch_size", "patience")
PARAMETERS: dict[str, tuple[str, ...]] = {
    "logreg": ("C", *_EVERY),
    "svm": ("C", *_EVERY),
    "rbf-svm": ("C", "gamma", *_EVERY),
    "ridge": ("alpha", *_EVERY),
    "kernel-ridge": ("alpha", "gamma", *_EVERY),
    "lda": ("shrinkage", *_EVERY),
    "knn": ("neighbours", "decay", *_EVERY),
    "centroid": ("shrink", *_EVERY),
    "mlp": ("hidden", "dropout", "activation", "output", *_NETS, *_EVERY),
    "linear": (*_NETS, *_EVERY),
    "text": ("prompts", *_EVERY),
    "text-logreg": ("prompts", "C", *_EVERY),
}
"""Kind of a head -> its parameters."""

OF_TEXTS = tuple(kind for kind, names in PARAMETERS.items() if "prompts" in names)
"""Kinds that need prompts, and a network with a text tower."""

HEADS_OF = {
    CLASSES: tuple(kind for kind in PARAMETERS if kind not in ("kernel-ridge", *OF_TEXTS)),
    LABELS: ("logreg", "svm", "ridge", "kernel-ridge", "knn", "mlp", "linear"),
    NUMBER: ("ridge", "kernel-ridge", "knn", "mlp", "linear"),
}
"""Task -> kinds of heads that learn it from rows alone."""

USUAL_HEAD = {CLASSES: "logreg", LABELS: "logreg", NUMBER: "ridge"}

_OF_CLASSES = {CLASSES: (), LABELS: ("class_weight", "output"), NUMBER: ("class_weight", "label_smoothing", "output")}
"""Task -> parameters that it has no use for."""

LAYERED = tuple(kind for kind in PARAMETERS if kind not in ("rbf-svm", "kernel-ridge", "knn"))
"""Kinds that Keras layers can compute."""

EPOCHED = tuple(kind for kind, names in PARAMETERS.items() if "epochs" in names)
"""Kinds that train epoch by epoch, and keep a history of it."""

_FEW = 20
"""Classes up to which a message names them all."""

USUAL_HIDDEN = (256,)
"""Units of the hidden layers of an mlp that is not told any."""


def require_positive(**values: float | None) -> None:
    """Refuses parameters that are not above zero.

    Raises:
        OptionError: Naming the first.
    """
    for name, value in values.items():
        if value is not None and not 0 < value < float("inf"):
            raise OptionError(f"{Parameter(name)} is {value}; needed: a finite number above 0.", **{name: value})


def in_bytes(memory: float) -> int:
    """Memory given in GB, in bytes.

    Raises:
        OptionError: It is not positive and finite.
    """
    require_positive(memory=memory)
    return math.ceil(memory * 1e9)


def class_weights(given: ClassWeight) -> ClassWeight:
    """Class weights from text such as "cats=2,dogs=1"; all else as it is.

    Raises:
        OptionError: The text has another form, or a weight is no finite number above 0.

    >>> class_weights("cats=2,dogs=0.5")
    {'cats': 2.0, 'dogs': 0.5}
    """
    if not isinstance(given, str) or given == "balanced":
        return given
    try:
        pairs = [(name.strip(), float(value)) for name, value in (part.rsplit("=", 1) for part in given.split(","))]
    except ValueError:
        raise OptionError(
            f"{opt.class_weight} is {given!r}; needed: balanced, or such as cats=2,dogs=1.", class_weight=given
        ) from None
    weights = dict(pairs)
    if len(weights) < len(pairs) or not all(0 < weight < float("inf") for weight in weights.values()):
        raise OptionError(
            f"{opt.class_weight} is {given!r}; needed: each class once, with a finite number above 0.",
            class_weight=given,
        )
    return weights


def require_known_classes(weights: ClassWeight, class_names: Sequence[str]) -> None:
    """Refuses class weights of classes that a feature file does not have.

    Raises:
        OptionError: With the classes there are.
    """
    if not isinstance(weights, Mapping):
        return
    if unknown := [str(name) for name in weights if name not in class_names and name not in range(len(class_names))]:
        near = get_close_matches(unknown[0], class_names, n=1, cutoff=0.7)
        several = (
            f"{f'did you mean {near[0]}? ' if near else ''}There are {len(class_names)}; `onepass info` lists them."
        )
        known = f"the classes are {', '.join(class_names)}." if len(class_names) <= _FEW else several
        raise OptionError(
            f"class weights name {unknown[0]!r}; {known}",
            class_weight=dict(weights),
            classes=tuple(class_names),
        )


def hidden_units(text: str) -> tuple[int, ...]:
    """Units of hidden layers from text: "256,128", or "0" for no hidden layer.

    Raises:
        OptionError: The text has another form.

    >>> hidden_units("256,128"), hidden_units("0")
    ((256, 128), ())
    """
    try:
        units = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise OptionError(
            f"{opt.hidden} is {text!r}; needed: units of each layer, such as 256,128, or 0.", hidden=text
        ) from None
    return () if units == (0,) else units


def head_options(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a head, those that are None left out, with layers and class weights read from text.

    >>> head_options("mlp", {"hidden": "256,128", "class_weight": "cats=2,dogs=1", "lr": None})
    {'hidden': (256, 128), 'class_weight': {'cats': 2.0, 'dogs': 1.0}}

    Raises:
        OptionError: There is no such head, a parameter is of another head or missing, or its value is wrong.
    """
    known = require_kind(kind)
    options = {name: value for name, value in given.items() if value is not None}
    for name in options:
        if name not in known:
            owners = [other for other, names in PARAMETERS.items() if name in names]
            raise OptionError(
                f"{Parameter(name)} does not go with {opt.head(kind)}"
                + (f"; it belongs to {', '.join(owners)}." if owners else f"; {kind} takes {', '.join(known)}."),
                option=name,
                head=kind,
            )
    if isinstance(hidden := options.get("hidden"), str):
        options["hidden"] = hidden_units(hidden)
    if isinstance(weights := options.get("class_weight"), str):
        options["class_weight"] = class_weights(weights)
    if kind in OF_TEXTS:
        if not options.get("prompts"):
            raise OptionError(
                f"{opt.head(kind)} is made from texts; `train-head` and `compare-heads` take them by "
                f"{opt.prompts('a photo of a {}')}.",
                head=kind,
            )
        options["prompts"] = prompts_of(options["prompts"])
    check_parameters(options)
    return options


def require_kind(kind: str) -> tuple[str, ...]:
    """The parameters of a kind of head.

    Raises:
        OptionError: There is no such kind.
    """
    if kind not in PARAMETERS:
        raise OptionError(f"unknown head {kind!r}; there are {', '.join(PARAMETERS)}.", head=kind)
    return PARAMETERS[kind]


def require_task(kind: str, given: Mapping[str, Any], task: str) -> None:
    """Refuses a head, or parameters, that are not for the task of a feature file.

    Raises:
        OptionError: With the heads that are, or what to do instead.
    """
    if kind not in HEADS_OF[task] and not (task == CLASSES and kind in OF_TEXTS):
        raise OptionError(
            f"{opt.head(kind)} does not learn {LEARNED[task]}, which this feature file holds; needed: one of "
            f"{', '.join(HEADS_OF[task])}.",
            head=kind,
            task=task,
        )
    wrong = [name for name in _OF_CLASSES[task] if given.get(name) is not None]
    if wrong:
        raise OptionError(
            f"{Parameter(wrong[0])} is for classes, and this feature file holds {LEARNED[task]}. "
            f"{_INSTEAD.get((wrong[0], task), 'Leave it out.')}",
            option=wrong[0],
            task=task,
        )


_INSTEAD = {
    ("class_weight", NUMBER): "Leave it out, or give images weights of their own in the table they come from.",
    ("class_weight", LABELS): (
        "Leave it out: each label is calibrated by itself and named from the probability on that has the highest F1, "
        "which does for rare labels what class weights are for. Images that are to count more get weights of their own "
        "in the table they come from."
    ),
}
"""Parameter and task that has no use for it -> what to do."""

LEARNED = {CLASSES: "classes", LABELS: "several labels per image", NUMBER: "numbers"}


def check_parameters(values: Mapping[str, Any]) -> None:
    """Refuses values out of range, whichever head they are for; None is always right.

    Raises:
        OptionError: Naming the first.
    """
    for name, value in values.items():
        if value is not None and name in _CHECKS:
            _CHECKS[name](name, value)


def require_two_classes(output: str | None, classes: int) -> None:
    """Refuses a sigmoid unit for any other number of classes than two.

    Raises:
        OptionError: There are more.
    """
    if output == "sigmoid" and classes != 2:
        raise OptionError(
            f"one sigmoid unit tells two classes apart; there are {classes}. Use {opt.output('softmax')}.",
            classes=classes,
        )


def _within(needed: str, allowed: Callable[[Any], bool]) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if not allowed(value):
            raise OptionError(f"{Parameter(name)} is {value}; needed: {needed}.", **{name: value})

    return check


def _one_of(known: Iterable[str]) -> Callable[[str, Any], None]:
    return lambda name, value: require_name(known, **{name: value})


_POSITIVE = ("C", "gamma", "alpha", "neighbours", "decay", "lr", "epochs", "batch_size", "patience", "time_limit")
_CHECKS: dict[str, Callable[[str, Any], None]] = {
    **dict.fromkeys(_POSITIVE, lambda name, value: require_positive(**{name: value})),
    **dict.fromkeys(("dropout", "label_smoothing"), lambda name, value: require_share(**{name: value})),
    **dict.fromkeys(
        ("shrink", "weight_decay"), _within("a finite number, 0 or more", lambda value: 0 <= value < float("inf"))
    ),
    "shrinkage": _within("above 0, and at most 1", lambda value: 0 < value <= 1),
    "hidden": _within("layers of at least one unit", lambda value: min(value, default=1) >= 1),
    "seed": _within(f"0 to {2**32 - 1}", lambda value: 0 <= value < 2**32),
    "tune": _one_of(TUNE),
    "output": _one_of(OUTPUTS),
    "activation": _one_of(ACTIVATIONS),
    "optimizer": _one_of(OPTIMIZERS),
}
