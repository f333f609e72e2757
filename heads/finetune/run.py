"""Fine-tuning from a cached head to a model file that is kept only if it is better."""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Unpack

from onepass.extract import (
    TRAINING_PRECISIONS,
    BackboneOrigin,
    check_choices,
    check_running,
    plain_keras,
    require_drawable,
    require_part,
    require_trainable,
)
from onepass.features import FeatureFile, only_feature_file
from onepass.features.atomic import remove_leftovers
from onepass.features.errors import HeadFileError, OptionError, TrainingError, cannot_write, opt
from onepass.features.lock import writer_lock
from onepass.features.progress import phase
from onepass.features.tables import Record
from onepass.heads.finetune.boundary import require_limit
from onepass.heads.finetune.joined import require_layered, require_layers
from onepass.heads.finetune.model_file import FORMATS, read_facts, require_place
from onepass.heads.finetune.plan import KEEP, TuningPlan, TuningSettings, TuningStage, stages_to_train
from onepass.heads.finetune.result import FineTuned, require_tensorboard
from onepass.heads.finetune.sources import Origin, Sources
from onepass.heads.head_options import class_weights, require_known_classes
from onepass.heads.saved_head import SavedHead, is_head, load_head
from onepass.heads.tasks.task import require_classes
from onepass.heads.training import train_head


def fine_tune(
    target: str | Path | SavedHead | None = None,
    *,
    data: str | Path | Sequence[str | Path] = (),
    head: str = "logreg",
    unfreeze: str | int | None = None,
    lr: float | None = None,
    epochs: int | None = None,
    stages: str | Sequence[TuningStage] | None = None,
    precision: str = "auto",
    boundary_cache: str | float = "auto",
    keep: str = "better",
    from_scratch: bool = False,
    to: str = "keras",
    out: str | Path | None = None,
    tensorboard: str | Path | None = None,
    weights: str | None = None,
    engine: str = "auto",
    workers: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    say: Callable[[str], None] = lambda _: None,
    **settings: Unpack[TuningSettings],
) -> FineTuned:
    """Trains a head and the upper layers of its backbone together, and keeps the result if it is better.

    It starts where the head ended, which is checked, and stops by validation. Whether it is better is decided by the
    validation images, by a test that knows that they also chose the epoch; the test images only report before and
    after. Where validation can prove nothing, test decides too, and the report says so. Copies of training images
    do not decide where there are enough others, and every score is given without them too.

    Beside the model it writes the epochs as `.history.csv` and `.history.png`. A run that is killed goes on after the
    last finished epoch, with the same result for the same seed.

    Args:
        target: Head file, or feature file, on which a head is trained first; by default the feature file in the
            current folder.
        data: Where the images lie, if they are not where they were.
        head: Kind of the head to train first, where the target is a feature file.
        unfreeze: What trains beside the head: a number of layers, a stage (see `backbones`), a layer, all, or auto:
            the last stages that hold three tenths of the parameters. What no part of the network can be called is
            refused at once; a name such as conv5_block9_out, which only the network itself can tell to be none of
            its layers, once that is built.
        lr: Highest learning rate; 1e-4 by default.
        epochs: At most so many passes over the training images; 10 by default.
        stages: Several parts in turn instead of these three, "conv5:1e-5x5, all:1e-6x3": part, learning rate x epochs.
        precision: float32, bfloat16, or auto: bfloat16 on GPUs that have it natively.
        boundary_cache: off, auto, or GB that the frozen trunk's output may take on disk.
        keep: better, always or never: when the fine-tuned model replaces the frozen one in `out`. With always it is
            the best trained epoch, even if none was better than the start. With never no model is written.
        from_scratch: Start from random weights instead, all layers and BatchNorm included; for comparison.
        to: keras, or h5 for the legacy format.
        out: The model, .keras or .h5; by default the feature file's name with `.finetuned.keras`, or `.scratch.keras`
            from scratch. A model there that another head or other settings made is not replaced unless it is named.
        tensorboard: Folder for logs of the epochs.
        weights: Where the backbone's weights or `.keras` file lie now, if not where they were.
        engine: Of the frozen trunk: openvino, tensorflow or auto.
        workers: Decoding threads; by default one per processor.
        progress: Called with steps done, steps of the stage, and its name.
        say: Called with a line before something large is done.
        **settings: See `TuningPlan`.

    Raises:
        OptionError: An option is wrong, or the head is not made of dense layers.
        TrainingError: The joined model is not the head, or the data are too few.
        FeatureFileError, HeadFileError, DataError: Rows, head or images cannot be read.

    >>> fine_tune("photos.resnet50.logreg.head", unfreeze="conv5", lr=1e-4)  # doctest: +SKIP
    """
    trained = stages_to_train(stages, unfreeze=unfreeze, lr=lr, epochs=epochs, from_scratch=from_scratch)
    plan = _plan(trained, settings, from_scratch)
    origin = Origin(
        data=[Path(data)] if isinstance(data, str | Path) else [Path(folder) for folder in data],
        weights=weights,
        engine=engine,
        precision=precision,
        workers=workers,
        from_scratch=from_scratch,
    )
    _check_choices(keep, to, str(boundary_cache), plan, precision)
    check_running(engine=engine, workers=workers, data=data, weights=weights)
    require_layered(head)
    if tensorboard:
        require_tensorboard()
    features, saved = _start(target)
    path = _place(features, out, to, from_scratch=from_scratch)
    if out is None:
        _require_same(path, plan, saved.kind if saved else head)
    with FeatureFile(features) as file:
        require_trainable(BackboneOrigin.of(file.provenance, weights))
        file.require_complete()
        _check_against(file, plan, option="unfreeze" if stages is None else "stages")
        if saved is None:
            with phase(f"training {head} first"):
                saved = train_head(features, head=head).head
        require_layers(saved.network)
        saved.require_rows_of(file)
        sources = Sources.of(file, saved, plan, origin)
        with plain_keras():
            from onepass.heads.finetune.session import Session, Task

            task = Task(file, saved, plan, sources, from_scratch)
            with _work_folder(path) as work:
                run = Session(task, work, progress, say)
                run.train(str(boundary_cache))
                return run.finish(path, keep, Path(tensorboard) if tensorboard else None)


def _plan(stages: tuple[TuningStage, ...], settings: TuningSettings, from_scratch: bool) -> TuningPlan:
    given: Record = {name: value for name, value in settings.items() if value is not None}
    given["class_weight"] = class_weights(given.get("class_weight"))
    if from_scratch:
        given["train_batchnorm"] = True
    return TuningPlan(stages=stages, **given)


def _check_choices(keep: str, to: str, boundary_cache: str, plan: TuningPlan, precision: str) -> None:
    """Refuses what neither a head nor an image is needed to refuse."""
    if keep not in KEEP:
        raise OptionError(f"{opt.keep} is {keep!r}; needed: one of {', '.join(KEEP)}.", keep=keep)
    if to not in FORMATS:
        raise OptionError(f"{opt.to} is {to!r}; needed: {' or '.join(FORMATS)}.", to=to)
    check_choices(precision=(precision, TRAINING_PRECISIONS))
    require_limit(boundary_cache)
    require_drawable(plan.augment, fixed=plan.views > 1)


def _check_against(file: FeatureFile, plan: TuningPlan, *, option: str) -> None:
    """Refuses what the rows' spec and classes are enough to refuse, before a network is built."""
    require_classes(file, "fine-tuning", "Train a head on its rows with train-head.")
    require_known_classes(plan.class_weight, file.class_names)
    for stage in plan.stages:
        require_part(str(file.provenance.get("backbone") or file.spec.backbone), stage.unfreeze, option=option)


def _start(target: str | Path | SavedHead | None) -> tuple[Path, SavedHead | None]:
    """Feature file and head that a fine-tuning starts from; no head if only a feature file is given."""
    if isinstance(target, SavedHead):
        return _features_of(target), target
    path = Path(target) if target is not None else only_feature_file()
    if path.is_file() and is_head(path):
        saved = load_head(path)
        return _features_of(saved), saved
    return path, None


def _features_of(head: SavedHead) -> Path:
    features = Path(str(head.trained_on.get("features")))
    if not features.is_file():
        raise HeadFileError(
            f"{head.path} was trained on {features}, which is not there. Give the feature file instead of the head, "
            f"and {opt.head(head.kind)}.",
            head=head.path,
            features=features,
        )
    return features


def _place(features: Path, out: str | Path | None, to: str, *, from_scratch: bool) -> Path:
    """Where the model goes; refuses to write over anything else."""
    path = Path(out) if out else Path(f"{features.stem}.{'scratch' if from_scratch else 'finetuned'}.{to}")
    require_place(path)
    return path


def _require_same(path: Path, plan: TuningPlan, head: str) -> None:
    """Refuses to replace a model that was made otherwise, under a name that nobody chose.

    Raises:
        OptionError: One is there, from another head or with other settings.
    """
    if not path.exists():
        return
    facts = read_facts(path)
    settings = {name: value for name, value in facts["plan"].items() if name != "precision"}
    if (facts["report"].get("head"), settings) != (head, json.loads(json.dumps(asdict(plan)))):
        raise OptionError(
            f"{path} was fine-tuned from another head or with other settings; it is left alone. Choose another name "
            f"with {opt.out}, or delete it.",
            path=path,
        )


@contextlib.contextmanager
def _work_folder(path: Path) -> Iterator[Path]:
    """What a run keeps for its next one: checkpoint and output of the frozen trunk; it goes once it is empty.

    What a killed run left half written, and its candidate, which is written anew, go first.

    Raises:
        TrainingError: The folder cannot be made.
        LockedError: Another process trains for the same file.
    """
    work = path.with_suffix(".work")
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(cannot_write(work, error, opt.out), folder=work) from None
    with writer_lock(work):
        remove_leftovers(work)
        remove_leftovers(path.parent, path.name)
        for candidate in work.glob("candidate.*"):
            candidate.unlink()
        try:
            yield work
        finally:
            with contextlib.suppress(OSError):  # of a folder that is not empty
                work.rmdir()
