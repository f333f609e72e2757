"""What says which backbone is meant: a source, and the settings a user gives."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypedDict

from onepass.extract.backbones.catalogue import BackboneName
from onepass.extract.backbones.engines import ENGINES
from onepass.extract.data.sources import is_source
from onepass.features.errors import DataError, OptionError, Parameter, WeightsError, opt
from onepass.features.preprocess import Preprocess


@dataclass(frozen=True)
class BackboneOrigin:
    """Where a backbone comes from, so that it can be found again.

    Attributes:
        name: As `load_backbone` takes it, paths absolute.
        weights: "imagenet" for the network's own, or path of a weights file.
    """

    name: str
    weights: str

    @classmethod
    def of(cls, provenance: dict[str, Any], weights: str | None = None) -> Self:
        """Where the backbone of a feature file or head came from, or where its weights lie now."""
        name = str(provenance.get("backbone"))
        if weights and (Path(weights).suffix in (".keras", ".onnx") or Path(weights).is_dir()):
            return cls(str(BackboneName(weights, BackboneName.parse(name).layer)), "imagenet")
        provider, _, place = name.partition(":")
        if weights and os.sep in place and Path(weights).suffix == ".safetensors" and provider == "timm":
            return cls(f"{provider}:{Path(weights).resolve().parent}", "imagenet")  # a folder that lies elsewhere now
        return cls(name, weights or str(provenance.get("weights")))


class BackboneSettings(TypedDict, total=False):
    """Settings of `load_backbone`, which has their meaning and their defaults."""

    weights: str | Path
    image_size: int | None
    resize: str | None
    depth: int | str
    pooling: str | None
    precision: str
    engine: str
    batch_size: int
    preprocess: str | Path | Preprocess | None


def check_choices(**options: tuple[str, tuple[str, ...]]) -> None:
    """Refuses a value that is not among its choices.

    Raises:
        OptionError: Naming the first.
    """
    for name, (value, choices) in options.items():
        if value not in choices:
            raise OptionError(f"{Parameter(name)} is {value!r}; needed: one of {', '.join(choices)}.", **{name: value})


def check_running(
    *,
    engine: str | None = None,
    workers: int | None = None,
    data: str | Path | Sequence[str | Path] | None = None,
    weights: str | Path | None = None,
) -> None:
    """Refuses what can be told of where and how something runs without reading anything; None is always right.

    Args:
        engine: openvino, tensorflow or auto.
        workers: Decoding threads.
        data: Image folders.
        weights: "imagenet", or a file.

    Raises:
        OptionError: The engine is unknown, or there are no threads.
        DataError: A folder is missing.
        WeightsError: The file is missing.
    """
    if engine is not None:
        check_choices(engine=(engine, ENGINES))
    if workers is not None and workers < 1:
        raise OptionError(f"{opt.workers} is {workers}; needed: at least 1.", workers=workers)
    for folder in [data] if isinstance(data, str | Path) else data or ():
        if not (Path(folder).is_dir() or is_source(folder)):
            state = "a file" if Path(folder).exists() else "not there"
            raise DataError(f"{folder} is {state}; needed: a folder of images.", folder=folder)
    if weights is not None and weights != "imagenet" and not Path(weights).is_file():
        raise WeightsError(f"there is no weights file {weights}.", path=weights)
