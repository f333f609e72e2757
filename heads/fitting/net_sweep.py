"""Trains nets on several samples of the same rows at once, epoch by epoch, and picks the best by held-out rows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from onepass.heads.fitting.row_chunks import RowSource
from onepass.heads.inference.history import loss_and_rate

if TYPE_CHECKING:
    from onepass.heads.fitting.batched_nets import BatchedNets

_SCORED_AT_ONCE = 256
_OCTAVES = np.arange(-4, 4)


@dataclass(frozen=True, eq=False)
class Samples:
    """The images that each of c nets of one setting trains on, and those it is validated on.

    Attributes:
        y: (n,) classes; or (n, k) labels of 0 and 1, or (n, 1) numbers.
        importance: (n,) weight of each image in the validation loss.
        weights: (n, c) float32 weight of each image in training, 1 on average for each net.
        held_out: (n, c) bool, the images each net is validated on.
        output: softmax, sigmoids or linear: what is made of scores.
    """

    y: np.ndarray
    importance: np.ndarray
    weights: np.ndarray
    held_out: np.ndarray
    output: str = "softmax"

    @classmethod
    def of(
        cls,
        y: np.ndarray,
        importance: np.ndarray,
        train: np.ndarray,
        held_out: np.ndarray,
        output: str = "softmax",
    ) -> "Samples":
        """From (n, c) bool masks of the images each net trains on, and of those held out."""
        weights = train * importance[:, None]
        return cls(y, importance, (weights / weights.mean(axis=0)).astype(np.float32), held_out, output)


@dataclass(frozen=True, eq=False)
class SweepOptions:
    """How the nets of a sweep are trained.

    Attributes:
        epochs: Most epochs.
        batch_size: Rows per step, roughly: the rows of a chunk are dealt to batches of one size.
        patience: Training ends after this many epochs without a better net; with None after all epochs, whose last
            net counts.
        late: Called after each epoch; True ends the training.
        seed: Seed of the order of the rows and of the views drawn.
        label_smoothing: Of the losses that are told of held-out images.
    """

    epochs: int
    batch_size: int
    patience: int | None
    late: Callable[[], bool]
    seed: int
    label_smoothing: float = 0.0


@dataclass(frozen=True, eq=False)
class Trained:
    """A net in its best state.

    Attributes:
        kernels, biases: Of its layers.
        epochs: After how many epochs.
        scores: (n, k) of the held-out images at that time; NaN where none holds an image out.
        history: (e, 5) float64 of all epochs trained; see `History`.
    """

    kernels: list[np.ndarray]
    biases: list[np.ndarray]
    epochs: int
    scores: np.ndarray
    history: np.ndarray

    def is_finite(self) -> bool:
        return all(np.isfinite(array).all() for array in (*self.kernels, *self.biases))


def best_setting(nets: "BatchedNets", source: RowSource, samples: Samples, options: SweepOptions) -> int:
    """Index of the setting, of s, with the lowest held-out loss; 0 if all of them diverge.

    Args:
        nets: s nets for each of c samples, sample by sample.
        source: Rows, of which the nets take the first columns.
        samples: c of them.
        options: How to train.
    """
    best = np.full(nets.count // samples.weights.shape[1], np.inf)
    for losses, _, _ in _judged(nets, source, samples, options):
        best = np.fmin(best, losses)
    return int(best.argmin())


def best_epoch(nets: "BatchedNets", source: RowSource, samples: Samples, options: SweepOptions) -> Trained:
    """Trains one setting on c samples, and returns the last net as it was at the lowest held-out loss of all.

    Without patience it is the last net as it is at the end.

    Args:
        nets: c.
        source, samples, options: As for `best_setting`.
    """
    best, trained, history = np.inf, None, []
    judged, importance = samples.held_out.any(axis=1), samples.importance
    for epoch, (losses, scores, learned) in enumerate(_judged(nets, source, samples, options)):
        told = loss_and_rate(
            scores[0, judged],
            samples.y[judged],
            importance[judged],
            output=samples.output,
            label_smoothing=options.label_smoothing,
        )
        history.append([*learned, *told, losses[0]])
        if trained is None or losses[0] < best or options.patience is None:
            latest = Trained(*nets.weights_of(nets.count - 1), epoch + 1, scores[0], np.empty(0))
            if trained is None or latest.is_finite() or options.patience is None:
                best, trained = losses[0], latest
    assert trained is not None
    return replace(trained, history=np.array(history, np.float64))


def _judged(
    nets: "BatchedNets", source: RowSource, samples: Samples, options: SweepOptions
) -> Iterator[tuple[np.ndarray, np.ndarray, tuple[float, float]]]:
    """After each epoch the (s,) held-out losses, infinite where a net diverged, and the (s, n, k) scores.

    Beside them loss and rate of the last net on what it learned from in that epoch.
    """
    best, in_vain = np.inf, 0
    for epoch in range(options.epochs):
        learned = _train_epoch(nets, source, samples, options, epoch)
        scores = held_out_scores(nets, source, samples)
        losses = held_out_losses(scores, samples)
        yield losses, scores, learned
        in_vain = 0 if losses.min() < best else in_vain + 1
        best = min(best, losses.min())
        hopeless = options.patience is not None and not np.isfinite(losses).any()
        if in_vain == options.patience or options.late() or hopeless:
            return


def _train_epoch(
    nets: "BatchedNets", source: RowSource, samples: Samples, options: SweepOptions, epoch: int
) -> tuple[float, float]:
    """Loss and rate of the last net, as `BatchedNets.train` sums them up."""
    sums = np.zeros(4)
    random = np.random.default_rng((options.seed, epoch))
    settings = nets.count // samples.weights.shape[1]
    for positions, rows in source.chunks(int(random.integers(2**31))):
        order = batches(len(rows), options.batch_size, random) * source.views
        order += random.integers(source.views, size=order.shape)
        weights = np.repeat(samples.weights[positions], settings, axis=1)
        sums += nets.train(rows[:, :, : nets.width], samples.y[positions], weights, order)
    loss, weight, rate, images = sums.tolist()
    return loss / weight, rate / images


def batches(n: int, size: int, random: np.random.Generator) -> np.ndarray:
    """(steps, b) shuffled images, b at most `size`, all full: the first few come again in the last batch."""
    steps = -(-n // size)
    return np.resize(random.permutation(n), (steps, -(-n // steps)))


def held_out_scores(nets: "BatchedNets", source: RowSource, samples: Samples) -> np.ndarray:
    """(s, n, k) float32 scores of plain views, each by the net that does not train on it; NaN where there is none."""
    n, c = samples.held_out.shape
    settings = nets.count // c
    scores = np.full((settings, n, nets.classes), np.nan, np.float32)
    for positions, rows in source.chunks(None):
        plain = np.ascontiguousarray(rows[:, :1, : nets.width])
        members = [np.flatnonzero(held) for held in samples.held_out[positions].T]
        for start in range(0, max(map(len, members)), _SCORED_AT_ONCE):
            pieces = [some[start : start + _SCORED_AT_ONCE] for some in members]
            found = nets.scores(plain, np.repeat(_padded(pieces), settings, axis=0))
            for j, piece in enumerate(pieces):
                scores[:, positions[piece]] = found[j * settings : (j + 1) * settings, : len(piece)]
    return scores


def _padded(pieces: list[np.ndarray]) -> np.ndarray:
    """Rows of one length; what is added is 0, a row that exists."""
    padded = np.zeros((len(pieces), max(map(len, pieces))), np.int64)
    for line, piece in zip(padded, pieces, strict=True):
        line[: len(piece)] = piece
    return padded


def held_out_losses(scores: np.ndarray, samples: Samples) -> np.ndarray:
    """(s, n, k) scores -> (s,) losses; infinite where scores are not finite.

    Of classes and labels log losses at about the best temperature: a head gets its own after training, so a net that
    is too sure of itself loses nothing by it. Tried are eight temperatures, each twice the last, and where a parabola
    through the best three has its lowest point. Of numbers mean squared errors.
    """
    judged = samples.held_out.any(axis=1)
    scores, y, importance = scores[:, judged], samples.y[judged], samples.importance[judged]
    importance = importance / importance.sum()
    # Scores beyond this have long diverged, and their differences must not overflow.
    sound = (np.abs(scores) < 1e30).all(axis=(1, 2))
    scores = np.where(sound[:, None, None], scores, 0)
    if samples.output == "linear":
        return np.where(sound, np.square(scores - y).mean(axis=2) @ importance, np.inf)
    if samples.output == "softmax":
        margins = scores - np.take_along_axis(scores, y[None, :, None], axis=2)
    else:
        margins = scores * (1 - 2 * y).astype(np.float32)

    def losses(octaves: np.ndarray) -> np.ndarray:
        scaled = margins * np.exp2(octaves, dtype=np.float32)[:, None, None]
        powers = np.exp(np.minimum(scaled, 80))
        each = np.log(powers.sum(axis=2)) if samples.output == "softmax" else np.log1p(powers).mean(axis=2)
        return np.asarray(each @ importance)

    tried = np.array([losses(np.full(len(scores), octave)) for octave in _OCTAVES])
    best = np.minimum(losses(_OCTAVES[0] + _lowest_points(tried)), tried.min(axis=0))
    return np.where(sound, best, np.inf)


def _lowest_points(values: np.ndarray) -> np.ndarray:
    """(g, s) values at 0 to g - 1 -> (s,) where the parabolas through the lowest and its neighbours are lowest."""
    middle = np.clip(values.argmin(axis=0), 1, len(values) - 2)
    left, at, right = (np.take_along_axis(values, (middle + i)[None], axis=0)[0] for i in (-1, 0, 1))
    return np.asarray(middle + np.clip((left - right) / np.maximum(2 * (left - 2 * at + right), 1e-12), -1, 1))
