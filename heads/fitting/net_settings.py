"""Settings of dense nets, and the grids that tuning tries."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

from onepass.features.errors import OptionError, Parameter

OPTIMIZERS = {"adam": 1.0, "adamw": 1.0, "sgd": 30.0, "rmsprop": 0.5, "nadam": 1.0, "lion": 0.1}
"""Keras's name of an optimizer -> how large its learning rates are, compared with Adam's."""


@dataclass(frozen=True)
class NetSetting:
    """Training settings of one net.

    Attributes:
        lr: Learning rate.
        dropout: Share of the units dropped after each hidden layer, 0 <= dropout < 1.
        weight_decay: Each step takes the share lr * weight_decay off every kernel, as Keras's AdamW does.
        label_smoothing: Share of each label that is spread over all classes, 0 <= label_smoothing < 1.
    """

    lr: float
    dropout: float = 0.0
    weight_decay: float = 0.0
    label_smoothing: float = 0.0


Grid = tuple[tuple[float, float, float], ...]
"""(learning rate with Adam, dropout, weight decay); the first is what an untuned net gets."""

MLP_GRIDS: dict[str, Grid] = {
    "none": ((2e-3, 0.5, 1.0),),
    "fast": ((2e-3, 0.5, 1.0), (1e-3, 0.8, 1.0), (4e-3, 0.5, 1.0)),
    "thorough": tuple(product((5e-4, 1e-3, 2e-3, 4e-3), (0.2, 0.5, 0.8), (0.1, 3.0))),
}

NUMBER_GRIDS: dict[str, Grid] = {
    "none": ((4e-3, 0.0, 3.0),),
    "fast": ((4e-3, 0.0, 3.0), (4e-3, 0.2, 3.0), (8e-3, 0.0, 1.0)),
    "thorough": tuple(product((1e-3, 2e-3, 4e-3, 8e-3), (0.0, 0.2, 0.5), (0.3, 3.0))),
}
"""Of nets that give a number: what dropout adds in noise is missing from the variance later."""

LINEAR_GRIDS: dict[str, Grid] = {
    "none": ((1e-3, 0.0, 3.0),),
    "fast": tuple(product((3e-4, 1e-3, 3e-3), (0.0,), (1.0, 30.0))),
    "thorough": tuple(product((3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2), (0.0,), (0.1, 1.0, 10.0, 100.0))),
}


def settings_of(
    grid: Grid,
    optimizer: str,
    *,
    lr: float | None = None,
    dropout: float | None = None,
    weight_decay: float | None = None,
    label_smoothing: float = 0.0,
) -> list[NetSetting]:
    """The settings of a grid for an optimizer, each once; a value that is given stands for all of its kind."""
    scale = OPTIMIZERS[optimizer]
    settings = [
        NetSetting(
            lr=rate * scale if lr is None else lr,
            dropout=dropped if dropout is None else dropout,
            weight_decay=decay / scale if weight_decay is None else weight_decay,
            label_smoothing=label_smoothing,
        )
        for rate, dropped, decay in grid
    ]
    return list(dict.fromkeys(settings))


def require_share(**values: float | None) -> None:
    """Refuses shares outside of 0 to 1, and 1 itself.

    Raises:
        OptionError: Naming the first.
    """
    for name, value in values.items():
        if value is not None and not 0 <= value < 1:
            raise OptionError(f"{Parameter(name)} is {value}; needed: 0 or more and below 1.", **{name: value})


def require_name(known: Iterable[str], **values: str) -> None:
    """Refuses names that are not among the known ones.

    Raises:
        OptionError: With all that are.
    """
    for name, value in values.items():
        if value not in known:
            raise OptionError(f"{Parameter(name)} is {value!r}; needed: one of {', '.join(known)}.", **{name: value})
