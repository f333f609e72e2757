"""One fine-tuning within one session of Keras; to be imported within `plain_keras()`."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from onepass.extract import decode_image, golden_images
from onepass.features import FeatureFile
from onepass.features.atomic import flush, folder_beside, move
from onepass.features.errors import FeatureFileError, TrainingError, cannot_write, opt
from onepass.features.progress import log, phase
from onepass.features.tables import Record
from onepass.heads.finetune.boundary import (
    CHECKPOINT,
    BoundaryCost,
    BoundaryInputs,
    boundary_cost,
    boundary_file,
    remove_if_damaged,
    worth_keeping,
)
from onepass.heads.finetune.joined import Agreement, Joined, random_head, require_agreement
from onepass.heads.finetune.model_file import load_model, save_model, write_model
from onepass.heads.finetune.plan import TuningPlan
from onepass.heads.finetune.result import FineTuned, class_changes, gain_of, log_epochs, score_of, without_copies
from onepass.heads.finetune.sources import Sources
from onepass.heads.finetune.splits import Parts, class_weights, start_head
from onepass.heads.finetune.trainer import Feed, ReadInputs, Trainer, TrainingImages, scores_of
from onepass.heads.fitting.temperature import best_inverse_temperature
from onepass.heads.saved_head import SavedHead, head_bytes
from onepass.heads.stats.decision import Hits, decide

_CHECKED = 512
"""Validation images that the joined model is compared with the cached head on, at most."""


@dataclass(frozen=True, eq=False)
class Task:
    """A fine-tuning to be done.

    Attributes:
        file: The feature file; open.
        head: The frozen head, trained on it.
        plan: What to train, and how.
        sources: The network and the images.
        from_scratch: Whether to start from random weights.
    """

    file: FeatureFile
    head: SavedHead
    plan: TuningPlan
    sources: Sources
    from_scratch: bool = False


class Session:
    """One fine-tuning, within one session of Keras.

    Args:
        task: What to do.
        work: Folder for what is kept between runs.
        progress: Called with steps done, steps of the stage, and its name.
        say: Called with a line before something large is done.

    Raises:
        OptionError: The head is not made of dense layers.
        TrainingError: The joined model is not the head, or the data are too few.
    """

    def __init__(
        self, task: Task, work: Path, progress: Callable[[int, int, str], None] | None, say: Callable[[str], None]
    ) -> None:
        self.file, self.head, self.plan, self.sources = task.file, task.head, task.plan, task.sources
        self.work, self.progress, self.say = work, progress, say
        self.parts = Parts.of(self.file, seed=self.plan.seed)
        self.start = start_head(self.head, self.file, self.parts)
        with phase(f"building {self.file.spec.backbone}"):
            self.backbone = self.sources.backbone()
        log.info("plan: %s", self.plan)
        dropout = float(self.head.parameters.get("dropout") or 0.0)
        first = random_head(self.start, self.plan.seed) if task.from_scratch else self.start
        self.joined = Joined.of(self.backbone, first, dropout=dropout)
        self.from_scratch = task.from_scratch
        self.agreement = None if task.from_scratch else self._checked_start()

    def _checked_start(self) -> Agreement:
        some = self.parts.val[:_CHECKED]
        with phase("checking the joined model"):
            joined = scores_of(self.joined.logits, self._pixels, some, self.plan.batch_size)
        return require_agreement(
            joined,
            self.start.scores(self.file.read(some)[0]),
            precision=self.file.spec.precision,
            name=lambda i: self.file.table.paths[some[i]],
        )

    def _pixels(self, images: np.ndarray, views: np.ndarray) -> np.ndarray:
        return self.sources.pixels.read(images, views if self.plan.views > 1 else None)

    def train(self, boundary_cache: str) -> None:
        """Trains, and leaves the joined model as its best epoch left it, at the temperature that suits validation."""
        y = self.file.table.labels.astype(np.int64)
        weights = class_weights(self.plan.class_weight, y[self.parts.train], self.file.class_names)
        counted = self.file.table.weights
        images = TrainingImages(
            self.parts.train, self.parts.val, y, weights, counted / counted[self.parts.train].mean()
        )
        feeds = _Feeds(self, boundary_cache)
        self.trainer = Trainer(
            self.joined,
            self.plan,
            images,
            checkpoint=self.work / CHECKPOINT,
            fingerprint=self._fingerprint(sorted(feeds.costs())),
            progress=self.progress,
        )
        began = time.perf_counter()
        self.state = self.trainer.run(feeds)
        self.seconds = time.perf_counter() - began
        self.boundary = "; ".join(map(str, feeds.costs().values()))
        val = scores_of(self.joined.logits, self._pixels, self.parts.val, self.plan.batch_size)
        self.joined.scale_logits(best_inverse_temperature(val, y[self.parts.val], images.weights_of(self.parts.val)))

    def _fingerprint(self, feeds: list[str]) -> str:
        facts = [
            self.file.fingerprint(),
            hashlib.sha256(head_bytes(self.head)).hexdigest(),
            asdict(self.plan),
            [hashlib.sha256(part.tobytes()).hexdigest() for part in (self.parts.train, self.parts.val)],
            feeds,
            self.from_scratch,
            self.backbone.precision,
            version("keras"),
            version("tensorflow"),
        ]
        return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()

    def finish(self, path: Path, keep: str, tensorboard: Path | None) -> FineTuned:
        """Compares before and after from image files, and writes what is kept."""
        candidate = self.work / f"candidate{path.suffix}"
        self.backbone.settle()
        save_model(self.joined.probabilities(of_layers=path.suffix == ".h5"), candidate, {})
        with phase("comparing before and after"):
            result = self._compared(candidate)
        tuned = self.state.chosen > 0 and (keep == "always" or (keep == "better" and result.better))
        result = replace(result, kept="fine-tuned" if tuned else "frozen", path=None if keep == "never" else path)
        self._write(result, tuned, path, tensorboard)
        candidate.unlink(missing_ok=True)
        self.trainer.finish()
        return result

    def _compared(self, candidate: Path) -> FineTuned:
        """The report, of the fine-tuned model as it is on disk; nothing is kept yet."""
        images, part = self.parts.test, self.parts.tested_on
        y, groups, weights = self._labels(images), self.file.group_ids()[images], self._weights(images)
        frozen = (self.head.network if part == "test" else self.start).scores(self.file.read(images)[0]).argmax(axis=1)
        tuned = self._labels_by(candidate)
        before, after = frozen == y, tuned == y
        contents = self.file.table.content_hashes[images].tobytes().hex()
        self.answers: Record = {"images": contents, "before": frozen.tolist(), "after": tuned.tolist()}
        val = self._validation_hits()
        copies = val.copies if part == "val" else self.file.leaked(images, self._trained())
        test = Hits(part, before, after[None], 0, copies, groups, weights) if part == "test" else None
        return FineTuned(
            head=self.head.kind,
            measured_on=part,
            n=len(images),
            before=score_of(before, weights),
            after=score_of(after, weights),
            gain=gain_of(after, before, groups, weights),
            without_copies=without_copies(before, after, groups, copies, weights),
            decision=decide(val, test, improved=self.state.improved),
            per_class=class_changes(frozen, tuned, y, self.file.class_names, weights),
            agreement=self.agreement,
            history=self.state.history,
            advice=self.state.advice,
            kept="frozen",
            path=None,
            boundary=self.boundary,
            seconds=self.seconds,
        )

    def _labels(self, images: np.ndarray) -> np.ndarray:
        return np.asarray(self.file.table.labels[images], np.int64)

    def _weights(self, images: np.ndarray) -> np.ndarray | None:
        """How much images count, 1 on average; None where all count alike."""
        return self.file.weights(images) if self.file.table.weighted else None

    def _labels_by(self, model: Path) -> np.ndarray:
        """(n,) classes that the fine-tuned model names for the images reported; -1 where it gives no numbers."""
        if not self.state.chosen:
            return np.full(len(self.parts.test), -1)
        scores = scores_of(load_model(model), self._pixels, self.parts.test, self.plan.batch_size)
        return np.asarray(scores.argmax(axis=1))

    def _trained(self) -> np.ndarray:
        """Positions of the images that the fine-tuned model or the frozen head learnt from."""
        return np.union1d(self.parts.train, np.flatnonzero(self.head.trained_in(self.file)))

    def _validation_hits(self) -> Hits:
        val = self.parts.val
        frozen = self.start.scores(self.file.read(val)[0]).argmax(axis=1)
        return Hits(
            part="val",
            frozen=frozen == self._labels(val),
            tuned=np.array(self.trainer.hits),
            chosen=max(self.state.chosen - 1, 0),
            copies=self.file.leaked(val, self.parts.train),
            groups=self.file.group_ids()[val],
            weights=self._weights(val),
        )

    def _write(self, result: FineTuned, tuned: bool, path: Path, tensorboard: Path | None) -> None:
        """Writes model and history, all of it or nothing; the logs of TensorBoard before them."""
        if tensorboard:
            log_epochs(result.history, tensorboard)
        try:
            with folder_beside(path) as folder:
                if result.path:
                    joined = self._kept(tuned)
                    model = joined.probabilities(of_layers=path.suffix == ".h5")
                    write_model(model, folder / path.name, self._facts(result, joined))
                result.write_history(folder / path.with_suffix(".history.csv").name)
                result.draw_history(folder / path.with_suffix(".history.png").name, validated=len(self.parts.val))
                flush(folder)
                for part in sorted(folder.iterdir()):
                    move(part, path.with_name(part.name))
        except OSError as error:
            raise TrainingError(cannot_write(path, error, opt.out), path=path) from None

    def _kept(self, tuned: bool) -> Joined:
        if tuned:
            return self.joined
        self.trainer.reset()
        self.backbone.settle()
        return Joined.of(self.backbone, self.head.network)

    def _facts(self, result: FineTuned, joined: Joined) -> Record:
        return {
            "format": "onepass-model",
            "version": 1,
            "class_names": list(self.file.class_names),
            "spec": asdict(self.file.spec),
            "logits": joined.layers[-1].name,
            **({"golden": self._golden_logits(joined)} if self.backbone.precision == "float32" else {}),
            "plan": {**asdict(self.plan), "precision": self.backbone.precision},
            "report": result.record(),
            "answers": self.answers,
            "trained_on": self.head.trained_on,
            "seen": self.file.table.content_hashes[self.parts.train][:, :8].tobytes().hex(),
            "versions": {name: version(name) for name in ("onepass", "keras", "tensorflow")},
        }

    def _golden_logits(self, joined: Joined) -> list[list[float]]:
        """Logits of the built-in test images, to see later whether the model still computes the same."""
        spec = self.file.spec
        pixels = [decode_image(data, image_size=spec.image_size, resize=spec.resize) for data in golden_images()]
        logits: list[list[float]] = np.asarray(joined.logits.predict_on_batch(np.stack(pixels)), np.float64).tolist()
        return logits


class _Feeds:
    """The models of the stages: above the boundary where its output is kept, else end to end."""

    def __init__(self, run: Session, limit: str) -> None:
        self._run, self._limit = run, limit
        self._files: dict[Path, FeatureFile] = {}

    def costs(self) -> dict[str, BoundaryCost]:
        """The boundaries whose output is kept, for one stage or more."""
        firsts = [self._run.backbone.first_unfrozen(stage.unfreeze) for stage in self._run.plan.stages]
        found = [cost for first in firsts if (cost := self._kept(first))]
        return {cost.boundary: cost for cost in found}

    def __call__(self, first: int) -> Feed:
        run, joined = self._run, self._run.joined
        if cost := self._kept(first):
            above = joined.logits_above(cost.boundary)
            return Feed(above, above, self._inputs(cost, above.input_shape[1:]))
        if run.sources.random_layers and run.plan.views == 1:
            return Feed(joined.augmented(run.sources.random_layers()), joined.logits, run._pixels)
        return Feed(joined.logits, joined.logits, run._pixels)

    def _kept(self, first: int) -> BoundaryCost | None:
        """The boundary whose output is kept for a stage, if it is."""
        run = self._run
        found = run.backbone.boundary_before(first)
        if found is None or run.sources.boundary is None or run.from_scratch or run.sources.random_layers:
            return None
        shape = run.backbone.boundary_shape(found)
        path = boundary_file(run.work, found)
        cost = boundary_cost(found, shape, images=len(run.file), views=run.plan.views, path=path)
        return cost if worth_keeping(cost, self._limit) else None

    def _inputs(self, cost: BoundaryCost, shape: tuple[int, ...]) -> ReadInputs:
        run = self._run
        path = boundary_file(run.work, cost.boundary)
        run.say(f"boundary cache: {cost}, in {path}")
        assert run.sources.boundary
        remove_if_damaged(path)
        with phase(f"computing the output of {cost.boundary}"):
            run.sources.boundary(run.backbone, cost.boundary, path)
        if path not in self._files:
            self._files[path] = FeatureFile(path)
        inputs = BoundaryInputs(self._files[path], run.file.table.content_hashes, shape)
        used = np.concatenate([run.parts.train, run.parts.val])
        if len(lacking := inputs.lacking(used)):
            raise FeatureFileError(
                f"{path} lacks {len(lacking)} of the images, {run.file.table.paths[lacking[0]]} for one. Run the same "
                f"extract command again, or train with {opt.boundary_cache('off')}."
            )
        return inputs
