"""Which provider a backbone's name belongs to: ours, and those that other packages register."""

import functools
import importlib
from importlib.metadata import entry_points

from onepass.extract.backbones.catalogue import BackboneName
from onepass.extract.backbones.provider import Provider
from onepass.features.errors import UnknownBackboneError

GROUP = "onepass.providers"
"""Entry points of this group name subclasses of `KerasProvider` or `GraphProvider`."""

_OURS = {
    "keras": "keras_applications:KerasApplications",
    "keras-file": "keras_file:KerasFile",
    "onnx": "onnx_file:OnnxFile",
    "hf": "hugging_face:HuggingFace",
    "keras-hub": "kerashub:KerasHub",
    "timm": "timm_models:TimmModels",
}
"""Provider -> file of this folder, and class."""


def provider_of(name: BackboneName) -> Provider:
    """The provider of a name.

    Raises:
        UnknownBackboneError: Nobody provides such names.
    """
    return _provider(name.provider)


@functools.cache
def _provider(key: str) -> Provider:
    if key in _OURS:
        file, _, kind = _OURS[key].partition(":")
        found = getattr(importlib.import_module(f"{__package__}.{file}"), kind)()
    else:
        found = _registered(key)()
    assert isinstance(found, Provider)
    return found


def _registered(key: str) -> type[Provider]:
    registered = {point.name: point for point in entry_points(group=GROUP)}
    if key not in registered:
        known = sorted({*_OURS, *registered} - {"keras", "keras-file", "onnx"})
        ours = f"{', '.join(f'{one}:' for one in known)}, " if known else ""
        raise UnknownBackboneError(
            f"nobody provides backbones called {key}:...; needed: {ours}a name of `onepass backbones`, or a file that "
            f"ends in .keras or .onnx. Packages register more under the entry points {GROUP}.",
            backbone=key,
        )
    try:
        kind = registered[key].load()
    except Exception as error:  # a package of somebody else's
        raise UnknownBackboneError(
            f"the provider {key} of {registered[key].value} cannot be loaded: {type(error).__name__}: {error}. "
            "Install its package again.",
            backbone=key,
        ) from None
    if not (isinstance(kind, type) and issubclass(kind, Provider)):
        raise UnknownBackboneError(
            f"the provider {key} is {registered[key].value}, which is no subclass of onepass's KerasProvider or "
            "GraphProvider. Its package is for another version of onepass.",
            backbone=key,
        )
    return kind
