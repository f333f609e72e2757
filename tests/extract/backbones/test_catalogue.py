"""The catalogue against Keras itself: every factory is built, without its weights' memory."""

import inspect
import sys

import pytest

from onepass.extract.backbones.catalogue import CATALOGUE, CatalogueEntry, find_entry
from onepass.extract.backbones.efficientnet_lite import build_lite
from onepass.extract.backbones.known_parts import known_layers, known_stages, may_be_layer
from onepass.extract.backbones.stages import stage_name
from onepass.extract.frameworks import import_keras
from onepass.features.errors import BackboneError


def build(entry: CatalogueEntry, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """(default image size, width of pooled rows) as Keras has them; its layers are those that are known by name."""
    keras = import_keras()
    factory = getattr(keras.applications, entry.factory)
    seen: list[int] = []
    utils = __import__(factory.__module__, fromlist=["imagenet_utils"]).imagenet_utils
    original = utils.obtain_input_shape

    def spy(shape: object, default_size: int, *args: object, **kwargs: object) -> object:
        seen.append(default_size)
        return original(shape, default_size, *args, **kwargs)

    monkeypatch.setattr(utils, "obtain_input_shape", spy)
    # Inside this scope variables have shapes but no values, so that 350 million weights cost nothing.
    with keras.StatelessScope():
        model = factory(include_top=False, weights=None, pooling="avg", **entry.options)
    if not seen:  # MobileNetV3 takes any size; the size it was trained at stands in the names of its weights.
        kind = entry.factory.removeprefix("MobileNetV3").lower()
        names = sys.modules[factory.__module__].WEIGHTS_HASHES
        (trained_at,) = {int(name.split("_")[1]) for name in names if name.startswith(f"{kind}_2")}
        seen.append(trained_at)
    with keras.StatelessScope():
        built = factory(include_top=False, weights=None, input_shape=(seen[0], seen[0], 3), **entry.options)
    require_known_layers(entry, built.layers)
    keras.backend.clear_session()
    return seen[0], model.output_shape[-1]


def require_known_layers(entry: CatalogueEntry, layers: list) -> None:
    stages = [stage_name(layer.name) for layer in layers]
    assert len(layers) == known_layers(entry.name)
    assert {stage for stage in stages if stage} | {"stem"} == {*known_stages(entry.name), "stem"}
    assert all(may_be_layer(layer.name) for layer, stage in zip(layers, stages, strict=True) if not stage)


def preprocessing_module(entry: CatalogueEntry) -> str:
    """The public `keras.applications` module of the source file that defines the factory."""
    applications = import_keras().applications
    source = getattr(applications, entry.factory).__module__.split(".")[-1]
    assert callable(getattr(applications, source).preprocess_input)
    return source


@pytest.mark.parametrize("name", ["mobilenet_0.25", "vgg16", "resnet50"])
def test_common_entries_equal_what_keras_builds(name: str, monkeypatch: pytest.MonkeyPatch):
    entry = CATALOGUE[name]
    assert build(entry, monkeypatch) == (entry.image_size, entry.width)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CATALOGUE if not CATALOGUE[name].lite])
def test_every_entry_equals_what_keras_builds(name: str, monkeypatch: pytest.MonkeyPatch):
    entry = CATALOGUE[name]
    assert build(entry, monkeypatch) == (entry.image_size, entry.width)


@pytest.mark.parametrize("name", [name for name in CATALOGUE if not CATALOGUE[name].lite])
def test_every_entry_names_the_preprocessing_of_its_own_family(name: str):
    entry = CATALOGUE[name]
    assert entry.module == preprocessing_module(entry)


@pytest.mark.parametrize("name", [name for name in CATALOGUE if CATALOGUE[name].lite])
def test_the_lite_networks_are_built_as_their_entries_say(name: str):
    entry = CATALOGUE[name]
    with import_keras().StatelessScope():
        network = build_lite(name, entry.image_size)
    require_known_layers(entry, network.layers)
    side = -(-entry.image_size // 32)
    assert network.output_shape == (None, side, side, entry.width)


def test_the_catalogue_holds_every_model_of_keras_applications():
    applications = import_keras().applications
    factories = {name for name, value in vars(applications).items() if inspect.isfunction(value)}
    assert factories == {entry.factory for entry in CATALOGUE.values()} - {""}


def test_an_unknown_name_gets_the_nearest_one():
    with pytest.raises(BackboneError) as caught:
        find_entry("resnet5")
    assert str(caught.value) == (
        f"unknown backbone 'resnet5'. Did you mean resnet50? `onepass backbones` lists all {len(CATALOGUE)}; "
        "a network from elsewhere is given as a .keras or .onnx file, a folder of Hugging Face, or hf:NAME, "
        "keras-hub:NAME or timm:NAME."
    )
    with pytest.raises(BackboneError, match=r"^unknown backbone 'qqqq'. `onepass backbones` lists all"):
        find_entry("qqqq")
