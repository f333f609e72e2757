"""An exported model in its own runtime, as a backbone whose rows are what its outputs were made of."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from scipy.special import logit

from onepass.extract import Augmentation, Backbone, BackboneOrigin, Decoded, decode_whole, depth_of, plain_keras
from onepass.features import CLASSES, LABELS, NUMBER, Spec
from onepass.features.errors import CertificateError, OptionError, UnreadableImageError, opt
from onepass.heads import head_facts
from onepass.heads.evaluation import Evaluation
from onepass.heads.export.certificate import ENDING, Certificate, beside, require_certified
from onepass.heads.export.equivalence import ENCODED, Runtime
from onepass.heads.export.formats import certified_format, format_of, running
from onepass.heads.finetune.model_file import read_facts, tuned_model
from onepass.heads.inference.network import DenseNetwork
from onepass.heads.saved_head import SavedHead
from onepass.heads.tasks.score import Score

Key = TypeVar("Key", bound=Hashable)

_LEAST = 1e-30
"""Probability of a class that counts as none, so that its logarithm is a number."""

_CERTAIN = 2.0**-24
"""How near to 0 and 1 the probability of a label may be: what float32 tells from 1, so that its odds are a number."""


class RuntimeEngine:
    """Runs a model in its own runtime, one image after the other, so that no answer depends on its neighbours."""

    name = "exported"

    def __init__(self, run: Runtime, scores: Callable[[np.ndarray], np.ndarray]) -> None:
        self._run, self._scores = run, scores

    def run(self, images: Iterable[tuple[Key, Any]]) -> Iterator[tuple[Key, np.ndarray]]:
        """Scores, (k,) float32, of whatever the model takes, each a batch of one."""
        for key, batch in images:
            yield key, self._scores(np.asarray(self._run(batch)[0], np.float64)).astype(np.float32)


_SCORES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    CLASSES: lambda found: np.log(np.maximum(found, _LEAST)),
    LABELS: lambda found: np.asarray(logit(np.clip(found, _CERTAIN, 1 - _CERTAIN))),
    NUMBER: lambda found: found,
}
"""Task -> what makes scores of a model's outputs."""


class WholePixels(RuntimeEngine):
    """The same for models that take (s, s, 3) pixels."""

    def run(self, images: Iterable[tuple[Key, Any]]) -> Iterator[tuple[Key, np.ndarray]]:
        return super().run((key, image[None]) for key, image in images)


class WholeImages(Backbone):
    """A model that resizes by itself, so that it takes images as large as they are."""

    def decoded(self, data: bytes, views: Sequence[int], augmentation: Augmentation | None) -> Decoded:  # noqa: ARG002
        if tuple(views) != (0,):
            raise OptionError(
                f"{opt.views} needs a model that takes pixels; this one takes whole images. Leave it out, or predict "
                "with the head file."
            )
        return Decoded([self._whole(data)], thumbnail=np.empty((0, 0), np.uint8))

    def _whole(self, data: bytes) -> Any:
        return decode_whole(data, resize=self.spec.resize, depth=depth_of(self.spec.decode))[None]

    def spare(self, threads: int) -> int:  # noqa: ARG002
        """None: a photo of 12 megapixels takes 36 MB."""
        return 0


class EncodedImages(WholeImages):
    """A model that decodes JPEG and PNG files as well."""

    def _whole(self, data: bytes) -> list[bytes]:
        if not data.startswith(ENCODED):
            raise UnreadableImageError("neither JPEG nor PNG, which is all that this model reads")
        return [data]


def exported_classifier(path: Path) -> tuple[SavedHead, Backbone]:
    """A model with a certificate beside it, as a head on what its own outputs were made of.

    Raises:
        CertificateError: The certificate is missing or damaged, or the model is not the one that was certified.
        OptionError: The format's runtime is not installed.
        ExportError: The runtime cannot load it.
    """
    proven = certificate_of(path)
    require_certified(path, proven)
    kind = certified_format(proven)
    with plain_keras(), running(f"{path}"):
        run = kind.load(path)
    head = certified_head(path, proven)
    return head, runtime_backbone(head.spec, run, takes=proven.takes, task=proven.task)


def legacy_classifier(path: Path) -> tuple[SavedHead, Backbone]:
    """A model in Keras's legacy format, which Keras alone runs, as a head on the logarithms of its probabilities.

    Raises:
        TrainingError: It is no model that `fine_tune` or `export` wrote, or damaged.
        ExportError: Keras cannot load it.
    """
    known = tuned_model(path)
    spec = replace(known.spec, backbone=path.name, pooling="flatten", precision="float32", width=len(known.class_names))
    with plain_keras(), running(f"{path}"):
        run = format_of("h5").load(path)
    golden = np.array(read_facts(path).get("golden", np.zeros((0, known.network.classes))))
    golden = _SCORES[known.task](known.network.outputs(golden))
    return replace(known, spec=spec, golden=golden[None].astype(np.float32)), runtime_backbone(
        spec, run, task=known.task
    )


def runtime_backbone(spec: Spec, run: Runtime, *, takes: str = "pixels", task: str = CLASSES) -> Backbone:
    """A loaded model as a backbone; see `Format.takes`."""
    makers = {"pixels": Backbone, "images": WholeImages, "bytes": EncodedImages}
    engine = (WholePixels if takes == "pixels" else RuntimeEngine)(run, _SCORES[task])
    return makers[takes](spec, BackboneOrigin(spec.backbone, spec.weights), lambda: engine, engine_name=engine.name)


def certificate_of(model: Path) -> Certificate:
    """The certificate beside a model.

    Raises:
        CertificateError: It is missing or damaged.
    """
    path = beside(model, ENDING)
    if not path.exists():
        raise CertificateError(
            f"{model} is an exported model without its certificate, which says what it takes and what its classes "
            f"are called. Put {path.name} beside it, or export the head again."
        )
    return Certificate.read(path)


def certified_head(path: Path, proven: Certificate) -> SavedHead:
    """What a certificate says of a model, as a head on the logarithms of its probabilities."""
    k = len(proven.class_names)
    spec = Spec(
        backbone=path.name,
        weights="exported",
        weights_hash=min(proven.files.values(), default=""),
        image_size=proven.image_size,
        resize=proven.resize,
        decode=proven.decode,
        pooling="flatten",
        precision="float32",
        width=k,
    )
    names = tuple(proven.class_names)
    if proven.accuracy is not None and proven.interval is not None:
        low, high = proven.interval
        scored: Score = Evaluation(proven.measured_on, len(proven.images), proven.accuracy, (low, high), {}, [])
    else:
        scored = head_facts.score(proven.score, names, proven.task)
    return SavedHead(
        kind=proven.head,
        network=DenseNetwork.identity(k, head_facts.OUTPUT_OF[proven.task][0]),
        class_names=names,
        spec=spec,
        parameters={},
        evaluation=scored,
        trained_on=proven.trained_on,
        golden=np.zeros((0, 0, k), np.float32),
        seen=np.frombuffer(bytes.fromhex(proven.seen), np.uint8).reshape(-1, 8),
        path=path,
        task=proven.task,
        **proven.decides,
    )
