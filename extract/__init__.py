"""Images in, rows out: folders, decoding, backbones, engines and the one pass."""

from typing import TYPE_CHECKING, Any

from extract.account import Extraction
from extract.backbone import Backbone, Source, load_backbone, load_backbone_for
from extract.catalogue import CATALOGUE
from extract.folders import check_folder, find_images, watch_folder
from extract.images import read_image
from extract.keras_views import random_layers
from extract.labelled import rows_of_folder
from extract.pixels import ImageFiles, LabelledPixels
from extract.plan import Plan, plan_extraction
from extract.repair import Repair, repair
from extract.run import extract_features, run_extraction
from extract.trainable import TrainableBackbone, load_trainable, trainable_within
from extract.verify import Verification, verify
from features.errors import UnreadableImageError

if TYPE_CHECKING:
    from extract.transformer import BackboneFeatures

__all__ = [
    "CATALOGUE",
    "Backbone",
    "BackboneFeatures",
    "Extraction",
    "ImageFiles",
    "LabelledPixels",
    "Plan",
    "Repair",
    "Source",
    "TrainableBackbone",
    "UnreadableImageError",
    "Verification",
    "check_folder",
    "extract_features",
    "find_images",
    "load_backbone",
    "load_backbone_for",
    "load_trainable",
    "plan_extraction",
    "random_layers",
    "read_image",
    "repair",
    "rows_of_folder",
    "run_extraction",
    "trainable_within",
    "verify",
    "watch_folder",
]


def __getattr__(name: str) -> Any:
    if name != "BackboneFeatures":
        raise AttributeError(f"module 'extract' has no attribute {name!r}")
    # It brings scikit-learn, which nothing else here needs.
    from extract.transformer import BackboneFeatures

    return BackboneFeatures
