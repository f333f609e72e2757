"""What this package gives to others by its entry point `onepass.backbones`."""

from typing import Any

from extract.backbone import Backbone, Source, load_backbone_for
from features.spec import Spec


def backbone_of(spec: Spec, trained_on: dict[str, Any], needed_by: str) -> Backbone:
    """The backbone that rows of a head come from; see `features.providers`."""
    return load_backbone_for(spec, source=Source.of(trained_on), needed_by=needed_by)
