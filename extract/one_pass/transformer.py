"""A backbone as a step of scikit-learn's pipelines: images in, rows out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from onepass.extract.backbones.catalogue import BUNDLED
from onepass.extract.backbones.load import load_backbone
from onepass.extract.pixels.deep import FULL_DEPTH


class BackboneFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Turns image files, or decoded images, into rows, in a `Pipeline` before any classifier.

    Nothing is learnt and nothing is kept on disk: a pipeline that is fitted again computes all rows again, which
    is what `extract_features` is there to spare.

    Args:
        backbone, weights, image_size, resize, depth, pooling, precision, engine, preprocess: As for
            `extract.load_backbone`.
        workers: Decoding threads; by default one per processor.

    Attributes after `fit`:
        n_features_out_: Length of a row.
    """

    def __init__(
        self,
        backbone: str = BUNDLED,
        *,
        weights: str | Path = "imagenet",
        image_size: int | None = None,
        resize: str | None = None,
        depth: int = FULL_DEPTH,
        pooling: str | None = None,
        precision: str = "auto",
        engine: str = "auto",
        preprocess: str | Path | None = None,
        workers: int | None = None,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.image_size = image_size
        self.resize = resize
        self.depth = depth
        self.pooling = pooling
        self.precision = precision
        self.engine = engine
        self.preprocess = preprocess
        self.workers = workers

    def fit(self, images: Sequence[str | Path | np.ndarray], y: Any = None) -> Self:  # noqa: ARG002 (scikit-learn's form)
        """Makes the backbone ready.

        Raises:
            OptionError, BackboneError, WeightsError: As `extract.load_backbone`.
        """
        self._ready = self._load()
        self.n_features_out_ = self._ready.spec.width
        return self

    def transform(self, images: Sequence[str | Path | np.ndarray]) -> np.ndarray:
        """Paths, or (h, w, 3) uint8 RGB arrays -> (n, d) float32.

        Raises:
            UnreadableImageError: Naming the first image that cannot be read.
        """
        check_is_fitted(self, "n_features_out_")
        if self._ready is None:
            self._ready = self._load()
        return np.asarray(self._ready.rows_of(images, workers=self.workers))

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:  # noqa: ARG002 (scikit-learn's form)
        """(d,) names: the backbone's with a number."""
        check_is_fitted(self, "n_features_out_")
        return np.array([f"{self.backbone}_{i}" for i in range(self.n_features_out_)], dtype=object)

    def _load(self) -> Any:
        options = self.get_params(deep=False)
        del options["workers"]
        return load_backbone(options.pop("backbone"), **options)

    def __getstate__(self) -> dict[str, Any]:
        # A compiled network cannot be sent to another process; there it is loaded anew.
        state = dict(super().__getstate__())
        return {**state, "_ready": None} if "_ready" in state else state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.no_validation = True
        return tags
