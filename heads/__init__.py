"""Rows in, classifiers out: heads, tuning, scores, head files and prediction."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
