"""Fine-tuning from a cached head to a model file that is kept only if it is better."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from onepass.extract.frameworks import plain_keras
from onepass.features import FeatureFile
from onepass.features.errors import OptionError, TrainingError, opt
from onepass.heads.finetune.boundary import MakeBoundary
from onepass.heads.finetune.joined import Trainable
from onepass.heads.finetune.model_file import require_place
from onepass.heads.finetune.plan import KEEP, Plan
from onepass.heads.finetune.result import FineTuned
from onepass.heads.finetune.tensorboard import require_tensorboard
from onepass.heads.saved_head import SavedHead

Progress = Callable[[int, int, str], None]


class PixelSource(Protocol):
    """Images of the feature file as pixels; `LabelledPixels` is one."""

    def read(self, images: np.ndarray, views: np.ndarray | None = None) -> np.ndarray:
        """(b,) positions and views -> (b, s, s, 3)."""


@dataclass(frozen=True, eq=False)
class Sources:
    """Where a fine-tuning gets what lies outside of rows and heads.

    Attributes:
        backbone: Makes the network of the feature file's rows.
        pixels: Of its images.
        boundary: Makes the file of the frozen trunk's output; None to train end to end.
        random_layers: Makes Keras layers that draw a view of each image; None if nothing is augmented, or by
            fixed views.
    """

    backbone: Callable[[], Trainable]
    pixels: PixelSource
    boundary: MakeBoundary | None = None
    random_layers: Callable[[], Any] | None = None


def fine_tune(
    features: str | Path,
    head: SavedHead,
    plan: Plan,
    sources: Sources,
    *,
    boundary_cache: str = "auto",
    keep: str = "better",
    from_scratch: bool = False,
    out: str | Path | None = None,
    tensorboard: str | Path | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> FineTuned:
    """Trains a head and the upper layers of its backbone together, and keeps the result if it is better.

    It starts where the head ended, which is checked; stops by validation; and is compared with the frozen
    head on the test part. Beside the model it writes the epochs as `.history.csv` and `.history.png`. A run
    that is killed goes on after the last finished epoch, with the same result for the same seed.

    Args:
        features: The feature file that the head was trained on.
        head: The frozen head, made of dense layers.
        plan: What to train, and how.
        sources: The network and the images.
        boundary_cache: off, auto, or GB that the frozen trunk's output may take on disk.
        keep: better, always or never: when the fine-tuned model replaces the frozen one in `out`. With never
            no model is written.
        from_scratch: Start from random weights instead, all layers and BatchNorm included; for comparison.
        out: The model, .keras or .h5; by default the feature file's name with `.finetuned.keras`.
        tensorboard: Folder for logs of the epochs.
        progress: Called with steps done, steps of the stage, and its name.
        say: Called with a line before something large is done.

    Raises:
        OptionError: An option is wrong, or the head is not made of dense layers.
        TrainingError: The joined model is not the head, or the data are too few.
        FeatureFileError, DataError: Rows or images cannot be read.
    """
    if keep not in KEEP:
        raise OptionError(f"{opt.keep} is {keep!r}; needed: one of {', '.join(KEEP)}.")
    path = Path(out) if out else Path(f"{Path(features).stem}.finetuned.keras")
    require_place(path)
    if tensorboard:
        require_tensorboard()
    work = path.with_suffix(".work")
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(
            f"cannot make the folder {work}: {error.strerror}. Choose another place with {opt.out}."
        ) from None
    with FeatureFile(features) as file:
        file.require_complete()
        head.require_rows_of(file)
        with plain_keras():
            from onepass.heads.finetune.session import Session

            run = Session(file, head, plan, sources, work, from_scratch, progress, say)
            run.train(boundary_cache)
            return run.finish(path, keep, Path(tensorboard) if tensorboard else None)
