"""Images in, rows out: folders, decoding, backbones, engines and the one pass."""

from extract.backbone import Backbone, load_backbone
from extract.catalogue import CATALOGUE
from extract.images import UnreadableImageError, read_image
from extract.run import Extraction, extract_features

__all__ = [
    "CATALOGUE",
    "Backbone",
    "Extraction",
    "UnreadableImageError",
    "extract_features",
    "load_backbone",
    "read_image",
]
