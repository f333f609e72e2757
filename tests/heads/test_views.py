from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

from onepass.features import FeatureFile
from onepass.features.errors import DriftError, OnepassWarning, OptionError
from onepass.features.writer import RowWriter, write_feature_file
from onepass.heads import LogisticHead, MLPHead, SVMHead, load_head, predict_images, train_head
from onepass.heads.classifiers.base import Head
from onepass.heads.inference.network import standardisation
from support import GOLDEN, make_spec, make_table

FAST_MLP = {"epochs": 30, "hidden": (16,), "lr": 0.01}


def image_views(
    rng: np.random.Generator, n: int = 60, views: int = 4, d: int = 20, k: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Views that lie around their image, which lies around its class."""
    y = np.arange(n) % k
    centres = np.random.default_rng(42).normal(size=(k, d))
    images = centres[y] + 1.5 * rng.normal(size=(n, d))
    x = np.repeat(images[:, None], views, axis=1)
    x[:, 1:] += 0.7 * rng.normal(size=(n, views - 1, d))
    return x.astype(np.float32), y


def all_heads() -> list[Head]:
    return [LogisticHead(), SVMHead(), MLPHead(**FAST_MLP), MLPHead(**FAST_MLP, output="sigmoid")]


@pytest.mark.parametrize("head", all_heads(), ids=lambda h: f"{h.kind}-{getattr(h, 'output', '')}")
def test_probabilities_of_views_are_the_mean_of_each_views_own(head: Head, rng: np.random.Generator):
    x, y = image_views(rng, k=2)
    head = clone(head).fit(x, np.array(["ant", "bee"])[y])
    assert head.score(x, head.classes_[y]) > 0.8
    each = [head.predict_proba(x[:, view]) for view in range(4)]
    np.testing.assert_allclose(head.predict_proba(x), np.mean(each, axis=0), atol=1e-12)
    np.testing.assert_array_equal(head.predict(x), head.classes_[np.mean(each, axis=0).argmax(axis=1)])
    np.testing.assert_array_equal(head.network_.outputs(x[:0]), np.zeros((0, 2)))


@pytest.mark.parametrize("head", [LogisticHead(), SVMHead()], ids=lambda h: h.kind)
@pytest.mark.parametrize("informative", [True, False], ids=["classes", "labels at random"])
def test_views_that_are_all_alike_change_no_linear_head(head: Head, informative: bool, rng: np.random.Generator):
    """So C keeps its meaning, and no image is on both sides of a fold: there it would be known by heart."""
    x, y = image_views(rng, views=1)
    y = y if informative else rng.permutation(y)
    alone, copied = clone(head).fit(x[:, 0], y), clone(head).fit(np.repeat(x, 5, axis=1), y)
    assert alone.chosen_ == copied.chosen_
    np.testing.assert_allclose(alone.predict_proba(x[:, 0]), copied.predict_proba(x[:, 0]), atol=1e-3)


@pytest.mark.parametrize("k", [2, 3])
def test_logistic_regression_counts_each_view_as_a_share_of_its_image(k: int, rng: np.random.Generator):
    x, y = image_views(rng, k=k)
    rows = x.reshape(240, 20)
    mean, scale = standardisation(rows)
    reference = LogisticRegression(C=0.05, tol=1e-10, max_iter=10_000)
    reference.fit((rows - mean) / scale, np.repeat(y, 4), sample_weight=np.full(240, 1 / 4))
    head = LogisticHead(C=0.05, tune="none").fit(x, y)
    expected = reference.predict_proba((rows - mean) / scale)
    np.testing.assert_allclose(head.predict_proba(rows), expected, atol=2e-4)


@pytest.mark.parametrize("head", all_heads()[:3], ids=lambda h: h.kind)
def test_one_view_is_the_same_as_a_table(head: Head, rng: np.random.Generator):
    x, y = image_views(rng, views=1)
    table, with_axis = clone(head).fit(x[:, 0], y), clone(head).fit(x, y)
    np.testing.assert_array_equal(table.predict_proba(x[:, 0]), with_axis.predict_proba(x))


@pytest.mark.parametrize("head", all_heads()[:3], ids=lambda h: h.kind)
def test_the_same_seed_gives_the_same_head_from_views(head: Head, rng: np.random.Generator):
    x, y = image_views(rng)
    first, second = (clone(head).fit(x, y).predict_proba(x) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("head", all_heads()[:3], ids=lambda h: h.kind)
def test_views_are_checked_like_tables(head: Head, rng: np.random.Generator):
    x, y = image_views(rng)
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[60, 59\]"):
        clone(head).fit(x, y[:59])
    fitted = clone(head).fit(x, y)
    with pytest.raises(ValueError, match="X has 19 features, but .*Head is expecting 20 features as input"):
        fitted.predict(x[:, :, :19])
    x[3, 2, 1] = np.nan
    with pytest.raises(ValueError, match="Input X contains NaN"):
        clone(head).fit(x, y)


def test_the_mlp_stops_by_plain_views_of_the_validation_images(rng: np.random.Generator):
    x, y = image_views(rng)
    head = MLPHead(**FAST_MLP, tune="none")
    held_out = image_views(rng)
    other_views = held_out[0].copy()
    other_views[:, 1:] = 1e6
    networks = [
        clone(head).fit(x, y, validation=(rows, held_out[1])).network_ for rows in (other_views, held_out[0][:, 0])
    ]
    np.testing.assert_array_equal(networks[0].kernels[0], networks[1].kernels[0])


@pytest.fixture
def file_of_views(tmp_path: Path, rng: np.random.Generator) -> Path:
    """40 images x 3 views, the last two of which are noise around the first."""
    path, table = tmp_path / "views.h5", make_table(40)
    write_feature_file(path, make_spec(views="rule: flip"), table, {"augment": "flip"}, GOLDEN, views=3)
    rows = rng.normal(size=(40, 1, 6)) + 2 * table.labels[:, None, None]
    rows = rows + rng.normal(size=(40, 3, 6)) * [[[0], [1], [1]]]
    with RowWriter(path) as writer:
        writer.commit([(i, v) for i in range(40) for v in range(3)], rows.reshape(120, 6).astype(np.float32))
    return path


@pytest.mark.parametrize(("kind", "head"), [("logreg", LogisticHead()), ("mlp", MLPHead(epochs=3))])
def test_training_takes_all_views_and_the_score_the_plain_one(
    kind: str, head: Head, file_of_views: Path, tmp_path: Path
):
    options = {"epochs": 3} if kind == "mlp" else {}
    saved = train_head(file_of_views, head=kind, out=tmp_path / "x.head", **options).head
    file = FeatureFile(file_of_views)
    x, y = file.read_views(file.rows_of("train"))
    assert x.shape == (32, 3, 6)
    np.testing.assert_array_equal(saved.network.kernels[0], head.fit(x, y).network_.kernels[0])
    assert saved.trained_on["rows"] == 32
    assert saved.trained_on["views"] == 3
    x, y = file.read(file.rows_of("test"))
    assert saved.evaluation.accuracy == (saved.predict(x) == y).mean()
    assert saved.evaluation.n == 8


class StubBackbone:
    """Yields rows made up from the file names, and keeps what it was asked for."""

    environment: ClassVar = {"engine": "openvino"}

    def __init__(self, spec) -> None:
        self.spec = spec
        self.asked: tuple = ()

    def golden_rows(self) -> np.ndarray:
        return GOLDEN[0]

    def stream(self, files, *, on_skip, workers, views, augmentation) -> Iterator[tuple[int, np.ndarray]]:
        self.asked = (len(views), augmentation)
        for key, path in files:
            yield key, np.random.default_rng(len(path.name)).normal(size=(len(views), 6)).astype(np.float32)


def test_predictions_average_over_the_views_asked_for(feature_file: Path, tmp_path: Path):
    train_head(feature_file, out=tmp_path / "x.head")
    head = load_head(tmp_path / "x.head")
    backbone = StubBackbone(head.spec)
    images = [Path("a.jpg"), Path("bcd.jpg")]

    plain = list(predict_images(head, backbone, images))
    assert backbone.asked == (1, None)
    several = list(predict_images(head, backbone, images, views=4))
    assert backbone.asked == (4, "classic")

    for image, one, mean in zip(images, plain, several, strict=True):
        rows = np.random.default_rng(len(image.name)).normal(size=(4, 6)).astype(np.float32)
        place = head.class_names.index(mean.top[0][0])
        assert mean.top[0][1] == pytest.approx(np.mean([head.predict_proba(row[None])[0, place] for row in rows]))
        first = np.random.default_rng(len(image.name)).normal(size=(1, 6)).astype(np.float32)
        assert one.top[0][1] == pytest.approx(head.predict_proba(first).max())


@pytest.mark.parametrize(("options", "message"), [
    ({"views": 0}, "views is 0; needed: 1 to 1000."),
    ({"top": 0}, "top is 0; needed: 1 or more."),
    ({"augment": "flip"}, "augment needs views, how many views of each image to average, such as views=8."),
])  # fmt: skip
def test_less_than_one_view_or_class_is_refused(options: dict, message: str, feature_file: Path, tmp_path: Path):
    head = train_head(feature_file, out=tmp_path / "x.head").head
    with pytest.raises(OptionError) as caught:
        predict_images(head, StubBackbone(head.spec), [], **options)
    assert str(caught.value) == message


def test_rows_that_drifted_are_refused_with_the_labels_that_flip(feature_file: Path, tmp_path: Path):
    head = train_head(feature_file, out=tmp_path / "x.head").head
    backbone = StubBackbone(head.spec)
    found = np.array([[9, 9, 9, 9, 9, -9], [-9, -9, -9, -9, -9, 9]], np.float32)
    backbone.golden_rows = lambda: found  # type: ignore[method-assign]
    flips = int((head.predict(GOLDEN[0]) != head.predict(found)).sum())
    assert flips == 1, "one of the two rows, far on either side, must have changed sides"
    message = (
        r"^this machine does not compute the rows of .*x.head: cosine -0.666667 \(needed 0.9999\), largest "
        r"difference 10, 1 labels flip, on 2 test images. Use the versions .* Or go on with accept_drift=True, if "
        r"these labels will do, or extract and train anew.$"
    )
    with pytest.raises(DriftError, match=message):
        predict_images(head, backbone, [Path("a.jpg")])
    with pytest.warns(OnepassWarning, match=r"^accepted: this machine computes other rows .*, on 2 test images$"):
        drift = head.check_rows_of(backbone, accept_drift=True)
    assert drift is not None
    assert (drift.flips, drift.accepted) == (1, False)
