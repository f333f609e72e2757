"""One pass of a frozen, pretrained backbone over your images; then heads in seconds.

Everything that the command line does is one function here. What each offers is loaded when it is first named.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
