"""Vision transformers fine-tuned: stages by block, the cache at a block, what trains, and what is saved."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

pytestmark = [
    pytest.mark.skipif(find_spec("keras_hub") is None, reason="needs KerasHub: pip install .[kerashub]"),
    pytest.mark.slow,
]

from hub_networks import write_preset  # noqa: E402
from onepass.extract import BackboneOrigin, load_backbone, load_trainable, run_extraction  # noqa: E402
from onepass.extract.backbones.trainable import list_stages  # noqa: E402
from onepass.extract.frameworks import plain_keras  # noqa: E402
from onepass.features import FeatureFile  # noqa: E402
from onepass.features.errors import BackboneError  # noqa: E402
from onepass.heads import fine_tune, train_head  # noqa: E402
from onepass.heads.export.run import export  # noqa: E402
from onepass.heads.finetune.joined import Joined  # noqa: E402
from onepass.heads.finetune.model_file import load_model  # noqa: E402
from support import write_folder  # noqa: E402


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"keras-hub:{write_preset('dinov2', tmp_path_factory.mktemp('preset') / 'dino')}"


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory, preset: str) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    for part, seed in (("train", 1), ("val", 2), ("test", 3)):
        write_folder(folder / "photos" / part, {"ant": 12, "bee": 11}, seed=seed)
    backbone = load_backbone(preset, precision="float32")
    run_extraction(folder / "photos", backbone, out=folder / "photos.h5")
    return folder / "photos.h5"


@pytest.fixture(scope="module")
def head(features: Path):
    return train_head(features, head="logreg", C=0.1, tune="none", out=features.with_name("logreg.head")).head


def test_stages_are_blocks_and_each_can_be_cut_before(preset: str):
    stages = list_stages(preset)
    assert [stage.name for stage in stages] == ["stem", *(f"block{number}" for number in range(5))]
    assert [stage.boundary for stage in stages] == [None, "embeddings", *(f"block{number}" for number in range(4))]
    assert stages[-1].shape == (65, 48)


@pytest.mark.parametrize("unfreeze", ["block4", "3", "all"])
def test_what_is_unfrozen_is_blocks_with_their_norms(preset: str, features: Path, head, unfreeze: str):
    with FeatureFile(features) as file, plain_keras():
        backbone = load_trainable(file.spec, source=BackboneOrigin.of(file.provenance), needed_by="test")
        joined = Joined.of(backbone, head.network)
        first = backbone.first_unfrozen(unfreeze)
        joined.unfreeze(first)
        trained = {layer.name for layer in backbone.network.layers if layer.trainable_variables}
        names = [layer.name for layer in backbone.network.layers]
        assert trained == {name for name in names[first:] if backbone.network.get_layer(name).weights}
        block = backbone.network.get_layer("block4")
        assert len(block.trainable_variables) == len(block.variables)  # norms and scales are among them


@pytest.mark.parametrize("kind", ["dinov2", "siglip", "clip"])
def test_the_trunk_and_the_top_are_the_whole_network(kind: str, tmp_path: Path):
    name = f"keras-hub:{write_preset(kind, tmp_path / kind)}"
    spec = load_backbone(name, precision="float32").spec
    with plain_keras():
        backbone = load_trainable(spec, source=BackboneOrigin(name, "imagenet"), needed_by="test")
        boundary = backbone.boundary_before(backbone.first_unfrozen("block3"))
        assert boundary == "block2"
        trunk = backbone.trunk(boundary)
        pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
        kept = trunk.rows(pixels).reshape(-1, *backbone.boundary_shape(boundary))
        rows = np.asarray(backbone.top(boundary)(kept))
        np.testing.assert_allclose(rows, np.asarray(backbone.model(pixels)), atol=2e-5)


def test_a_fine_tuned_transformer_is_saved_as_it_was_trained(features: Path, head, tmp_path: Path):
    """Position embeddings too, which KerasHub forgets where the sum of their changes is negative."""
    out = tmp_path / "tuned.keras"
    result = fine_tune(head, unfreeze="all", epochs=2, lr=1e-3, keep="always", out=out)
    assert result.agreement is not None
    assert result.agreement.flips == 0
    with plain_keras():
        network = next(layer for layer in load_model(out).layers[1].layers if layer.name == "network")
        embeddings = network.get_layer("embeddings")
        np.testing.assert_array_equal(embeddings.position_embeddings, embeddings.interpolated_position_embeddings)
    done = export(out, to="openvino", out=tmp_path / "tuned.xml")
    assert done.flips == 0 if hasattr(done, "flips") else True


def test_a_block_that_is_kept_gives_the_same_start_as_the_whole(features: Path, head, tmp_path: Path):
    kept = fine_tune(head, unfreeze="block4", epochs=1, keep="never", out=tmp_path / "a.keras")
    assert kept.boundary.startswith("output of block3 for ")
    whole = fine_tune(head, unfreeze="block4", epochs=1, keep="never", boundary_cache="off", out=tmp_path / "b.keras")
    assert whole.boundary == ""
    np.testing.assert_allclose(kept.history[0].loss, whole.history[0].loss, rtol=1e-3)


def test_the_legacy_format_is_refused_by_name(head, tmp_path: Path):
    with pytest.raises(BackboneError) as caught:
        export(head, to="h5", out=tmp_path / "x.h5")
    assert str(caught.value) == (
        "dino is made of KerasHub's own layers, which the legacy .h5 format cannot hold; needed: .keras."
    )
