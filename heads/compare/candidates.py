"""The candidates of a comparison: heads by name, on one feature file or several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onepass.features import CLASSES
from onepass.features.errors import OptionError, opt
from onepass.heads.head_options import HEADS_OF, OF_TEXTS, USUAL_HIDDEN, head_options, require_kind


@dataclass(frozen=True)
class Candidate:
    """A head on the rows of one backbone.

    Attributes:
        name: What it is called in the table: mlp:256, or resnet50/mlp:256 where there are several files.
        head: Kind.
        options: Parameters.
        file: Which of the feature files, from 0.
    """

    name: str
    head: str
    options: Mapping[str, Any]
    file: int


def candidates_of(
    heads: str | Sequence[str], backbones: Sequence[str], options: Mapping[str, object], task: str = CLASSES
) -> list[Candidate]:
    """Every head on every feature file.

    Args:
        heads: "all", or names such as logreg, svm, mlp:512, mlp:256x128 (units of hidden layers); a list
            of them or one string with commas.
        backbones: Names of the feature files' backbones.
        options: Parameters that all heads get, such as tune and class_weight; prompts are for those from texts, which
            "all" names only where there are some.
        task: Of the feature files; "all" are those that learn it.

    Raises:
        OptionError: A head is unknown or named twice, or prompts are missing, or given to none that takes them.
    """
    shared = {name: value for name, value in options.items() if name != "prompts"}
    prompts = {"prompts": options["prompts"]} if options.get("prompts") else {}
    usual = [*HEADS_OF[task], *(OF_TEXTS if prompts else ())]
    named = usual if heads == "all" else heads.split(",") if isinstance(heads, str) else list(heads)
    found = []
    for name, kind, own in map(_parsed, map(str.strip, named)):
        checked = head_options(kind, {**shared, **own, **(prompts if kind in OF_TEXTS else {})})
        found.append((name, kind, {**own, **({"prompts": checked["prompts"]} if kind in OF_TEXTS else {})}))
    if prompts and not any(kind in OF_TEXTS for _, kind, _ in found):
        raise OptionError(f"{opt.prompts} are for {' and '.join(OF_TEXTS)}; {opt.heads} names neither.", heads=heads)
    if doubled := {name for name, _, _ in found if [n for n, _, _ in found].count(name) > 1}:
        raise OptionError(f"{opt.heads} names {min(doubled)} twice; needed: each head once.", heads=heads)
    several = len(backbones) > 1
    return [
        Candidate(f"{backbone}/{name}" if several else name, kind, {**shared, **own}, file)
        for file, backbone in enumerate(backbones)
        for name, kind, own in found
    ]


def _parsed(name: str) -> tuple[str, str, dict[str, object]]:
    """(full name, kind, options) of a head as it was typed."""
    kind, _, layers = name.partition(":")
    if "hidden" not in require_kind(kind):
        if layers:
            raise OptionError(f"{opt.heads} names {name!r}; only mlp takes layers, such as mlp:256x128.", head=name)
        return kind, kind, {}
    try:
        hidden = tuple(int(units) for units in layers.split("x")) if layers else USUAL_HIDDEN
    except ValueError:
        hidden = (0,)
    if min(hidden) < 1:
        raise OptionError(f"{opt.heads} names {name!r}; needed: units of each layer, such as mlp:256x128.", head=name)
    return f"{kind}:{'x'.join(map(str, hidden))}", kind, {"hidden": hidden}
