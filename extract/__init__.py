"""Images in, rows out: folders, decoding, backbones, engines and the one pass."""

from extract.backbone import Backbone, Source, load_backbone, load_backbone_for
from extract.catalogue import CATALOGUE
from extract.folders import check_folder, find_images
from extract.images import UnreadableImageError, read_image
from extract.labelled import rows_of_folder
from extract.run import Extraction, extract_features, run_extraction

__all__ = [
    "CATALOGUE",
    "Backbone",
    "Extraction",
    "Source",
    "UnreadableImageError",
    "check_folder",
    "extract_features",
    "find_images",
    "load_backbone",
    "load_backbone_for",
    "read_image",
    "rows_of_folder",
    "run_extraction",
]
