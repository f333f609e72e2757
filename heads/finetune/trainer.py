"""Trains a joined model stage by stage and epoch by epoch; what is killed goes on where it was.

To be imported within `plain_keras()`.
"""

import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
from safetensors import SafetensorError

from onepass.extract import KerasModel, KerasVariable, Optimizer, Tensor
from onepass.features.atomic import replacing
from onepass.features.errors import OnepassWarning, TrainingError, reason_of
from onepass.features.tables import Record
from onepass.heads.finetune import devices
from onepass.heads.finetune.joined import Joined
from onepass.heads.finetune.plan import TuningPlan, TuningStage
from onepass.heads.finetune.result import Epoch
from onepass.heads.fitting.temperature import calibrated_loss
from onepass.heads.stats.decision import best_epoch, is_better
from onepass.heads.tensor_file import read_tensors, tensor_bytes

_CHECKS_BELOW_START = 3


class ReadInputs(Protocol):
    """What a model is fed with: (b,) positions of images and (b,) views -> (b, ...) pixels or activations."""

    def __call__(self, images: np.ndarray, views: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """The images of a fine-tuning.

    Attributes:
        train, val: (n,) and (m,) positions of images.
        y: Classes of all images, by position.
        weights: (k,) weight of each class.
        importance: How much each of all images counts beside that, by position; 1 on average in training.
    """

    train: np.ndarray
    val: np.ndarray
    y: np.ndarray
    weights: np.ndarray
    importance: np.ndarray

    def weights_of(self, some: np.ndarray) -> np.ndarray:
        """(m,) weights of images in a loss: of each image times that of its class."""
        return np.asarray(self.importance[some] * self.weights[self.y[some]])

    def share(self, right: np.ndarray) -> float:
        """Share of the validation images, of which (m,) are right, each as it counts."""
        return float(np.average(right, weights=self.importance[self.val]))


@dataclass(frozen=True, eq=False)
class Feed:
    """A model of one stage and what goes in.

    Attributes:
        train, judge: `keras.Model`s of the same variables, inputs -> (b, k) logits; `train` may draw views.
        inputs: For both.
    """

    train: KerasModel
    judge: KerasModel
    inputs: ReadInputs


@dataclass
class State:
    """How far training is.

    Attributes:
        stage, epoch: Finished epochs of the current stage.
        history: All epochs, the start first.
        best: Validation loss of the best network, the start included.
        chosen: Position in the history of the best epoch; 0 while none had a finite loss.
        in_vain, below: Epochs in a row that brought nothing, and that lay below the start.
        advice: Why it ended early, and what to do; empty if it did not.
    """

    stage: int = 0
    epoch: int = 0
    history: list[Epoch] = field(default_factory=list)
    best: float = float("inf")
    chosen: int = 0
    in_vain: int = 0
    below: int = 0
    advice: str = ""

    @property
    def improved(self) -> bool:
        """Whether an epoch was better than the start."""
        return is_better(self.history[self.chosen], self.history[0])


class Trainer:
    """Trains a joined model and leaves it as it was after its best epoch, be that better than the start or not.

    Attributes:
        state: How far it is.
        hits: Per epoch, (m,) bool: which validation images it classified correctly.

    Args:
        joined: Where it starts.
        plan: What to do.
        images: On what.
        checkpoint: File that keeps all there is after each epoch; removed in the end.
        fingerprint: Of whatever the result depends on; a checkpoint of another one is not used.
        progress: Called with steps done, steps of the stage, and its name.
    """

    def __init__(
        self,
        joined: Joined,
        plan: TuningPlan,
        images: TrainingImages,
        *,
        checkpoint: Path,
        fingerprint: str,
        progress: Callable[[int, int, str], None] | None = None,
    ) -> None:
        self.joined, self.plan, self.images = joined, plan, images
        self.state = State()
        self.hits: list[np.ndarray] = []
        self._checkpoint, self._fingerprint, self._progress = checkpoint, fingerprint, progress
        self._firsts = [joined.backbone.first_unfrozen(stage.unfreeze) for stage in plan.stages]
        self._variables = joined.variables_from(min(self._firsts))
        self._start = self._best = [keras.ops.convert_to_numpy(variable) for variable in self._variables]

    def run(self, feed: Callable[[int], Feed]) -> State:
        """Trains all stages.

        Args:
            feed: Position of the first layer that trains -> the stage's model; called once its layers are set.
        """
        optimizer_state = self._resume()
        for number, stage in enumerate(self.plan.stages):
            if number < self.state.stage:
                continue
            self.joined.unfreeze(self._firsts[number], batchnorm=self.plan.train_batchnorm)
            ready = feed(self._firsts[number])
            with self.joined.backbone.strategy.scope(), self.joined.reduced():
                self._train(number, stage, ready, optimizer_state)
            optimizer_state = []
            self._set(self._best if self.state.improved else self._start)
            if self.state.advice:
                break
            self.state.stage, self.state.epoch, self.state.in_vain = number + 1, 0, 0
        self._set(self._best)
        return self.state

    def reset(self) -> None:
        """Puts everything back to where it started."""
        self._set(self._start)

    def finish(self) -> None:
        """Removes the checkpoint, once its result is safe elsewhere."""
        self._checkpoint.unlink(missing_ok=True)

    def _train(self, number: int, stage: TuningStage, feed: Feed, optimizer_state: list[np.ndarray]) -> None:
        steps = -(-len(self.images.train) // self.plan.batch_size)
        optimizer = self._optimizer(stage, steps)
        loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=self.plan.label_smoothing)
        feed.train.compile(optimizer, loss, weighted_metrics=["accuracy"], jit_compile=jit(feed.train))
        some = self.images.train[:1]
        devices.prepare(feed.train, feed.inputs(some, np.zeros(1, np.int64)), _one_hot(self.images, some))
        optimizer.build(feed.train.trainable_variables)
        if optimizer_state:
            for variable, value in zip(optimizer.variables, optimizer_state, strict=True):
                variable.assign(value.reshape(variable.shape))
        if not self.state.history:
            start, right = self._judged(feed)
            nothing = float("nan")
            self.state.history.append(Epoch(0, "", 0, 0.0, nothing, nothing, start, self.images.share(right), 0.0))
            self.state.best = start
        while self.state.epoch < stage.epochs and not self.state.advice and self.state.in_vain < self.plan.patience:
            self._one_epoch(number, stage, feed, optimizer)
            self._save(optimizer)

    def _one_epoch(self, number: int, stage: TuningStage, feed: Feed, optimizer: Optimizer) -> None:
        began, state = time.perf_counter(), self.state
        random = np.random.default_rng((self.plan.seed, number, state.epoch))
        _reseed(feed.train, random)
        loss = hits = counted = 0.0
        steps = -(-len(self.images.train) // self.plan.batch_size)
        for step, (x, y, weights) in enumerate(_batches(feed.inputs, self.images, self.plan, random), start=1):
            batch_loss, accuracy = devices.learn(feed.train, x, y, weights)
            loss += batch_loss * len(x) / len(self.images.train)
            hits, counted = hits + accuracy * weights.sum(), counted + weights.sum()
            if self._progress:
                self._progress(state.epoch * steps + step, stage.epochs * steps, str(stage))
        val_loss, right = self._judged(feed)
        self.hits.append(right)
        state.epoch += 1
        lr = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
        seconds = round(time.perf_counter() - began, 3)
        state.history.append(
            Epoch(
                number + 1,
                stage.unfreeze,
                state.epoch,
                lr,
                loss,
                float(hits / counted),
                val_loss,
                self.images.share(right),
                seconds,
            )
        )
        self._learn_from(state.history[-1], stage)

    def _learn_from(self, epoch: Epoch, stage: TuningStage) -> None:
        """Keeps the best epoch's network, and stops what leads nowhere."""
        state, start = self.state, self.state.history[0]
        if (best := best_epoch(state.history)) != state.chosen:
            state.chosen = best
            self._best = [keras.ops.convert_to_numpy(variable) for variable in self._variables]
        if epoch.val_loss < state.best and epoch.val_accuracy >= start.val_accuracy:
            state.best, state.in_vain = epoch.val_loss, 0
        else:
            state.in_vain += 1
        worse = epoch.val_accuracy < start.val_accuracy and epoch.val_loss > start.val_loss
        state.below = state.below + 1 if worse else 0
        if not np.isfinite(epoch.loss) or not np.isfinite(epoch.val_loss):
            state.advice = f"the loss became {epoch.loss:g} at a learning rate of {stage.lr:g}; try a tenth of it"
        elif state.below == _CHECKS_BELOW_START:
            state.advice = (
                f"validation stayed below the start for {state.below} epochs at a learning rate of {stage.lr:g}; "
                "try a tenth of it, or unfreeze less"
            )

    def _judged(self, feed: Feed) -> tuple[float, np.ndarray]:
        """Loss at the best temperature, and (m,) bool: which validation images are classified correctly."""
        scores = scores_of(feed.judge, feed.inputs, self.images.val, self.plan.batch_size)
        if not np.isfinite(scores).all():
            return float("inf"), np.zeros(len(scores), bool)
        y, weights = self.images.y[self.images.val], self.images.weights_of(self.images.val)
        return calibrated_loss(scores, y, weights), scores.argmax(axis=1) == y

    def _optimizer(self, stage: TuningStage, steps: int) -> Optimizer:
        plan, total = self.plan, stage.epochs * steps
        warm = round(plan.warmup * total)
        rate: Any = stage.lr
        if plan.schedule == "cosine":
            rate = keras.optimizers.schedules.CosineDecay(
                stage.lr / 100 if warm else stage.lr,
                max(total - warm, 1),
                warmup_target=stage.lr if warm else None,
                warmup_steps=warm,
            )
        kinds: dict[str, tuple[type, Record]] = {
            "adam": (keras.optimizers.Adam, {}),
            "adamw": (keras.optimizers.AdamW, {"weight_decay": plan.weight_decay}),
            "sgd": (keras.optimizers.SGD, {"momentum": 0.9, "nesterov": True}),
        }
        kind, options = kinds[plan.optimizer]
        optimizer = type(kind.__name__, (_RatePerVariable, kind), {})(rate, global_clipnorm=plan.clip, **options)
        optimizer.slow_down(self._factors())
        return optimizer

    def _factors(self) -> Iterator[tuple[KerasVariable, float]]:
        """Variables of the network, and what layer_decay makes of their learning rate."""
        places = [stage.position for stage in self.joined.backbone.stages]
        for i, layer in enumerate(self.joined.backbone.network.layers):
            above = sum(place > i for place in places)
            for variable in layer.variables:
                yield variable, self.plan.layer_decay ** (above + 1)

    def _set(self, values: list[np.ndarray]) -> None:
        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(value.reshape(variable.shape))

    def _save(self, optimizer: Optimizer) -> None:
        named = {
            "now": [keras.ops.convert_to_numpy(variable) for variable in self._variables],
            "best": self._best,
            "hits": self.hits,
            "optimizer": [keras.ops.convert_to_numpy(variable) for variable in optimizer.variables],
        }
        arrays = {f"{kind}.{i}": array for kind, some in named.items() for i, array in enumerate(some)}
        facts = {"fingerprint": self._fingerprint, "state": {**asdict(self.state)}}
        try:
            with replacing(self._checkpoint) as beside:
                beside.write_bytes(tensor_bytes(facts, arrays))
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"cannot keep what was trained in {self._checkpoint}: {reason_of(error)}. Make room, and run the same "
                "command again; it goes on after the last epoch that was kept."
            ) from None

    def _resume(self) -> list[np.ndarray]:
        """Takes over what a killed run left; returns the state of its optimizer.

        Warns:
            OnepassWarning: It is damaged, so training starts anew.
        """
        try:
            found = read_tensors(self._checkpoint)
            facts, arrays = found.facts or {}, found.arrays
            if facts["fingerprint"] != self._fingerprint or not found.guarded:
                return []
            told = facts["state"]
            state = State(**{**told, "history": [Epoch(**epoch) for epoch in told["history"]]})
            now, best, hits, optimizer = (_numbered(arrays, kind) for kind in ("now", "best", "hits", "optimizer"))
            self._set(now)
        except FileNotFoundError:
            return []
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            warnings.warn(
                f"what an earlier run kept in {self._checkpoint} is damaged ({type(error).__name__}: {error}). It is "
                "not used, and training starts anew.",
                OnepassWarning,
                stacklevel=2,
            )
            return []
        self.state, self._best, self.hits = state, best, hits
        return optimizer


def jit(model: KerasModel) -> bool:
    """Whether XLA pays: on one GPU. On a CPU its convolutions are slower than TensorFlow's own."""
    import tensorflow as tf

    return model.distribute_strategy.num_replicas_in_sync == 1 and bool(tf.config.list_physical_devices("GPU"))


def scores_of(model: KerasModel, inputs: ReadInputs, images: np.ndarray, batch_size: int) -> np.ndarray:
    """(m,) positions of images -> (m, k) float64 logits of their plain views."""
    model.jit_compile = jit(model)
    pieces = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
    found = [devices.answer(model, inputs(some, np.zeros(len(some), np.int64))) for some in pieces]
    return np.concatenate(found).astype(np.float64)


def _one_hot(images: TrainingImages, some: np.ndarray) -> np.ndarray:
    return np.asarray(np.eye(len(images.weights), dtype=np.float32)[images.y[some]])


def _numbered(arrays: dict[str, np.ndarray], kind: str) -> list[np.ndarray]:
    own = [name for name in arrays if name.startswith(f"{kind}.")]
    return [arrays[f"{kind}.{i}"] for i in range(len(own))]


def _reseed(model: KerasModel, random: np.random.Generator) -> None:
    """Makes dropout and random layers depend on the epoch alone, not on what was drawn before."""
    for variable in model.non_trainable_variables:
        if "seed_generator" in variable.path:
            variable.assign(random.integers(2**31, size=variable.shape).astype(variable.dtype))


class _RatePerVariable:
    """Goes before an optimizer of Keras."""

    _factors: dict[Any, float]

    def slow_down(self, factors: Iterable[tuple[KerasVariable, float]]) -> None:
        """Takes (variable, factor on the learning rate) pairs."""
        self._factors = {self._var_key(variable): factor for variable, factor in factors}  # type: ignore[attr-defined]

    def update_step(self, gradient: Tensor, variable: KerasVariable, learning_rate: Tensor) -> None:
        factor = self._factors.get(self._var_key(variable), 1.0)  # type: ignore[attr-defined]
        super().update_step(gradient, variable, learning_rate * factor)  # type: ignore[misc]


def _batches(
    inputs: ReadInputs, images: TrainingImages, plan: TuningPlan, random: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """One epoch: inputs, one-hot labels and weights of each training image once, in one of its views.

    The next batch is read while this one is learnt from. Not by Keras's datasets: for these TensorFlow makes the
    allocator hand memory back at once, which slows the steps of a small network.
    """
    order = random.permutation(images.train)
    views = random.integers(plan.views, size=len(order))

    def read(start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        some = order[start : start + plan.batch_size]
        weights = images.weights_of(some).astype(np.float32)
        return inputs(some, views[start : start + plan.batch_size]), _one_hot(images, some), weights

    with ThreadPoolExecutor(1, thread_name_prefix="batch") as pool:
        waiting = pool.submit(read, 0)
        for start in range(plan.batch_size, len(order), plan.batch_size):
            ready, waiting = waiting.result(), pool.submit(read, start)
            yield ready
        yield waiting.result()
