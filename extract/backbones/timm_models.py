"""Networks of timm, which its library and PyTorch are used once to convert, and never to run."""

import contextlib
import dataclasses
import hashlib
import importlib.util
import io
import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from onepass.extract.backbones.catalogue import BackboneName
from onepass.extract.backbones.graphs import write_graph
from onepass.extract.backbones.onnx_file import read_network
from onepass.extract.backbones.preprocess_files import preprocess_of
from onepass.extract.backbones.provider import MAP_POOLINGS, BackboneFacts, Conversion, GraphProvider, OnnxSource
from onepass.extract.backbones.safetensors_file import safetensors_digest
from onepass.extract.backbones.stages import did_you_mean
from onepass.extract.frameworks import quiet_stderr
from onepass.extract.machine import cache_folder
from onepass.features.atomic import folder_beside, move
from onepass.features.errors import BackboneError, OptionError, UnknownBackboneError, WeightsError, opt, reason_of
from onepass.features.preprocess import Preprocess
from onepass.features.seal import file_digest, sealed, unsealed

# Count up when the meaning of what is kept changes.
_LAYOUT = 1
_FACTS, _NETWORK, _CONFIG, _WEIGHTS = "network.json", "network.onnx", "config.json", "model.safetensors"
LAST = 4
"""Blocks whose class tokens `last4` puts one after the other, each after the network's last norm."""


class TimmModels(GraphProvider):
    """Networks by timm's names, with a tag of the weights behind the dot, or folders as timm saves them.

    What converts a network is kept in the cache as an ONNX file that gives rows by every pooling.
    """

    name: ClassVar[str] = "timm"
    gives_onnx: ClassVar[bool] = True

    def check(self, name: BackboneName, weights: str) -> None:
        if name.layer:
            raise OptionError(f"networks of timm are not cut; leave @{name.layer} out of {name}.")
        folder = _folder(name)
        if folder and weights != "imagenet":
            raise OptionError(f"{opt.weights} does not go with {folder}, which brings its own weights.")
        if weights != "imagenet" and Path(weights).suffix != ".safetensors":
            raise OptionError(
                f"{opt.weights} {weights} is not read for a network of timm: other formats than .safetensors can run "
                "code. Save it with safetensors.torch.save_file(model.state_dict(), 'model.safetensors')."
            )
        for part in (_CONFIG, _WEIGHTS) if folder else ():
            if not (folder / part).is_file():
                raise BackboneError(
                    f"{folder} holds no {part}; needed: a folder as timm saves it (save_for_hf), with {_CONFIG} and "
                    f"{_WEIGHTS}.",
                    path=folder,
                )
        if _lacking() and _kept(name, _file_of(name, weights)) is None:
            require_timm()

    def resolved(self, name: BackboneName) -> BackboneName:
        folder = _folder(name)
        return BackboneName(f"{self.name}:{folder.resolve()}") if folder else name

    def describe(
        self,
        name: BackboneName,
        *,
        weights: str,
        image_size: int | None,  # noqa: ARG002
        preprocess: Preprocess | None,
    ) -> BackboneFacts:
        file = _file_of(name, weights)
        facts = _kept(name, file) or _described(name, file)
        own = facts.preprocess
        if preprocess is not None and preprocess.resized(own.resize, own.size) != own:
            raise OptionError(
                f"{name.label} was trained on {own.channels}, {own.arithmetic}; {opt.preprocess} says "
                f"{preprocess.channels}, {preprocess.arithmetic}. Leave it out."
            )
        return facts

    def convert(self, wanted: Conversion, graph: Path) -> tuple[str, int]:
        network = self.onnx(wanted)
        width = write_graph(
            read_network(BackboneName(str(network.path), network.output)),
            graph,
            preprocess=wanted.preprocess,
            pooling="pooled",
            pixels=wanted.pixels,
            label=wanted.facts.label,
        )
        return network.digest, width

    def onnx(self, wanted: Conversion) -> OnnxSource:
        stored = _stored(wanted) or _converted(wanted)
        return OnnxSource(stored.path, wanted.pooling, stored.digest, pooled=True)


@dataclass(frozen=True)
class _Stored:
    """A network in the cache.

    Attributes:
        path: The ONNX file: (b, 3, s, s) -> (b, d) for each pooling, by its name.
        digest: SHA-256 of the weights, hexadecimal.
    """

    path: Path
    digest: str


def stored_sources() -> list[tuple[Path, str, str]]:
    """What lies in the cache of networks of timm: the folder, the network's name, and what is kept of it."""
    found = []
    for facts in sorted(cache_folder().glob(f"timm-*/{_FACTS}")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            known = json.loads(facts.read_bytes())
            found.append((facts.parent, str(known["label"]), str(known["what"])))
    return found


def require_timm() -> None:
    """Refuses to convert without timm, before it is imported.

    Raises:
        OptionError: It, or what it converts with, is not installed.
    """
    if lacking := _lacking():
        raise OptionError(
            f"a network of timm is converted once, which needs {', '.join(lacking)}; not installed here. Run: pip "
            'install "onepass[torch]".'
        )


def _lacking() -> list[str]:
    """What conversion needs and is not installed; nothing is imported."""
    return [module for module in ("timm", "torch", "onnxscript") if importlib.util.find_spec(module) is None]


def _folder(name: BackboneName) -> Path | None:
    """The folder that a name means."""
    inner = Path(name.inner)
    return inner if len(inner.parts) > 1 or inner.is_dir() else None


def _file_of(name: BackboneName, weights: str) -> Path | None:
    """The weights file on this machine; None for what timm downloads."""
    if folder := _folder(name):
        return folder / _WEIGHTS
    return None if weights == "imagenet" else Path(weights)


def _origin(name: BackboneName, file: Path | None) -> str:
    """What the network depends on: its files, or timm's name, whose tag stands for weights that do not change."""
    folder = _folder(name)
    if not folder:
        return file_digest(file) if file else f"timm {name.inner}"
    return hashlib.sha256(f"{file_digest(folder / _CONFIG)} {file_digest(folder / _WEIGHTS)}".encode()).hexdigest()


def _entry(name: BackboneName, origin: str, *more: object) -> Path:
    """The folder in the cache of facts, or of a network of one size."""
    key = [_LAYOUT, name.label, origin, *more]
    return cache_folder() / f"timm-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}"


def _kept(name: BackboneName, file: Path | None) -> BackboneFacts | None:
    """What an earlier conversion wrote down of a network, so that timm is not needed again."""
    try:
        found, _ = unsealed(json.loads((_entry(name, _origin(name, file)) / _FACTS).read_bytes()))
        facts = found["facts"]
        facts["preprocess"] = Preprocess.from_facts(facts["preprocess"])
        return BackboneFacts(**{**facts, "poolings": tuple(facts["poolings"])})
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _keep(folder: Path, facts: dict[str, Any], network: Path | None = None) -> None:
    """Puts facts into the cache, and the network that they are of, which is moved there.

    Raises:
        BackboneError: The cache cannot be written.
    """
    try:
        with folder_beside(folder) as beside:
            new = beside / folder.name
            new.mkdir()
            for part in network.parent.iterdir() if network else ():
                part.replace(new / part.name)
            (new / _FACTS).write_text(json.dumps(sealed(facts), indent=1))
            shutil.rmtree(folder, ignore_errors=True)
            move(new, folder)
    except OSError as error:
        raise BackboneError(
            f"cannot keep the converted network in {folder.parent}: {reason_of(error)}. Set ONEPASS_CACHE to a folder "
            "that can be written."
        ) from None


def _described(name: BackboneName, file: Path | None) -> BackboneFacts:
    """Facts by timm itself, from a network without weights.

    Raises:
        UnknownBackboneError: timm does not know it.
        OptionError: It is fed in a way that is not done here.
    """
    with _torch() as (torch, timm):
        wanted = _Wanted.of(timm, name)
        config = timm.data.resolve_data_config(pretrained_cfg=wanted.config)
        try:
            preprocess = preprocess_of(json.loads(json.dumps(config)))
        except ValueError as error:
            raise OptionError(f"{name.label} of timm cannot be fed here: {error}.") from None
        with torch.device("meta"):  # shapes alone
            model = wanted.made(timm, preprocess.size)
            images = torch.empty(1, 3, preprocess.size, preprocess.size)
            features, rows = _features(model, images), model(images)
        return BackboneFacts(
            provider=TimmModels.name,
            label=name.label,
            weights=file.name if file and not _folder(name) else "pretrained",
            origin=_origin(name, file),
            preprocess=preprocess,
            native=True,
            poolings=_poolings(model, features),
            width=int(rows.shape[-1]),
            parameters=sum(one.numel() for one in model.parameters()),
            licence=str(wanted.config.get("license") or ""),
        )


@dataclass(frozen=True)
class _Wanted:
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
    def of(cls, timm: Any, name: BackboneName) -> "_Wanted":
        """Looks a name up, or reads a folder.

        Raises:
            UnknownBackboneError: timm does not know it.
            BackboneError: The folder's configuration cannot be used.
        """
        if folder := _folder(name):
            return cls._in_folder(timm, folder)
        text = name.inner
        try:
            found = timm.models.get_pretrained_cfg(text) if timm.is_model(text) else None
        except RuntimeError:  # of a tag
            found = None
        if found is None:
            architecture, _, tag = text.partition(".")
            names = timm.list_pretrained(f"{architecture}.*") if tag else timm.list_models()
            raise UnknownBackboneError(
                f"timm {version('timm')} has no network {text!r}. {did_you_mean(text, names)}"
                f"timm.list_pretrained() lists all.",
                backbone=str(name),
            )
        return cls(text, found.to_dict(), {})

    @classmethod
    def _in_folder(cls, timm: Any, folder: Path) -> "_Wanted":
        try:
            facts = json.loads((folder / _CONFIG).read_bytes()[: 1 << 20])
            architecture, config = str(facts["architecture"]), dict(facts["pretrained_cfg"])
            arguments = dict(facts.get("model_args") or {})
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise BackboneError(
                f"{folder / _CONFIG} is not as timm writes it ({type(error).__name__}: {error}); needed: architecture "
                "and pretrained_cfg.",
                path=folder,
            ) from None
        if not timm.is_model(architecture):
            raise UnknownBackboneError(
                f"{folder / _CONFIG} is of the architecture {architecture!r}, which timm {version('timm')} does not "
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


def _features(model: Any, images: Any) -> Any:
    """What comes before the pooling; None if that is no tensor."""
    features = model.forward_features(images)
    return features if getattr(features, "ndim", 0) in (3, 4) else None


def _poolings(model: Any, features: Any) -> tuple[str, ...]:
    """How a network can give rows; its own way first."""
    if features is None:
        return ("pooled",)
    if features.ndim == 4:
        return ("pooled", *MAP_POOLINGS)
    if getattr(model, "cls_token", None) is None:
        return ("pooled", "mean")
    deep = hasattr(model, "forward_intermediates") and len(getattr(model, "blocks", ())) >= LAST
    return ("pooled", "cls+mean", "cls", "mean", *(("last4",) if deep else ()))


def _network_entry(wanted: Conversion) -> Path:
    last = wanted.pooling == "last4"  # which takes other outputs of the network than all else
    return _entry(wanted.name, wanted.facts.origin, wanted.preprocess.size, last)


def _stored(wanted: Conversion) -> _Stored | None:
    folder = _network_entry(wanted)
    try:
        facts, _ = unsealed(json.loads((folder / _FACTS).read_bytes()))
        whole = all(file_digest(folder / part) == digest for part, digest in facts["files"].items())
        return _Stored(folder / _NETWORK, facts["weights_hash"]) if whole else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _converted(wanted: Conversion) -> _Stored:
    """Converts a network by torch.export, and keeps it and its facts.

    Raises:
        OptionError: timm is not installed.
        WeightsError: The weights cannot be had or do not fit.
        BackboneError: It cannot be converted.
    """
    require_timm()
    name, label = wanted.name, wanted.facts.label
    file, size = _file_of(name, wanted.weights), wanted.preprocess.size
    with _torch() as (torch, timm):
        asked = _Wanted.of(timm, name)
        weights = file or _downloaded(name, asked)
        model = _loaded(timm, asked, size, weights, label)
        folder, digest = _network_entry(wanted), safetensors_digest(weights)
        try:
            cache_folder().mkdir(parents=True, exist_ok=True)
            with folder_beside(cache_folder() / f"{folder.name}.onnx") as work:
                poolings = ("last4",) if wanted.pooling == "last4" else wanted.facts.poolings
                _write(torch, model, work / _NETWORK, [one for one in poolings if one != "last4"] or ["last4"], size)
                files = {part.name: file_digest(part) for part in work.iterdir()}
                used = {package: version(package) for package in ("timm", "torch", "onnxscript")}
                facts = {"label": label, "what": f"{size} px, ONNX", "weights_hash": digest, "files": files}
                _keep(folder, {**facts, "converted_with": used}, work / _NETWORK)
        except (RuntimeError, OSError, ValueError, TypeError, AssertionError, AttributeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            raise BackboneError(f"{label} of timm cannot be converted for images of {size} px: {reason}") from None
    described = {"label": label, "what": "description", "facts": dataclasses.asdict(wanted.facts)}
    _keep(_entry(name, wanted.facts.origin), described)
    stored = _stored(wanted)
    if stored is None:
        raise BackboneError(f"the converted network in {folder} cannot be read back. Is the disk full?")
    return stored


def _downloaded(name: BackboneName, asked: _Wanted) -> Path:
    """Weights by timm's own way, the Hugging Face hub.

    Raises:
        WeightsError: There are none, or no connection; with what to put where instead.
    """
    from huggingface_hub import hf_hub_download

    place = asked.config.get("hf_hub_id")
    instead = f"Give a file by {opt.weights}: {_WEIGHTS} of {name.inner}, as timm offers it on the Hugging Face hub."
    if not place:
        raise WeightsError(f"timm offers no weights for {name.inner} that are read here. {instead}")
    named = str(asked.config.get("hf_hub_filename") or "")
    file = named if named.endswith(".safetensors") else _WEIGHTS
    try:
        return Path(hf_hub_download(place, file))
    except Exception as error:  # of its own kinds, of the network and of the disk
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
        raise WeightsError(
            f"{file} of {place} cannot be downloaded from the Hugging Face hub ({reason}). Fetch it on a machine with "
            f"a connection, and give it by {opt.weights}."
        ) from None


def _loaded(timm: Any, asked: _Wanted, size: int, weights: Path, label: str) -> Any:
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


def rows_module(torch: Any, model: Any, poolings: list[str]) -> Any:
    """A module of PyTorch that gives rows of (b, 3, s, s) by each of some poolings."""

    class Rows(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Any) -> tuple[Any, ...]:
            if poolings == ["last4"]:
                return (_last_tokens(torch, self.model, images),)
            features = self.model.forward_features(images)
            return tuple(_pooled(torch, self.model, features, one) for one in poolings)

    return Rows().eval()


def _last_tokens(torch: Any, model: Any, images: Any) -> Any:
    states = model.forward_intermediates(
        images, indices=LAST, norm=True, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
    )
    return torch.cat([prefix[:, 0] for _, prefix in states], dim=1)


def _pooled(torch: Any, model: Any, features: Any, pooling: str) -> Any:
    if pooling == "pooled":
        return model.forward_head(features, pre_logits=True).flatten(1)
    if features.ndim == 4:
        flat = features if getattr(model, "output_fmt", "NCHW") == "NHWC" else features.permute(0, 2, 3, 1)
        if pooling == "flatten":
            return flat.flatten(1)
        return flat.mean((1, 2)) if pooling == "avg" else flat.amax((1, 2))
    patches = features[:, model.num_prefix_tokens :].mean(1)
    parts = {"cls": [features[:, 0]], "mean": [patches], "cls+mean": [features[:, 0], patches]}[pooling]
    return torch.cat(parts, dim=1)


def _write(torch: Any, model: Any, path: Path, poolings: list[str], size: int) -> None:
    """Exports a network to ONNX: for any number of images, or for one where that cannot be."""
    module = rows_module(torch, model, poolings)

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
def _torch() -> Iterator[tuple[Any, Any]]:
    """torch and timm, imported late, in inference mode and without what they print."""
    require_timm()
    with quiet_stderr(), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import timm
        import torch

        with torch.no_grad():
            yield torch, timm
