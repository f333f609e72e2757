"""docs/backbones.md: its examples run, its commands say what they show."""

import contextlib
import io
import re
import tomllib
from pathlib import Path

from onepass.extract import CATALOGUE
from onepass.extract.backbones.preprocess_files import read_preprocess
from onepass.extract.backbones.providers import GROUP
from support import run_program

TEXT = (Path(__file__).parents[1] / "docs" / "backbones.md").read_text()


def test_the_python_example_prints_what_follows_it():
    code, printed = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", TEXT, re.DOTALL).groups()
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(code, {})
    assert shown.getvalue() == printed


def test_the_proof_reads_as_it_is_shown(tmp_path: Path):
    command, printed = re.search(r"```\n\$ (.*?)\n(.*?)```", TEXT, re.DOTALL).groups()
    done = run_program(*command.split(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    pattern = re.escape(printed).replace("1\\.00000000", r"(1\.0|0\.9{6})\d*").replace("Keras\\ 3\\.15\\.1", "Keras .*")
    assert re.fullmatch(pattern, done.stdout)


def test_the_entry_point_is_the_one_that_is_read():
    (example,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    assert list(tomllib.loads(example)["project"]["entry-points"]) == [GROUP]
    assert f"{len(CATALOGUE)} networks for ImageNet" in TEXT


def test_the_preprocess_file_is_one_that_is_read(tmp_path: Path):
    (example,) = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "model.preprocess.json").write_text(example)
    found = read_preprocess(tmp_path / "model.preprocess.json")
    assert f"`{found}`" in " ".join(TEXT.split())


def test_the_options_of_choose_are_there(tmp_path: Path):
    (command,) = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    program, verb, _, option, _ = command.split()
    assert f" {option} " in run_program(program, verb, "--help", cwd=tmp_path).stdout
