"""What is exported: a head on its backbone, or a model that is whole already; to be used within `plain_keras()`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from onepass.extract import (
    BackboneOrigin,
    GraphBackbone,
    ImageFiles,
    KerasLayer,
    KerasModel,
    LabelledPixels,
    Tensor,
    TrainableBackbone,
    graph_formats,
    import_keras,
    load_trainable,
    resizer,
    trainable_within,
)
from onepass.features import CLASSES, NUMBER, FeatureFile
from onepass.features.errors import ExportError, OptionError, TrainingError, opt
from onepass.features.tables import Record
from onepass.heads.evaluation import Evaluation
from onepass.heads.export.equivalence import HeldOut, Steps
from onepass.heads.export.graph_model import GraphModel
from onepass.heads.export.inference_model import WholeModel, head_alone, with_head
from onepass.heads.finetune.joined import Joined
from onepass.heads.finetune.model_file import load_model
from onepass.heads.finetune.splits import Parts
from onepass.heads.saved_head import SavedHead
from onepass.heads.tasks.score import Score
from onepass.heads.tasks.task import task_of

CHECKED = 200
"""Held-out images that a model is proven on, at most."""


@dataclass(frozen=True, eq=False)
class ExportInputs:
    """The network, the resize rule and the images of an export.

    Attributes:
        backbone: Makes the network of the head's rows; or, of the part of a fine-tuned model that gives rows, the
            network in it.
        resizer: Makes the spec's resize rule as a function of TensorFlow: (b, h, w, 3) uint8 -> (b, s, s, 3).
        images: Of the feature file, by position.
        graph: The backbone, where it is a graph and no Keras network.
    """

    backbone: Callable[[KerasModel | None], TrainableBackbone]
    resizer: Callable[[], Callable[[Tensor], Tensor]]
    images: ImageFiles
    graph: GraphBackbone | None = None

    @classmethod
    def of(
        cls,
        head: SavedHead,
        file: FeatureFile,
        *,
        data: Sequence[Path] = (),
        weights: str | None = None,
        workers: int | None = None,
    ) -> "ExportInputs":
        """Those of a head and its feature file, which must stay open.

        Args:
            head: The head; or the model, as `tuned_model` describes it.
            file: Of its training.
            data: Image folders, if they are not where they were.
            weights: Where the backbone's weights or `.keras` file lie now, if not where they were.
            workers: Decoding threads.

        Raises:
            DataError: The image folder is gone.
        """
        spec, source = head.spec, BackboneOrigin.of(head.trained_on, weights)

        def backbone(part: KerasModel | None = None) -> TrainableBackbone:
            if part is not None:
                return trainable_within(part, spec=spec, source=source)
            return load_trainable(spec, source=source, needed_by=str(head.path))

        images = LabelledPixels(file, data=data, workers=workers)
        graph = None if head.is_whole or not graph_formats(source) else GraphBackbone(spec, source, str(head.path))
        return cls(backbone, partial(resizer, spec.resize, spec.image_size), images, graph)


class ExportSource(ABC):
    """What is exported.

    Args:
        head: The head; or the model, as `tuned_model` describes it.
        file: The feature file of its training.
        inputs: The network and the images.
    """

    def __init__(self, head: SavedHead, file: FeatureFile, inputs: ExportInputs) -> None:
        self.head, self.file, self.inputs = head, file, inputs

    @classmethod
    def of(cls, head: SavedHead, file: FeatureFile, inputs: ExportInputs) -> "ExportSource":
        kind = ModelSource if head.is_whole else GraphSource if inputs.graph else HeadSource
        return kind(head, file, inputs)

    def whole(self, to: str) -> WholeModel:
        """The Keras model, for a format.

        Raises:
            OptionError: No layers of that format compute the head.
        """
        model = self.model(of_layers=to == "h5")
        return WholeModel(
            model,
            self.inputs.resizer(),
            self.head.spec,
            self.head.class_names,
            self.facts(model.layers[-2].name),
            self.gives,
            self.head.decision().get("thresholds", []),
        )

    @property
    def gives(self) -> str:
        """What the output is called."""
        return "numbers" if self.head.task == NUMBER else "probabilities"

    def facts(self, logits: str) -> Record:
        """What Keras's formats keep, and all that `predict` needs; with the name of the layer that gives logits."""
        head = self.head
        return {
            "format": "onepass-model",
            "version": 1,
            "kind": head.kind,
            "class_names": list(head.class_names),
            "spec": asdict(head.spec),
            "logits": logits,
            "plan": head.parameters,
            "report": report_of(head.evaluation),
            **({} if head.task == CLASSES else {"task": head.task, "decision": head.decision()}),
            "trained_on": head.trained_on,
            "seen": head.seen.tobytes().hex(),
        }

    def held_out(self) -> tuple[HeldOut, str]:
        """Images that training did not see, 200 at most, chosen by their content; and which part they are.

        Raises:
            OptionError: There are none.
        """
        positions, part = self.unseen()
        positions = positions[~self.head.trained_in(self.file)[positions]]
        if not len(positions):
            raise OptionError(
                f"{self.file.path} holds no image that {self.head.path} was not trained on, so nothing can prove the "
                f"export. Extract photos that are new to it as well, and give their feature file by {opt.features}."
            )
        table = self.file.table
        by_content = {table.content_hashes[i].tobytes(): int(i) for i in positions}  # copies prove nothing more
        chosen = np.array(sorted(by_content[content] for content in sorted(by_content)[:CHECKED]), np.int64)
        task = task_of(self.file)
        if task.name != self.head.task:
            raise OptionError(
                f"{self.head.path} was trained for {self.head.task}, and {self.file.path} holds {task.name}."
            )
        y = task.matched(self.file.wanted(chosen), self.file.class_names, self.head.class_names)
        return (
            HeldOut(
                images=self.inputs.images,
                positions=chosen,
                paths=[table.paths[i] for i in chosen],
                y=y,
                expected=self.expected(chosen),
                task=self.head.task,
                names=self.head.class_names,
                thresholds=self.head.thresholds,
            ),
            part,
        )

    def sample(self) -> np.ndarray:
        """(m, s, s, 3) pixels of training images, 100 at most, chosen by their content."""
        train = self.file.rows_of("train")
        hashes = self.file.table.content_hashes
        return self.inputs.images.read(np.array(sorted(train.tolist(), key=lambda i: hashes[i].tobytes())[:100]))

    @abstractmethod
    def model(self, *, of_layers: bool) -> KerasModel:
        """`keras.Model`: (b, s, s, 3) pixels -> (b, k) probabilities; with `of_layers` of layers alone."""

    @property
    @abstractmethod
    def exact(self) -> bool:
        """Whether a float32 model must give every label that is expected."""

    @abstractmethod
    def unseen(self) -> tuple[np.ndarray, str]:
        """(n,) positions in the file of what was held out, and what they are called."""

    @abstractmethod
    def expected(self, positions: np.ndarray) -> np.ndarray:
        """(n, k) probabilities of images by the way that was measured."""

    @abstractmethod
    def steps(self, takes: str, whole: WholeModel, held_out: HeldOut) -> Steps:
        """The way from an image to its probabilities, step by step."""


class HeadSource(ExportSource):
    """A head file, whose backbone is built anew in Keras."""

    def __init__(self, head: SavedHead, file: FeatureFile, inputs: ExportInputs) -> None:
        super().__init__(head, file, inputs)
        self.backbone = inputs.backbone(None)

    def rows_of(self, pixels: np.ndarray) -> np.ndarray:
        """(b, s, s, 3) pixels -> (b, d) rows, by the network that is exported."""
        return np.asarray(self.backbone.model.predict_on_batch(pixels))

    def model(self, *, of_layers: bool) -> KerasModel:
        return with_head(self.backbone, self.head.network, of_layers=of_layers)

    @property
    def exact(self) -> bool:
        return self.head.spec.precision == self.file.row_dtype == "float32"

    def unseen(self) -> tuple[np.ndarray, str]:
        return self.file.rows_to_score("auto", seen=self.head.seen)

    def expected(self, positions: np.ndarray) -> np.ndarray:
        return self.head.network.outputs(self.file.read(positions)[0])

    def steps(self, takes: str, whole: WholeModel, held_out: HeldOut) -> Steps:
        return Steps(
            takes,
            whole.resizer,
            rows_of=self.rows_of,
            head=self.head.network.outputs,
            row_of=lambda some: self.file.read(held_out.positions[[some]])[0][0],
            model=whole.probabilities,
        )


class GraphSource(HeadSource):
    """A head file whose backbone is a graph that Keras does not build."""

    def __init__(self, head: SavedHead, file: FeatureFile, inputs: ExportInputs) -> None:
        ExportSource.__init__(self, head, file, inputs)
        assert inputs.graph is not None
        self.graph = inputs.graph

    def whole(self, to: str) -> WholeModel:  # noqa: ARG002
        spec, names, starts = self.head.spec, self.head.class_names, self.head.decision().get("thresholds", [])
        model, resizer = self.model(of_layers=False), self.inputs.resizer()
        return GraphModel(model, resizer, spec, names, {}, self.gives, starts, self.graph)

    def model(self, *, of_layers: bool) -> KerasModel:  # noqa: ARG002
        """`keras.Model` of the head alone: (b, d) rows -> (b, k) probabilities."""
        return head_alone(self.head.network)

    def rows_of(self, pixels: np.ndarray) -> np.ndarray:
        return self.graph.rows(pixels)


class ModelSource(ExportSource):
    """A model that `fine-tune` or `export` wrote."""

    def __init__(self, head: SavedHead, file: FeatureFile, inputs: ExportInputs) -> None:
        super().__init__(head, file, inputs)
        self.loaded = load_model(head.path)
        classes = len(head.class_names)
        if self.loaded.output_shape != (None, classes) or len(self.loaded.layers) < 3:
            raise ExportError(
                f"{head.path} names {classes} classes and gives an output of shape {self.loaded.output_shape}. It is "
                "damaged; fine-tune or export it again."
            )

    @property
    def exact(self) -> bool:
        return True

    def model(self, *, of_layers: bool) -> KerasModel:
        if not of_layers or self.head.path.suffix == ".h5":
            return self.loaded
        kind = import_keras().Model
        parts = self.loaded.layers[1:-1]  # between the input and the softmax
        if not isinstance(parts[0], kind) or any(len(_inputs(part)) != 1 for part in parts):
            raise OptionError(f"the head of {self.head.path} is no row of layers. Export the head file instead.")
        return Joined(self.inputs.backbone(parts[0]), parts[1:]).probabilities(of_layers=True)

    def unseen(self) -> tuple[np.ndarray, str]:
        if self.head.task != CLASSES:  # of which none is fine-tuned, so it is as it was when it was a head
            return self.file.rows_to_score("auto", seen=self.head.seen)
        try:
            parts = Parts.of(self.file, seed=int(self.head.parameters.get("seed") or 0))
        except TrainingError:
            return np.empty(0, np.int64), ""
        return parts.test, parts.tested_on

    def expected(self, positions: np.ndarray) -> np.ndarray:
        pieces = np.array_split(positions, -(-len(positions) // 32))
        return np.concatenate(
            [self.loaded.predict_on_batch(self.inputs.images.read(piece)) for piece in pieces]
        ).astype(np.float64)

    def steps(self, takes: str, whole: WholeModel, held_out: HeldOut) -> Steps:  # noqa: ARG002
        run = whole.probabilities
        return Steps(takes, whole.resizer, rows_of=run, head=None, row_of=None, model=run)


def report_of(scored: Score) -> Record:
    """What Keras's formats keep of a score."""
    facts: Record = {"measured_on": scored.measured_on, "n": scored.n, "kept": "fine-tuned"}
    if not isinstance(scored, Evaluation):
        return {**facts, "score": scored.record()}
    rest = scored.leak_free
    without = rest and {"leaked": rest.leaked, "n": rest.n, "after": [rest.accuracy, list(rest.interval)]}
    return {**facts, "after": [scored.accuracy, list(scored.interval)], "without_copies": without}


def _inputs(layer: KerasLayer) -> list[Tensor]:
    found = layer.input
    return found if isinstance(found, list) else [found]
