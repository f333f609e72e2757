"""Images in, rows out: folders, decoding, backbones, engines and the one pass."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
