"""Heads from names on a network of another package's: trained, compared, used, exported, and what is refused."""

import json
import sys
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from onepass import compare_heads, evaluate, export, info, predict, train_head, verify
from onepass.extract import (
    BackboneFacts,
    GraphProvider,
    Network,
    import_openvino,
    run_extraction,
    text_rows,
    write_graph,
)
from onepass.extract.backbones import providers
from onepass.features import FeatureFile, Preprocess
from onepass.features.errors import TrainingError
from onepass.heads import load_head
from onepass.heads.finetune.splits import _same_head
from onepass.heads.training import fit_on
from onepass.heads.zero_shot.prompts import class_rows
from support import run_program

COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}
ASKED: list[tuple[str, ...]] = []


class Colours(GraphProvider):
    """The mean colour of an image, and as the row of a text the colour that it names."""

    name: ClassVar[str] = "colours"

    def check(self, name, weights):
        pass

    def describe(self, asked):
        return BackboneFacts(
            provider="colours",
            label=asked.name.label,
            weights="own",
            origin="1",
            native=True,
            poolings=("pooled",),
            preprocess=Preprocess(resize="squash-bilinear", size=32, rescale=1 / 255),
        )

    def convert(self, wanted, graph):
        ov = import_openvino()
        ops = ov.opset13
        given = ops.parameter([-1, 3, -1, -1], np.float32, name="images")
        model = ov.Model([ops.reduce_mean(given, np.array([2, 3]), keep_dims=False)], [given], "colours")
        network = Network.of(model, "colours")
        preprocess, pooling, pixels = wanted.preprocess, wanted.pooling, wanted.pixels
        return "cd" * 32, write_graph(
            network, graph, preprocess=preprocess, pooling=pooling, pixels=pixels, label="colours"
        )

    def check_texts(self, name):
        pass

    def text_rows(self, name, texts, image_size):
        ASKED.append(tuple(texts))
        rows = [
            sum((np.array(at) for word, at in COLOURS.items() if word in text.split()), np.zeros(3)) for text in texts
        ]
        return np.array(rows, np.float32) + 0.05, "cd" * 32


@pytest.fixture
def features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A feature file of 60 images of three colours in folders such as deep_red."""
    monkeypatch.setattr(sys.modules[__name__], "ASKED", [])
    points = [EntryPoint("colours", f"{__name__}:Colours", providers.GROUP)]
    monkeypatch.setattr(EntryPoint, "load", lambda point: Colours)
    monkeypatch.setattr(providers, "entry_points", lambda group: points)
    providers._provider.cache_clear()
    text_rows.cache_clear()
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        folder = tmp_path / "photos" / f"deep_{name}"
        folder.mkdir(parents=True)
        for number in range(20):
            values = 60 * rng.random((24, 24, 3)) + 120 * np.array(colour) * rng.uniform(0.5, 1)
            Image.fromarray(values.astype(np.uint8)).save(folder / f"{number}.png")
    run_extraction(tmp_path / "photos", "colours:rgb", out=tmp_path / "f.h5", precision="float32")
    yield tmp_path / "f.h5"
    providers._provider.cache_clear()


PROMPTS = ("a photo of a {}", "{} again")


def test_a_class_is_the_mean_of_its_prompts_each_of_length_1(features: Path):
    with FeatureFile(features) as file:
        rows = class_rows(file, ("a {}", "a {} and green"))
        assert file.class_names == ("deep_blue", "deep_green", "deep_red")
    both = [np.array([0.05, 0.05, 1.05]), np.array([0.05, 1.05, 1.05])]
    mean = sum(one / np.linalg.norm(one) for one in both)
    np.testing.assert_allclose(rows[0], mean / np.linalg.norm(mean), atol=1e-6)
    assert ASKED[-1][:3] == ("a deep blue", "a deep blue and green", "a deep green")


@pytest.mark.parametrize("kind", ["text", "text-logreg"])
def test_a_head_from_names_goes_the_whole_way(kind: str, features: Path, tmp_path: Path):
    done = train_head(features, head=kind, prompts=PROMPTS, out=tmp_path / "x.head")
    assert done.head.parameters["prompts"] == list(PROMPTS)
    assert done.head.evaluation.accuracy == 1
    assert done.head.abstention is None or done.head.out_of_distribution is not None
    loaded = load_head(tmp_path / "x.head")
    with FeatureFile(features) as file:
        x = file.read(np.arange(60))[0]
        texts = class_rows(file, PROMPTS)
        np.testing.assert_array_equal(loaded.predict(x), (x @ texts.T).argmax(axis=1))
        again = fit_on(_same_head(loaded), file, file.rows_of("train"))  # as fine-tuning starts
        np.testing.assert_array_equal(again.predict(x), loaded.predict(x))
    (answer,) = predict(loaded, [tmp_path / "photos" / "deep_red" / "0.png"], unknown=0.2)
    assert (answer.top[0][0], answer.unknown) == ("deep_red", False)
    assert evaluate(loaded, tmp_path / "photos", split="all").accuracy == 1
    assert "a photo of a {}" in str(info(tmp_path / "x.head"))
    export(loaded, to="openvino", out=tmp_path / "x.xml")
    assert verify(tmp_path / "x.xml", data=[tmp_path / "photos"]).verdict == "whole"
    assert len(set(ASKED)) == 1


@pytest.mark.slow
def test_the_command_line_says_the_same(features: Path, tmp_path: Path):
    done = run_program("train-head", "f.h5", "--head", "text", "--prompts", "a {}", "--prompts", "the {}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "f.text.head: text, test accuracy 1.000" in done.stdout
    Path("one.txt").write_text("a {}\nthe {}\n")
    told = run_program("train-head", "--head", "text-logreg", "--prompts", "one.txt", "--json", cwd=tmp_path)
    assert json.loads(told.stdout)["parameters"]["prompts"] == ["a {}", "the {}"]
    image = str(tmp_path / "photos" / "deep_green" / "1.png")
    found = run_program("onepass", "predict", "f.text.head", image, "--unknown", "0.2", "--json", cwd=tmp_path)
    assert found.returncode == 0, found.stderr


def test_both_are_compared_with_other_heads_and_texts_computed_once(features: Path):
    found = compare_heads(features, heads="text,text-logreg,ridge", prompts="a {}", cv="5x2")
    assert {one.name for one in found.scores} == {"text", "text-logreg", "ridge"}
    assert len(ASKED) == 1


def test_classes_that_are_the_same_words_are_refused(features: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(FeatureFile, "class_names", property(lambda file: ("deep_red", "deep red", "blue")))
    with pytest.raises(TrainingError) as refused:
        train_head(features, head="text", prompts="a {}")
    assert str(refused.value) == (
        "the classes 'deep_red' and 'deep red' are both 'deep red' in a text, so their names cannot tell them apart. "
        "Rename one, or join them, and extract again."
    )
    assert not ASKED


@pytest.mark.slow
@pytest.mark.skipif(
    not (find_spec("keras_hub") and find_spec("transformers") and find_spec("torch") and find_spec("onnx")),
    reason="needs KerasHub, transformers, torch and the ONNX packages",
)
def test_a_small_clip_names_images_as_transformers_does_in_every_format(tmp_path: Path, monkeypatch):
    from text_networks import TEXTS, write_network, write_preset

    monkeypatch.chdir(tmp_path)
    theirs = write_network("clip", tmp_path / "clip")
    preset = write_preset("clip", tmp_path / "clip", tmp_path / "preset")
    names = sorted(("a photo of a cat", "wasp"))
    columns = [TEXTS.index(name) for name in names]
    rng = np.random.default_rng(1)
    for name in names:  # random weights: which image is in which folder means nothing
        (tmp_path / "photos" / name).mkdir(parents=True)
    for number, pixels in enumerate(theirs["pixels"]):
        Image.fromarray(pixels).save(tmp_path / "photos" / names[number % 2] / f"{number:02}.png")
    for number in range(12, 40):
        pixels = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / names[number % 2] / f"{number:02}.png")
    run_extraction(tmp_path / "photos", f"keras-hub:{preset}", out=tmp_path / "f.h5", precision="float32")
    head = train_head("f.h5", head="text", prompts="{}").head
    with FeatureFile("f.h5") as file:
        at = {Path(path).name: number for number, path in enumerate(file.table.paths)}
        rows = file.read(np.array([at[f"{number:02}.png"] for number in range(12)]))[0]
    np.testing.assert_array_equal(head.predict(rows), theirs["logits"][:, columns].argmax(axis=1))
    for to in ("openvino", "onnx"):
        export(head, to=to, out=tmp_path / f"x.{'xml' if to == 'openvino' else to}")
