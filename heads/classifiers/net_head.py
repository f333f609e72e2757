"""How the Keras heads are fitted: settings are tried on few principal axes, the best one is trained on more."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from onepass.extract import plain_keras, quiet_stderr
from onepass.features import CLASSES, NUMBER
from onepass.features.errors import OptionError, opt
from onepass.features.progress import log
from onepass.heads.classifiers.base import Fit, Head, TrainingRows
from onepass.heads.fitting.folds import assign_folds, fold_masks
from onepass.heads.fitting.net_settings import NUMBER_GRIDS, Grid, NetSetting, settings_of
from onepass.heads.fitting.net_sweep import Samples, SweepOptions, Trained, best_epoch, best_setting
from onepass.heads.fitting.pca import Projection, SharedComponents
from onepass.heads.fitting.row_chunks import ChangedRows, ResidentRows, RowSource, StoredRows
from onepass.heads.head_options import require_two_classes
from onepass.heads.inference.history import RATE_OF, History
from onepass.heads.inference.network import DenseNetwork
from onepass.heads.tasks.objectives import Objective

if TYPE_CHECKING:
    from onepass.heads.fitting.batched_nets import BatchedNets

SEARCH_AXES = 256
_USUAL_PATIENCE = 5
_STOPPING_FOLDS = 7  # of which one is used: about 15 % of the images


@dataclass(frozen=True)
class NetRows(TrainingRows):
    """Training rows, and what only nets can make use of.

    Attributes:
        source: Where the rows come from in chunks; `x` is then of width 0.
        validation: (q, d) rows and (q,) classes that say when to stop.
    """

    source: RowSource | None = None
    validation: tuple[np.ndarray, np.ndarray] | None = None

    def pieces(self) -> Iterable[np.ndarray]:
        return super().pieces() if self.source is None else (rows for _, rows in self.source.chunks(None))


class NetHead(Head):
    """Base of the Keras heads; a subclass sets the attributes below as parameters or once and for all."""

    grids: ClassVar[dict[str, Grid]]
    usual_epochs: ClassVar[int]
    hidden: tuple[int, ...] = ()
    activation: str = "relu"
    output: str = "softmax"
    dropout: float | None = None
    lr: float | None
    weight_decay: float | None
    optimizer: str
    label_smoothing: float
    epochs: int | None
    batch_size: int | None
    patience: int | None

    def fit(
        self,
        x: np.ndarray,
        y: np.ndarray,
        *,
        groups: np.ndarray | None = None,
        weights: np.ndarray | None = None,
        shared: SharedComponents | None = None,
        texts: np.ndarray | None = None,  # noqa: ARG002
        validation: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> Self:
        """Fits the head.

        Args:
            x: (n, d) rows, or (n, v, d): v views of each image, the plain one first; any float.
            y: (n,) labels of any kind, or numbers, one per image.
            groups: (n,) equal values for images that must be held out together (a patient, a video).
            weights, shared: As for every `Head`.
            texts: Not looked at.
            validation: Rows and labels that say when to stop, if nothing is tuned and the number of epochs is not
                fixed; the history tells how they went. Of views the plain one counts.

        Raises:
            TrainingError: Fewer than two classes, rows that are all equal, or training diverged.
            OptionError: A parameter is out of range.
        """
        rows = NetRows(**vars(self._training_rows(x, y, groups, weights, shared)))
        if validation is not None:
            rows = NetRows(**{**vars(rows), "validation": self._known(rows, *validation)})
        return self._fit_on(rows)

    def fit_chunks(self, source: RowSource) -> Self:
        """Fits the head on rows that need not fit into memory.

        The file is read once for the principal axes and twice per epoch: to train, and to score what is held out.
        Besides the rows of a few chunks it takes 8 d² bytes and the scores of all images by all settings, 4 n k each.

        Args:
            source: Such as `FileRows`.

        Raises:
            TrainingError, OptionError: As for `fit`.
        """
        self._check()
        self.n_features_in_ = source.width
        none_here = np.empty((source.n, source.views, 0), np.float32)
        rows = self._labelled_rows(none_here, source.y, source.groups, source.weights)
        return self._fit_on(NetRows(**vars(rows), source=source))

    def memory_needed(self, images: int, views: int, width: int) -> int:
        """Bytes of the rows, of their standardised copy, and of what is in between."""
        return 4 * 4 * images * views * width

    def _fit(self, rows: TrainingRows) -> Fit:
        assert isinstance(rows, NetRows)
        output = self._output(rows.objective)
        projection, source = _projected(rows)
        with plain_keras(), quiet_stderr():
            setting = self._best_setting(rows, source, projection)
            samples, held_out_by = _stopping_samples(rows, self.seed)
            nets = self._nets([setting] * samples.weights.shape[1], rows.objective, projection, source.width)
            trained = best_epoch(nets, source, samples, self._run(rows, rows.deadline, self._patience))
        kernels = (projection.axes @ trained.kernels[0], *trained.kernels[1:])
        network = DenseNetwork(
            projection.mean, projection.scale, kernels, tuple(trained.biases), output, self.activation
        )
        known = {name: value for name, value in vars(setting).items() if name in self.get_params()}
        return Fit(
            network,
            {**known, "epochs": trained.epochs},
            trained.scores if rows.scored.any() else None,
            _history(trained, rows.objective, held_out_by),
        )

    @property
    def _patience(self) -> int | None:
        """Epochs without a better held-out loss before training ends; None if their number is fixed."""
        if self.tune == "none" and self.epochs is not None and self.patience is None:
            return None
        return _USUAL_PATIENCE if self.patience is None else self.patience

    def _best_setting(self, rows: NetRows, source: RowSource, projection: Projection) -> NetSetting:
        """The setting to train with: the only one, or what does best on the folds in half of the time there is."""
        grids = NUMBER_GRIDS if rows.objective.task == NUMBER and self.hidden else self.grids
        grid = grids[self.tune if rows.scored.any() else "none"]
        settings = settings_of(
            grid,
            self.optimizer,
            lr=self.lr,
            dropout=self.dropout if self.hidden else 0.0,
            weight_decay=self.weight_decay,
            label_smoothing=self.label_smoothing,
        )
        if len(settings) == 1:
            return settings[0]
        samples = Samples.of(rows.y, rows.importance, ~rows.held_out, rows.held_out, rows.objective.output)
        width = min(source.width, SEARCH_AXES)
        nets = self._nets(settings * rows.held_out.shape[1], rows.objective, projection, width)
        now = time.monotonic()
        run = self._run(rows, now + (rows.deadline - now) / 2, -(-(self._patience or _USUAL_PATIENCE) // 2))
        return settings[best_setting(nets, source, samples, run)]

    def _run(self, rows: TrainingRows, deadline: float, patience: int | None) -> SweepOptions:
        # Small sets need many steps per epoch, large ones gain from large products of matrices.
        size = self.batch_size or int(np.clip(len(rows.y) / 16, 32, 256))
        epochs, smoothing = self.epochs or self.usual_epochs, self.label_smoothing
        return SweepOptions(epochs, size, patience, lambda: time.monotonic() > deadline, self.seed, smoothing)

    def _output(self, objective: Objective) -> str:
        """What becomes of the scores.

        Raises:
            OptionError: A single sigmoid unit is asked for, and there are not two classes.
        """
        if objective.task != CLASSES:
            return objective.output
        require_two_classes(self.output, objective.outputs)
        return self.output

    def _nets(
        self, settings: Sequence[NetSetting], objective: Objective, projection: Projection, width: int
    ) -> "BatchedNets":
        from onepass.heads.fitting.batched_nets import BatchedNets

        output = self._output(objective)
        units = 1 if output == "sigmoid" else objective.outputs
        kernels = first_kernels((len(projection.mean), *self.hidden, units), self.seed)
        # Along orthonormal axes a normal kernel stays normal, with the deviation it has in all d dimensions.
        kernels[0] = kernels[0][:width]
        return BatchedNets(
            kernels,
            settings,
            output=output,
            activation=self.activation,
            optimizer=self.optimizer,
            seed=self.seed % 2**31,
        )

    def _known(self, rows: TrainingRows, x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Plain rows and encoded labels of the images whose class occurs in training."""
        if self.tune != "none":
            raise OptionError(
                f"validation rows say when to stop, but with {opt.tune(self.tune)} the folds do. "
                f"Set {opt.tune('none')}, or train on all rows.",
                tune=self.tune,
            )
        x, labels = np.asarray(x), np.asarray(labels)
        if self.task != CLASSES:
            return self._with_views(x)[:, 0], rows.objective.encoded(labels)
        known = np.isin(labels, self.classes_)
        return self._with_views(x[known])[:, 0], np.searchsorted(self.classes_, labels[known])


def first_kernels(sizes: Sequence[int], seed: int) -> list[np.ndarray]:
    """Kernels (inputs, units) between layers of these sizes, float32, as X. Glorot and Y. Bengio (2010) draw them.

    Zeros for a single layer: there the loss has one minimum, and noise would only be in the way.
    """
    random = np.random.default_rng(seed)
    noise = float(len(sizes) > 2)
    return [
        (noise * random.normal(size=(inputs, units)) * np.sqrt(2 / (inputs + units))).astype(np.float32)
        for inputs, units in pairwise(sizes)
    ]


def _projected(rows: NetRows) -> tuple[Projection, RowSource]:
    """The projection, and the training rows in it, followed by the validation rows if there are any."""
    if rows.source is not None:
        projection = Projection.of_source(rows.source)
        return projection, _stored(ChangedRows(rows.source, projection, projection.axes.shape[1]))
    projection, x = Projection.of_rows(rows.x, rows.components)
    if rows.validation is not None:
        plain = projection(rows.validation[0])[:, None]
        x = np.concatenate([x, np.broadcast_to(plain, (len(plain), *x.shape[1:]))])
    return projection, ResidentRows(x, rows.y)


def _stopping_samples(rows: NetRows, seed: int) -> tuple[Samples, str]:
    """Who says when to stop: the folds, the validation rows, a seventh of the images, or else the training loss.

    The last net, which becomes the head, trains on all there is. Beside the samples stands a key of `HELD_OUT`.
    """
    n, output = len(rows.y), rows.objective.output
    if rows.validation is not None:
        y = np.concatenate([rows.y, rows.validation[1]])
        held_out = (np.arange(len(y)) >= n)[:, None]
        of_validation = rows.objective.by_image(rows.class_weights, rows.validation[1])
        importance = np.concatenate([rows.importance, of_validation])
        return Samples.of(y, importance, ~held_out, held_out, output), "validation"
    held_out, held_out_by = rows.held_out, "folds"
    if not rows.scored.any():
        held_out_by = "part"
        strata = rows.objective.strata(rows.y)
        held_out = fold_masks(assign_folds(strata, groups=rows.groups, folds=_STOPPING_FOLDS, seed=seed))[:, :1]
    everything = np.ones((n, 1), bool)
    if not held_out.any():
        return Samples.of(rows.y, rows.importance, everything, everything, output), "none"
    held_out = np.concatenate([held_out, ~everything], axis=1)
    return Samples.of(rows.y, rows.importance, ~held_out, held_out, output), held_out_by


def _history(trained: Trained, objective: Objective, held_out_by: str) -> History:
    """The epochs in the unit of the labels, and without what was measured on rows that trained as well."""
    unit = getattr(objective, "unit", 1.0)
    values = trained.history * np.array([unit**2, unit, unit**2, unit, unit**2])
    if held_out_by == "none":
        values[:, 2:] = np.nan
    return History(values, trained.epochs, RATE_OF[objective.task], held_out_by)


def _stored(changed: ChangedRows) -> RowSource:
    """Changed rows, kept on disk where there is room; else changed anew each time, which is slower and the same."""
    try:
        return StoredRows(changed)
    except OSError as error:
        log.info("rows are projected anew each time they are read: %s", error.strerror)
        return changed
