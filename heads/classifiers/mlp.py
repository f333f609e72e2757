"""The Keras heads: dense nets of any shape, and the softmax layer alone."""

from typing import ClassVar

from onepass.heads.classifiers.net_head import NetHead
from onepass.heads.fitting.net_settings import LINEAR_GRIDS, MLP_GRIDS, Grid
from onepass.heads.head_options import ClassWeight


class MLPHead(NetHead):
    """Dense layers with dropout between them, trained by Keras.

    Of an image with several views each epoch draws one; what is held out is scored by its plain view.

    Args:
        hidden: Units of each hidden layer; () for none.
        dropout: Share of the units dropped after each hidden layer, 0 <= dropout < 1; tuned if None.
        activation: Of the hidden layers: a key of `ACTIVATIONS`.
        optimizer: A key of `OPTIMIZERS`.
        lr: Learning rate; tuned if None.
        weight_decay: Each step takes the share lr * weight_decay off every kernel; tuned if None.
        label_smoothing: Share of each label that is spread over all classes.
        output: softmax, or sigmoid (one unit) for two classes.
        epochs: At most so many passes over the training rows, 40 by default; how many are best, held-out rows say.
            With tune="none", and no patience given, it is so many exactly, and the weights are those of the last.
        batch_size: Rows per step; by default a sixteenth of the images, 32 to 256.
        patience: Epochs without a better held-out loss before training ends; 5 by default.
        class_weight, tune, time_limit, seed, task: As for every `Head`. With tune="none" a seventh of the images, or
            the `validation` rows given to `fit`, say when to stop; how it went is in `history_`.

    >>> import numpy as np
    >>> rows, labels = np.array([[0.0, 1], [0, 2], [5, 1], [5, 2]] * 8), ["cat", "cat", "dog", "dog"] * 8
    >>> MLPHead(hidden=(8,), tune="none").fit(rows, labels).predict([[4.0, 1]]).tolist()
    ['dog']
    """

    kind = "mlp"
    grids: ClassVar[dict[str, Grid]] = MLP_GRIDS
    usual_epochs = 40

    def __init__(
        self,
        *,
        hidden: tuple[int, ...] = (256,),
        dropout: float | None = None,
        activation: str = "relu",
        optimizer: str = "adam",
        lr: float | None = None,
        weight_decay: float | None = None,
        label_smoothing: float = 0.0,
        output: str = "softmax",
        epochs: int | None = None,
        batch_size: int | None = None,
        patience: int | None = None,
        class_weight: ClassWeight = None,
        tune: str = "fast",
        time_limit: float | None = None,
        seed: int = 0,
        task: str = "classes",
    ) -> None:
        self.hidden = hidden
        self.dropout = dropout
        self.activation = activation
        self.optimizer = optimizer
        self.lr = lr
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        self.output = output
        self.epochs = epochs
        self.batch_size = batch_size
        self.patience = patience
        self.class_weight = class_weight
        self.tune = tune
        self.time_limit = time_limit
        self.seed = seed
        self.task = task


class SoftmaxHead(NetHead):
    """One softmax layer, trained by Keras: logistic regression that can learn from any number of rows.

    Args:
        lr, weight_decay, optimizer, label_smoothing, batch_size, patience: As for `MLPHead`.
        epochs: As for `MLPHead`; 60 by default.
        class_weight, tune, time_limit, seed, task: As for every `Head`.

    >>> import numpy as np
    >>> rows, labels = np.array([[0.0, 1], [0, 2], [5, 1], [5, 2]] * 8), ["cat", "cat", "dog", "dog"] * 8
    >>> SoftmaxHead(tune="none").fit(rows, labels).predict([[4.0, 1]]).tolist()
    ['dog']
    """

    kind = "linear"
    grids: ClassVar[dict[str, Grid]] = LINEAR_GRIDS
    usual_epochs = 60

    def __init__(
        self,
        *,
        lr: float | None = None,
        weight_decay: float | None = None,
        optimizer: str = "adam",
        label_smoothing: float = 0.0,
        epochs: int | None = None,
        batch_size: int | None = None,
        patience: int | None = None,
        class_weight: ClassWeight = None,
        tune: str = "fast",
        time_limit: float | None = None,
        seed: int = 0,
        task: str = "classes",
    ) -> None:
        self.lr = lr
        self.weight_decay = weight_decay
        self.optimizer = optimizer
        self.label_smoothing = label_smoothing
        self.epochs = epochs
        self.batch_size = batch_size
        self.patience = patience
        self.class_weight = class_weight
        self.tune = tune
        self.time_limit = time_limit
        self.seed = seed
        self.task = task
