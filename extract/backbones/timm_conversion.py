"""timm and PyTorch at work: networks looked up, loaded, and exported to ONNX by torch.export."""

import contextlib
import dataclasses
import importlib.util
import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from onepass.extract.backbones.hub_files import hub_file
from onepass.extract.backbones.provider import MAP_POOLINGS
from onepass.extract.backbones.stages import did_you_mean
from onepass.extract.frameworks import quiet_stderr
from onepass.features.errors import BackboneError, OptionError, UnknownBackboneError, WeightsError, opt

CONFIG, WEIGHTS = "config.json", "model.safetensors"
"""What a folder holds that timm saves."""

LAST = 4
"""Blocks whose class tokens `last4` puts one after the other, each after the network's last norm."""


def require_timm() -> None:
    """Refuses to convert where timm cannot be imported, before that is tried.

    Raises:
        OptionError: It, or what it converts with, is not installed.
    """
    if lacking := lacking_packages():
        raise OptionError(
            f"a network of timm is converted once, which needs {', '.join(lacking)}; not installed here. Run: pip "
            'install "onepass[torch]".'
        )


def tensorflow_came_first() -> bool:
    """Whether importing timm would end this process.

    PyTorch's torchvision, which timm needs, does so after TensorFlow: a segmentation fault, seen with TensorFlow 2.21
    and torchvision 0.29.
    """
    return "tensorflow" in sys.modules and "torchvision" not in sys.modules


def lacking_packages() -> list[str]:
    """What conversion needs and is not installed; nothing is imported."""
    return [module for module in ("timm", "torch", "onnxscript") if importlib.util.find_spec(module) is None]


@dataclass(frozen=True)
class TimmNetwork:
    """A network as timm builds it.

    Attributes:
        architecture: Its function in timm.
        config: timm's `pretrained_cfg`.
        arguments: Of the function.
    """

    architecture: str
    config: dict[str, Any]
    arguments: dict[str, Any]

    @classmethod
    def of(cls, timm: Any, name: str, folder: Path | None) -> "TimmNetwork":
        """Looks a name up, or reads a folder.

        Args:
            timm: The module.
            name: As timm knows it; not looked at where there is a folder.
            folder: As timm saves one.

        Raises:
            UnknownBackboneError: timm does not know it.
            BackboneError: The folder's configuration cannot be used.
        """
        if folder:
            return cls._in_folder(timm, folder)
        try:
            found = timm.models.get_pretrained_cfg(name) if timm.is_model(name) else None
        except RuntimeError:  # of a tag
            found = None
        if found is None:
            architecture, _, tag = name.partition(".")
            names = timm.list_pretrained(f"{architecture}.*") if tag else timm.list_models()
            raise UnknownBackboneError(
                f"timm {version('timm')} has no network {name!r}. {did_you_mean(name, names)}"
                f"timm.list_pretrained() lists all.",
                backbone=name,
            )
        return cls(name, found.to_dict(), {})

    @classmethod
    def _in_folder(cls, timm: Any, folder: Path) -> "TimmNetwork":
        try:
            facts = json.loads((folder / CONFIG).read_bytes()[: 1 << 20])
            architecture, config = str(facts["architecture"]), dict(facts["pretrained_cfg"])
            arguments = dict(facts.get("model_args") or {})
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise BackboneError(
                f"{folder / CONFIG} is not as timm writes it ({type(error).__name__}: {error}); needed: architecture "
                "and pretrained_cfg.",
                path=folder,
            ) from None
        if not timm.is_model(architecture):
            raise UnknownBackboneError(
                f"{folder / CONFIG} is of the architecture {architecture!r}, which timm {version('timm')} does not "
                "have. Install the timm that saved it.",
                backbone=architecture,
            )
        return cls(architecture, config, arguments)

    def made(self, timm: Any, side: int, weights: Path | None = None) -> Any:
        """The network without classes, in inference mode, for images of this size."""
        arguments: dict[str, Any] = {**self.arguments, "num_classes": 0, "pretrained": weights is not None}
        known = {field.name for field in dataclasses.fields(timm.models.PretrainedCfg)}
        arguments["pretrained_cfg"] = {key: value for key, value in self.config.items() if key in known}
        if weights:
            arguments["pretrained_cfg_overlay"] = {"file": str(weights)}
        if side != self.config["input_size"][-1]:
            arguments["img_size"] = side
        architecture = self.architecture.partition(".")[0]
        try:
            model = timm.create_model(architecture, **arguments)
        except TypeError as error:
            if "img_size" not in str(error):
                raise
            del arguments["img_size"]  # of networks that take any size
            model = timm.create_model(architecture, **arguments)
        return model.eval()


def features_of(model: Any, images: Any) -> Any:
    """What comes before the pooling; None if that is no tensor."""
    features = model.forward_features(images)
    return features if getattr(features, "ndim", 0) in (3, 4) else None


def poolings_of(torch: Any, model: Any, images: Any, features: Any) -> tuple[str, ...]:
    """How a network can give rows; its own way first.

    Args:
        torch: The module.
        model: timm's network; and
        images: to try it on.
        features: From `features_of`.
    """
    if features is None or (features.ndim == 3 and not hasattr(model, "num_prefix_tokens")):
        return ("pooled",)
    if features.ndim == 4:
        return ("pooled", *MAP_POOLINGS)
    if getattr(model, "cls_token", None) is None:
        return ("pooled", "mean")
    tokens = ("pooled", "cls+mean", "cls", "mean")
    try:
        last = _last_tokens(torch, model, images)
    except (AttributeError, TypeError, IndexError, RuntimeError, AssertionError):
        return tokens
    return (*tokens, "last4") if last.shape[-1] == LAST * features.shape[-1] else tokens


def downloaded(name: str, asked: TimmNetwork) -> Path:
    """Weights by timm's own way, the Hugging Face hub.

    Raises:
        WeightsError: There are none, or no connection; with what to put where instead.
    """
    place = asked.config.get("hf_hub_id")
    instead = f"Give a file by {opt.weights}: {WEIGHTS} of {name}, as timm offers it on the Hugging Face hub."
    if not place:
        raise WeightsError(f"timm offers no weights for {name} that are read here. {instead}")
    named = str(asked.config.get("hf_hub_filename") or "")
    file = named if named.endswith(".safetensors") else WEIGHTS
    found = hub_file(place, file, instead=f"Or fetch it on a machine with a connection, and give it by {opt.weights}.")
    if found is None:
        raise WeightsError(f"{place} on the Hugging Face hub holds no {file}. {instead}")
    return found


def loaded(timm: Any, asked: TimmNetwork, size: int, weights: Path, label: str) -> Any:
    """The network with its weights, whose every number comes from the file.

    Raises:
        WeightsError: They do not fit.
    """
    lacking: list[str] = []

    class Listener(logging.Handler):
        """timm loads what fits where the classes differ, and only logs what did not."""

        def emit(self, record: logging.LogRecord) -> None:
            if "Missing keys" in record.getMessage():
                lacking.append(record.getMessage())

    logger, listener = logging.getLogger("timm.models._builder"), Listener()
    before = logger.level, logger.propagate
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        model = asked.made(timm, size, weights)
    except (RuntimeError, KeyError, ValueError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()[:300]
        raise WeightsError(f"{weights} does not fit {label}: {reason}") from None
    finally:
        logger.removeHandler(listener)
        logger.setLevel(before[0])
        logger.propagate = before[1]
    if lacking:
        raise WeightsError(f"{weights} does not fit {label}: it lacks {lacking[0].partition('(')[2][:200]}")
    return timm.models.reparameterize_model(model)


def prepared(torch: Any, timm: Any, asked: TimmNetwork, images: Sequence[bytes], size: int) -> Any:
    """Image files as timm's own transform makes them for a network: (n, 3, s, s), arithmetic included."""
    config = timm.data.resolve_data_config({"img_size": size}, pretrained_cfg=asked.config)
    transform = timm.data.create_transform(**config, is_training=False)
    return torch.stack([transform(Image.open(io.BytesIO(data)).convert("RGB")) for data in images])


def rows_module(torch: Any, model: Any, poolings: list[str], images: Any) -> Any:
    """A module of PyTorch that gives rows of (b, 3, s, s) by each of some poolings.

    Args:
        torch: The module.
        model: timm's network, without classes.
        poolings: Those of `poolings_of`; last4 alone.
        images: (1, 3, s, s) to try it on. Of a few networks the head does more than it says with `pre_logits`; those
            run as a whole for their own rows.
    """

    class Rows(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, *, whole: bool) -> None:
            super().__init__()
            self.model, self.whole = model, whole

        def forward(self, images: Any) -> tuple[Any, ...]:
            if poolings == ["last4"]:
                return (_last_tokens(torch, self.model, images),)
            features = self.model.forward_features(images)
            own = self.model(images) if self.whole else self.model.forward_head(features, pre_logits=True)
            return tuple(own if one == "pooled" else _pooled(torch, self.model, features, one) for one in poolings)

    module = Rows(whole=False).eval()
    first = module(images)[0]  # whatever does not fit is told here, in timm's own words
    if poolings[0] != "pooled" or torch.allclose(first, model(images), rtol=1e-4, atol=1e-5):
        return module
    return Rows(whole=True).eval()


def _last_tokens(torch: Any, model: Any, images: Any) -> Any:
    states = model.forward_intermediates(
        images, indices=LAST, norm=True, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
    )
    return torch.cat([prefix[:, 0] for _, prefix in states], dim=1)


def _pooled(torch: Any, model: Any, features: Any, pooling: str) -> Any:
    if features.ndim == 4:
        flat = features if getattr(model, "output_fmt", "NCHW") == "NHWC" else features.permute(0, 2, 3, 1)
        if pooling == "flatten":
            return flat.flatten(1)
        return flat.mean((1, 2)) if pooling == "avg" else flat.amax((1, 2))
    patches = features[:, model.num_prefix_tokens :].mean(1)
    parts = {"cls": [features[:, 0]], "mean": [patches], "cls+mean": [features[:, 0], patches]}[pooling]
    return torch.cat(parts, dim=1)


def write_onnx(torch: Any, model: Any, path: Path, poolings: list[str], size: int) -> None:
    """Exports a network to ONNX: for any number of images, or for one where that cannot be."""
    module = rows_module(torch, model, poolings, torch.rand(1, 3, size, size))

    def written(images: int, shapes: Any) -> None:
        program = torch.onnx.export(
            module,
            (torch.zeros(images, 3, size, size),),
            dynamo=True,
            input_names=["images"],
            output_names=poolings,
            dynamic_shapes=shapes,
            verbose=False,
        )
        program.save(str(path))

    try:
        written(2, {"images": {0: torch.export.Dim("batch", min=1, max=4096)}})
    except torch.onnx.errors.OnnxExporterError:
        written(1, None)


@contextlib.contextmanager
def torch_and_timm() -> Iterator[tuple[Any, Any]]:
    """torch and timm, imported late, in inference mode and without what they print."""
    require_timm()
    with quiet_stderr(), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import timm
        import torch

        with torch.no_grad():
            yield torch, timm
