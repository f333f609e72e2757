"""Rows in, classifiers out: heads, tuning, scores, head files and prediction.

The heads themselves import scikit-learn or Keras, so they are loaded when first named; predicting
with a saved head needs neither.
"""

import importlib
from typing import TYPE_CHECKING, Any

from heads.evaluation import Evaluation, evaluate
from heads.file import SavedHead, load_head
from heads.prediction import predict_images
from heads.wilson import wilson_interval

if TYPE_CHECKING:
    from heads.centroid import CentroidHead
    from heads.compare import compare_heads
    from heads.inspection import inspect
    from heads.knn import KNNHead
    from heads.lda import LDAHead
    from heads.linear import LogisticHead, SVMHead
    from heads.mlp import MLPHead, SoftmaxHead
    from heads.rbf import RBFSVMHead
    from heads.ridge import RidgeHead
    from heads.training import TrainedHead, train_head

_LATE = {
    "CentroidHead": "heads.centroid",
    "KNNHead": "heads.knn",
    "LDAHead": "heads.lda",
    "RBFSVMHead": "heads.rbf",
    "RidgeHead": "heads.ridge",
    "LogisticHead": "heads.linear",
    "SVMHead": "heads.linear",
    "MLPHead": "heads.mlp",
    "SoftmaxHead": "heads.mlp",
    "TrainedHead": "heads.training",
    "compare_heads": "heads.compare",
    "inspect": "heads.inspection",
    "train_head": "heads.training",
}

__all__ = [
    "CentroidHead",
    "Evaluation",
    "KNNHead",
    "LDAHead",
    "LogisticHead",
    "MLPHead",
    "RBFSVMHead",
    "RidgeHead",
    "SVMHead",
    "SavedHead",
    "SoftmaxHead",
    "TrainedHead",
    "compare_heads",
    "evaluate",
    "inspect",
    "load_head",
    "predict_images",
    "train_head",
    "wilson_interval",
]


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module 'heads' has no attribute {name!r}")
    return getattr(importlib.import_module(_LATE[name]), name)
