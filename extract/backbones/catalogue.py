"""Every backbone by name, with what Keras says of it; a test checks each line against Keras itself."""

import difflib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from onepass.features.errors import UnknownBackboneError

BUNDLED = "efficientnet_lite0"
"""The backbone whose weights come with the installation."""

_LITE = "efficientnet_lite"


@dataclass(frozen=True)
class CatalogueEntry:
    """One pretrained network.

    Attributes:
        name: What the user types.
        factory: Function in `keras.applications`; empty for EfficientNet-Lite.
        module: Module in `keras.applications` whose `preprocess_input` belongs to it, or efficientnet_lite.
        image_size: Default input side, pixels.
        width: Features after average or max pooling.
        options: Further arguments of the factory.
    """

    name: str
    factory: str
    module: str
    image_size: int
    width: int
    options: dict[str, float] = field(default_factory=dict)

    @property
    def licence(self) -> str:
        """Of its pretrained weights."""
        return _LICENCES[self.module]

    @property
    def lite(self) -> bool:
        """Whether it is an EfficientNet-Lite, built here, with weights in a package of their own."""
        return self.module == _LITE


_FILES = {".keras": "keras-file", ".onnx": "onnx"}
"""Ending of a file that holds a network -> its provider."""

_ENDINGS = tuple(_FILES)
_ELSEWHERE = re.compile(r"([a-z][a-z0-9-]+):(.+)", re.DOTALL)


@dataclass(frozen=True)
class BackboneName:
    """What a user types for a backbone, taken apart: `resnet50`, `mine.keras`, `resnet50@conv4_block6_out`, `hf:a/b`.

    Attributes:
        network: Catalogue name, path of a file or folder, or a provider and what it calls the network.
        layer: Layer after which the network is cut; empty for the whole network. Of an ONNX file, an output.
    """

    network: str
    layer: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Takes a name apart at its last @, unless that belongs to a path."""
        network, _, layer = text.rpartition("@")
        folder = bool(network) and os.sep not in layer and Path(network).is_dir() and not Path(text).exists()
        cut = network.endswith(_ENDINGS) or folder or (network and not _is_path(text))
        return cls(network, layer) if cut and not text.endswith(_ENDINGS) else cls(text)

    @property
    def provider(self) -> str:
        """Who knows the network: keras, keras-file, onnx, hf, or what stands before the colon."""
        if found := _ELSEWHERE.fullmatch(self.network):
            return found[1]
        if self.is_path:
            return _FILES.get(Path(self.network).suffix, "hf")
        return "keras"

    @property
    def is_path(self) -> bool:
        """True for a file or folder."""
        return _is_path(self.network)

    @property
    def own(self) -> bool:
        """True for a `.keras` file."""
        return self.network.endswith(".keras")

    @property
    def inner(self) -> str:
        """What a provider calls the network."""
        found = _ELSEWHERE.fullmatch(self.network)
        return found[2] if found else self.network

    @property
    def label(self) -> str:
        """How a spec and a file's name call it."""
        if self.is_path:
            path = Path(self.network)
            name = path.stem if path.suffix in _FILES else path.resolve().name
        else:
            name = self.inner.rstrip("/").rpartition("/")[2]
        return str(BackboneName(name, self.layer))

    def __str__(self) -> str:
        return f"{self.network}@{self.layer}" if self.layer else self.network


def _is_path(text: str) -> bool:
    if _ELSEWHERE.fullmatch(text) or text in CATALOGUE:
        return False
    return text.endswith(_ENDINGS) or os.sep in text or Path(text).is_dir()


_ENTRIES = (
    CatalogueEntry("efficientnet_lite0", "", _LITE, 224, 1280),
    CatalogueEntry("efficientnet_lite1", "", _LITE, 240, 1280),
    CatalogueEntry("efficientnet_lite2", "", _LITE, 260, 1280),
    CatalogueEntry("convnexttiny", "ConvNeXtTiny", "convnext", 224, 768),
    CatalogueEntry("convnextsmall", "ConvNeXtSmall", "convnext", 224, 768),
    CatalogueEntry("convnextbase", "ConvNeXtBase", "convnext", 224, 1024),
    CatalogueEntry("convnextlarge", "ConvNeXtLarge", "convnext", 224, 1536),
    CatalogueEntry("convnextxlarge", "ConvNeXtXLarge", "convnext", 224, 2048),
    CatalogueEntry("densenet121", "DenseNet121", "densenet", 224, 1024),
    CatalogueEntry("densenet169", "DenseNet169", "densenet", 224, 1664),
    CatalogueEntry("densenet201", "DenseNet201", "densenet", 224, 1920),
    CatalogueEntry("efficientnetb0", "EfficientNetB0", "efficientnet", 224, 1280),
    CatalogueEntry("efficientnetb1", "EfficientNetB1", "efficientnet", 240, 1280),
    CatalogueEntry("efficientnetb2", "EfficientNetB2", "efficientnet", 260, 1408),
    CatalogueEntry("efficientnetb3", "EfficientNetB3", "efficientnet", 300, 1536),
    CatalogueEntry("efficientnetb4", "EfficientNetB4", "efficientnet", 380, 1792),
    CatalogueEntry("efficientnetb5", "EfficientNetB5", "efficientnet", 456, 2048),
    CatalogueEntry("efficientnetb6", "EfficientNetB6", "efficientnet", 528, 2304),
    CatalogueEntry("efficientnetb7", "EfficientNetB7", "efficientnet", 600, 2560),
    CatalogueEntry("efficientnetv2b0", "EfficientNetV2B0", "efficientnet_v2", 224, 1280),
    CatalogueEntry("efficientnetv2b1", "EfficientNetV2B1", "efficientnet_v2", 240, 1280),
    CatalogueEntry("efficientnetv2b2", "EfficientNetV2B2", "efficientnet_v2", 260, 1408),
    CatalogueEntry("efficientnetv2b3", "EfficientNetV2B3", "efficientnet_v2", 300, 1536),
    CatalogueEntry("efficientnetv2s", "EfficientNetV2S", "efficientnet_v2", 384, 1280),
    CatalogueEntry("efficientnetv2m", "EfficientNetV2M", "efficientnet_v2", 480, 1280),
    CatalogueEntry("efficientnetv2l", "EfficientNetV2L", "efficientnet_v2", 480, 1280),
    CatalogueEntry("inceptionresnetv2", "InceptionResNetV2", "inception_resnet_v2", 299, 1536),
    CatalogueEntry("inceptionv3", "InceptionV3", "inception_v3", 299, 2048),
    CatalogueEntry("mobilenet", "MobileNet", "mobilenet", 224, 1024),
    CatalogueEntry("mobilenet_0.75", "MobileNet", "mobilenet", 224, 768, {"alpha": 0.75}),
    CatalogueEntry("mobilenet_0.5", "MobileNet", "mobilenet", 224, 512, {"alpha": 0.5}),
    CatalogueEntry("mobilenet_0.25", "MobileNet", "mobilenet", 224, 256, {"alpha": 0.25}),
    CatalogueEntry("mobilenetv2", "MobileNetV2", "mobilenet_v2", 224, 1280),
    CatalogueEntry("mobilenetv2_1.4", "MobileNetV2", "mobilenet_v2", 224, 1792, {"alpha": 1.4}),
    CatalogueEntry("mobilenetv2_1.3", "MobileNetV2", "mobilenet_v2", 224, 1664, {"alpha": 1.3}),
    CatalogueEntry("mobilenetv2_0.75", "MobileNetV2", "mobilenet_v2", 224, 1280, {"alpha": 0.75}),
    CatalogueEntry("mobilenetv2_0.5", "MobileNetV2", "mobilenet_v2", 224, 1280, {"alpha": 0.5}),
    CatalogueEntry("mobilenetv2_0.35", "MobileNetV2", "mobilenet_v2", 224, 1280, {"alpha": 0.35}),
    CatalogueEntry("mobilenetv3large", "MobileNetV3Large", "mobilenet_v3", 224, 960),
    CatalogueEntry("mobilenetv3small", "MobileNetV3Small", "mobilenet_v3", 224, 576),
    CatalogueEntry("nasnetlarge", "NASNetLarge", "nasnet", 331, 4032),
    CatalogueEntry("nasnetmobile", "NASNetMobile", "nasnet", 224, 1056),
    CatalogueEntry("resnet50", "ResNet50", "resnet", 224, 2048),
    CatalogueEntry("resnet101", "ResNet101", "resnet", 224, 2048),
    CatalogueEntry("resnet152", "ResNet152", "resnet", 224, 2048),
    CatalogueEntry("resnet50v2", "ResNet50V2", "resnet_v2", 224, 2048),
    CatalogueEntry("resnet101v2", "ResNet101V2", "resnet_v2", 224, 2048),
    CatalogueEntry("resnet152v2", "ResNet152V2", "resnet_v2", 224, 2048),
    CatalogueEntry("vgg16", "VGG16", "vgg16", 224, 512),
    CatalogueEntry("vgg19", "VGG19", "vgg19", 224, 512),
    CatalogueEntry("xception", "Xception", "xception", 299, 2048),
)
CATALOGUE = {entry.name: entry for entry in _ENTRIES}


_LICENCES = {
    _LITE: "Apache-2.0",
    "convnext": "MIT",
    "densenet": "BSD-3-Clause",
    **dict.fromkeys(("resnet", "xception"), "MIT"),
    "resnet_v2": "BSD-3-Clause",
    **dict.fromkeys(("vgg16", "vgg19"), "CC-BY-4.0"),
    **dict.fromkeys(("efficientnet", "efficientnet_v2", "inception_v3", "inception_resnet_v2", "nasnet"), "Apache-2.0"),
    **dict.fromkeys(("mobilenet", "mobilenet_v2", "mobilenet_v3"), "Apache-2.0"),
}
"""Module -> licence of the weights that Keras offers, by the list in Keras's documentation (keras.io, applications)."""


def find_entry(name: str) -> CatalogueEntry:
    """Looks a backbone up by its exact name.

    Raises:
        UnknownBackboneError: There is none; the message names the nearest one.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    near = difflib.get_close_matches(name.lower(), CATALOGUE, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise UnknownBackboneError(
        f"unknown backbone {name!r}. {hint}`onepass backbones` lists all {len(CATALOGUE)}; a network from elsewhere is "
        "given as a .keras or .onnx file, a folder of Hugging Face, or hf:NAME, keras-hub:NAME or timm:NAME.",
        backbone=name,
    )
