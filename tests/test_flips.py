"""One flipped bit anywhere in a file: an error, a new start that is told, or the same answer; never another answer.

`make fuzz` flips 3,000 bits of each: ONEPASS_FLIPS=3000.
"""

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

from onepass.extract.backbones import openvino_cache
from onepass.extract.backbones.openvino_cache import CompiledBackbone
from onepass.features import FeatureFile, OnepassWarning
from onepass.features.errors import (
    BackboneError,
    CertificateError,
    FeatureFileError,
    HeadFileError,
    TrainingError,
    UserError,
)
from onepass.features.integrity import check_file
from onepass.features.writer import RowWriter, write_feature_file
from onepass.heads import train_head
from onepass.heads.compare.run_cache import FitRequest, FitResult, RunCache
from onepass.heads.export.certificate import Certificate
from onepass.heads.finetune.model_file import load_model, save_model, tuned_model
from onepass.heads.saved_head import load_head
from onepass.heads.tensor_file import read_tensors, tensor_bytes
from support import FAST_NETS, make_spec, make_table
from test_fuzz import certificate, facts_of_a_model

COUNT = int(os.environ.get("ONEPASS_FLIPS", "100"))


def flipped(path: Path, *, seed: int = 0) -> Iterator[str]:
    """Flips one bit of the file after the other, each at a place of its own, and leaves the file as it was."""
    original, random = path.read_bytes(), np.random.default_rng(seed)
    try:
        for bit in random.integers(8 * len(original), size=COUNT).tolist():
            data = bytearray(original)
            data[bit // 8] ^= 1 << bit % 8
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
            yield f"bit {bit % 8} of byte {bit // 8} in {path.name}"
    finally:
        path.write_bytes(original)


def silent_changes(path: Path, answer: Callable[[], object], refused: type[UserError]) -> list[str]:
    """Flips after which another answer came without an error or a warning."""
    before, silent = answer(), []
    for flip in flipped(path):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                same = answer() == before
            except refused as error:
                assert str(error)
                continue
        if not same and not any(issubclass(one.category, OnepassWarning) for one in told):
            silent.append(flip)
    return silent


@pytest.mark.parametrize("kind", ["logreg", "mlp", "knn", "rbf-svm"])
def test_a_head_file(kind: str, feature_file: Path, tmp_path: Path, rng: np.random.Generator):
    path = train_head(feature_file, head=kind, out=tmp_path / "x.head", **FAST_NETS.get(kind, {})).head.path
    rows = rng.normal(size=(9, 6)).astype(np.float32)

    def answer() -> object:
        head = load_head(path)
        probabilities = head.predict_proba(rows)
        unknown = head.unknown_at(0.2)(rows, probabilities).tolist() if head.out_of_distribution else None
        facts = (head.kind, head.class_names, head.spec.to_json(), head.parameters, head.evaluation, head.trained_on)
        arrays = probabilities.tobytes(), head.golden.tobytes(), head.seen.tobytes()
        return facts, arrays, unknown, head.abstention

    assert silent_changes(path, answer, HeadFileError) == []


def test_a_certificate(tmp_path: Path):
    path = tmp_path / "x.certificate.json"
    certificate().write(path)
    assert silent_changes(path, lambda: Certificate.read(path), CertificateError) == []


@pytest.mark.parametrize("part", ["model.xml", "model.bin", "backbone.json"])
def test_a_converted_network(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator):
    """What is found is what was kept; else it is told, and removed."""
    monkeypatch.setenv("ONEPASS_CACHE", str(tmp_path / "cache"))

    def write(graph: Path) -> CompiledBackbone:
        graph.write_bytes(rng.bytes(3000))
        graph.with_suffix(".bin").write_bytes(rng.bytes(20_000))
        return CompiledBackbone(Path(), "tiny", "ab" * 32, 32, "avg", 8)

    stored = openvino_cache.store("key", write)
    kept = shutil.copytree(stored.folder, tmp_path / "kept")

    def answer() -> object:
        found = openvino_cache.find_by_facts("tiny", "ab" * 32, 32, "avg", pixels="uint8")
        read = found and (found, found.graph.read_bytes(), found.graph.with_suffix(".bin").read_bytes())
        shutil.copytree(kept, stored.folder, dirs_exist_ok=True)  # as if made again
        return read

    assert silent_changes(stored.folder / part, answer, BackboneError) == []


@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_a_fine_tuned_or_exported_model(ending: str, tiny_file: Path, tmp_path: Path):
    from onepass.extract.frameworks import import_keras

    path = tmp_path / f"x.{ending}"
    save_model(import_keras().models.load_model(tiny_file), path, facts_of_a_model())

    def answer() -> object:
        head = tuned_model(path)
        weights = [array.tobytes() for array in load_model(path).get_weights()]
        return head.class_names, head.spec, head.parameters, head.evaluation, head.trained_on, weights

    assert silent_changes(path, answer, TrainingError) == []


def test_a_result_kept_by_compare_heads(feature_file: Path):
    with FeatureFile(feature_file) as file:
        cache, part = RunCache(file), np.arange(20)
        request = FitRequest("ridge", {"alpha": 1.0}, part, part + 20)
        cache.put(request, FitResult(np.full((20, 2), 0.5, np.float32), np.zeros(0), 1.0, 2.0, 3, {"alpha": 1.0}))
        (path,) = cache.folder.iterdir()

        def answer() -> object:
            found = RunCache(file).get(request)
            return found and (found.outputs.tobytes(), found.fit_seconds, found.parameters)

        assert silent_changes(path, answer, UserError) == []


def test_a_checkpoint(tmp_path: Path, rng: np.random.Generator):
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(tensor_bytes({"fingerprint": "ab", "state": {"epoch": 3}}, {"now.0": rng.normal(size=500)}))

    def answer() -> object:
        try:
            found = read_tensors(path)
        except (SafetensorError, ValueError, TypeError) as error:  # which the trainer tells, and starts anew
            raise TrainingError(str(error)) from None
        return found.facts, {name: array.tobytes() for name, array in found.arrays.items()}

    assert silent_changes(path, answer, TrainingError) == []


@pytest.fixture
def full_file(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A feature file that uses all of the format: views, groups, float16, thumbnails, copies and a skipped image."""
    path, table = tmp_path / "full.h5", make_table(24)
    table = type(table)(**{**vars(table), "groups": tuple(f"patient {i // 3}" for i in range(24))})
    golden = np.ones((1, 2, 6), np.float32)
    write_feature_file(path, make_spec(views="flip"), table, {"data": "photos"}, golden, views=2, row_dtype="float16")
    rows = rng.normal(size=(48, 6)).astype(np.float32)
    with RowWriter(path) as writer:
        writer.commit([(i, view) for i in range(23) for view in (0, 1)], rows[:46])
        for position in range(23):
            writer.put_thumbnail(position, rng.integers(0, 256, (24, 24), np.uint8))
        writer.skip(23, "empty file")
    with FeatureFile(path) as file, RowWriter(path) as writer:
        writer.put_copies(file.copies)
    return path


def said_by(path: Path) -> object:
    with FeatureFile(path) as file:
        file.require_complete()
        there = np.flatnonzero(file.committed)
        rows, labels = file.read_views(there)
        told = (file.spec.to_json(), file.provenance, file.paths, file.splits, file.table.groups, file.class_names)
        beside = (
            file.thumbnails.tobytes(),
            file.copies.tobytes(),
            file.group_ids().tobytes(),
            file.golden_rows.tobytes(),
        )
        return told, beside, there.tobytes(), rows.tobytes(), labels.tobytes(), file.skipped


def test_reading_a_feature_file(full_file: Path):
    assert silent_changes(full_file, lambda: said_by(full_file), FeatureFileError) == []


def test_verifying_a_feature_file(full_file: Path):
    """What verify calls whole says what it said."""
    before = said_by(full_file)
    for flip in flipped(full_file, seed=1):
        try:
            found = check_file(full_file)
        except FeatureFileError:
            continue
        if not found.damage and not found.pending:
            assert said_by(full_file) == before, flip
