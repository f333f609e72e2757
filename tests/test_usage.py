"""Wrong usage is refused at once: exit code 2 (1 where a file is missing), one message, no framework loaded."""

import inspect
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import NamedTuple, get_args

import numpy as np
import pytest
from typer.models import OptionInfo

from onepass import cli, train_head
from onepass.extract import CATALOGUE, format_names
from onepass.features.errors import OptionError
from onepass.features.writer import RowWriter, write_feature_file
from onepass.heads.classifiers.kinds import HEADS
from onepass.heads.head_options import PARAMETERS, USUAL_HIDDEN
from onepass.heads.inference.network import ACTIVATIONS
from support import GOLDEN, make_spec, make_table, plain, run_process, write_folder

WORDS = {
    "SETTINGS": "classic, plain, or any of flip, rotate=, shift=, shear=, zoom=, brightness=, crop=, seed= with commas "
    "between them.",
    "KINDS": "logreg, svm, rbf-svm, ridge, kernel-ridge, lda, knn, centroid, mlp, linear, text, text-logreg",
    "PARTS": "auto, all, a number of layers up to 175, a layer's name, or a stage: conv1, conv2, conv3, conv4, conv5.",
    "POSITIVE": "needed: a finite number above 0.",
    "ACTIVATIONS": ", ".join(ACTIVATIONS),
    "COUNT": str(len(CATALOGUE)),
    "FORMATS": format_names("or"),
}
"""What many messages say."""


def table() -> dict[str, tuple[int, str]]:
    """Command line -> exit code and the whole message; f.h5, f.head, there.csv, t.csv and photos/ are there."""
    lines = (Path(__file__).parent / "wrong_usage.txt").read_text().splitlines()
    found = {}
    for command, message in zip(lines[::2], lines[1::2], strict=True):
        code, _, words = command.partition(" ")
        for name, text in WORDS.items():
            message = message.replace(f"{{{name}}}", text)
        found[words] = int(code), f"error: {message.strip()}\n"
    return found


WRONG = table()

ANY_VALUE = {"fine-tune --tensorboard"}
"""Options of which no value is wrong."""

REFUSED = """
import json, os, sys
HEAVY = ("tensorflow", "keras", "sklearn", "openvino")
asked = []
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HEAVY:
            asked.append(name)
            raise ImportError(f"{name} was loaded")
sys.meta_path.insert(0, Refuse())
from typer.testing import CliRunner
from onepass import cli
found = {}
for line, words in json.load(sys.stdin).items():
    asked.clear()
    done = CliRunner().invoke(cli.app, words, prog_name="onepass")
    found[line] = [done.exit_code, done.stdout, done.stderr, asked[:], repr(done.exception)]
json.dump(found, sys.stdout)
"""


class Refusal(NamedTuple):
    code: int
    stdout: str
    stderr: str
    loaded: list[str]
    exception: str


def options() -> Iterator[tuple[str, str, str]]:
    """Command, option and type of every option that takes a value."""
    for command in cli.app.registered_commands:
        for one in inspect.signature(command.callback, eval_str=True).parameters.values():
            kind, about = get_args(one.annotation)
            (kind,) = set(get_args(kind) or (kind,)) - {NoneType}
            if isinstance(about, OptionInfo) and kind is not bool:
                own = about.default if isinstance(about.default, str) else "--" + one.name.replace("_", "-")
                yield command.name, own, kind.__name__


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feature file of three classes, a head trained on it, and a folder of images."""
    folder, table = tmp_path_factory.mktemp("usage"), make_table(60, 3)
    write_folder(folder / "photos", {"class0": 3, "class1": 3, "class2": 3})
    facts = {"data": "photos", "backbone": "resnet50", "weights": "imagenet"}
    write_feature_file(folder / "f.h5", make_spec(), table, facts, GOLDEN)
    rows = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32) + 2 * table.labels[:, None]
    with RowWriter(folder / "f.h5") as writer:
        writer.commit(plain(range(60)), rows)
    train_head(folder / "f.h5", out=folder / "f.head")
    (folder / "there.csv").touch()
    (folder / "t.csv").write_text("file,breed,w\nclass0/0.png,a,1\nclass1/0.png,b,x\n")
    return folder


@pytest.fixture(scope="module")
def refusals(folder: Path) -> dict[str, Refusal]:
    """What became of every line in a process that can load no framework."""
    lines = [*WRONG, *(f"{command} x {option}=x1x" for command, option, kind in options() if kind in ("int", "float"))]
    asked = json.dumps({line: shlex.split(line) for line in lines})
    done = run_process("python", "-c", REFUSED, cwd=folder, stdin=asked)
    assert done.returncode == 0, done.stderr
    return {line: Refusal(*found) for line, found in json.loads(done.stdout).items()}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_usage_ends_at_once_in_one_message(line: str, refusals: dict[str, Refusal]):
    found = refusals[line]
    assert (found.code, found.stderr, found.loaded) == (*WRONG[line], []), found.exception
    assert found.stdout == ""


def test_every_option_is_judged():
    tried = {(line.split()[0], word) for line in WRONG for word in line.split() if word.startswith("--")}
    left = {f"{command} {option}" for command, option, _ in options() if (command, option) not in tried}
    assert left == ANY_VALUE


def test_a_text_in_place_of_a_number_is_told(refusals: dict[str, Refusal]):
    tried = 0
    for command, option, kind in options():
        if kind in ("int", "float"):
            found = refusals[f"{command} x {option}=x1x"]
            number = "a whole number" if kind == "int" else "a number"
            needed = f"error: {option} needs {number}. `onepass {command} --help` says what there is.\n"
            assert (found.code, found.stderr, found.loaded) == (2, needed, [])
            tried += 1
    assert tried > 40


def test_the_parameters_of_heads_are_those_they_take():
    for kind, head in HEADS.items():
        assert set(inspect.signature(head).parameters) - {"task"} == set(PARAMETERS[kind]), kind
    assert tuple(PARAMETERS) == tuple(HEADS)
    assert HEADS["mlp"]().get_params()["hidden"] == USUAL_HIDDEN


def test_nothing_was_written_beside(folder: Path, refusals: dict[str, Refusal]):
    assert refusals
    assert sorted(path.name for path in folder.iterdir()) == ["f.h5", "f.head", "photos", "t.csv", "there.csv"]


def test_a_wrong_option_is_a_value_error_in_python(folder: Path):
    with pytest.raises(OptionError, match=r"^unknown head 'forest'; there are"):
        train_head(folder / "f.h5", head="forest")
