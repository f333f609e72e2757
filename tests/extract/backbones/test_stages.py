"""Stages and cuts, against graphs known by construction and against the networks of Keras."""

from typing import Any

import numpy as np
import pytest

from onepass.extract.backbones.build import bare_network
from onepass.extract.backbones.catalogue import CATALOGUE
from onepass.extract.backbones.efficientnet_lite import build_lite
from onepass.extract.backbones.stages import boundary_before, first_unfrozen, stages_of, top_of, trunk_of
from onepass.extract.frameworks import import_keras, plain_keras
from onepass.features.errors import BackboneError, OptionError

# One member of each family: image size, stages from input to output, and some of the places where it can be cut.
FAMILIES: dict[str, tuple[int, list[str], dict[str, str]]] = {
    "efficientnet_lite0": (
        64,
        ["stem", *(f"block{i}" for i in range(1, 8)), "top"],
        {"block1": "_bn0_relu6", "block7": "_blocks.14.add", "top": "_blocks.15._bn2"},
    ),
    "efficientnet_lite2": (
        64,
        ["stem", *(f"block{i}" for i in range(1, 8)), "top"],
        {"block1": "_bn0_relu6", "block3": "block2c_add", "block7": "block6e_add", "top": "block7a_bn2"},
    ),
    "convnexttiny": (
        64,
        ["stem", "stage0", "stage1", "stage2", "stage3"],
        {"stage0": "convnext_tiny_stem", "stage3": "convnext_tiny_downsampling_block_2"},
    ),
    "densenet121": (
        64,
        [f"conv{i}" for i in range(1, 6)],
        {"conv2": "pool1", "conv3": "pool2_pool", "conv5": "pool4_pool"},
    ),
    "efficientnetb0": (
        64,
        ["stem", *(f"block{i}" for i in range(1, 8)), "top"],
        {"block1": "stem_activation", "block7": "block6d_add", "top": "block7a_project_bn"},
    ),
    "efficientnetv2b0": (64, ["stem", *(f"block{i}" for i in range(1, 7)), "top"], {"top": "block6h_add"}),
    "inceptionresnetv2": (
        96,
        ["stem", "mixed_5b", "block35", "mixed_6a", "block17", "mixed_7a", "block8", "top"],
        {"mixed_5b": "max_pooling2d_1", "block17": "mixed_6a", "top": "custom_scale_layer_39"},
    ),
    "inceptionv3": (
        96,
        ["stem", *(f"mixed{i}" for i in range(11))],
        {"mixed0": "max_pooling2d_1", **{f"mixed{i}": f"mixed{i - 1}" for i in range(1, 11)}},
    ),
    "mobilenet_0.25": (
        64,
        ["conv1", *(f"block{i}" for i in range(1, 14))],
        {"block1": "conv1_relu", "block2": "conv_pw_1_relu", "block13": "conv_pw_12_relu"},
    ),
    "mobilenetv2_0.35": (
        64,
        ["stem", "expanded_conv", *(f"block_{i}" for i in range(1, 17)), "top"],
        {"expanded_conv": "Conv1_relu", "block_16": "block_15_add", "top": "block_16_project_BN"},
    ),
    "mobilenetv3small": (
        64,
        ["stem", "expanded_conv", *(f"expanded_conv_{i}" for i in range(1, 11)), "top"],
        {"expanded_conv_3": "expanded_conv_2_add", "top": "expanded_conv_10_add"},
    ),
    "nasnetmobile": (
        64,
        [
            *("stem", "cell_stem_1", "cell_stem_2", "cell_0", "cell_1", "cell_2", "cell_3", "cell_reduce_4"),
            *("cell_5", "cell_6", "cell_7", "cell_8", "cell_reduce_8", "cell_9", "cell_10", "cell_11", "cell_12"),
        ],
        {"cell_stem_1": "stem_bn1", "cell_12": "stem_bn1"},
    ),
    "resnet50": (
        64,
        [f"conv{i}" for i in range(1, 6)],
        {"conv2": "pool1_pool", "conv3": "conv2_block3_out", "conv5": "conv4_block6_out"},
    ),
    "resnet50v2": (
        64,
        [f"conv{i}" for i in range(1, 6)],
        {"conv2": "pool1_pool", "conv5": "conv4_block6_out"},
    ),
    "vgg16": (64, [f"block{i}" for i in range(1, 6)], {f"block{i}": f"block{i - 1}_pool" for i in range(2, 6)}),
    "xception": (
        96,
        [f"block{i}" for i in range(1, 15)],
        {"block2": "block1_conv2_act", "block3": "add", "block14": "add_11"},
    ),
}


def output_of(model: Any, x: np.ndarray) -> np.ndarray:
    return np.asarray(model(x, training=False))


@pytest.fixture(scope="module")
def network():
    """The bundled network at 64 px with random weights."""
    with plain_keras() as keras:
        keras.utils.set_random_seed(0)
        return build_lite("efficientnet_lite0", 64)


# Layer -> what it reads, in the order in which it is built: a shortcut, two branches, and a plain + in between.
GRAPH = {
    "a": ["image"],
    "b": ["a"],
    "c": ["b", "a"],
    "left": ["c"],
    "right1": ["c"],
    "right2": ["right1"],
    "joined": ["left", "right2"],
    "d": ["joined"],
    "plus": ["d", "joined"],
    "e": ["plus"],
}


def branched() -> Any:
    keras = import_keras()
    tensors = {"image": keras.Input((8, 8, 3), name="image")}
    for name, sources in GRAPH.items():
        found = [tensors[source] for source in sources]
        if name == "plus":
            tensors[name] = found[0] + found[1]
        elif len(found) == 2:
            tensors[name] = keras.layers.Add(name=name)(found)
        else:
            tensors[name] = keras.layers.Conv2D(3, 3, padding="same", name=name)(found[0])
    return keras.Model(tensors["image"], tensors["e"], name="branched")


def paths_to(name: str) -> list[set[str]]:
    """Every path from the image to a layer, by following GRAPH back."""
    if name == "image":
        return [{"image"}]
    return [path | {name} for source in GRAPH[name] for path in paths_to(source)]


def test_a_boundary_is_the_last_layer_that_every_path_passes():
    model = branched()
    names = [layer.name for layer in model.layers]
    for first in range(len(names)):
        paths = [path for name in names[first:] for path in paths_to(name)]
        passed = [name for name in names[1:first] if all(name in path for path in paths)]
        assert boundary_before(model, first) == (passed[-1] if passed else None), names[first]
    assert boundary_before(model, names.index("right2")) == "c"  # within a block only the block's input will do
    assert boundary_before(model, names.index("e")) == "joined"


def test_a_network_cut_at_any_boundary_gives_what_it_gave_whole(rng: np.random.Generator):
    model, x = branched(), rng.normal(size=(2, 8, 8, 3)).astype(np.float32)
    for boundary in {boundary_before(model, first) for first in range(len(model.layers))} - {None}:
        joined = output_of(top_of(model, boundary), output_of(trunk_of(model, boundary), x))
        np.testing.assert_allclose(joined, output_of(model, x), rtol=1e-5, atol=1e-6)


def test_both_parts_share_the_networks_layers():
    model = branched()
    trunk, top = trunk_of(model, "joined"), top_of(model, "joined")
    assert {layer.name for layer in trunk.layers[1:]} == {"a", "b", "c", "left", "right1", "right2", "joined"}
    assert {layer.name for layer in top.layers[1:]} == {"d", "e"}
    assert all(layer is model.get_layer(layer.name) for layer in [*trunk.layers[1:], *top.layers[1:]])
    assert [layer.name for layer in model.layers] == [layer.name for layer in branched().layers]


def test_a_layer_beside_others_is_no_place_to_cut():
    with pytest.raises(BackboneError) as caught:
        top_of(branched(), "right1")
    assert str(caught.value) == (
        "branched cannot be cut after right1: its output also hangs on other layers. Cut it after c."
    )
    with pytest.raises(BackboneError) as caught:
        trunk_of(branched(), "right3")
    assert str(caught.value) == "branched has no layer 'right3'. Did you mean right2 or right1?"


def test_stages_cover_the_network_once(network):
    stages = stages_of(network)
    assert [stage.name for stage in stages] == FAMILIES["efficientnet_lite0"][1]
    assert [stage.position for stage in stages] == [1, *np.cumsum([stage.layers for stage in stages])[:-1] + 1]
    assert sum(stage.parameters for stage in stages) == network.count_params()
    assert all(network.layers[stage.position].name == stage.first for stage in stages)
    block6 = stages[6]
    assert (block6.first, block6.layers, block6.boundary) == ("_blocks.11._expand_conv", 35, "_blocks.10.add")
    assert (block6.shape, block6.boundary_bytes) == ((4, 4, 112), 4 * 4 * 112 * 4)


@pytest.mark.parametrize(("unfreeze", "first"), [
    ("all", 0), ("141", 0), ("1", 140), ("3", 138), (" 4 ", 137), ("stem", 1), ("block7", 130), ("top", 138),
    ("_blocks.15._bn1", 134), ("_conv_head", 138),
])  # fmt: skip
def test_what_unfreeze_means(network, unfreeze: str, first: int):
    assert first_unfrozen(network, unfreeze) == first


NO_SUCH = (
    "efficientnet_lite0 has no such stage or layer. {}Needed: auto, all, a number of layers up to 141, a layer's name, "
    "or a stage: stem, block1, block2, block3, block4, block5, block6, block7, top."
)


@pytest.mark.parametrize(("unfreeze", "message"), [
    ("0", "unfreeze is 0; efficientnet_lite0 has 141 layers, so needed: 1 to 141."),
    ("-2", "unfreeze is -2; efficientnet_lite0 has 141 layers, so needed: 1 to 141."),
    ("142", "unfreeze is 142; efficientnet_lite0 has 141 layers, so needed: 1 to 141."),
    ("blok7", "unfreeze is 'blok7'; " + NO_SUCH.format("Did you mean block7 or block6 or block5? ")),
    ("", "unfreeze is ''; " + NO_SUCH.format("")),
])  # fmt: skip
def test_what_unfreeze_cannot_mean(network, unfreeze: str, message: str):
    with pytest.raises(OptionError) as caught:
        first_unfrozen(network, unfreeze)
    assert str(caught.value) == message


def test_a_network_with_other_names_has_layers_but_no_stages():
    model = branched()
    assert stages_of(model) == ()
    assert first_unfrozen(model, "d") == [layer.name for layer in model.layers].index("d")
    with pytest.raises(OptionError, match=r"Needed: auto, all, a number of layers up to 10, a layer's name\.$"):
        first_unfrozen(model, "conv5")


def test_layers_that_hang_together_nobody_knows_how_are_refused():
    model = import_keras().Sequential([import_keras().layers.Dense(2)], name="loose")
    with pytest.raises(BackboneError) as caught:
        stages_of(model)
    assert str(caught.value) == (
        "loose is a Sequential, of which Keras does not know how its layers hang together; needed: a functional model, "
        "keras.Model(inputs, outputs)."
    )


def test_stages_do_not_depend_on_how_keras_numbered_the_layers():
    with plain_keras() as keras, keras.StatelessScope():
        first, second = (
            keras.applications.InceptionV3(include_top=False, weights=None, input_shape=(96, 96, 3)) for _ in range(2)
        )
    assert first.layers[1].name != second.layers[1].name
    places = [[(stage.name, stage.position, stage.layers) for stage in stages_of(model)] for model in (first, second)]
    assert places[0] == places[1]
    assert first_unfrozen(second, "mixed9") == 249  # as the Keras guide unfreezes the top two blocks


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_its_stages_and_can_be_cut_before_each(name: str, rng: np.random.Generator):
    size, names, boundaries = FAMILIES[name]
    with plain_keras() as keras:
        keras.utils.set_random_seed(0)
        if CATALOGUE[name].lite:
            network = build_lite(name, size)
        else:
            entry = CATALOGUE[name]
            factory = getattr(keras.applications, entry.factory)
            network = factory(include_top=False, weights=None, input_shape=(size, size, 3), **entry.options)
    stages = stages_of(network)
    found = {stage.name: stage.boundary for stage in stages}
    x = rng.normal(size=(1, size, size, 3)).astype(np.float32)
    whole = output_of(network, x)

    assert list(found) == names
    assert {stage: found[stage] for stage in boundaries} == boundaries
    assert sum(stage.parameters for stage in stages) == network.count_params()
    assert found[names[0]] is None
    for boundary in {found[stage] for stage in names[1:]}:
        joined = output_of(top_of(network, boundary), output_of(trunk_of(network, boundary), x))
        assert np.abs(joined - whole).max() <= 1e-4 * np.abs(whole).max(), boundary
    keras.backend.clear_session()


LARGEST = ["convnextxlarge", "efficientnetb7", "efficientnetv2l", "mobilenetv3large", "nasnetlarge", "resnet152v2"]


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_of_a_family_have_stages_too(name: str):
    stages = stages_of(bare_network(name))
    assert len(stages) >= 5
    assert [stage.name for stage in stages if stage.boundary is None] == [stages[0].name]
    import_keras().backend.clear_session()
