"""Every backbone by name, with what Keras says of it; a test checks each line against Keras itself."""

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from onepass.features.errors import UnknownBackboneError

BUNDLED = "efficientnet_lite0"
"""The backbone whose weights come with the installation."""


@dataclass(frozen=True)
class CatalogueEntry:
    """One pretrained network.

    Attributes:
        name: What the user types.
        factory: Function in `keras.applications`; empty for the bundled backbone.
        module: Module in `keras.applications` whose `preprocess_input` belongs to it.
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


@dataclass(frozen=True)
class BackboneName:
    """What a user types for a backbone, taken apart: `resnet50`, `mine.keras`, `resnet50@conv4_block6_out`.

    Attributes:
        network: Catalogue name, or path that ends in `.keras`.
        layer: Layer after which the network is cut; empty for the whole network.
    """

    network: str
    layer: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Takes a name apart at its last @, unless that belongs to the path of a `.keras` file."""
        network, _, layer = ("", "", "") if text.endswith(".keras") else text.rpartition("@")
        return cls(network, layer) if network else cls(text)

    @property
    def own(self) -> bool:
        """True for a `.keras` file."""
        return self.network.endswith(".keras")

    @property
    def label(self) -> str:
        """How a spec and a file's name call it."""
        return str(BackboneName(Path(self.network).stem if self.own else self.network, self.layer))

    def __str__(self) -> str:
        return f"{self.network}@{self.layer}" if self.layer else self.network


_ENTRIES = (
    CatalogueEntry(BUNDLED, "", "", 224, 1280),
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
        f"unknown backbone {name!r}. {hint}`onepass backbones` lists all {len(CATALOGUE)}; "
        "a model of your own is given as a path that ends in .keras.",
        backbone=name,
    )
