import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from onepass.features import FeatureFile
from onepass.features.errors import TrainingError
from onepass.heads import LogisticHead, wilson_interval
from onepass.heads.evaluation import Answers, match_labels, score
from onepass.heads.tasks.task import evaluate_rows


class Says:
    """A head that answers what it is told."""

    def __init__(self, answers: np.ndarray) -> None:
        self.answers = answers

    def predict(self, _: np.ndarray) -> np.ndarray:
        return self.answers


@pytest.mark.parametrize(("correct", "total"), [(0, 1), (1, 1), (9, 10), (0, 50), (50, 50), (613, 734)])
def test_the_interval_is_scipys_wilson_interval(correct: int, total: int):
    expected = binomtest(correct, total).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(wilson_interval(correct, total, 1.959963984540054), expected, atol=1e-9)


@pytest.mark.parametrize(("correct", "total"), [(1, 0), (-1, 3), (4, 3)])
def test_impossible_counts_are_refused(correct: int, total: int):
    with pytest.raises(ValueError, match="needed: 0 <= correct <= total and total above 0"):
        wilson_interval(correct, total)


def test_scores_equal_scikit_learns(rng: np.random.Generator):
    y, answers = rng.integers(0, 4, 200), rng.integers(0, 3, 200)  # class 3 is never answered
    found = score(Answers(answers, None), y, ("a", "b", "c", "d"), measured_on="test")
    columns = precision_recall_fscore_support(y, answers, labels=range(4), zero_division=0)
    for i, value in enumerate(found.per_class.values()):
        np.testing.assert_allclose(
            (value.precision, value.recall, value.f1, value.n), [column[i] for column in columns], atol=1e-12
        )
    assert found.accuracy == accuracy_score(y, answers)
    np.testing.assert_array_equal(found.confusion, confusion_matrix(y, answers, labels=range(4)))
    assert found.interval == wilson_interval(int((y == answers).sum()), 200)


def test_an_evaluation_reads_as_a_sentence(open_file: FeatureFile):
    train, test = open_file.split(test=0.3, seed=0)
    head = LogisticHead().fit(*open_file.read(train))
    result = evaluate_rows(head, open_file, rows=test)
    low, high = result.interval
    assert str(result) == f"accuracy {result.accuracy:.3f} ({low:.3f} to {high:.3f}), n={len(test)}"
    assert result.accuracy > 0.8


def test_nothing_to_score_is_refused(open_file: FeatureFile):
    with pytest.raises(TrainingError, match="no images to score in val. Choose another part with split."):
        evaluate_rows(Says(np.zeros(0)), open_file, rows=np.zeros(0, int), measured_on="val")


def test_labels_are_matched_by_name():
    np.testing.assert_array_equal(match_labels(np.array([0, 1, 1]), ("dog", "ant"), ("ant", "bee", "dog")), [2, 0, 0])
    with pytest.raises(TrainingError, match="have the class 'fox', which the head does not know; it knows ant, bee. "):
        match_labels(np.array([1]), ("ant", "fox"), ("ant", "bee"))


def test_a_class_without_images_has_no_scores_and_a_small_one_comes_with_a_warning():
    names = tuple(f"c{i}" for i in range(8))
    y = np.repeat(np.arange(7), [12, 3, 9, 1, 2, 10, 4])
    found = score(Answers(y, None), y, names)
    lines = found.details().splitlines()
    assert lines[8].split() == ["c7", "0", "-", "-", "-"]
    assert lines[-1] == (
        "fewer than 10 images of c1, c2, c3, c4, c6 and 1 more: what a line says of such a class hangs on single images"
    )
    y = np.repeat(np.arange(2), 10)
    assert len(score(Answers(y, None), y, ("a", "b")).details().splitlines()) == 3


def test_the_score_without_copies_says_where_none_is_left():
    y = np.array([0, 1])
    found = score(Answers(y, None), y, ("a", "b"), copies=np.array([True, True]))
    assert str(found.leak_free) == "2 of these images are copies of training images; without them none is left to score"
