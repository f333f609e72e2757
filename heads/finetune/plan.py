"""How to fine-tune: which layers train, how fast, for how long."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypedDict

from onepass.features.errors import OptionError, opt
from onepass.heads.fitting.net_settings import require_name, require_share
from onepass.heads.head_options import ClassWeight, require_positive

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("cosine", "constant")
KEEP = ("better", "always", "never")


@dataclass(frozen=True)
class TuningStage:
    """One part of a fine-tuning, after which the network is compiled anew.

    Attributes:
        unfreeze: From where on layers train: a number of layers, a stage, a layer, or all.
        lr: Highest learning rate.
        epochs: At most so many passes over the training images.
    """

    unfreeze: str
    lr: float
    epochs: int

    def __str__(self) -> str:
        return f"{self.unfreeze}:{self.lr:g}x{self.epochs}"

    def __post_init__(self) -> None:
        require_positive(lr=self.lr, epochs=self.epochs)

    @classmethod
    def parse(cls, text: str) -> tuple[Self, ...]:
        """Reads `conv5:1e-5x5, all:1e-6x3`: what to unfreeze, learning rate x epochs.

        Raises:
            OptionError: It is not of that form.
        """
        stages = []
        for part in text.split(","):
            found = re.fullmatch(r"\s*(.+?)\s*:\s*([0-9.eE+-]+)\s*x\s*(\d+)\s*", part)
            if not found:
                raise OptionError(f"{opt.stages} has {part.strip()!r}; needed: such as conv5:1e-5x5, all:1e-6x3.")
            try:
                stages.append(cls(found[1], float(found[2]), int(found[3])))
            except ValueError:
                raise OptionError(f"{opt.stages} has the learning rate {found[2]!r}; needed: such as 1e-5.") from None
        return tuple(stages)


class TuningSettings(TypedDict, total=False):
    """Settings of a `TuningPlan`, which has their meaning and their defaults."""

    optimizer: str
    schedule: str
    warmup: float
    layer_decay: float
    clip: float
    weight_decay: float
    label_smoothing: float
    class_weight: ClassWeight
    train_batchnorm: bool
    batch_size: int
    patience: int
    views: int
    augment: str | None
    seed: int


def stages_to_train(
    stages: str | Sequence[TuningStage] | None,
    *,
    unfreeze: str | int | None = None,
    lr: float | None = None,
    epochs: int | None = None,
    from_scratch: bool = False,
) -> tuple[TuningStage, ...]:
    """The stages of a plan: several that were named, or one; from random weights all layers train, ten times as fast.

    Raises:
        OptionError: Both are given, or the text is not of the form that `TuningStage.parse` reads.
    """
    if stages is not None:
        if not (unfreeze is lr is epochs is None):
            raise OptionError(
                f"{opt.stages} says what to unfreeze, how fast and for how long; leave {opt.unfreeze}, {opt.lr} and "
                f"{opt.epochs} out.",
                stages=stages,
            )
        return TuningStage.parse(stages) if isinstance(stages, str) else tuple(stages)
    usual = ("all", 1e-3) if from_scratch else ("auto", 1e-4)
    return (
        TuningStage(
            unfreeze=usual[0] if unfreeze is None else str(unfreeze),
            lr=usual[1] if lr is None else lr,
            epochs=10 if epochs is None else epochs,
        ),
    )


@dataclass(frozen=True, kw_only=True)
class TuningPlan:
    """How to fine-tune.

    Attributes:
        stages: One after the other, each from the best network so far.
        optimizer: adam, adamw or sgd (Nesterov's momentum of 0.9).
        schedule: cosine, down to 0 at the end of a stage, or constant.
        warmup: Share of a stage's steps in which the learning rate rises to its highest.
        layer_decay: Factor on the learning rate for each stage of the network further from the head; 1 is off.
        clip: Longest gradient, all together; longer ones are shortened. With several GPUs, that of each.
        weight_decay: Of adamw.
        label_smoothing: Share of each label that is spread over all classes. A head that fits its training rows
            leaves next to no gradient, and Adam makes steps of full size of what noise is left.
        class_weight: None, "balanced", or a dict of class name -> weight.
        train_batchnorm: Let BatchNorm learn and see the batch; otherwise it stays as it is in inference.
        batch_size: Images per step.
        patience: Epochs without a better validation loss before a stage ends.
        views: Fixed views per image, of which another one is drawn each epoch; 1 is the plain one.
        augment: Recipe of the views; with one view, of Keras's random layers.
        seed: Of order, views, dropout and what the random layers draw.
    """

    stages: tuple[TuningStage, ...]
    optimizer: str = "adam"
    schedule: str = "cosine"
    warmup: float = 0.1
    layer_decay: float = 1.0
    clip: float = 1.0
    weight_decay: float = 0.01
    label_smoothing: float = 0.1
    class_weight: ClassWeight = None
    train_batchnorm: bool = False
    batch_size: int = 32
    patience: int = 4
    views: int = 1
    augment: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.stages:
            raise OptionError(f"there is no stage; needed: what to unfreeze, by {opt.unfreeze} or {opt.stages}.")
        require_name(OPTIMIZERS, optimizer=self.optimizer)
        require_name(SCHEDULES, schedule=self.schedule)
        require_share(warmup=self.warmup, label_smoothing=self.label_smoothing)
        require_positive(clip=self.clip, batch_size=self.batch_size, patience=self.patience, views=self.views)
        if not 0 < self.layer_decay <= 1:
            raise OptionError(f"{opt.layer_decay} is {self.layer_decay}; needed: above 0, at most 1.")
        if not 0 <= self.weight_decay < float("inf"):
            raise OptionError(f"{opt.weight_decay} is {self.weight_decay}; needed: a finite number, 0 or more.")
        if not 0 <= self.seed < 2**31:
            raise OptionError(f"{opt.seed} is {self.seed}; needed: 0 to {2**31 - 1}.")
        if self.views > 1 and not self.augment:
            raise OptionError(
                f"{opt.views} differ from the plain image by {opt.augment}; give it too, such as classic."
            )
