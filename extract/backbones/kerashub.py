"""Presets of KerasHub: names of its own, which it downloads, and folders that `save_to_preset` wrote."""

import contextlib
import dataclasses
import hashlib
import inspect
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from onepass.extract.backbones.catalogue import BackboneName
from onepass.extract.backbones.preprocess_files import read_preprocess
from onepass.extract.backbones.provider import MAP_POOLINGS, TEXT_TOWERS, Asked, BackboneFacts
from onepass.extract.backbones.stages import did_you_mean
from onepass.extract.backbones.text_towers import text_embeddings, tokens_of_preset
from onepass.extract.backbones.transformers_folder import OURS, README, example, licence_in, read_json
from onepass.extract.backbones.vision_transformers import (
    HubProvider,
    cut_poolings,
    functional,
    token_poolings,
)
from onepass.extract.backbones.weights import file_hash, weights_hash
from onepass.extract.frameworks import import_keras, import_keras_hub, plain_keras, quiet_stderr, require_keras_hub
from onepass.features.errors import BackboneError, OptionError, UnknownBackboneError, WeightsError, opt
from onepass.features.limits import require_bounded, require_declared
from onepass.features.preprocess import Preprocess
from onepass.features.progress import phase

CONFIG, CONVERTER, WEIGHTS, INDEX = "config.json", "image_converter.json", "model.weights.h5", "model.weights.json"
TOKENIZER = "tokenizer.json"

_FIXED = ("ViT", "DeiT", "SigLIP", "CLIP", "MetaCLIP2", "SwinTransformer")
"""Starts of the names of classes whose position embeddings are those of one size."""

_LICENCES = {
    "DINOV2Backbone": "Apache-2.0",
    "DINOV3Backbone": "dinov3-license",
    "SigLIPBackbone": "Apache-2.0",
    "CLIPBackbone": "MIT",
    "MetaCLIP2Backbone": "CC-BY-NC-4.0",
    "ViTBackbone": "Apache-2.0",
}
"""Class -> licence of the weights that the presets of KerasHub were converted from, by their pages on the hub."""

_FILTERS = {"bilinear": "bilinear", "bicubic": "bicubic", "lanczos3": "lanczos"}
"""Filters of Keras -> those of Pillow that are the same curve."""

_PACKAGES = ("keras", "keras_hub", "builtins")


@dataclass(frozen=True)
class Preset:
    """A preset on disk.

    Attributes:
        path: The folder.
        config: What config.json says: a serialised backbone.
        release: Of one that KerasHub offers under a name, that and its version, which never changes.
    """

    path: Path
    config: dict[str, Any]
    release: str = ""

    @classmethod
    def read(cls, path: Path, release: str = "") -> Self:
        """Reads the configuration, and refuses what can be told from it.

        The weights of a release need not be there yet.

        Raises:
            BackboneError: Files are missing, or it is none that KerasHub wrote.
        """
        config = read_json(
            path / CONFIG,
            f"{path} is no preset of KerasHub; needed: a folder that backbone.save_to_preset wrote, with {CONFIG}, "
            f"{WEIGHTS} and {CONVERTER}.",
        )
        if "registered_name" not in config or not isinstance(config.get("config"), dict):
            what = "a folder of transformers; name it without keras-hub:" if "model_type" in config else "no preset"
            raise BackboneError(f"{path} is {what}.", path=path)
        _require_our_code(config, path / CONFIG)
        found = cls(path, config, release)
        if not (release or found.weight_files):
            raise BackboneError(f"{path} lacks {WEIGHTS}; needed: a folder that backbone.save_to_preset wrote.")
        return found

    @property
    def kind(self) -> str:
        """Name of the class."""
        return str(self.config.get("class_name"))

    @property
    def settings(self) -> dict[str, Any]:
        """Of the vision encoder where there is a text tower beside it."""
        own: dict[str, Any] = self.config["config"]
        encoder = own.get("vision_encoder")
        return dict(encoder["config"]) if isinstance(encoder, dict) else own

    @property
    def tokens(self) -> bool:
        return self.kind.startswith(("DINO", "ViT", "DeiT", "SigLIP", "CLIP", "MetaCLIP2"))

    @property
    def prefix(self) -> int:
        """Tokens before those of the patches."""
        if self.kind.startswith("DINO"):
            return 1 + int(self.settings.get("num_register_tokens", 0))
        if self.kind.startswith("ViT"):
            return int(self.settings.get("use_class_token", True))
        return {"DeiT": 2, "SigL": 0}.get(self.kind[:4], 1)

    @property
    def head(self) -> bool:
        return self.kind.startswith(("SigLIP", "CLIP", "MetaCLIP2"))

    def require_text_tower(self) -> None:
        """Refuses a preset that gives no rows of texts.

        Raises:
            BackboneError: It has no text tower, or no tokenizer.
        """
        own = self.config["config"]
        if not self.head or not isinstance(own.get("text_encoder"), dict):
            raise BackboneError(f"{self.path.name} has no text tower. Networks with one: {TEXT_TOWERS}.")
        if self.release:
            return
        _require_our_code(
            read_json(
                self.path / TOKENIZER,
                f"{self.path} has no tokenizer, which texts need; needed: what "
                'keras_hub.models.Tokenizer.from_preset("NAME").save_to_preset("FOLDER") writes there.',
            ),
            self.path / TOKENIZER,
        )

    @property
    def image_size(self) -> int | None:
        """Pixels that its configuration names; None for any."""
        shape = self.settings.get("image_shape")
        return int(shape[0]) if shape and shape[0] else None

    @property
    def weight_files(self) -> list[Path]:
        one = self.path / WEIGHTS
        return [one] if one.is_file() else sorted(self.path.glob("model_*.weights.h5"))

    @property
    def origin(self) -> str:
        """The release, or a hash of the configuration and the weights."""
        if self.release:
            return self.release
        parts = [json.dumps(self.config, sort_keys=True), *map(file_hash, self.weight_files)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def licence(self) -> str:
        told = licence_in(self.path / README)
        return told or (_LICENCES.get(self.kind, "") if self.release else "")

    def preprocess(self, given: Preprocess | None) -> Preprocess:
        """What happens to an image before the network; nothing is guessed.

        Raises:
            OptionError: The preset does not say it, says what is not done here, or differs from what was given.
        """
        if (self.path / OURS).is_file():
            return given or read_preprocess(self.path / OURS)
        if not (self.path / CONVERTER).is_file():
            if given is None:
                raise OptionError(
                    f"{self.path.name} has no {CONVERTER} that says how its images were prepared, and nothing is "
                    f"guessed. Needed: {opt.preprocess} with a JSON file, or the file of "
                    "image_converter.save_to_preset in the folder.",
                    path=self.path,
                )
            return given
        own = converter_arithmetic(self.path / CONVERTER, self.image_size)
        if given is None:
            rule = converter_rule(self.path / CONVERTER)
            if rule is None:
                raise OptionError(_other_rule(self.path / CONVERTER, own), path=self.path)
            return own.resized(rule, own.size)
        if given.resized(own.resize, own.size) != own:
            raise OptionError(
                f"{self.path.name} takes {own.channels}, {own.arithmetic}, by its {CONVERTER}; {opt.preprocess} says "
                f"{given.channels}, {given.arithmetic}. Correct it."
            )
        return given


class KerasHub(HubProvider):
    """`keras-hub:dinov2_small`, and `keras-hub:./folder`."""

    name: ClassVar[str] = "keras-hub"

    def check(self, name: BackboneName, weights: str) -> None:
        if weights != "imagenet":
            raise OptionError(f"{opt.weights} does not go with a preset of KerasHub, which brings its own weights.")
        if _is_folder(name):
            Preset.read(Path(name.inner))
        require_keras_hub(name.label)

    def resolved(self, name: BackboneName) -> BackboneName:
        return BackboneName(f"{self.name}:{Path(name.inner).resolve()}", name.layer) if _is_folder(name) else name

    def describe(self, asked: Asked) -> BackboneFacts:
        name, given = asked.name, asked.preprocess
        preset = preset_of(name)
        own = preset.preprocess(given)
        fixed = preset.kind.startswith(_FIXED)
        if fixed and preset.image_size not in (None, own.size):
            raise OptionError(
                f"{name.label} takes images of {preset.image_size} px, and its preprocessing makes {own.size} px. "
                f"Correct the one that is wrong: {CONVERTER} or {opt.preprocess}."
            )
        return BackboneFacts(
            provider=self.name,
            label=name.label,
            weights="pretrained",
            origin=preset.origin,
            preprocess=own,
            native=True,
            fixed_size=fixed,
            poolings=_poolings(preset, name),
            licence=preset.licence,
        )

    def built(self, name: BackboneName, image_size: int, *, weights: bool) -> Any:
        return functional(built(preset_of(name, weights=weights), image_size, weights=weights))

    def poolings(self, name: BackboneName) -> tuple[str, ...]:
        return _poolings(preset_of(name), name)

    def check_texts(self, name: BackboneName) -> None:
        require_keras_hub(name.label)
        if _is_folder(name):  # what a name stands for would have to be asked of KerasHub, which is heavy
            preset_of(name).require_text_tower()

    def text_rows(self, name: BackboneName, texts: Sequence[str], image_size: int) -> tuple[np.ndarray, str]:
        preset = preset_of(name, weights=True)
        preset.require_text_tower()
        with plain_keras():
            backbone = built(preset, image_size, weights=True)
            # KerasHub fetches the tokenizer of a preset of its own by itself.
            place, length = (
                name.inner if preset.release else str(preset.path),
                backbone.text_encoder.max_sequence_length,
            )
            rows = text_embeddings(backbone, tokens_of_preset(place, texts, length))
            return rows, weights_hash(functional(backbone))


def built(preset: Preset, image_size: int, *, weights: bool) -> Any:
    """The backbone of a preset for images of one size, as `keras_hub.models.Backbone`.

    Raises:
        BackboneError: KerasHub cannot build it, or it does not take this size.
    """
    hub, keras = import_keras_hub(), import_keras()
    shape = (image_size, image_size, 3)
    try:
        files = preset.weight_files if weights or not preset.release else []  # what is downloaded may yet break off
        for file in files:
            require_bounded(file)
        kind = getattr(hub.models, preset.kind)
        own = {"image_shape": shape} if "image_shape" in inspect.signature(kind.__init__).parameters else {}
        declared = 0
        with contextlib.suppress(Exception), keras.StatelessScope(initialize_variables=False):  # shapes without values
            bare = hub.models.Backbone.from_preset(str(preset.path), load_weights=False, **own)
            declared = 4 * sum(math.prod(weight.shape) for weight in bare.weights)
        if files:
            require_declared(declared, sum(file.stat().st_size for file in files))
        backbone = hub.models.Backbone.from_preset(str(preset.path), load_weights=weights, **own)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BackboneError(f"KerasHub cannot build {preset.path.name} for {image_size} px: {reason}") from None
    return _trainable(backbone) if preset.kind.startswith("DINO") else backbone


def _trainable(backbone: Any) -> Any:
    """A DINO that can be trained and saved: without the mask token of its pre-training, which no row hangs on.

    Position embeddings of DINOv2 are stored for the size that it has.
    """
    kind, settings = type(backbone).__name__, backbone.get_config() | {"use_mask_token": False}
    if kind == "DINOV2Backbone":
        settings["position_embedding_shape"] = tuple(backbone.image_shape)
    same = type(backbone).from_config(settings)
    kept = [weight for weight in backbone.weights if not weight.path.endswith("/mask_token")]
    for new, old in zip(same.weights, kept, strict=True):
        if new.shape == old.shape:
            new.assign(old)
    if kind == "DINOV2Backbone":
        same.embeddings.position_embeddings.assign(backbone.embeddings.interpolated_position_embeddings)
    return same


def _poolings(preset: Preset, name: BackboneName) -> tuple[str, ...]:
    if not preset.tokens:
        return MAP_POOLINGS
    if name.layer:
        return cut_poolings(prefix=preset.prefix)
    blocks = int(preset.settings.get("num_layers", 0))
    return token_poolings(prefix=preset.prefix, blocks=blocks, head=preset.head)


def converter_arithmetic(path: Path, image_size: int | None) -> Preprocess:
    """What an image converter does to values: x * scale + offset, written as (x / 255 - mean) / std.

    Args:
        path: image_converter.json.
        image_size: Pixels, where the file names none.

    Raises:
        OptionError: It cannot be read, or does something else.
    """
    facts = _converter(path)
    size = facts.get("image_size") or ([facts["height"], facts["width"]] if "height" in facts else None)
    height, width = size or (image_size, image_size)
    scale, offset = facts.get("scale"), facts.get("offset")
    try:
        if "variance" in facts and "mean" in facts:  # as earlier versions of KerasHub wrote it
            deviations = [math.sqrt(value) for value in facts["variance"]]
            offset = [-mean / std for mean, std in zip(facts["mean"], deviations, strict=True)]
            scale = [float(facts["scale"]) / std for std in deviations]
        scales, offsets = _three(scale, 1.0), _three(offset, 0.0)
        rescale = 1.0 if scale is None else 1 / 255
        std = tuple(_short(rescale / value) for value in scales)
        mean = tuple(_short(-value * deviation) for value, deviation in zip(offsets, std, strict=True))
        made = Preprocess(resize="squash", size=int(height), rescale=rescale, mean=mean, std=std)  # type: ignore[arg-type]
        return Preprocess.from_facts(dataclasses.asdict(made)) if height == width else _refuse(height, width)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise OptionError(f"{path} cannot be used: {error}. Give {opt.preprocess} with a JSON file.") from None


def converter_rule(path: Path) -> str | None:
    """Our rule that gives the pixels of an image converter; None if none does.

    Raises:
        OptionError: The file cannot be read.
    """
    facts = _converter(path)
    filter = _FILTERS.get(str(facts.get("interpolation", "bilinear")))
    if facts.get("crop_to_aspect_ratio", True) or facts.get("pad_to_aspect_ratio", False) or filter is None:
        return None
    if facts.get("antialias", False):
        return f"squash-{filter}"
    return "keras" if filter == "bilinear" else None


def _other_rule(path: Path, own: Preprocess) -> str:
    facts = _converter(path)
    crop = facts.get("crop_to_aspect_ratio", True)
    how = (
        "cuts out the middle square" if crop else "pads to a square" if facts.get("pad_to_aspect_ratio") else "squashes"
    )
    filter = str(facts.get("interpolation", "bilinear"))
    averaged = "" if facts.get("antialias", False) else ", without averaging what is reduced"
    usual = own.resized(f"shortest{own.size}-{_FILTERS.get(filter, 'bicubic')}", own.size)
    return (
        f"{path} {how} and resizes it by the filter {filter}{averaged}, which is not done here, nor was the network "
        f"trained so. Needed: {opt.preprocess} with a JSON file that says how it was: the preprocessor_config.json of "
        f"the original network, or, for example, {example(usual)}."
    )


def _converter(path: Path) -> dict[str, Any]:
    try:
        facts = read_json(path, f"{path} is missing.")
    except BackboneError as error:
        raise OptionError(str(error)) from None
    own = facts.get("config")
    if not isinstance(own, dict):
        raise OptionError(f"{path} is no image converter of KerasHub. Give {opt.preprocess} with a JSON file.")
    return own


def _refuse(height: Any, width: Any) -> Preprocess:
    raise ValueError(f"its images are {height} x {width} px, not square")


def _three(value: Any, default: float) -> tuple[float, float, float]:
    values = [default] * 3 if value is None else [value] * 3 if isinstance(value, int | float) else list(value)
    first, second, third = (float(one) for one in values)
    return first, second, third


def _short(value: float) -> float:
    """Without what dividing and multiplying by 255 leaves in the last bits."""
    return float(f"{value:.10g}")


def _modules(config: Any) -> Iterator[str]:
    """Modules that a serialised object names, and packages of registered names."""
    if isinstance(config, dict):
        if isinstance(config.get("module"), str):
            yield config["module"]
        if isinstance(config.get("registered_name"), str) and ">" in config["registered_name"]:
            yield config["registered_name"].partition(">")[0]
        for value in config.values():
            yield from _modules(value)
    elif isinstance(config, list):
        for value in config:
            yield from _modules(value)


def _require_our_code(config: Any, path: Path) -> None:
    foreign = [one for one in _modules(config) if one.partition(".")[0] not in _PACKAGES]
    if foreign:
        raise BackboneError(f"{path} asks for code of {foreign[0]}, which is neither Keras nor KerasHub.")


def _is_folder(name: BackboneName) -> bool:
    return name.inner.startswith((".", "/", "~")) or Path(name.inner).is_dir()


def preset_of(name: BackboneName, *, weights: bool = False) -> Preset:
    """The preset of a name; KerasHub's own are downloaded where they are not in the user's cache.

    Args:
        name: A folder, or a name of KerasHub.
        weights: Whether the weights are needed as well.

    Raises:
        UnknownBackboneError: KerasHub has no such preset.
        BackboneError: It cannot be used.
        WeightsError: It cannot be downloaded.
    """
    return Preset.read(Path(name.inner)) if _is_folder(name) else downloaded(name.inner, weights=weights)


def downloaded(preset: str, *, weights: bool) -> Preset:
    """A preset in the user's cache of kagglehub.

    Raises:
        UnknownBackboneError: KerasHub has no such preset of images.
        WeightsError: It cannot be downloaded.
    """
    presets = import_keras_hub().models.Backbone.presets
    if preset not in presets:
        raise UnknownBackboneError(
            f"KerasHub has no preset {preset!r}. {did_you_mean(preset, list(presets))}keras.io/keras_hub/presets lists "
            "them; a folder is given as keras-hub:./folder.",
            backbone=preset,
        )
    handle = presets[preset]["kaggle_handle"].removeprefix("kaggle://")
    with quiet_stderr(), contextlib.redirect_stdout(sys.stderr):  # kagglehub's bars, and what it says of its versions
        try:
            folder = Path(_fetched(handle, CONFIG)).parent
            with contextlib.suppress(FileNotFoundError):  # of a preset without a converter
                _fetched(handle, CONVERTER)
            if weights:
                _fetch_weights(handle)
        except Exception as error:  # of its own kinds, of the network and of the disk
            raise WeightsError(
                f"{preset} cannot be downloaded from Kaggle: {_reason(error)}. Or write it to a folder on a machine "
                f'with a connection, keras_hub.models.Backbone.from_preset("{preset}").save_to_preset("FOLDER"), its '
                f"image converter too, and give {opt.backbone('keras-hub:FOLDER')}.",
                backbone=preset,
            ) from None
    return Preset.read(folder, f"KerasHub {preset}, version {folder.name}")


def _reason(error: Exception) -> str:
    told = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
    if told.startswith(("401 Client Error", "403 Client Error")):
        return "its terms have to be accepted on its page there; then set KAGGLE_API_TOKEN"
    broken = "IncompleteRead" in told
    return f"the connection broke off ({told}); the next run goes on from there" if broken else told


def _fetch_weights(handle: str) -> None:
    try:
        _fetched(handle, WEIGHTS)
    except FileNotFoundError:  # it lies in several files
        named = json.loads(Path(_fetched(handle, INDEX)).read_bytes())["weight_map"].values()
        for file in sorted({one for value in named for one in ([value] if isinstance(value, str) else value)}):
            _fetched(handle, file)


def _fetched(handle: str, file: str) -> str:
    """Path of a file in the cache of kagglehub, which downloads it where it is not there.

    Raises:
        FileNotFoundError: Kaggle has no such file.
    """
    import kagglehub

    try:
        with phase(f"downloading {file} of {handle}"):
            return str(kagglehub.model_download(handle, file))
    except Exception as error:
        if "404 Client Error" in str(error) or "is not present in the model files" in str(error):
            raise FileNotFoundError(f"there is no {file} of it") from None
        raise
