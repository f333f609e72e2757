from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onepass.features import FeatureFile
from onepass.features.errors import HeadFileError, OptionError
from onepass.features.writer import RowWriter, write_feature_file
from onepass.heads import load_head, train_head
from onepass.heads.inference.out_of_distribution import AXES, OutOfDistribution, Subspace, signed_roots, threshold
from onepass.heads.saved_head import save_head
from support import make_spec, make_table, plain


@pytest.mark.parametrize(
    ("count", "alpha", "place"), [(19, 0.05, 18), (18, 0.05, None), (99, 0.05, 94), (9, 0.1, 8), (4, 0.5, 2)]
)
def test_the_threshold_is_the_conformal_quantile(count: int, alpha: float, place: int | None):
    values = np.random.default_rng(0).permutation(count).astype(float)
    assert threshold(values, alpha) == (np.inf if place is None else place)


def made_up(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances, probabilities and labels of images of three classes, one of which is harder and further away."""
    y = random.integers(0, 3, n)
    p = random.dirichlet(np.ones(3), n) * 0.5
    p[np.arange(n), y] += np.where(y == 2, random.uniform(0, 0.5, n), 0.5)
    p /= p.sum(axis=1, keepdims=True)
    return random.gamma(2.0 + y).astype(np.float32), p, y


def test_each_class_keeps_its_promised_share():
    random = np.random.default_rng(1)
    covered = []
    for _ in range(60):
        far, p, y = made_up(random, 600)
        out_of_distribution = OutOfDistribution(
            Subspace(np.zeros(1), np.zeros((1, 1))), far, np.zeros(600), y.astype(np.int32)
        ).with_probabilities(p)
        far, p, y = made_up(random, 3000)
        strange = out_of_distribution.at(0.1, 3)(far, p)
        covered.append([1 - strange[y == k, k].mean() for k in range(3)])
    spread = np.std(covered, axis=0) / np.sqrt(len(covered))
    assert (np.mean(covered, axis=0) >= 0.9 - 3 * spread).all()
    assert (np.mean(covered, axis=0) <= 0.93).all(), "and not by calling nothing strange"


@pytest.mark.parametrize(("images", "classes", "alpha"), [(19, 1, 0.05), (20, 3, 0.05), (99, 2, 0.01)])
def test_the_promise_holds_for_few_images_and_two_measures_at_once(images: int, classes: int, alpha: float):
    random, wronged = np.random.default_rng(2), []
    for _ in range(400):
        n = images * classes
        y = (np.arange(n) % classes).astype(np.int32)
        far, doubts = (random.normal(size=n).astype(np.float32) for _ in range(2))
        out_of_distribution = OutOfDistribution(Subspace(np.zeros(1), np.zeros((1, 1))), far, doubts, y)
        strange = out_of_distribution.at(alpha, classes)(
            random.normal(size=500), 1 - random.normal(size=(500, classes))
        )
        wronged.append(strange.mean(axis=0).mean())
    assert np.mean(wronged) <= alpha + 3 * np.std(wronged) / np.sqrt(len(wronged))


def test_images_that_no_head_was_fitted_without_do_not_break_the_promise():
    random, wronged = np.random.default_rng(4), []
    for _ in range(60):
        far, p, y = made_up(random, 300)
        p[random.random(300) < 0.8] = np.nan
        out_of_distribution = OutOfDistribution(
            Subspace(np.zeros(1), np.zeros((1, 1))), far, np.zeros(300), y.astype(np.int32)
        ).with_probabilities(p)
        far, p, y = made_up(random, 1000)
        wronged.append(out_of_distribution.at(0.1, 3)(far, p)[np.arange(1000), y].mean())
    assert np.mean(wronged) <= 0.1 + 3 * np.std(wronged) / np.sqrt(len(wronged))


def test_distances_are_those_from_the_principal_subspace(rng: np.random.Generator):
    lengths = np.concatenate([np.full(AXES, 5.0), np.full(200 - AXES, 0.1)])
    turn = np.linalg.qr(rng.normal(size=(200, 200)))[0]
    rows = ((rng.normal(size=(600, 200)) * lengths) @ turn).astype(np.float32)
    roots = np.sign(rows) * np.sqrt(np.abs(rows))
    around = roots - roots.mean(axis=0)
    axes = np.linalg.svd(around, full_matrices=False)[2][:AXES]
    wanted = np.linalg.norm(around - around @ axes.T @ axes, axis=1)
    found = Subspace.of(signed_roots(rows)).distances(rows)
    assert np.corrcoef(found, wanted)[0, 1] > 0.98
    np.testing.assert_allclose(found.mean(), wanted.mean(), rtol=0.02)


@pytest.fixture(scope="module")
def three_kinds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A feature file of three classes in a corner of the space, and rows from elsewhere."""
    random = np.random.default_rng(5)
    path, table = tmp_path_factory.mktemp("out_of_distribution") / "x.h5", make_table(600, 3)
    mixing = random.normal(size=(8, 40))
    inside = random.normal(size=(600, 8)) + 3 * np.eye(8)[table.labels]
    rows = inside @ mixing + 0.1 * random.normal(size=(600, 40))
    write_feature_file(path, make_spec(width=40), table, {}, np.ones((1, 2, 40), np.float32))
    with RowWriter(path) as writer:
        writer.commit(plain(range(600)), rows.astype(np.float32))
    return path, (3 * random.normal(size=(200, 40))).astype(np.float32)


@pytest.mark.parametrize("options", [{"head": "logreg"}, {"head": "logreg", "C": 0.1, "tune": "none"}, {"head": "knn"}])
def test_rows_from_elsewhere_are_unknown_and_held_out_ones_are_kept(options: dict, three_kinds, tmp_path: Path):
    path, others = three_kinds
    made = train_head(path, out=tmp_path / "x.head", **options).head
    head = load_head(tmp_path / "x.head")
    assert head.abstention == made.abstention
    assert head.abstention.n == 120
    assert head.abstention.coverage > 0.88
    assert head.abstention.abstained < 0.1
    assert head.abstention.per_class.keys() == {"class0", "class1", "class2"}
    is_unknown = head.unknown_at(0.05)
    assert is_unknown(others, head.predict_proba(others)).mean() > 0.9
    with FeatureFile(path) as file:
        rows, _ = file.read(file.rows_of("test"))
    assert is_unknown(rows, head.predict_proba(rows)).mean() == pytest.approx(head.abstention.abstained)
    for name, array in made.out_of_distribution.arrays().items():
        np.testing.assert_array_equal(array, head.out_of_distribution.arrays()[name])


def test_a_larger_share_calls_more_unknown(three_kinds, tmp_path: Path):
    path, others = three_kinds
    head = train_head(path, out=tmp_path / "x.head").head
    probabilities = head.predict_proba(others)
    counts = [head.unknown_at(alpha)(others, probabilities).sum() for alpha in (0.01, 0.05, 0.2, 0.8)]
    assert counts == sorted(counts)


def test_shares_that_cannot_be_promised_are_refused(three_kinds, tmp_path: Path):
    head = train_head(three_kinds[0], out=tmp_path / "x.head", tune="none", C=1.0).head
    for alpha in (0, 1, -0.1, float("nan")):
        with pytest.raises(OptionError, match=r"unknown is .*; needed: a share between 0 and 1, such as 0.05.$"):
            head.unknown_at(alpha)
    with pytest.raises(OptionError) as caught:
        head.unknown_at(0.001)
    assert str(caught.value) == (
        "unknown is 0.001, and training held out 480 images; needed: 999 images for such a share, or a larger one."
    )


def test_a_head_of_too_few_images_says_that_it_cannot_tell(tmp_path: Path, rng: np.random.Generator):
    path, table = tmp_path / "few.h5", make_table(5, 2)
    table.splits[:] = [0, 0, 2, 2, 2]
    write_feature_file(path, make_spec(), table, {}, np.ones((1, 2, 6), np.float32))
    with RowWriter(path) as writer:
        writer.commit(plain(range(5)), rng.normal(size=(5, 6)).astype(np.float32))
    head = train_head(path, tune="none", C=1.0, out=tmp_path / "few.head").head
    assert load_head(head.path).out_of_distribution is None
    with pytest.raises(
        OptionError, match=r"few.head keeps nothing to tell unknown images by: a fine-tuned model, or a "
    ):
        load_head(head.path).unknown_at(0.05)


@pytest.mark.parametrize(
    "change",
    [
        lambda n: replace(n, labels=n.labels + 7),
        lambda n: replace(n, labels=n.labels.astype(np.int64)),
        lambda n: replace(n, distances=n.distances[1:]),
        lambda n: replace(n, improbabilities=n.improbabilities * np.float32(np.nan)),
        lambda n: replace(n, subspace=Subspace(n.subspace.centre[1:], n.subspace.axes)),
        lambda n: replace(n, subspace=Subspace(n.subspace.centre, n.subspace.axes[:, 0])),
    ],
)
def test_a_damaged_head_file_is_refused(change, three_kinds, tmp_path: Path):
    head = train_head(three_kinds[0], out=tmp_path / "x.head", tune="none", C=1.0).head
    save_head(replace(head, out_of_distribution=change(head.out_of_distribution)))
    with pytest.raises(HeadFileError, match=r"x.head is damaged \(.*\). Train the head again.$"):
        load_head(head.path)
