"""The feature file: what a row means, how it is written, read and checked."""

from onepass.features.duplicates import DuplicateGroup, find_duplicates
from onepass.features.errors import OnepassWarning, OptionError, UserError, opt
from onepass.features.file import FeatureFile, SkippedImage, only_feature_file
from onepass.features.overlapping_groups import OverlappingGroup, find_overlapping_groups
from onepass.features.places import require_place
from onepass.features.preprocess import Preprocess, ResizeRule
from onepass.features.spec import Spec
from onepass.features.splits import SPLITS, content_split, rows_to_score
from onepass.features.table import ImageTable
from onepass.features.tasks import CLASSES, LABELS, NONE, NUMBER, TASKS

__all__ = [
    "CLASSES",
    "LABELS",
    "NONE",
    "NUMBER",
    "SPLITS",
    "TASKS",
    "DuplicateGroup",
    "FeatureFile",
    "ImageTable",
    "OnepassWarning",
    "OptionError",
    "OverlappingGroup",
    "Preprocess",
    "ResizeRule",
    "SkippedImage",
    "Spec",
    "UserError",
    "content_split",
    "find_duplicates",
    "find_overlapping_groups",
    "only_feature_file",
    "opt",
    "require_place",
    "rows_to_score",
]
