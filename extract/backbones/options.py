"""What says which backbone is meant: a source, and the settings a user gives."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypedDict

from onepass.extract.backbones.catalogue import BackboneName
from onepass.features.errors import OptionError


@dataclass(frozen=True)
class Source:
    """Where a backbone comes from, so that it can be found again.

    Attributes:
        name: Catalogue name, or path of a `.keras` file; with @ and a layer if the network is cut there.
        weights: "imagenet" or path of a weights file.
    """

    name: str
    weights: str

    @classmethod
    def of(cls, provenance: dict[str, Any], weights: str | None = None) -> Self:
        """Where the backbone of a feature file or head came from, or where its weights lie now."""
        name = str(provenance.get("backbone"))
        if weights and weights.endswith(".keras"):
            return cls(str(BackboneName(weights, BackboneName.parse(name).layer)), "imagenet")
        return cls(name, weights or str(provenance.get("weights")))


class BackboneSettings(TypedDict, total=False):
    """Settings of `load_backbone`, which has their meaning and their defaults."""

    weights: str | Path
    image_size: int | None
    resize: str
    depth: int | str
    pooling: str
    precision: str
    engine: str
    batch_size: int


def check_choices(**options: tuple[str, tuple[str, ...]]) -> None:
    """Refuses a value that is not among its choices.

    Raises:
        OptionError: Naming the first.
    """
    for name, (value, choices) in options.items():
        if value not in choices:
            raise OptionError(f"--{name} is {value!r}; needed: one of {', '.join(choices)}.")
