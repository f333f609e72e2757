"""Finds who can make a backbone, for those that are not to know: packages import one way only."""

from importlib.metadata import entry_points
from typing import Any

from features.errors import BackboneError
from features.spec import Spec

GROUP = "onepass.backbones"


def backbone_of(spec: Spec, trained_on: dict[str, Any], *, needed_by: str) -> Any:
    """The backbone of a spec, from the package that is registered for it.

    Args:
        spec: What its rows must be.
        trained_on: Provenance that a head or feature file keeps.
        needed_by: Who needs it, for messages.

    Raises:
        BackboneError: Nobody is registered.
        SpecMismatchError, WeightsError: As `extract.load_backbone_for`.
    """
    for entry in entry_points(group=GROUP):
        return entry.load()(spec, trained_on, needed_by)
    raise BackboneError("no package here makes backbones. Install onepass with pip, so that its parts know each other.")
