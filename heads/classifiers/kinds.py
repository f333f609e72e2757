"""Every head by its kind."""

from onepass.heads.classifiers.base import Head
from onepass.heads.classifiers.centroid import CentroidHead
from onepass.heads.classifiers.knn import KNNHead
from onepass.heads.classifiers.lda import LDAHead
from onepass.heads.classifiers.linear import LogisticHead, SVMHead
from onepass.heads.classifiers.mlp import MLPHead, SoftmaxHead
from onepass.heads.classifiers.rbf_svm import RBFSVMHead
from onepass.heads.classifiers.ridge import KernelRidgeHead, RidgeHead
from onepass.heads.zero_shot.text_head import TextHead, TextLogisticHead

HEADS: dict[str, type[Head]] = {
    head.kind: head
    for head in (
        LogisticHead,
        SVMHead,
        RBFSVMHead,
        RidgeHead,
        KernelRidgeHead,
        LDAHead,
        KNNHead,
        CentroidHead,
        MLPHead,
        SoftmaxHead,
        TextHead,
        TextLogisticHead,
    )
}
