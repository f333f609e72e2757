"""Prompts as they are given, and the words that a class becomes."""

from pathlib import Path

import pytest

from onepass.features.errors import OptionError
from onepass.heads.compare.candidates import candidates_of
from onepass.heads.zero_shot.prompts import prompts_of, words_of


def test_prompts_are_templates_and_files_of_them(tmp_path: Path):
    (tmp_path / "more.txt").write_bytes("\ufeffa blurry {}\r\n\r\n  the {} again  \na {}\n".encode())
    assert prompts_of("a {}") == ("a {}",)
    assert prompts_of(["a {}", str(tmp_path / "more.txt")]) == ("a {}", "a blurry {}", "the {} again")
    assert prompts_of(tmp_path / "more.txt") == ("a blurry {}", "the {} again", "a {}")


def test_prompts_without_a_place_for_the_name_are_refused(tmp_path: Path):
    with pytest.raises(OptionError) as refused:
        prompts_of(["a {}", "a photo"])
    assert str(refused.value) == (
        "prompts is 'a photo', which has no {} for the name of a class and is no file of prompts (there is no such "
        "file). Needed: such as a photo of a {}, or a text file with one a line."
    )
    (tmp_path / "x.txt").write_text("a {}\na photo\n")
    with pytest.raises(OptionError, match=r"^the prompt 'a photo' has no \{\} for the name of a class\.$"):
        prompts_of(str(tmp_path / "x.txt"))
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OptionError, match="is no file of prompts \\('utf-8' codec can't decode"):
        prompts_of(str(tmp_path / "x.txt"))
    (tmp_path / "x.txt").write_bytes(b"a {}\n" * 300_000)
    with pytest.raises(OptionError, match=r"\(it has more than 1,048,576 bytes\)"):
        prompts_of(str(tmp_path / "x.txt"))
    with pytest.raises(OptionError, match=r"^prompts are 1001; needed: 1 to 1000, such as a photo of a \{\}\.$"):
        prompts_of([f"a {{}} {number}" for number in range(1001)])


@pytest.mark.parametrize(
    ("name", "words"), [("golden_retriever", "golden retriever"), ("T-shirt", "T-shirt"), ("_a__b_", "a b"), ("_", "_")]
)
def test_underscores_become_spaces(name: str, words: str):
    assert words_of(name) == words


def test_heads_from_texts_are_candidates_where_there_are_prompts():
    options = {"tune": "fast", "prompts": None}
    assert not {"text", "text-logreg"} & {one.head for one in candidates_of("all", [""], options)}
    found = {one.head: one.options for one in candidates_of("all", [""], options | {"prompts": ["a {}"]})}
    assert found["text"] == {"tune": "fast", "prompts": ("a {}",)}
    assert found["text-logreg"] == {"tune": "fast", "prompts": ("a {}",)}
    assert found["logreg"] == {"tune": "fast"}
