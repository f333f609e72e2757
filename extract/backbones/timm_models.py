"""Networks of timm, which its library and PyTorch are used once to convert, and never to run."""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from onepass.extract.backbones.catalogue import BackboneName
from onepass.extract.backbones.graphs import write_graph
from onepass.extract.backbones.onnx_file import read_rows
from onepass.extract.backbones.preprocess_files import preprocess_of
from onepass.extract.backbones.proof import Proof, Reference, Transform, prove
from onepass.extract.backbones.provider import Asked, BackboneFacts, Conversion, GraphProvider, OnnxSource
from onepass.extract.backbones.safetensors_file import safetensors_digest
from onepass.extract.backbones.timm_conversion import (
    CONFIG,
    WEIGHTS,
    TimmNetwork,
    downloaded,
    features_of,
    lacking_packages,
    loaded,
    poolings_of,
    prepared,
    require_timm,
    rows_module,
    tensorflow_came_first,
    torch_and_timm,
    write_onnx,
)
from onepass.extract.backbones.worker import TaskFailedError, Worker
from onepass.extract.machine import cache_folder
from onepass.features.atomic import folder_beside, move
from onepass.features.errors import BackboneError, OptionError, opt, reason_of
from onepass.features.preprocess import Preprocess
from onepass.features.seal import file_digest, sealed, unsealed

# Count up when the meaning of what is kept changes.
_LAYOUT = 1
_FACTS, _NETWORK = "network.json", "network.onnx"


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
        if folder:
            _require_saved(folder)
        if lacking_packages() and _kept(name, _file_of(name, weights)) is None:
            require_timm()

    def resolved(self, name: BackboneName) -> BackboneName:
        folder = _folder(name)
        return BackboneName(f"{self.name}:{folder.resolve()}") if folder else name

    def describe(self, asked: Asked) -> BackboneFacts:
        name, given = asked.name, asked.preprocess
        file = _file_of(name, asked.weights)
        facts = _kept(name, file)
        if facts is None:
            where = str(file.resolve()) if file else None
            facts = _facts(_by_torch(describe_here, name.label, name=str(name), file=where))
        own = facts.preprocess
        if given is not None and given.resized(own.resize, own.size) != own:
            raise OptionError(
                f"{name.label} was trained on {own.channels}, {own.arithmetic}; {opt.preprocess} says "
                f"{given.channels}, {given.arithmetic}. Leave it out."
            )
        return facts

    def convert(self, wanted: Conversion, graph: Path) -> tuple[str, tuple[int, ...]]:
        poolings = wanted.pooling.split(",")
        if len(poolings) > 1 and "last4" in poolings:
            raise OptionError(
                f"{opt.pooling} is {wanted.pooling}; last4 takes other outputs of a network of timm than the rest. "
                f"Extract it by itself, with {opt.pooling('last4')}.",
                pooling=wanted.pooling,
            )
        network = self.onnx(wanted)
        rows, widths = read_rows(network.path, poolings)
        write_graph(
            rows,
            graph,
            preprocess=wanted.preprocess,
            pooling="pooled",
            pixels=wanted.pixels,
            label=wanted.facts.label,
        )
        return network.digest, widths

    def onnx(self, wanted: Conversion) -> OnnxSource:
        if (stored := _stored(wanted)) is None:
            _by_torch(convert_here, wanted.facts.label, **_plain(wanted))
            stored = _stored(wanted)
        if stored is None:
            raise BackboneError(f"the converted network of {wanted.facts.label} cannot be read back. Is the disk full?")
        return OnnxSource(stored.path, wanted.pooling, stored.digest, pooled=True)

    def proof(self, wanted: Conversion, graph: Path) -> Proof | None:
        if lacking_packages():
            return None
        found = _by_torch(prove_here, wanted.facts.label, graph=str(graph), **_plain(wanted))
        return Proof(**found) if found else None

    def reference(self, wanted: Conversion) -> Reference | None:
        if lacking_packages() or tensorflow_came_first():
            return None
        name, size = wanted.name, wanted.preprocess.size
        with torch_and_timm() as (_, timm):
            asked = TimmNetwork.of(timm, name.inner, _folder(name))
            file = _file_of(name, wanted.weights) or downloaded(name.inner, asked)
            model = loaded(timm, asked, size, file, wanted.facts.label)

        def values(image: Image.Image, pixels: np.ndarray) -> np.ndarray:  # noqa: ARG001
            data = io.BytesIO()
            image.save(data, "PNG", compress_level=1)
            with torch_and_timm() as (torch, timm):
                return np.asarray(prepared(torch, timm, asked, [data.getvalue()], size)[0].numpy().transpose(1, 2, 0))

        def rows(seen: np.ndarray) -> np.ndarray:
            with torch_and_timm() as (torch, _):
                images = torch.from_numpy(np.ascontiguousarray(seen.transpose(0, 3, 1, 2)))
                found = rows_module(torch, model, wanted.pooling.split(","), images[:1])(images)
                return np.concatenate([one.numpy() for one in found], axis=1)

        native = wanted.preprocess == wanted.facts.preprocess_for("native", size)
        transform = Transform(f"timm {version('timm')}", values) if native else None
        return Reference(f"PyTorch {version('torch')}", rows, transform)


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


def _folder(name: BackboneName) -> Path | None:
    """The folder that a name means."""
    return Path(name.inner) if os.sep in name.inner or Path(name.inner).is_dir() else None


def _require_saved(folder: Path) -> None:
    """Refuses a folder that timm did not save, or not with safetensors."""
    for part in (CONFIG, WEIGHTS):
        if not (folder / part).is_file():
            raise BackboneError(
                f"{folder} holds no {part}; needed: a folder as timm saves it (save_for_hf), with {CONFIG} and "
                f"{WEIGHTS}.",
                path=folder,
            )


def _file_of(name: BackboneName, weights: str) -> Path | None:
    """The weights file on this machine; None for what timm downloads."""
    if folder := _folder(name):
        return folder / WEIGHTS
    return None if weights == "imagenet" else Path(weights)


def _origin(name: BackboneName, file: Path | None) -> str:
    """What the network depends on: its files, or timm's name, whose tag stands for weights that do not change."""
    folder = _folder(name)
    if not folder:
        return file_digest(file) if file else f"timm {name.inner}"
    return hashlib.sha256(f"{file_digest(folder / CONFIG)} {file_digest(folder / WEIGHTS)}".encode()).hexdigest()


def _entry(name: BackboneName, origin: str, *more: object) -> Path:
    """The folder in the cache of facts, or of a network of one size."""
    key = [_LAYOUT, name.label, origin, *more]
    return cache_folder() / f"timm-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}"


def _kept(name: BackboneName, file: Path | None) -> BackboneFacts | None:
    """What an earlier conversion wrote down of a network, so that timm is not needed again."""
    try:
        found, _ = unsealed(json.loads((_entry(name, _origin(name, file)) / _FACTS).read_bytes()))
        return _facts(found["facts"])
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


def _facts(plain: dict[str, Any]) -> BackboneFacts:
    """Facts from plain values."""
    made = {"preprocess": Preprocess.from_facts(plain["preprocess"]), "poolings": tuple(plain["poolings"])}
    return BackboneFacts(**{**plain, **made})


def _plain(wanted: Conversion) -> dict[str, Any]:
    return {**dataclasses.asdict(wanted), "name": str(wanted.name)}


def _wanted(plain: dict[str, Any]) -> Conversion:
    made = {"name": BackboneName.parse(plain["name"]), "facts": _facts(plain["facts"])}
    return Conversion(**{**plain, **made, "preprocess": Preprocess.from_facts(plain["preprocess"])})


def _by_torch(task: Callable[..., Any], label: str, **plain: Any) -> Any:
    """Does a task with PyTorch: here, or in a process of its own where TensorFlow is loaded here.

    Raises:
        BackboneError: That process failed.
    """
    if not tensorflow_came_first():
        return task(**plain)
    try:
        with Worker(task, **plain) as process:
            return process.answer()
    except TaskFailedError as error:
        raise BackboneError(
            f"{label} of timm cannot be converted beside TensorFlow, in a process of its own: {error}"
        ) from None


def describe_here(name: str, file: str | None) -> dict[str, Any]:
    """Facts of a network as plain values."""
    return dataclasses.asdict(_described(BackboneName.parse(name), Path(file) if file else None))


def convert_here(**plain: Any) -> None:
    """Converts a network and keeps it in the cache."""
    _convert(_wanted(plain))


def prove_here(graph: str, **plain: Any) -> dict[str, Any] | None:
    """How far a graph lies from timm's own network, as plain values."""
    wanted = _wanted(plain)
    reference = TimmModels().reference(wanted)
    return dataclasses.asdict(prove(Path(graph), wanted.preprocess, reference)) if reference else None


def _described(name: BackboneName, file: Path | None) -> BackboneFacts:
    """Facts by timm itself, from a network without weights.

    Raises:
        UnknownBackboneError: timm does not know it.
        OptionError: It is fed in a way that is not done here.
    """
    with torch_and_timm() as (torch, timm):
        asked = TimmNetwork.of(timm, name.inner, _folder(name))
        config = timm.data.resolve_data_config(pretrained_cfg=asked.config)
        try:
            preprocess = preprocess_of(json.loads(json.dumps(config)))
        except ValueError as error:
            raise OptionError(f"{name.label} of timm cannot be fed here: {error}.") from None
        with torch.device("meta"):  # shapes alone
            model = asked.made(timm, preprocess.size)
            images = torch.empty(1, 3, preprocess.size, preprocess.size)
            features, rows = features_of(model, images), model(images)
        return BackboneFacts(
            provider=TimmModels.name,
            label=name.label,
            weights=file.name if file and not _folder(name) else "pretrained",
            origin=_origin(name, file),
            preprocess=preprocess,
            native=True,
            poolings=poolings_of(torch, model, images, features),
            width=int(rows.shape[-1]),
            parameters=sum(one.numel() for one in model.parameters()),
            licence=str(asked.config.get("license") or ""),
        )


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


def _convert(wanted: Conversion) -> None:
    """Converts a network by torch.export, and keeps it and its facts.

    Raises:
        OptionError: timm is not installed.
        WeightsError: The weights cannot be had or do not fit.
        BackboneError: It cannot be converted.
    """
    require_timm()
    name, label = wanted.name, wanted.facts.label
    file, size = _file_of(name, wanted.weights), wanted.preprocess.size
    with torch_and_timm() as (torch, timm):
        asked = TimmNetwork.of(timm, name.inner, _folder(name))
        weights = file or downloaded(name.inner, asked)
        model = loaded(timm, asked, size, weights, label)
        folder, digest = _network_entry(wanted), safetensors_digest(weights)
        try:
            cache_folder().mkdir(parents=True, exist_ok=True)
            with folder_beside(cache_folder() / f"{folder.name}.onnx") as work:
                poolings = ("last4",) if wanted.pooling == "last4" else wanted.facts.poolings
                write_onnx(
                    torch, model, work / _NETWORK, [one for one in poolings if one != "last4"] or ["last4"], size
                )
                files = {part.name: file_digest(part) for part in work.iterdir()}
                used = {package: version(package) for package in ("timm", "torch", "onnxscript")}
                facts = {"label": label, "what": f"{size} px, ONNX", "weights_hash": digest, "files": files}
                _keep(folder, {**facts, "converted_with": used}, work / _NETWORK)
        except (RuntimeError, OSError, ValueError, TypeError, AssertionError, AttributeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            raise BackboneError(f"{label} of timm cannot be converted for images of {size} px: {reason}") from None
    described = {"label": label, "what": "description", "facts": dataclasses.asdict(wanted.facts)}
    _keep(_entry(name, wanted.facts.origin), described)
