"""Names as text: what is safe to print is still the name."""

import json
import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onepass.features.names import safe_lines, shown, shown_in, spellings, unshown

NAMES = st.one_of(
    st.binary(max_size=30).map(os.fsdecode),
    st.text(alphabet=st.sampled_from("\\x0a1buäé\n\x1b\u202e\udcff"), max_size=12),
    st.text(max_size=20),
)


@given(NAMES)
def test_an_escaped_name_is_the_name(name: str):
    assert unshown(shown(name)) == name


@given(NAMES)
def test_an_escaped_name_is_one_line_of_utf_8_without_control_characters(name: str):
    text = shown(name)
    text.encode("utf-8")
    assert not [c for c in text if unicodedata.category(c) in ("Cc", "Zl", "Zp", "Cs")]
    assert not set(text) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")
    assert len(text.splitlines()) <= 1


@given(NAMES, NAMES)
def test_two_names_are_never_written_alike(one: str, other: str):
    assert (shown(one) == shown(other)) == (one == other)


@pytest.mark.parametrize("name", ["cats/1.jpg", "Käthe ü.png", "猫/一.jpg", "👩‍🔬.png", r"C:\photos\1.jpg", r"(\d+)_"])
def test_usual_names_stay_as_they_are(name: str):
    assert shown(name) == name


def test_values_for_json_are_escaped_wherever_they_stand():
    found = shown_in({"a\nb": [{"path": "\udcff.jpg", "n": 3, "p": 0.5, "none": None}]})
    assert found == {r"a\x0ab": [{"path": r"\xff.jpg", "n": 3, "p": 0.5, "none": None}]}
    assert json.loads(json.dumps(found).encode()) == found


def test_lines_of_a_text_keep_their_ends_and_lose_control_characters():
    assert safe_lines("one\ntwo\x1b[2K") == "one\ntwo\\x1b[2K"


@pytest.mark.parametrize(
    ("listed", "name"),
    [
        (r"cats\1.jpg", "cats/1.jpg"),
        ("caf\udce9.jpg", "café.jpg"),
        ("cafe\u0301.jpg", "café.jpg"),
        ("café.jpg", "cafe\u0301.jpg"),
        (r"a\x0ab.jpg", "a\nb.jpg"),
        (r"caf\xe9.jpg", "caf\udce9.jpg"),
    ],
)
def test_a_listed_name_finds_the_file_that_another_system_means(listed: str, name: str):
    assert next(iter(spellings(listed))) == listed
    assert name in list(spellings(listed))
