"""A folder that transformers wrote: config.json, safetensors and what lies beside them, read without any framework."""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from onepass.extract.backbones.hub_files import RemoteFile
from onepass.extract.backbones.preprocess_files import read_preprocess
from onepass.extract.backbones.provider import TEXT_TOWERS
from onepass.extract.backbones.weights import file_hash
from onepass.features.errors import BackboneError, OptionError, opt
from onepass.features.limits import require_declared
from onepass.features.preprocess import Preprocess

CONFIG, PROCESSOR, OURS, README = "config.json", "preprocessor_config.json", "preprocess.json", "README.md"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENIZERS = ("tokenizer.json", "sentencepiece.bpe.model")
"""Files that hold a tokenizer; the first that is there counts."""

NEEDED = f"{CONFIG}, {SINGLE} and {PROCESSOR}"

_LARGEST_JSON = 1 << 22
_LARGEST_HEADER = 100_000_000  # which is that of safetensors itself
_MOST = {"num_hidden_layers": 400, "hidden_size": 1 << 16, "intermediate_size": 1 << 18, "image_size": 8192}
"""Numbers of a configuration -> the largest that are taken; they decide what is built before weights are looked at."""


@dataclass(frozen=True)
class Family:
    """Networks of one model_type.

    Attributes:
        prefix: Tokens before those of the patches, registers left out; 0 for networks that give a feature map.
        same: What KerasHub takes for granted: field of the configuration -> its value.
        any_size: Whether images of other sizes than that of the configuration are taken.
        vision: Whether the numbers of the network stand in vision_config.
        own_vector: Whether the network gives one vector of its own.
    """

    prefix: int = 1
    same: dict[str, Any] = field(default_factory=dict)
    any_size: bool = False
    vision: bool = False
    own_vector: bool = False


_GELU = {"hidden_act": "gelu"}

FAMILIES = {
    "dinov2": Family(same={**_GELU, "qkv_bias": True, "layer_norm_eps": 1e-6}, any_size=True),
    "dinov2_with_registers": Family(same={**_GELU, "qkv_bias": True, "layer_norm_eps": 1e-6}, any_size=True),
    "dinov3_vit": Family(any_size=True),
    "vit": Family(same=_GELU),
    "deit": Family(prefix=2, same={**_GELU, "qkv_bias": True}),
    "swin": Family(prefix=0, same={**_GELU, "use_absolute_embeddings": False, "layer_norm_eps": 1e-5}),
    "metaclip_2": Family(same={"layer_norm_eps": 1e-5}, vision=True, own_vector=True),
}
"""model_type -> what is known of it; KerasHub converts these."""

_TEXT = {"layer_norm_eps": 1e-5, "eos_token_id": 2}
"""What KerasHub takes for granted of a text tower; the row of a text lies where the second stands."""


@dataclass(frozen=True)
class TransformersFolder:
    """A network of transformers on disk.

    Attributes:
        path: The folder.
        config: What config.json says.
        remote: Files of weights that are not in the folder, by name: they are yet to be downloaded.
    """

    path: Path
    config: dict[str, Any]
    remote: Mapping[str, RemoteFile] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, remote: Mapping[str, RemoteFile] | None = None) -> Self:
        """Reads the configuration, and refuses what can be told from it and from the names of the files.

        Raises:
            BackboneError: Files are missing, the weights are pickled, or the network is none that KerasHub converts.
        """
        if not path.is_dir():
            raise BackboneError(f"there is no folder {path}; needed: one that holds {NEEDED}.", path=path)
        config = read_json(path / CONFIG, f"{path} is no folder of transformers; needed: {NEEDED}.")
        found = cls(path, config, remote or {})
        found._require_known()
        found._require_safetensors()
        return found

    @property
    def family(self) -> Family:
        return FAMILIES[self.config["model_type"]]

    @property
    def network(self) -> dict[str, Any]:
        """The part of the configuration that says what the network looks like."""
        part = self.config.get("vision_config") if self.family.vision else self.config
        return part if isinstance(part, dict) else {}

    @property
    def image_size(self) -> int:
        """Side of the images that the network was trained on last, pixels."""
        size = self.network.get("image_size", 224)
        height, width = size if isinstance(size, list) and len(size) == 2 else (size, size)
        if type(height) is not int or height != width:
            raise BackboneError(f"{self.path.name} takes images of {size} px; needed: square ones.")
        return int(height)

    @property
    def patch_size(self) -> int:
        return int(self.network.get("patch_size", 16))

    @property
    def prefix(self) -> int:
        """Tokens before those of the patches; 0 for a feature map."""
        registers = int(self.config.get("num_register_tokens") or 0)
        return self.family.prefix + registers if self.family.prefix else 0

    @property
    def blocks(self) -> int:
        return int(self.network.get("num_hidden_layers", 0) or sum(self.network.get("depths") or []))

    @property
    def width(self) -> int:
        """Length of a token, or channels of the feature map."""
        if "depths" in self.network:
            return int(self.network["embed_dim"]) << (len(self.network["depths"]) - 1)
        return int(self.network["hidden_size"])

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The safetensors files, in order.

        Raises:
            BackboneError: The index names something else than files of the folder.
        """
        names = weight_files(self.path)
        missing = [one for one in names if one not in self.remote and not (self.path / one).is_file()]
        if missing:
            raise BackboneError(f"{self.path} lacks {missing[0]}, which {INDEX} names; copy it there.")
        return tuple(self.path / one for one in names)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name of each tensor -> its shape, from the headers.

        Raises:
            BackboneError: A header is damaged, or declares more than the file can hold.
        """
        found: dict[str, tuple[int, ...]] = {}
        for file in self.files:
            found |= _header(file)
        return found

    def require_bounded(self) -> None:
        """Refuses a configuration that asks for far more weights than the files hold.

        Raises:
            BackboneError: With both sizes.
        """
        least = 4 * self.blocks * self.width**2 if "hidden_size" in self.network else 4 * self.width**2
        try:
            require_declared(4 * least, sum(self._size(file) for file in self.files))
        except ValueError as error:
            raise BackboneError(f"the {CONFIG} of {self.path.name} asks for too much: {error}.") from None

    @property
    def parameters(self) -> int | None:
        """Numbers in the weights, those of a text tower left out; None if they are yet to be downloaded."""
        if self.remote:
            return None
        return sum(math.prod(shape) for name, shape in self.shapes.items() if not name.startswith("text_"))

    @property
    def origin(self) -> str:
        """Hash of the configuration and the weights: the same before they are downloaded and after."""
        digests = [self.remote[one.name].digest if one.name in self.remote else file_hash(one) for one in self.files]
        return hashlib.sha256("\n".join([json.dumps(self.config, sort_keys=True), *digests]).encode()).hexdigest()

    @property
    def licence(self) -> str:
        return licence_in(self.path / README)

    def preprocess(self, given: Preprocess | None) -> Preprocess:
        """What happens to an image before the network; nothing is guessed.

        Args:
            given: By the user, or remembered; its arithmetic must be that of the folder, where the folder says it.

        Raises:
            OptionError: The folder does not say it and nothing was given, or both differ.
        """
        beside = next((self.path / name for name in (OURS, PROCESSOR) if (self.path / name).is_file()), None)
        if beside is None:
            if given is None:
                raise OptionError(
                    f"{self.path.name} does not say how its images were prepared, and nothing is guessed. Needed: "
                    f"{PROCESSOR} in the folder, as transformers writes it, or {opt.preprocess} with a JSON file.",
                    path=self.path,
                )
            return given
        own = read_preprocess(beside)
        if given is not None and given.resized(own.resize, own.size) != own:
            raise OptionError(
                f"{self.path.name} was trained on {own.channels}, {own.arithmetic}, by its {beside.name}; "
                f"{opt.preprocess} says {given.channels}, {given.arithmetic}. Leave it out."
            )
        return given or own

    def require_size(self, size: int) -> None:
        """Refuses images that the network does not take.

        Raises:
            OptionError: The size is no multiple of the patches, or another one than the network's own.
        """
        name, patch = self.path.name, self.patch_size
        if not self.family.any_size and size != self.image_size:
            raise OptionError(
                f"{name} takes images of {self.image_size} px, and its preprocessing makes {size} px. Correct the one "
                f"that is wrong: {CONFIG}, {PROCESSOR} or {opt.preprocess}."
            )
        if size % patch:
            below = max(patch, size // patch * patch)
            raise OptionError(
                f"{name} cuts images into patches of {patch} px, which {size} px are no multiple of; needed: "
                f"{opt.image_size(below)} or {below + patch}."
            )

    def _size(self, file: Path) -> int:
        return self.remote[file.name].size if file.name in self.remote else file.stat().st_size

    def require_text_tower(self) -> None:
        """Refuses a folder whose texts KerasHub does not turn into the rows that transformers gives.

        Raises:
            BackboneError: It has no text tower, one that differs from what KerasHub computes, or no tokenizer.
        """
        name, text = self.path.name, self.config.get("text_config")
        if not self.family.own_vector or not isinstance(text, dict):
            raise BackboneError(f"{name} has no text tower. Networks with one: {TEXT_TOWERS}.", backbone=name)
        told = {"layer_norm_eps": 1e-5, **text}  # of the two, transformers has this one as its default
        for field_name, value in _TEXT.items():
            if (found := told.get(field_name)) != value:
                raise BackboneError(
                    f"the texts of {name} have {field_name} {found!r}; KerasHub computes them with {value!r} alone, "
                    "which would give other rows without a word. Take another network with a text tower."
                )
        if not any((self.path / one).is_file() for one in TOKENIZERS):
            raise BackboneError(
                f"{self.path} has no tokenizer, which texts need; copy {' or '.join(TOKENIZERS)} there, from where its "
                "weights come."
            )

    def _require_known(self) -> None:
        kind = self.config.get("model_type")
        if "registered_name" in self.config:
            raise BackboneError(f"{self.path} is a preset of KerasHub; name it keras-hub:{self.path}.")
        if kind is None and "architecture" in self.config:
            raise BackboneError(
                f"{self.path} is a folder of timm, not of transformers; name the network timm:"
                f"{self.config['architecture']} and give its file with {opt.weights}."
            )
        if kind not in FAMILIES:
            raise BackboneError(
                f"{self.path.name} is a {kind!r}, which KerasHub does not read from a folder of transformers. It reads "
                f"{', '.join(FAMILIES)}. Other networks: export it to ONNX and give the .onnx file, or take one of "
                "keras-hub: or timm:."
            )
        for name, value in self.family.same.items():
            if (found := self.network.get(name, value)) != value:
                raise BackboneError(
                    f"{self.path.name} has {name} {found!r}; KerasHub computes a {kind} with {value!r} alone, which "
                    "would give other rows without a word. Export it to ONNX and give the .onnx file."
                )
        numbers = {name: self.network.get(name, 1) for name in _MOST if name != "image_size"}
        for name, number in (
            numbers | {"image_size": self.image_size, "patch_size": self.network.get("patch_size", 1)}
        ).items():
            most = _MOST.get(name, 8192)
            if type(number) is not int or not 1 <= number <= most:
                raise BackboneError(f"{self.path.name} has {name} {str(number)[:40]}; needed: 1 to {most}.")
        if not self.blocks <= _MOST["num_hidden_layers"]:
            raise BackboneError(
                f"{self.path.name} has {self.blocks} blocks; at most {_MOST['num_hidden_layers']} are built."
            )

    def _require_safetensors(self) -> None:
        if self.remote or (self.path / SINGLE).is_file() or (self.path / INDEX).is_file():
            return
        pickled = sorted(one.name for one in self.path.iterdir() if one.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        if pickled:
            raise BackboneError(
                f"{self.path} holds its weights as {pickled[0]}, which is pickled: reading it can run code. Needed: "
                f"{SINGLE}. Where the file can be trusted, transformers makes it: "
                "AutoModel.from_pretrained(FOLDER).save_pretrained(FOLDER)."
            )
        raise BackboneError(f"{self.path} lacks {SINGLE}; needed: {NEEDED}.")


def weight_files(folder: Path) -> tuple[str, ...]:
    """Names of the safetensors files of a folder, in order, whether they are there or not.

    Raises:
        BackboneError: The index names something else than files of the folder.
    """
    if not (folder / INDEX).is_file():
        return (SINGLE,)
    named = read_json(folder / INDEX, "").get("weight_map")
    values = list(named.values()) if isinstance(named, dict) else []
    if not values or not all(isinstance(one, str) and re.fullmatch(r"[\w.-]+\.safetensors", one) for one in values):
        raise BackboneError(f"{folder / INDEX} does not name the safetensors files of its own folder.")
    return tuple(sorted(set(values)))


def licence_in(readme: Path) -> str:
    """What the front matter of a model card says of the weights; empty if it says nothing.

    A licence that the hub has no name for is "other" there, with its own name beside it.
    """
    try:
        text = readme.read_bytes()[: 1 << 16].decode(errors="replace")
    except OSError:
        return ""
    matter = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---", text, re.DOTALL)
    fields: dict[str, str] = dict(_LICENCE.findall(matter[1])) if matter else {}
    told = fields.get("license", "").strip()
    return fields.get("license_name", told).strip() if told in ("", "other") else told


_LICENCE = re.compile(r"^(license(?:_name)?):[ \t]*[\"']?([\w.+ -]+)", re.MULTILINE)


def read_json(path: Path, refused: str) -> dict[str, Any]:
    """An object from a JSON file of bounded size.

    Args:
        path: The file.
        refused: What to say before "It has no config.json." where it is missing.

    Raises:
        BackboneError: It is missing, too large, or no object.
    """
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise BackboneError(f"{path} has {path.stat().st_size:,} bytes; at most {_LARGEST_JSON:,} are read.")
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BackboneError(f"{refused} It has no {path.name}.", path=path) from None
    except (OSError, ValueError, RecursionError) as error:
        raise BackboneError(f"{path} is not JSON ({error}). Take it from a copy.", path=path) from None
    if not isinstance(found, dict):
        raise BackboneError(f"{path} holds {type(found).__name__}, not an object. Take it from a copy.", path=path)
    return found


def _header(file: Path) -> dict[str, tuple[int, ...]]:
    """Shapes in a safetensors file: 8 bytes of length, JSON, then the numbers."""
    size = file.stat().st_size
    try:
        with open(file, "rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if not 2 <= length <= min(_LARGEST_HEADER, size - 8):
                raise ValueError(f"its header has {length:,} bytes")
            described = json.loads(opened.read(length))
        shapes = {name: tuple(map(int, one["shape"])) for name, one in described.items() if name != "__metadata__"}
        if any(number < 0 for shape in shapes.values() for number in shape):
            raise ValueError("a shape is negative")
        require_declared(2 * sum(map(math.prod, shapes.values())), size)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BackboneError(f"{file} is damaged: {error}. Take it from a copy.", path=file) from None
    return shapes


def example(preprocess: Preprocess) -> str:
    """A preprocessing as the JSON file that says it."""
    return json.dumps(dataclasses.asdict(preprocess))
