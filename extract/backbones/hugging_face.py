"""Networks of Hugging Face: folders that transformers wrote, and names of the hub, built by KerasHub without torch."""

import contextlib
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from onepass.extract.backbones.catalogue import BackboneName
from onepass.extract.backbones.hub_files import hub_file, remote_file
from onepass.extract.backbones.proof import Transform
from onepass.extract.backbones.provider import MAP_POOLINGS, Asked, BackboneFacts, Conversion
from onepass.extract.backbones.text_towers import text_embeddings, tokens_of_folder
from onepass.extract.backbones.transformers_folder import (
    CONFIG,
    INDEX,
    NEEDED,
    OURS,
    PROCESSOR,
    README,
    TOKENIZERS,
    TransformersFolder,
    weight_files,
)
from onepass.extract.backbones.transformers_processor import processor_transform
from onepass.extract.backbones.transformers_tensors import Tensors, resampled_positions
from onepass.extract.backbones.vision_transformers import (
    HubProvider,
    cut_poolings,
    functional,
    token_poolings,
)
from onepass.extract.backbones.weights import weights_hash
from onepass.extract.frameworks import import_keras_hub, plain_keras, require_keras_hub
from onepass.features.errors import BackboneError, OptionError, WeightsError, opt

_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_INSTEAD = f"Or put its {NEEDED} into a folder, and give the folder as {opt.backbone}."
_SMALL = (PROCESSOR, OURS, README, INDEX)
"""What is asked for beside the configuration and the weights; not every repository has all."""


class HuggingFace(HubProvider):
    """`./folder/`, which nothing is asked of the network for, and `hf:owner/name`."""

    name: ClassVar[str] = "hf"

    def check(self, name: BackboneName, weights: str) -> None:
        if weights != "imagenet":
            raise OptionError(f"{opt.weights} does not go with a folder of transformers, which brings its own weights.")
        if _is_folder(name):
            TransformersFolder.read(Path(name.inner))
        elif not _HUB.fullmatch(name.inner):
            raise BackboneError(
                f"{name.network!r} is no name of the Hugging Face hub; needed: hf:owner/name, such as "
                "hf:facebook/dinov2-small, or a folder.",
                backbone=str(name),
            )
        require_keras_hub(name.label)

    def resolved(self, name: BackboneName) -> BackboneName:
        return BackboneName(str(Path(name.inner).resolve()), name.layer) if _is_folder(name) else name

    def describe(self, asked: Asked) -> BackboneFacts:
        name, given = asked.name, asked.preprocess
        folder = folder_of(name)
        own = folder.preprocess(given)
        if not folder.family.any_size:
            folder.require_size(own.size)
        elif asked.image_size:
            folder.require_size(asked.image_size)
        family, pooled = folder.family, _poolings(folder, name)
        widths = {"cls+mean": 2 * folder.width, "cls": folder.width, "mean": folder.width, "avg": folder.width}
        return BackboneFacts(
            provider=self.name,
            label=name.label,
            weights="pretrained",
            origin=folder.origin,
            preprocess=own,
            native=True,
            fixed_size=not family.any_size,
            poolings=pooled,
            width=None if name.layer else widths.get(pooled[0]),
            parameters=folder.parameters,
            licence=folder.licence,
        )

    def built(self, name: BackboneName, image_size: int, *, weights: bool) -> Any:
        return built(folder_of(name, weights=weights), image_size, weights=weights)

    def poolings(self, name: BackboneName) -> tuple[str, ...]:
        return _poolings(folder_of(name), name)

    def check_texts(self, name: BackboneName) -> None:
        require_keras_hub(name.label)
        _with_tokenizer(name).require_text_tower()

    def text_rows(self, name: BackboneName, texts: Sequence[str], image_size: int) -> tuple[np.ndarray, str]:
        folder = _with_tokenizer(name)
        with plain_keras():
            backbone = whole(folder, image_size, weights=True)
            rows = text_embeddings(backbone, tokens_of_folder(folder, texts, backbone.text_encoder.max_sequence_length))
            return rows, weights_hash(functional(backbone))

    def transform(self, wanted: Conversion) -> Transform | None:
        folder = folder_of(wanted.name)
        if wanted.preprocess != wanted.facts.preprocess or not (folder.path / PROCESSOR).is_file():
            return None
        return processor_transform(folder.path)


def built(folder: TransformersFolder, image_size: int, *, weights: bool) -> Any:
    """The network of a folder as `vision_transformers.functional` gives it; arguments and errors as for `whole`."""
    return functional(whole(folder, image_size, weights=weights))


def whole(folder: TransformersFolder, image_size: int, *, weights: bool) -> Any:
    """The network of a folder as KerasHub builds it, a text tower included.

    Args:
        folder: That transformers wrote.
        image_size: Side of its input, pixels.
        weights: Whether it gets those of the folder.

    Raises:
        OptionError: It does not take this size.
        BackboneError: Its weights are not those that its configuration asks for.
    """
    folder.require_size(image_size)
    folder.require_bounded()
    import_keras_hub()
    from keras_hub.src.utils.transformers.preset_loader import TransformersPresetLoader

    try:
        converter = TransformersPresetLoader(str(folder.path), folder.config).converter
        settings = converter.convert_backbone_config(folder.config) | _settings(folder, image_size)
        backbone = converter.backbone_cls(**settings)
        if weights:
            tensors = Tensors(folder, _changed(folder, image_size))
            converter.convert_weights(backbone, tensors, folder.config)
            tensors.require_all_used()
        return backbone
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BackboneError(
            f"KerasHub cannot build {folder.path.name} from its {CONFIG}: {type(error).__name__}: {reason}. Take the "
            "folder as transformers wrote it."
        ) from None


def _settings(folder: TransformersFolder, image_size: int) -> dict[str, Any]:
    """What is asked of KerasHub beyond what it reads from the configuration."""
    shape, kind = (image_size, image_size, 3), folder.config["model_type"]
    if kind.startswith("dinov2"):  # positions are resampled here, as PyTorch does it
        return {"image_shape": shape, "position_embedding_shape": shape, "use_mask_token": False}
    if kind == "dinov3_vit":
        return {"image_shape": shape, "use_mask_token": False}
    if kind == "vit":
        return {"layer_norm_epsilon": folder.config.get("layer_norm_eps", 1e-12)}
    return {}


def _changed(folder: TransformersFolder, image_size: int) -> dict[str, Any]:
    kind = folder.config["model_type"]
    if not kind.startswith("dinov2"):
        return {}
    side = image_size // folder.patch_size
    antialias = kind == "dinov2_with_registers"
    return {"embeddings.position_embeddings": partial(resampled_positions, tokens=side, antialias=antialias)}


def _poolings(folder: TransformersFolder, name: BackboneName) -> tuple[str, ...]:
    family = folder.family
    if not family.prefix:
        return MAP_POOLINGS
    if name.layer:
        return cut_poolings(prefix=folder.prefix)
    return token_poolings(prefix=folder.prefix, blocks=folder.blocks, head=family.own_vector)


def _is_folder(name: BackboneName) -> bool:
    return name.is_path or name.inner.startswith((".", "/", "~"))


def folder_of(name: BackboneName, *, weights: bool = False) -> TransformersFolder:
    """The folder of a name; of the hub's, what huggingface_hub has or downloads.

    Args:
        name: A folder, or a name of the hub.
        weights: Whether the weights are needed as well; without, the hub tells of them.

    Raises:
        BackboneError: There is none, or it cannot be used.
        WeightsError: It cannot be downloaded.
    """
    return TransformersFolder.read(Path(name.inner)) if _is_folder(name) else hub_folder(name.inner, weights=weights)


def _with_tokenizer(name: BackboneName) -> TransformersFolder:
    """The folder of a name; of the hub's, with the files of its tokenizer, which images do not need."""
    found = folder_of(name, weights=True)
    if not _is_folder(name) and not any((found.path / file).is_file() for file in TOKENIZERS):
        for file in TOKENIZERS:
            hub_file(name.inner, file, commit=found.path.name, instead=_INSTEAD)
    return found


def hub_folder(repository: str, *, weights: bool) -> TransformersFolder:
    """A repository in the user's cache of huggingface_hub; what lies there is used without asking anybody.

    Raises:
        BackboneError: It holds no safetensors, or is none that KerasHub reads.
        WeightsError: It is not there and cannot be downloaded.
    """
    config = hub_file(repository, CONFIG, instead=_INSTEAD)
    if config is None:
        raise BackboneError(f"{repository} on the Hugging Face hub holds no {CONFIG}; needed: {NEEDED}.")
    folder, commit = config.parent, config.parent.name
    whole = all((folder / file).is_file() for file in weight_files(folder))
    with contextlib.suppress(WeightsError) if whole else contextlib.nullcontext():  # another program's download
        for file in _SMALL:
            hub_file(repository, file, commit=commit, instead=_INSTEAD)
    remote = {}
    for file in weight_files(folder):
        if weights:
            hub_file(repository, file, commit=commit, instead=_INSTEAD)
        elif not (folder / file).is_file() and (told := remote_file(repository, file, commit=commit, instead=_INSTEAD)):
            remote[file] = told
    return TransformersFolder.read(folder, remote)
