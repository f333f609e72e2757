"""The backbones there are, and the stages of one, as lists to read."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onepass.extract.backbones.catalogue import BUNDLED, CATALOGUE, CatalogueEntry
from onepass.extract.backbones.efficientnet_lite import lite_package
from onepass.extract.backbones.stages import Stage
from onepass.extract.backbones.trainable import list_stages
from onepass.extract.backbones.verified import VerifiedBackbone, verify_backbone
from onepass.features.errors import OptionError, opt
from onepass.features.tables import command_line, fitted_table, html_table, text_table


@dataclass(frozen=True)
class Backbones:
    """Every backbone by name, with its input size in pixels and the width of its rows."""

    def _rows(self) -> list[list[str]]:
        lines = [[one.name, str(one.image_size), str(one.width), _weights(one)] for one in CATALOGUE.values()]
        return [["name", "pixels", "width", "weights"], *lines]

    def __str__(self) -> str:
        return text_table(self._rows())

    def _repr_html_(self) -> str:
        return html_table(self._rows())

    @property
    def next_command(self) -> str:
        """What to do next, as it is typed."""
        return command_line("extract", "FOLDER", "--backbone", BUNDLED)

    def record(self) -> dict[str, dict[str, int]]:
        """The same as plain values, for JSON."""
        return {name: {"image_size": one.image_size, "width": one.width} for name, one in CATALOGUE.items()}


def _weights(entry: CatalogueEntry) -> str:
    """Where its ImageNet weights come from."""
    if entry.name == BUNDLED:
        return "bundled"
    return lite_package(entry.name) if entry.lite else "downloaded by Keras, or a weights file"


@dataclass(frozen=True)
class Stages:
    """The stages of a backbone, from input to output.

    Attributes:
        backbone: Its name.
        stages: None for a network whose layers do not have the usual names.
    """

    backbone: str
    stages: Sequence[Stage]

    def _rows(self) -> list[list[str]]:
        lines = [
            [
                one.name,
                one.first,
                str(one.layers),
                f"{one.parameters:,}",
                one.boundary or "the image",
                f"{one.boundary_bytes:,}" if one.boundary else "-",
            ]
            for one in self.stages
        ]
        return [["stage", "first layer", "layers", "parameters", "boundary", "bytes per image"], *lines]

    def __str__(self) -> str:
        if not self.stages:
            return (
                f"{self.backbone} has no layers with the usual names, so no stages. Parts of it are named by a layer "
                "or a number."
            )
        return fitted_table(self._rows(), columns=(4, 1))

    @property
    def next_command(self) -> str:
        """What to do next, as it is typed."""
        return command_line("fine-tune", "HEAD", "--unfreeze", self.stages[-1].name if self.stages else "auto")

    def _repr_html_(self) -> str:
        return html_table(self._rows(), title=self.backbone)

    def record(self) -> list[dict[str, Any]]:
        """The same as plain values, for JSON."""
        return [{**asdict(one), "boundary_bytes": one.boundary_bytes} for one in self.stages]


def backbones(
    stages: str | None = None,
    *,
    verify: str | None = None,
    weights: str | Path | None = None,
    preprocess: str | Path | None = None,
) -> Backbones | Stages | VerifiedBackbone:
    """Lists every backbone, or the stages of one, or compares one with its own framework.

    Args:
        stages: Name, or path of a `.keras` file, whose stages to list instead; nothing is downloaded.
        verify: Name, as `load_backbone` takes it, of one to compare instead; see `verify_backbone`.
        weights, preprocess: Of that one, as for `load_backbone`.

    Raises:
        OptionError: Both are asked for, or settings of neither.
        BackboneError: There is no such backbone, its layers cannot be told apart, or it cannot be built.

    >>> backbones().record()["resnet50"]
    {'image_size': 224, 'width': 2048}
    """
    if verify is not None:
        if stages is not None:
            raise OptionError(f"{opt.stages} and {opt.verify} are two questions; ask one at a time.")
        return verify_backbone(verify, weights=weights or "imagenet", preprocess=preprocess)
    if weights is not None or preprocess is not None:
        option = opt.weights if weights is not None else opt.preprocess
        raise OptionError(f"{option} goes with {opt.verify}, which names the backbone.")
    return Backbones() if stages is None else Stages(stages, list_stages(stages))
