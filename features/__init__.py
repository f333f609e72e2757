"""The feature file: what a row means, how it is written, read and checked."""

from features.duplicates import DuplicateGroup, find_duplicates
from features.errors import UserError
from features.file import FeatureFile, SkippedImage
from features.spec import Spec
from features.splits import SPLITS, content_split, rows_to_score
from features.table import ImageTable

__all__ = [
    "SPLITS",
    "DuplicateGroup",
    "FeatureFile",
    "ImageTable",
    "SkippedImage",
    "Spec",
    "UserError",
    "content_split",
    "find_duplicates",
    "rows_to_score",
]
