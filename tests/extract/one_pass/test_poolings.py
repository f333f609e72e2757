"""Several poolings from one pass: each image goes through the network once, and each pooling has its file."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onepass import compare_heads, predict, run_extraction, train_head
from onepass.extract import BackboneOrigin, load_backbone_for
from onepass.extract.backbones.engines import OpenVINOEngine
from onepass.extract.backbones.openvino_cache import stem
from onepass.features import FeatureFile, OptionError, Preprocess, SkippedImage
from support import MakeFolder, run_process

onnx = pytest.importorskip("onnx", reason="onnx is not installed")

POOLINGS = ("cls", "mean", "cls+mean")
FED = Preprocess(resize="squash", size=32, rescale=1 / 255)


@pytest.fixture
def tokens(tmp_path: Path, rng: np.random.Generator) -> str:
    """An ONNX file that makes 16 patches of an image, and a class token: (1, 3, 32, 32) -> (1, 17, 12)."""
    from onnx import TensorProto, helper, numpy_helper

    kernel = rng.normal(size=(12, 3, 8, 8)).astype(np.float32) / 8
    constants = {"kernel": kernel, "shape": np.array([1, 12, 16]), "half": np.float32([0.5])}
    nodes = [
        helper.make_node("Conv", ["images", "kernel"], ["map"], strides=[8, 8]),
        helper.make_node("Reshape", ["map", "shape"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["patches"], perm=[0, 2, 1]),
        helper.make_node("ReduceMax", ["patches"], ["largest"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["largest", "half"], ["class"]),
        helper.make_node("Concat", ["class", "patches"], ["tokens"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tokens",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("tokens", TensorProto.FLOAT, [1, 17, 12])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "tokens.onnx")
    return str(tmp_path / "tokens.onnx")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images went through an engine, one entry for each time it was asked."""
    counts: list[int] = []
    run = OpenVINOEngine.run

    def counted(self: OpenVINOEngine, images: Iterator) -> Iterator:
        counts.append(0)
        for found in run(self, images):
            counts[-1] += 1
            yield found

    monkeypatch.setattr(OpenVINOEngine, "run", counted)
    return counts


def rows_of(path: Path) -> np.ndarray:
    with FeatureFile(path) as file:
        assert not len(file.pending())
        return file.read(np.arange(len(file)))[0]


def test_each_image_is_computed_once_for_all_poolings(
    tokens: str, seen: list[int], make_folder: MakeFolder, tmp_path: Path
):
    folder = make_folder({"cats": 6, "dogs": 6})
    settings = {"preprocess": FED, "precision": "float32"}
    done = run_extraction(folder, tokens, pooling=",".join(POOLINGS), out=tmp_path / "all.h5", **settings)
    assert seen.count(12) == 1
    reports = [done, *done.also]
    assert [one.path.name for one in reports] == ["all.cls.h5", "all.mean.h5", "all.cls+mean.h5"]
    assert [one.computed for one in reports] == [12] * 3
    assert done.next_command == "compare-heads " + " ".join(str(one.path) for one in reports)
    for pooling, one in zip(POOLINGS, reports, strict=True):
        alone = run_extraction(folder, tokens, pooling=pooling, out=tmp_path / f"{pooling}-alone.h5", **settings)
        with FeatureFile(one.path) as file, FeatureFile(alone.path) as other:
            assert file.spec == other.spec
            assert file.spec.pooling == pooling
            np.testing.assert_allclose(file.golden_rows, other.golden_rows, rtol=1e-5, atol=1e-6)
            assert file.table.same_files(other.table)
            np.testing.assert_array_equal(file.table.splits, other.table.splits)
        np.testing.assert_allclose(rows_of(one.path), rows_of(alone.path), rtol=1e-5, atol=1e-6)
    cls, mean, both = (rows_of(one.path) for one in reports)
    np.testing.assert_array_equal(both, np.concatenate([cls, mean], axis=1))


def test_only_what_a_file_misses_is_computed(tokens: str, seen: list[int], make_folder: MakeFolder, tmp_path: Path):
    folder = make_folder({"cats": 6, "dogs": 6})
    settings = {"preprocess": FED, "precision": "float32", "pooling": "cls,mean", "out": tmp_path / "all.h5"}
    first = run_extraction(folder, tokens, **settings)
    before = rows_of(first.also[0].path)
    first.also[0].path.unlink()
    del seen[:]
    again = run_extraction(folder, tokens, **settings)
    assert [again.computed, again.also[0].computed] == [0, 12]
    np.testing.assert_array_equal(rows_of(again.also[0].path), before)
    shutil.copy(make_folder({"cats": 1, "dogs": 1}, name="other", seed=5) / "cats/0.png", folder / "cats/new.png")
    new = run_extraction(folder, tokens, **settings)
    assert [new.computed, new.also[0].computed] == [1, 1]
    nothing = run_extraction(folder, tokens, **settings)
    assert [nothing.computed, nothing.also[0].computed] == [0, 0]


def test_poolings_are_compared_like_heads(tokens: str, make_folder: MakeFolder, tmp_path: Path):
    folder = make_folder({"cats": 20, "dogs": 20})
    done = run_extraction(folder, tokens, pooling="cls,mean", preprocess=FED, out=tmp_path / "all.h5")
    found = compare_heads([done.path, done.also[0].path], heads=["ridge"], cv="2x2")
    assert {score.name for score in found.scores} == {"all.cls/ridge", "all.mean/ridge"}


@pytest.mark.parametrize(
    ("pooling", "precision", "message"),
    [
        ("cls,cls", "auto", "pooling is cls,cls; needed: each pooling once."),
        ("cls,", "auto", "pooling is ''; needed: one of avg, max, flatten, cls, mean, cls+mean, last4, pooled."),
        ("cls,avg", "auto", "pooling is 'avg'; tokens has cls+mean, cls, mean."),
        (
            "cls,mean",
            "int8",
            "precision='int8' goes with one pooling at a time, because each is calibrated by itself; got cls,mean.",
        ),
    ],
)
def test_poolings_that_cannot_be_are_refused(
    pooling: str, precision: str, message: str, tokens: str, make_folder: MakeFolder
):
    with pytest.raises(OptionError) as caught:
        run_extraction(make_folder({"a": 2, "b": 2}), tokens, pooling=pooling, precision=precision, preprocess=FED)
    assert str(caught.value) == message


def test_rows_to_reuse_go_to_the_file_of_their_pooling(
    tokens: str, seen: list[int], make_folder: MakeFolder, tmp_path: Path
):
    folder = make_folder({"cats": 6, "dogs": 6})
    settings = {"preprocess": FED, "precision": "float32"}
    base = run_extraction(folder, tokens, pooling="mean", out=tmp_path / "base.h5", **settings)
    done = run_extraction(folder, tokens, pooling="cls,mean", base=[base.path], out=tmp_path / "all.h5", **settings)
    assert [done.computed, done.also[0].computed] == [12, 0]


def test_the_command_names_every_file(tokens: str, make_folder: MakeFolder, tmp_path: Path):
    folder = make_folder({"cats": 4, "dogs": 4})
    (tmp_path / "tokens.preprocess.json").write_text(
        '{"resize": "squash", "size": 32, "antialias": true, "channels": "RGB", "rescale": 0.00392156862745098, '
        '"mean": [0, 0, 0], "std": [1, 1, 1]}'
    )
    done = run_process("extract", str(folder), "--backbone", tokens, "--pooling", "cls,mean", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.partition(":")[0] for line in done.stdout.splitlines() if ".h5:" in line] == [
        f"{folder.name}.tokens.cls.h5",
        f"{folder.name}.tokens.mean.h5",
    ]
    assert done.stderr.rstrip().endswith(
        f"Next: compare-heads {folder.name}.tokens.cls.h5 {folder.name}.tokens.mean.h5"
    )


def test_an_image_that_one_file_still_misses_is_undone(tokens: str, make_folder: MakeFolder, tmp_path: Path):
    folder = make_folder({"cats": 4, "dogs": 4})
    done = run_extraction(folder, tokens, pooling="cls,mean", preprocess=FED, out=tmp_path / "all.h5")
    assert done.all_undone == []
    gone = SkippedImage("cats/0.png", "no such file or directory")
    second = replace(done.also[0], undone=[gone])
    assert replace(done, also=(second,)).all_undone == [gone]
    assert replace(done, undone=[gone], also=(second,)).all_undone == [gone]


@pytest.mark.parametrize(("network", "poolings"), [("tokens", "cls,mean,cls+mean"), ("tiny_file", "avg,max")])
def test_a_head_on_one_of_several_poolings_predicts_by_the_graph_of_all_without_converting_anew(
    network: str,
    poolings: str,
    make_folder: MakeFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
):
    monkeypatch.setenv("ONEPASS_CACHE", str(tmp_path / "cache"))
    folder, given = make_folder({"cats": 6, "dogs": 6}), str(request.getfixturevalue(network))
    fed = {"preprocess": FED} if network == "tokens" else {}
    done = run_extraction(folder, given, pooling=poolings, precision="float32", out=tmp_path / "all.h5", **fed)
    Path(given).rename(tmp_path / "gone")  # nothing could convert it now
    try:
        for one in (done, *done.also):
            head = train_head(one.path, head="logreg", out=one.path.with_suffix(".head")).head
            with FeatureFile(one.path) as file:
                images, spec = [folder / path for path in file.table.paths], file.spec
            backbone = load_backbone_for(spec, source=BackboneOrigin(given, "imagenet"), needed_by="x.head")
            np.testing.assert_array_equal(backbone.rows_of(images), rows_of(one.path))
            assert backbone.converted
            assert stem(backbone.converted.graph)  # still in float32, whatever the rest computes in
            assert len(predict(head, images).answers) == 12
    finally:
        (tmp_path / "gone").rename(given)
