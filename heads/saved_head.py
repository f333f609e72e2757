"""The head file: arrays and JSON in one safetensors file; loading it runs nothing."""

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open

from onepass.features import CLASSES, LABELS, NUMBER, FeatureFile, Spec
from onepass.features.atomic import replacing
from onepass.features.contents import seen_before
from onepass.features.drift import Drift, measure_drift, require_no_drift
from onepass.features.errors import FeatureFileError, HeadFileError, OnepassWarning, OptionError, cannot_write, opt
from onepass.features.spec import require_equal_specs
from onepass.features.tables import Record
from onepass.heads import head_facts
from onepass.heads.fitting.blas import one_blas_thread
from onepass.heads.inference.history import History
from onepass.heads.inference.kernel_machine import KernelMachine
from onepass.heads.inference.neighbour_table import NeighbourTable
from onepass.heads.inference.network import DenseNetwork, Network
from onepass.heads.inference.out_of_distribution import Abstention, OutOfDistribution
from onepass.heads.tasks.conformal import USUAL_ALPHA, Coverage, Residuals
from onepass.heads.tasks.score import Score
from onepass.heads.tensor_file import TensorFile, read_tensors, tensor_bytes

if TYPE_CHECKING:
    from onepass.extract import Backbone

FORMAT = "onepass-head"
VERSION, OF_OTHER_TASKS = 4, 5
"""Of the format: other tasks than classes are of version 5, so that what would take them for classes refuses them."""

FORMS: dict[str, type[Network]] = {form.form: form for form in (DenseNetwork, KernelMachine, NeighbourTable)}
_BESIDE = ("golden", "seen")


@dataclass(frozen=True, eq=False)
class SavedHead:
    """A fitted head with all it needs to be used and trusted elsewhere.

    Attributes:
        kind: logreg, svm, mlp, ...: a name in `HEADS`.
        network: Its arrays.
        class_names: k names, in the order of the probabilities.
        spec: What its rows must be computed with.
        parameters: What it was trained with, tuned values included.
        evaluation: Its score on images that training did not see.
        trained_on: Where its rows came from: feature file, its hash, image folder, backbone, weights.
        golden: (e, g, d) float32, golden rows of the feature file.
        seen: (m, 8) uint8, first bytes of the SHA-256 of every training image.
        path: The head file.
        out_of_distribution: What tells images of no class; None if training held none out.
        abstention: How that went on the images that `evaluation` is about.
        guarded: Whether its file has a checksum, which then holds; files of onepass 0.1 have none.
        task: What it was trained for, one of `features.TASKS`. `class_names` then are names of labels, or one name of
            what the number is.
        residuals: Of a head of numbers: errors of held-out training images, by which intervals are given; None if
            training held none out.
        thresholds: Of a head of labels: (k,) float32, the probability from which on each is named; None for all else.
        coverage: What such intervals do on the images that `evaluation` is about.
        history: Of the heads mlp and linear: loss and accuracy by epoch, of the fit that gave its arrays; None for
            others, and from files that were written without.
    """

    kind: str
    network: Network
    class_names: tuple[str, ...]
    spec: Spec
    parameters: Record
    evaluation: Score
    trained_on: Record
    golden: np.ndarray
    seen: np.ndarray
    path: Path
    out_of_distribution: OutOfDistribution | None = None
    abstention: Abstention | None = None
    guarded: bool = True
    task: str = CLASSES
    residuals: Residuals | None = None
    coverage: Coverage | None = None
    thresholds: np.ndarray | None = None
    history: History | None = None

    @property
    def unknown_of(self) -> tuple[str, ...]:
        """Classes that images are told to belong to none of; where there are none, one of all training images."""
        return self.class_names if self.task == CLASSES else ("",)

    @property
    def is_whole(self) -> bool:
        """Whether it describes a model that takes images; head files, unlike these, bring golden rows."""
        return not self.golden.size

    def unknown_at(self, alpha: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """What calls images unknown, at most a share alpha of the images of each class.

        Returns:
            (n, d) rows and their (n, k) probabilities -> (n,) bool.

        Raises:
            OptionError: alpha is not between 0 and 1, or too few images were held out in training.
        """
        if self.out_of_distribution is None:
            raise OptionError(
                f"{self.path} keeps nothing to tell unknown images by: a fine-tuned model, or a head of too few "
                f"images. Leave {opt.unknown} out."
            )
        known = self.out_of_distribution
        nonconforming = known.at(alpha, len(self.unknown_of))

        def unknown(rows: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
            if self.task != CLASSES:
                probabilities = np.ones((len(rows), 1))
            return np.asarray(nonconforming(known.subspace.distances(rows), probabilities).all(axis=1))

        return unknown

    def outputs(self, x: np.ndarray | Sequence[str | Path | np.ndarray]) -> np.ndarray:
        """Probabilities of the classes or labels, (n, k); of a head of numbers the numbers, (n, 1).

        Args:
            x: (n, d) float rows of its spec, or (n, v, d) to be averaged over v views, by numpy alone; or n
                images, as paths or (h, w, 3) uint8 RGB arrays, by the backbone it was trained on.

        Raises:
            UnreadableImageError: Naming the first image that cannot be read.
            BackboneError, SpecMismatchError, WeightsError, DriftError: As `backbone`.
        """
        if isinstance(x, np.ndarray) and x.dtype.kind == "f" and x.ndim in (2, 3):
            return self.network.outputs(x)
        return self.network.outputs(self.backbone.rows_of(list(x)))

    def predict_proba(self, x: np.ndarray | Sequence[str | Path | np.ndarray]) -> np.ndarray:
        """Probabilities of the classes, (n, k); arguments and errors as `outputs`.

        Raises:
            OptionError: The head gives numbers.
        """
        if self.task == NUMBER:
            raise OptionError(f"{self.path} gives numbers and no probabilities; call predict.")
        return self.outputs(x)

    def predict(self, x: np.ndarray | Sequence[str | Path | np.ndarray]) -> np.ndarray:
        """Rows or images as for `outputs` -> (n,) positions in `class_names`, or numbers; of labels (n, k) 0 and 1."""
        outputs = self.outputs(x)
        if self.thresholds is not None:
            return np.asarray((outputs >= self.thresholds).astype(np.int64))
        return np.asarray(outputs[:, 0] if self.task == NUMBER else outputs.argmax(axis=1))

    def predict_interval(
        self, x: np.ndarray | Sequence[str | Path | np.ndarray], alpha: float = USUAL_ALPHA
    ) -> np.ndarray:
        """Rows or images as for `outputs` -> (n, 2) between which their numbers lie, but for a share alpha of them.

        Infinite where training held too few images out for such an alpha; see `Residuals`.

        Raises:
            OptionError: The head gives no numbers, or held no images out.
        """
        width = self.half_width(alpha)
        if width is None:
            raise OptionError(f"{self.path} keeps no errors of held-out images, which intervals are made of.")
        return np.asarray(self.outputs(x) + np.array([-width, width]))

    def decision(self) -> Record:
        """What becomes of its outputs, as JSON takes it: thresholds of labels, or what intervals are made of."""
        if self.thresholds is not None:
            return {"thresholds": self.thresholds.tolist()}
        if self.residuals is None:
            return {}
        measured = asdict(self.coverage) | {"interval": list(self.coverage.interval)} if self.coverage else None
        return {"residuals": self.residuals.record(), "coverage": measured}

    def half_width(self, alpha: float = USUAL_ALPHA) -> float | None:
        """How far prediction intervals reach on either side; None where there are none."""
        return self.residuals.half_width(alpha) if self.residuals else None

    @cached_property
    def backbone(self) -> "Backbone":
        """The backbone it was trained on; see `load_backbone`."""
        return self.load_backbone()

    def load_backbone(
        self, *, weights: str | None = None, engine: str = "auto", accept_drift: bool = False
    ) -> "Backbone":
        """The backbone whose rows it takes, after a look whether that still computes them.

        Args:
            weights: Where the backbone's weights or `.keras` file lie now, if not where they were.
            engine: openvino, tensorflow or auto.
            accept_drift: Warn, and go on, where this machine computes other rows.

        Raises:
            BackboneError, SpecMismatchError, WeightsError: It cannot be had.
            DriftError: It computes other rows here, and that is not accepted.
        """
        from onepass.extract import BackboneOrigin, load_backbone_for

        source = BackboneOrigin.of(self.trained_on, weights)
        backbone = load_backbone_for(self.spec, source=source, engine=engine, needed_by=str(self.path))
        self.check_rows_of(backbone, accept_drift=accept_drift)
        return backbone

    def check_rows_of(self, backbone: "Backbone", *, accept_drift: bool = False) -> Drift | None:
        """Makes sure that a backbone computes the rows that the head was trained on.

        The golden rows are recomputed unless engine, processor and versions are those of the training.

        Returns:
            How far the golden rows lie; None if there was no need to look.

        Raises:
            SpecMismatchError: The specs differ.
            DriftError: The golden rows differ beyond the tolerance, and that is not accepted.
        """
        require_equal_specs(
            backbone.spec,
            self.spec,
            left_name="the backbone",
            right_name=str(self.path),
            remedy="Use the backbone that the head was trained with.",
        )
        here = backbone.environment
        known = self.trained_on.get("environments")
        for environment in known if isinstance(known, list) else []:
            if isinstance(environment, dict) and {name: environment.get(name) for name in here} == here:
                return None
        drift = measure_drift(self.golden, backbone.golden_rows(), self.spec.precision, head=self)
        if not accept_drift:
            remedy = f"Or go on with {opt.accept_drift(True)}, if these labels will do, or extract and train anew."
            require_no_drift(drift, name=str(self.path), remedy=remedy)
        elif not drift.accepted:
            message = f"accepted: this machine computes other rows than the head was trained on, {drift}"
            warnings.warn(message, OnepassWarning, stacklevel=2)
        return drift

    def trained_in(self, file: FeatureFile) -> np.ndarray:
        """(n,) bool: which images of a file it was trained on, by their content; images without a row are not."""
        trained = seen_before(file.table.content_hashes, self.seen)
        return np.asarray(trained & file.committed)

    @one_blas_thread
    def copies_in(self, file: FeatureFile, positions: np.ndarray) -> np.ndarray:
        """(n,) bool: which images at the given positions are copies, exact or near, of its training images.

        Near copies are found of those training images that the file holds as well.
        """
        trained = self.trained_in(file)
        return np.asarray(trained[positions] | file.leaked(positions, np.flatnonzero(trained)))

    def require_rows_of(self, file: FeatureFile) -> None:
        """Refuses a feature file of another spec.

        Raises:
            SpecMismatchError: With both specs side by side.
        """
        require_equal_specs(
            file.spec,
            self.spec,
            left_name=str(file.path),
            right_name=str(self.path),
            remedy=f"Extract again with the settings of {self.path}, or train a new head on {file.path}.",
        )


def head_bytes(head: SavedHead) -> bytes:
    """The content of a head file."""
    unknown = head.out_of_distribution.arrays() if head.out_of_distribution else {}
    further = head.residuals.arrays() if head.residuals else {}
    if head.thresholds is not None:
        further["decision.thresholds"] = head.thresholds
    if head.history:
        further["history.epochs"] = head.history.values
    arrays = {**head.network.arrays(), **unknown, **further, "golden": head.golden, "seen": head.seen}
    facts = {
        "format": FORMAT,
        "version": VERSION if head.task == CLASSES else OF_OTHER_TASKS,
        "kind": head.kind,
        "form": head.network.form,
        "settings": head.network.settings(),
        "class_names": head.class_names,
        "spec": asdict(head.spec),
        "parameters": head.parameters,
        "evaluation": head.evaluation.record(),
        "trained_on": head.trained_on,
        "abstention": asdict(head.abstention) if head.abstention else None,
    }
    if head.task != CLASSES:
        facts |= {"task": head.task, "coverage": asdict(head.coverage) if head.coverage else None}
    if head.history:
        facts["history"] = head.history.facts()
    return tensor_bytes(facts, arrays)


def save_head(head: SavedHead) -> None:
    """Writes a head to its path; a crash leaves the old file or the new one.

    Raises:
        HeadFileError: The place holds something else than a head, or cannot be written.
    """
    path = head.path
    require_no_other_file(path)
    try:
        # Not safetensors' own save_file, which makes files that only their owner may read.
        with replacing(path) as beside:
            beside.write_bytes(head_bytes(head))
    except (OSError, SafetensorError) as error:
        raise HeadFileError(cannot_write(path, error, opt.out), path=path) from None


def require_no_other_file(path: Path) -> None:
    """Refuses to write a head where another file is.

    Raises:
        HeadFileError: There is one.
    """
    if path.exists() and not is_head(path):
        raise HeadFileError(f"{path} exists and is no head file; it is left alone. Choose another name with {opt.out}.")


def is_head(path: Path) -> bool:
    """True if the file says of itself that it is a head of any version."""
    try:
        with safe_open(path, framework="numpy") as file:
            return "onepass" in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def load_head(path: str | Path) -> SavedHead:
    """Reads a head file; needs numpy alone, neither scikit-learn nor Keras.

    Raises:
        HeadFileError: It is missing, is no head file, is of another version, or is damaged.

    >>> from onepass import load_head, train_head
    >>> trained = train_head("photos.h5", head="ridge")
    >>> load_head("photos.ridge.head").kind
    'ridge'
    """
    path = Path(path)
    try:
        found = read_tensors(path)
    except FileNotFoundError:
        raise HeadFileError(f"there is no head file {path}. Make one with: train-head FEATURES") from None
    except (OSError, SafetensorError, ValueError, TypeError, RecursionError) as error:
        raise HeadFileError(f"{path} cannot be read as a head file: {error}. Train the head again.") from None
    if found.facts is None:
        raise HeadFileError(f"{path} is a safetensors file but no head. Needed: a file that train-head wrote.")
    try:
        return _parsed(path, found, found.facts)
    except FeatureFileError as error:
        raise HeadFileError(f"{path} is damaged: {error.message} Train the head again.") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise HeadFileError(f"{path} is damaged ({type(error).__name__}: {error}). Train the head again.") from None


def _parsed(path: Path, found: TensorFile, facts: Record) -> SavedHead:
    if facts["format"] != FORMAT or facts["version"] not in (VERSION, OF_OTHER_TASKS):
        raise HeadFileError(
            f"{path} has head format {facts['format']} {facts['version']}; this onepass reads {FORMAT} {VERSION} and "
            f"{OF_OTHER_TASKS}. Upgrade onepass, or train the head again."
        )
    arrays, spec = found.arrays, Spec.from_json(json.dumps(facts["spec"]))
    task = head_facts.task(facts["task"]) if facts["version"] == OF_OTHER_TASKS else CLASSES
    class_names = head_facts.class_names(facts["class_names"], task)
    own = {name: array for name, array in arrays.items() if name not in _BESIDE and "." not in name}
    beside = {name: array for name, array in arrays.items() if name not in own}
    network = FORMS[facts["form"]].restore(own, dict(facts["settings"]))
    network.require_sound()
    if (network.width, network.classes) != (spec.width, len(class_names)):
        raise ValueError(f"{network.width} wide for {network.classes} classes; {spec.width}, {len(class_names)} needed")
    head_facts.require_output(network.output, task)
    unknown_of = len(class_names) if task == CLASSES else 1
    return SavedHead(
        kind=head_facts.kind(facts["kind"]),
        network=network,
        class_names=class_names,
        spec=spec,
        parameters=head_facts.parameters(facts["parameters"]),
        evaluation=head_facts.score(facts["evaluation"], class_names, task),
        trained_on=head_facts.origin(facts["trained_on"]),
        golden=head_facts.golden_rows(arrays["golden"], spec.width),
        seen=head_facts.seen_contents(arrays["seen"]),
        path=path,
        out_of_distribution=OutOfDistribution.restore(beside, spec.width, unknown_of)
        if any(name.startswith("unknown.") for name in beside)
        else None,
        abstention=head_facts.abstention(facts["abstention"], class_names if task == CLASSES else ("",)),
        guarded=found.guarded,
        task=task,
        thresholds=head_facts.thresholds(beside, class_names) if task == LABELS else None,
        residuals=Residuals.restore(beside) if "interval.sizes" in beside else None,
        coverage=head_facts.coverage(facts.get("coverage")) if task != CLASSES else None,
        history=History.restore(beside["history.epochs"], facts["history"], task) if "history" in facts else None,
    )
