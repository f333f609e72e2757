import json

import pytest

from onepass.features import Spec
from onepass.features.errors import FeatureFileError, SpecMismatchError
from onepass.features.spec import require_equal_specs
from support import make_spec


def test_a_spec_survives_json():
    spec = make_spec()
    assert Spec.from_json(spec.to_json()) == spec


def test_the_name_of_the_weights_does_not_matter_their_hash_does():
    assert make_spec(weights="my_copy.h5") == make_spec()
    assert make_spec(weights_hash="cd" * 32) != make_spec()


def test_int8_rows_of_another_calibration_are_not_comparable():
    assert make_spec(precision="int8", calibration="12ab") != make_spec(precision="int8", calibration="34cd")


def test_two_specs_that_differ_are_shown_side_by_side():
    with pytest.raises(SpecMismatchError) as caught:
        require_equal_specs(
            make_spec(),
            make_spec(backbone="mobilenetv2", width=1280),
            left_name="cats.h5",
            right_name="cats.head",
            remedy="Extract again.",
        )
    assert str(caught.value) == (
        "cats.h5 holds resnet50 imagenet 224 px, squash, avg, float32 (6 wide); "
        "cats.head needs mobilenetv2 imagenet 224 px, squash, avg, float32 (1280 wide). They differ in:\n"
        "            cats.h5   cats.head\n"
        "  backbone  resnet50  mobilenetv2\n"
        "  width     6         1280\n"
        "Extract again."
    )
    assert caught.value.facts["differences"]["width"] == (6, 1280)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the spec is not JSON"),
        ("[1]", "the spec has the fields list; needed: backbone"),
        ('{"backbone": "x"}', "the spec has the fields backbone; needed: backbone, calibration, decode"),
        (json.dumps(json.loads(make_spec().to_json()) | {"width": "six"}), "the spec's width is 'six'; needed: int"),
        (json.dumps(json.loads(make_spec().to_json()) | {"width": True}), "the spec's width is True; needed: int"),
    ],
)
def test_a_damaged_spec_is_refused(text: str, message: str):
    with pytest.raises(FeatureFileError, match=message):
        Spec.from_json(text)
