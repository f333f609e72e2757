"""What a backbone is, how it is fed, and whether its own framework agrees, looked at now."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onepass.extract.backbones.build import build_backbone, keras_reference
from onepass.extract.backbones.load import conversion_of, load_backbone
from onepass.extract.backbones.proof import Proof, prove
from onepass.extract.backbones.provider import Conversion, GraphProvider
from onepass.extract.backbones.providers import provider_of
from onepass.features.names import shown
from onepass.features.preprocess import Preprocess
from onepass.features.progress import phase
from onepass.features.spec import Spec
from onepass.features.tables import command_line, html_table, text_table

_NOT_PROVEN = "not proven here: its own framework is not installed, or cannot run it (-v says why)"


@dataclass(frozen=True)
class VerifiedBackbone:
    """A backbone compared with its framework.

    Attributes:
        name: As it was typed.
        spec: Of its rows, in float32.
        parameters: Numbers in its weights; None if not known.
        proof: From the golden images; None if its framework is not installed here, or cannot run it.
    """

    name: str
    spec: Spec
    parameters: int | None
    proof: Proof | None

    def _rows(self) -> list[list[str]]:
        spec = self.spec
        return [
            ["backbone", shown(spec.backbone)],
            ["provider", spec.provider],
            ["preprocess", str(spec.preprocess)],
            ["rows", f"{spec.pooling}, {spec.width} wide"],
            ["weights", f"{shown(spec.weights)}, {spec.weights_hash[:16]}…"],
            ["parameters", "unknown" if self.parameters is None else f"{self.parameters:,}"],
            ["licence", spec.licence or "unknown"],
            ["proof", str(self.proof) if self.proof else _NOT_PROVEN],
        ]

    def __str__(self) -> str:
        return text_table(self._rows())

    def _repr_html_(self) -> str:
        return html_table(self._rows())

    @property
    def next_command(self) -> str:
        """What to do next, as it is typed."""
        return command_line("extract", "FOLDER", "--backbone", self.name)

    def record(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        proof = {**asdict(self.proof), "holds": self.proof.holds} if self.proof else None
        return {"name": self.name, "spec": asdict(self.spec), "parameters": self.parameters, "proof": proof}


def verify_backbone(
    name: str,
    *,
    weights: str | Path = "imagenet",
    image_size: int | None = None,
    resize: str | None = None,
    pooling: str | None = None,
    preprocess: str | Path | Preprocess | None = None,
) -> VerifiedBackbone:
    """Compares a backbone with its own framework, where that is installed: pixels and rows of the golden images.

    Args:
        name, weights, image_size, resize, pooling, preprocess: As for `load_backbone`.

    Raises:
        OptionError, BackboneError, WeightsError: As `load_backbone`. A network that is converted only now is refused if
            it is not what the framework computes; of one converted earlier, `proof.holds` says so.

    >>> verify_backbone("mine.keras").proof.cosine > 0.9999
    True
    """
    given: dict[str, Any] = {
        "weights": weights,
        "image_size": image_size,
        "resize": resize,
        "pooling": pooling,
        "preprocess": preprocess,
    }
    backbone = load_backbone(name, precision="float32", engine="openvino", **given)
    wanted = conversion_of(name, **given)
    assert backbone.converted is not None  # OpenVINO runs it
    with phase(f"comparing {wanted.facts.label} with its framework"):
        proof = _proof(wanted, backbone.converted.graph)
    return VerifiedBackbone(name, backbone.spec, wanted.facts.parameters, proof)


def _proof(wanted: Conversion, graph: Path) -> Proof | None:
    provider = provider_of(wanted.name)
    if isinstance(provider, GraphProvider):
        return provider.proof(wanted, graph)
    built = build_backbone(
        str(wanted.name),
        weights=wanted.weights,
        image_size=wanted.preprocess.size,
        pooling=wanted.pooling,
        pixels=wanted.pixels,
        preprocess=wanted.preprocess,
    )
    return prove(graph, wanted.preprocess, keras_reference(built, wanted))
