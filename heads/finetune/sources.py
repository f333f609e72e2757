"""The network and the images of a fine-tuning."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from onepass.extract import (
    BackboneOrigin,
    KerasModel,
    LabelledPixels,
    TrainableBackbone,
    load_trainable,
    random_layers,
    run_extraction,
    source_of,
)
from onepass.features import FeatureFile
from onepass.features.tables import Record
from onepass.heads.finetune.plan import TuningPlan
from onepass.heads.saved_head import SavedHead


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where network and images come from, and how they are computed.

    Attributes:
        data: Image folders, if they are not where they were.
        weights: Where the backbone's weights or `.keras` file lie now, if not where they were.
        engine: Of the frozen trunk: openvino, tensorflow or auto.
        precision: Of the training: float32, bfloat16 or auto.
        workers: Decoding threads; by default one per processor.
        from_scratch: Whether the network starts from random weights.
    """

    data: Sequence[Path] = ()
    weights: str | None = None
    engine: str = "auto"
    precision: str = "auto"
    workers: int | None = None
    from_scratch: bool = False


@dataclass(frozen=True, eq=False)
class Sources:
    """What a fine-tuning gets its network and images from.

    Attributes:
        backbone: Makes the network of the feature file's rows.
        pixels: Of its images.
        boundary: Makes the file of the frozen trunk's output: backbone, layer and path -> a complete feature file,
            with its rows in the plan's views. None to train end to end.
        random_layers: Makes the Keras layers that draw a view of each image; None if nothing is augmented, or by fixed
            views.
    """

    backbone: Callable[[], TrainableBackbone]
    pixels: LabelledPixels
    boundary: Callable[[TrainableBackbone, str, Path], object] | None = None
    random_layers: Callable[[], KerasModel] | None = None

    @classmethod
    def of(cls, file: FeatureFile, head: SavedHead, plan: TuningPlan, origin: Origin) -> "Sources":
        """Those of a head and its feature file, which must stay open.

        Raises:
            DataError: The image folder is gone.
            OptionError: A setting is wrong.
        """
        fixed = plan.views > 1
        axis: Record = {"views": plan.views, "augment": plan.augment} if fixed else {}
        images = source_of(file, origin.data or None)

        def boundary(backbone: TrainableBackbone, layer: str, path: Path) -> None:
            trunk = backbone.trunk(layer, engine=origin.engine)
            run_extraction(images, trunk, out=path, workers=origin.workers, **axis)

        drawn = plan.augment if plan.augment and not fixed else None
        return cls(
            backbone=partial(
                load_trainable,
                head.spec,
                source=BackboneOrigin.of(head.trained_on, origin.weights),
                needed_by=str(head.path),
                random=plan.seed if origin.from_scratch else None,
                precision=origin.precision,
            ),
            pixels=LabelledPixels(
                file, data=origin.data, augmentation=plan.augment if fixed else None, workers=origin.workers
            ),
            boundary=boundary,
            random_layers=partial(random_layers, drawn, seed=plan.seed) if drawn else None,
        )
