from pathlib import Path

import numpy as np
import pytest

from onepass.features import FeatureFile
from onepass.features.errors import FeatureFileError, OptionError
from onepass.features.writer import RowWriter, write_feature_file
from onepass.heads import MLPHead, SoftmaxHead
from onepass.heads.fitting.pca import MOST_AXES, Projection
from onepass.heads.fitting.row_chunks import ChangedRows, FileRows, ResidentRows, StoredRows
from onepass.heads.inference.network import standardisation
from support import GOLDEN, flip_bit, make_spec, make_table, run_process


def file_of(path: Path, x: np.ndarray, labels: np.ndarray, **spec: object) -> FeatureFile:
    """A feature file of (n, v, d) rows."""
    n, views, width = x.shape
    table = make_table(n, int(labels.max()) + 1)
    table.labels[:] = labels
    golden = np.ones((1, 2, width), np.float32)
    write_feature_file(path, make_spec(width=width, **spec), table, {}, golden, views=views)
    with RowWriter(path) as writer:
        writer.commit([(i, v) for i in range(n) for v in range(views)], x.reshape(n * views, width))
    return FeatureFile(path)


@pytest.fixture
def small(tmp_path: Path, rng: np.random.Generator) -> tuple[FeatureFile, np.ndarray]:
    """50 images x 3 views, 40 wide, and their rows."""
    x = rng.normal(size=(50, 3, 40)).astype(np.float32)
    return file_of(tmp_path / "small.h5", x, np.arange(50) % 3), x


@pytest.mark.parametrize("seed", [None, 3])
def test_chunks_bring_each_image_once_and_fit_into_the_memory(seed: int | None, small):
    file, x = small
    chosen = np.arange(1, 50, 2)
    source = FileRows(file, chosen, memory=3 * 4 * x[0].nbytes)
    assert (source.n, source.views, source.width) == (25, 3, 40)
    np.testing.assert_array_equal(source.y, chosen % 3)
    chunks = list(source.chunks(seed))
    assert [len(rows) for _, rows in chunks] == [4, 4, 4, 4, 4, 4, 1]
    order = np.concatenate([positions for positions, _ in chunks])
    np.testing.assert_array_equal(np.sort(order), np.arange(25))
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in chunks]), x[chosen[order]])
    assert (order == np.arange(25)).all() == (seed is None)


def test_the_order_of_a_file_depends_on_the_seed_alone(tmp_path: Path, rng: np.random.Generator):
    file = file_of(tmp_path / "f.h5", rng.normal(size=(60, 1, 8192)).astype(np.float32), np.arange(60) % 2)
    source = FileRows(file, np.arange(60), memory=3 * 2**20)
    one, same, other = (np.concatenate([some for some, _ in source.chunks(seed)]) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert (np.diff(one) == 1).mean() > 0.6, "blocks of neighbours stay together, so that a disk can read them"


@pytest.mark.parametrize("seed", [None, 3])
def test_stored_rows_are_the_changed_ones_in_the_same_order(seed: int | None, small):
    file, x = small
    changed = ChangedRows(
        FileRows(file, np.arange(1, 50, 2), memory=3 * 4 * x[0].nbytes), lambda rows: rows[..., :7], 7
    )
    stored = StoredRows(changed)
    assert (stored.n, stored.views, stored.width) == (25, 3, 7)
    for (positions, rows), (same, again) in zip(changed.chunks(seed), stored.chunks(seed), strict=True):
        np.testing.assert_array_equal(positions, same)
        np.testing.assert_array_equal(rows, again)


def test_where_there_is_no_room_rows_are_changed_anew(small, monkeypatch: pytest.MonkeyPatch):
    file, x = small
    source = FileRows(file, np.arange(50), memory=x.nbytes)
    roomy = SoftmaxHead(epochs=3, tune="none").fit_chunks(source)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 0}))
    tight = SoftmaxHead(epochs=3, tune="none").fit_chunks(source)
    np.testing.assert_array_equal(roomy.network_.kernels[0], tight.network_.kernels[0])


def test_half_precision_rows_are_widened(tmp_path: Path, rng: np.random.Generator):
    x = rng.normal(size=(20, 1, 6)).astype(np.float16)
    path = tmp_path / "half.h5"
    write_feature_file(path, make_spec(), make_table(20), {}, GOLDEN, row_dtype="float16")
    with RowWriter(path) as writer:
        writer.commit([(i, 0) for i in range(20)], x[:, 0].astype(np.float32))
    ((_, rows),) = FileRows(FeatureFile(path), np.arange(20), memory=10**6).chunks(None)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, x.astype(np.float32))


def test_a_row_that_changed_on_disk_is_noticed(small):
    file, x = small
    flip_bit(file.path, "rows", byte=7 * x[0].nbytes + 5)
    source = FileRows(FeatureFile(file.path), np.arange(50), memory=10**5)
    with pytest.raises(
        FeatureFileError, match=r"small.h5 is damaged: the row of class1/bild 7 ü.jpg does not match its"
    ):
        list(source.chunks(None))


def test_too_little_memory_and_missing_rows_are_refused(small, tmp_path: Path):
    file, _ = small
    with pytest.raises(OptionError) as caught:
        FileRows(file, np.arange(50), memory=1439)
    assert str(caught.value) == "1439 bytes are not enough to train in pieces; needed: 1440 or more."
    write_feature_file(tmp_path / "half.h5", make_spec(), make_table(4), {}, GOLDEN)
    with pytest.raises(
        FeatureFileError, match="half.h5 holds no row for .* Run the same extract command again to complete it.$"
    ):
        FileRows(FeatureFile(tmp_path / "half.h5"), np.arange(4), memory=10**6)


@pytest.mark.parametrize("shape", [(120, 2, 30), (40, 1, 300)], ids=["tall", "wide"])
def test_a_projection_from_chunks_equals_one_from_all_rows(shape: tuple, rng: np.random.Generator, tmp_path: Path):
    decay = 0.97 ** np.arange(shape[2])
    turn = np.linalg.qr(rng.normal(size=(shape[2],) * 2))[0]
    x = ((rng.normal(size=shape) * decay) @ turn * 3 + rng.uniform(0, 50, shape[2])).astype(np.float32)
    resident, z = Projection.of_rows(x)
    chunked = Projection.of_source(
        FileRows(
            file_of(tmp_path / "f.h5", x, np.arange(shape[0]) % 2), np.arange(shape[0]), memory=5 * x[0].nbytes * 3
        )
    )
    np.testing.assert_allclose(chunked.mean, resident.mean, rtol=1e-5)
    np.testing.assert_allclose(chunked.scale, resident.scale, rtol=1e-4)
    np.testing.assert_allclose(resident(x), z, atol=1e-3)
    kept = min(chunked.axes.shape[1], resident.axes.shape[1])
    assert kept >= min(shape[0] * shape[1], shape[2]) - 2
    first = slice(0, 15)
    cosines = np.abs((chunked.axes[:, first] * resident.axes[:, first]).sum(axis=0))
    np.testing.assert_allclose(cosines, 1, atol=1e-3)


def test_a_projection_keeps_what_varies_most_and_folds_into_a_kernel(rng: np.random.Generator):
    x = (rng.normal(size=(450, 400)) * 0.98 ** np.arange(400)).astype(np.float32)
    projection, z = Projection.of_rows(x[:, None])
    mean, scale = standardisation(x)
    standardised = (x - mean) / scale
    assert z.shape[2] <= MOST_AXES
    values = np.linalg.eigvalsh(standardised.T @ standardised)[::-1]
    np.testing.assert_allclose(np.square(z[:, 0]).sum(axis=0), values[: z.shape[2]], rtol=1e-3, atol=1e-6 * values[0])
    assert values[: z.shape[2]].sum() > 0.95 * values.sum()
    np.testing.assert_allclose(projection.axes.T @ projection.axes, np.eye(z.shape[2]), atol=1e-4)
    kernel = rng.normal(size=(z.shape[2], 5)).astype(np.float32)
    np.testing.assert_allclose(standardised @ (projection.axes @ kernel), z[:, 0] @ kernel, atol=0.02)


@pytest.mark.parametrize("rows", [np.ones((6, 1, 5)), np.zeros((1, 1, 3))], ids=["all alike", "one"])
def test_rows_that_do_not_vary_have_one_axis(rows: np.ndarray):
    projection, z = Projection.of_rows(rows.astype(np.float32))
    assert projection.axes.shape[1] == 1
    assert np.isfinite(z).all()
    assert np.isfinite(Projection.of_source(ResidentRows(rows.astype(np.float32), np.zeros(len(rows)))).axes).all()


def clouds(n: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two views of n images of four classes that overlap."""
    random = np.random.default_rng(seed)
    y = np.sort(random.integers(0, 4, n))  # as folders of photos lie in a file
    centres = np.random.default_rng(99).normal(size=(4, 60)) * 0.45
    images = centres[y][:, None] + random.normal(size=(n, 1, 60))
    return (images + 0.2 * random.normal(size=(n, 2, 60))).astype(np.float32), y


@pytest.mark.parametrize(
    "head",
    [
        MLPHead(hidden=(32,), lr=4e-3, dropout=0.3, epochs=10),
        SoftmaxHead(lr=4e-3, weight_decay=1.0, epochs=15),
    ],
    ids=lambda head: head.kind,
)
def test_training_from_chunks_is_as_good_as_from_all_rows(head, tmp_path: Path):
    x, y = clouds(600)
    test, labels = clouds(2000, seed=1)
    source = FileRows(file_of(tmp_path / "f.h5", x, y), np.arange(600), memory=x.nbytes // 2)
    assert len(list(source.chunks(0))) >= 5
    chunked, resident = head.fit_chunks(source), type(head)(**head.get_params()).fit(x, y)
    assert chunked.held_out_.shape == (600, 4)
    assert np.isfinite(chunked.held_out_).all()
    accuracy = [np.mean(some.predict(test[:, 0]) == labels) for some in (chunked, resident)]
    assert accuracy[0] > 0.85
    assert accuracy[0] == pytest.approx(accuracy[1], abs=0.02)


def test_training_from_chunks_gives_the_same_for_the_same_seed(tmp_path: Path):
    x, y = clouds(100)
    source = FileRows(file_of(tmp_path / "f.h5", x, y), np.arange(100), memory=x.nbytes // 2)
    first, second = (MLPHead(hidden=(8,), epochs=3, tune="none").fit_chunks(source) for _ in range(2))
    np.testing.assert_array_equal(first.predict_proba(x), second.predict_proba(x))


def test_groups_of_a_source_are_held_out_together():
    x, y = clouds(200)
    x, y = np.repeat(x[:40], 5, axis=0), np.repeat(np.arange(40) % 2, 5)
    source = ResidentRows(x, y, groups=np.repeat(np.arange(40), 5))
    fitted = SoftmaxHead(lr=3e-3, weight_decay=0.0, epochs=10).fit_chunks(source)
    assert (fitted.held_out_.argmax(axis=1) == y).mean() < 0.75
    assert fitted.score(x, y) > 0.8


PEAK = """
import resource, sys
from pathlib import Path
import numpy as np
from onepass.heads import MLPHead, train_head
from onepass.heads.fitting.row_chunks import ResidentRows

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

settings = {"hidden": (32,), "lr": 1e-3, "dropout": 0.3, "weight_decay": 1.0, "epochs": 2}
warm = np.random.default_rng(0).normal(size=(500, 1, 2048)).astype(np.float32)
MLPHead(**settings).fit_chunks(ResidentRows(warm, np.arange(500) % 4))
before = peak()
path = Path(sys.argv[1])
made = train_head(path, head="mlp", memory=128 * 2**20, out=path.with_suffix(".head"), **settings)
print(peak() - before, made.head.evaluation.n, made.head.evaluation.leak_free.leaked)
"""


@pytest.mark.slow
def test_training_in_pieces_takes_little_memory_from_the_file_to_the_score(tmp_path: Path, rng: np.random.Generator):
    n = 30_000
    x = rng.normal(size=(n, 1, 2048)).astype(np.float32)
    x[4:39:5] = x[0:35:5]  # every fifth image is in the test part: seven copies of training images
    path = file_of(tmp_path / "large.h5", x, np.arange(n) % 4).path
    assert path.stat().st_size > 245e6
    done = run_process("python", "-c", PEAK, str(path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    taken, scored, copies = map(int, done.stdout.split())
    assert (scored, copies) == (6_000, 7)
    assert taken < 350e6
