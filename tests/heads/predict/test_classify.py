import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from onepass.features import SkippedImage
from onepass.features.errors import OptionError
from onepass.heads import SavedHead, predict_images, train_head
from onepass.heads.predict.told import Prediction
from support import GOLDEN


class Shuffling:
    """A backbone that answers pairs in reverse, and cannot read what is called bad."""

    environment: ClassVar = {"engine": "openvino"}

    def __init__(self, spec) -> None:
        self.spec = spec
        self.asked = 0

    def golden_rows(self) -> np.ndarray:
        return GOLDEN[0]

    def stream(self, files, *, on_skip, workers, views, augmentation) -> Iterator[tuple[int, np.ndarray]]:
        while pair := list(itertools.islice(files, 2)):
            for key, path in reversed(pair):
                self.asked = max(self.asked, key + 1)
                if path.name == "bad":
                    on_skip(key, "not an image")
                else:
                    yield key, np.full((1, 6), float(path.stem), np.float32)


@pytest.fixture
def head(feature_file: Path, tmp_path: Path) -> SavedHead:
    return train_head(feature_file, out=tmp_path / "x.head").head


def test_answers_come_in_the_order_of_the_images_with_those_that_cannot_be_read(head: SavedHead):
    names = ["0.1", "bad", "0.3", "0.2", "0.9", "bad", "bad"]
    found = list(predict_images(head, Shuffling(head.spec), map(Path, names)))
    assert [answer.path for answer in found] == names
    for answer in found:
        if answer.path == "bad":
            assert answer == SkippedImage("bad", "not an image")
        else:
            assert isinstance(answer, Prediction)
            row = np.full((1, 6), float(Path(answer.path).stem), np.float32)
            assert answer.top[0][1] == pytest.approx(head.predict_proba(row).max())


def test_answers_come_before_the_last_image_is_named(head: SavedHead):
    backbone = Shuffling(head.spec)
    endless = (Path(f"{i}") for i in itertools.count())
    assert [answer.path for answer in itertools.islice(predict_images(head, backbone, endless), 5)] == list("01234")
    assert backbone.asked <= 8


def test_unknown_is_said_only_where_it_is_asked(head: SavedHead):
    images = [Path("0.5"), Path("5000.0")]
    assert [a.unknown for a in predict_images(head, Shuffling(head.spec), images)] == [None, None]
    near, far = predict_images(head, Shuffling(head.spec), images, unknown=0.3)
    assert far.unknown
    assert near.record().keys() == {"path", "class", "probability", "top", "unknown"}
    with pytest.raises(OptionError, match="unknown is 2; needed: a share between 0 and 1, such as 0.05."):
        predict_images(head, Shuffling(head.spec), images, unknown=2)
