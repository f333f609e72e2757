"""The feature file: what a row means, how it is written, read and checked."""

from features.duplicates import DuplicateGroup, find_duplicates
from features.errors import UserError
from features.file import FeatureFile, SkippedImage
from features.spec import Spec
from features.splits import SPLITS, content_split, rows_to_score
from features.table import ImageTable
from features.torn_groups import TornGroup, find_torn_groups

__all__ = [
    "SPLITS",
    "DuplicateGroup",
    "FeatureFile",
    "ImageTable",
    "SkippedImage",
    "Spec",
    "TornGroup",
    "UserError",
    "content_split",
    "find_duplicates",
    "find_torn_groups",
    "rows_to_score",
]
