"""Names of hubs, downloaded by the hubs' own libraries from a stand-in: whole, from their caches, cut off, refused."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from hub_networks import write_dinov2, write_preset
from stand_in_hub import StandInHub
from support import MakeFolder


def needs(*modules: str) -> pytest.MarkDecorator:
    lacking = [module for module in modules if find_spec(module) is None]
    return pytest.mark.skipif(bool(lacking), reason=f"not installed: {', '.join(lacking)}")


pytestmark = pytest.mark.slow
with_keras_hub = needs("keras_hub", "huggingface_hub", "kagglehub")
with_timm = needs("timm", "torch", "onnxscript", "huggingface_hub")

NOWHERE = "http://127.0.0.1:9"
"""An address that nobody listens at."""

# Kaggle's library knows its own addresses alone; one line gives it another, and all else is its own way.
PROGRAM = """
import os, sys
try:
    import kagglesdk.kaggle_env as kaggle
    kaggle._env_to_endpoint[kaggle.KaggleEnv.PROD] = os.environ["HF_ENDPOINT"]
except ImportError:
    pass
"""
COMMAND = PROGRAM + "from onepass.cli import onepass_program; onepass_program()"
FACTS = (
    PROGRAM
    + """
import json
from onepass.extract import load_backbone
from onepass.extract.backbones.load import conversion_of
name, *load = sys.argv[1:]
nothing = dict.fromkeys(("image_size", "resize", "pooling", "preprocess"))
facts = conversion_of(name, weights="imagenet", **nothing).facts
found = {"origin": facts.origin, "licence": facts.licence, "size": facts.preprocess.size}
print(json.dumps(found | {"hash": load_backbone(name, precision="float32").spec.weights_hash if load else ""}))
"""
)


@dataclass
class Machine:
    """A home of its own, whose programs ask a stand-in."""

    home: Path
    hub: StandInHub

    def run(self, program: str, *arguments: object, connected: bool = True) -> "subprocess.CompletedProcess[str]":
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        own = {"HOME": str(self.home), "HF_ENDPOINT": self.hub.address if connected else NOWHERE, "COLUMNS": "1000"}
        self.hub.asked.clear()
        return subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program, *map(str, arguments)],
            env={**kept, **own, "TF_CPP_MIN_LOG_LEVEL": "3"},
            cwd=self.home,
            capture_output=True,
            text=True,
        )

    def told(self, program: str, *arguments: object) -> str:
        """What a program says that fails for a reason that its user can put right: one line."""
        done = self.run(program, *arguments)
        assert done.returncode == 1, done.stderr[-3000:]
        (line,) = done.stderr.strip().splitlines()
        return line

    def facts(self, name: str, *, load: bool = False, connected: bool = True) -> dict:
        done = self.run(FACTS, name, *(["load"] if load else []), connected=connected)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    home = tmp_path / "home"
    home.mkdir()
    with StandInHub() as hub:
        yield Machine(home, hub)


@dataclass(frozen=True)
class Served:
    """A network that a hub offers.

    Attributes:
        name: As `--backbone` takes it.
        repository: What the stand-in calls it.
        weights: The file of its weights.
        write: Writes it into a folder that is not there yet.
        refused: What is said where the hub knows no such repository, and
        gated: where its owner asks who wants it.
    """

    name: str
    repository: str
    weights: str
    write: Callable[[Path], object]
    refused: str
    gated: str


def write_timm(folder: Path) -> None:
    code = (
        "import sys, timm, torch; from safetensors.torch import save_file; torch.manual_seed(3)\n"
        "save_file(timm.create_model('test_vit', pretrained=False).state_dict(), sys.argv[1])"
    )
    folder.mkdir()
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, folder / "model.safetensors"], check=True)


INSTEAD = {
    "hf": "Or put its config.json, model.safetensors and preprocessor_config.json into a folder, and give the folder "
    "as --backbone.",
    "timm": "Or fetch it on a machine with a connection, and give it by --weights.",
    "keras-hub": "Or write it to a folder on a machine with a connection, "
    'keras_hub.models.Backbone.from_preset("vit_base_patch16_224_imagenet").save_to_preset("FOLDER"), its image '
    "converter too, and give --backbone keras-hub:FOLDER.",
}
ABSENT = "there is no such repository, or it is private and needs hf auth login or HF_TOKEN"
CONSENT = (
    "its owner asks who downloads it; agree to the terms on the page of {} there, and sign in by hf auth login or "
    "HF_TOKEN"
)
FROM_HUB = "error: {} cannot be downloaded from the Hugging Face hub: {}. {}"
FROM_KAGGLE = "error: vit_base_patch16_224_imagenet cannot be downloaded from Kaggle: {}. {}"

DINO = Served(
    "hf:acme/tiny",
    "acme/tiny",
    "model.safetensors",
    write_dinov2,
    FROM_HUB.format("config.json of acme/tiny", ABSENT, INSTEAD["hf"]),
    FROM_HUB.format("config.json of acme/tiny", CONSENT.format("acme/tiny"), INSTEAD["hf"]),
)
TIMM = Served(
    "timm:test_vit.r160_in1k",
    "timm/test_vit.r160_in1k",
    "model.safetensors",
    write_timm,
    FROM_HUB.format("model.safetensors of timm/test_vit.r160_in1k", ABSENT, INSTEAD["timm"]),
    FROM_HUB.format(
        "model.safetensors of timm/test_vit.r160_in1k", CONSENT.format("timm/test_vit.r160_in1k"), INSTEAD["timm"]
    ),
)
KAGGLE = Served(
    "keras-hub:vit_base_patch16_224_imagenet",
    "keras/vit/vit_base_patch16_224_imagenet",
    "model.weights.h5",
    lambda folder: write_preset("vit", folder),
    FROM_KAGGLE.format("there is no config.json of it", INSTEAD["keras-hub"]),
    FROM_KAGGLE.format(
        "its terms have to be accepted on its page there; then set KAGGLE_API_TOKEN", INSTEAD["keras-hub"]
    ),
)
HUBS = [
    pytest.param(DINO, marks=with_keras_hub, id="hf"),
    pytest.param(TIMM, marks=with_timm, id="timm"),
    pytest.param(KAGGLE, marks=with_keras_hub, id="keras-hub"),
]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Served], Path]:
    folders: dict[str, Path] = {}

    def folder(served: Served) -> Path:
        if served.name not in folders:
            folders[served.name] = tmp_path_factory.mktemp("served") / "network"
            served.write(folders[served.name])
        return folders[served.name]

    return folder


@pytest.mark.parametrize("served", HUBS)
def test_rows_come_from_a_name_and_later_without_a_connection(
    served: Served, written: Callable[[Served], Path], machine: Machine, make_folder: MakeFolder
):
    machine.hub.repositories[served.repository] = written(served)
    photos, more = make_folder({"a": 2, "b": 2}), make_folder({"a": 2, "b": 2}, name="more", seed=1)
    first = machine.run(COMMAND, "extract", photos, "--backbone", served.name, "--out", "first.h5")
    assert first.returncode == 0, first.stderr[-3000:]
    assert machine.hub.fetched().count(served.weights) == 1
    second = machine.run(COMMAND, "extract", more, "--backbone", served.name, "--out", "second.h5", connected=False)
    assert second.returncode == 0, second.stderr[-3000:]
    # Without what onepass converted, it is the library's own cache that holds the weights.
    anew = machine.home / ".cache" / "onepass"
    anew.rename(anew.with_name("away"))
    third = machine.run(COMMAND, "extract", more, "--backbone", served.name, "--out", "third.h5", connected=False)
    assert third.returncode == 0, third.stderr[-3000:]
    assert machine.hub.asked == []


@pytest.mark.parametrize("served", HUBS)
def test_a_download_that_breaks_off_is_told_and_made_good_by_the_next_run(
    served: Served, written: Callable[[Served], Path], machine: Machine, make_folder: MakeFolder
):
    machine.hub.repositories[served.repository] = written(served)
    command = ("extract", make_folder({"a": 2, "b": 2}), "--backbone", served.name)
    machine.hub.cut = {served.weights}
    told = machine.told(COMMAND, *command)
    assert "the connection broke off (" in told
    assert told.endswith(f". {INSTEAD[served.name.partition(':')[0]]}")
    machine.hub.cut = set()
    done = machine.run(COMMAND, *command)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("served", HUBS)
def test_what_a_hub_refuses_is_told_in_a_line_with_the_way_round_it(
    served: Served, machine: Machine, make_folder: MakeFolder
):
    command = ("extract", make_folder({"a": 2, "b": 2}), "--backbone", served.name)
    assert machine.told(COMMAND, *command) == served.refused
    for status in (401, 403):
        machine.hub.refused[served.repository] = (status, "GatedRepo")
        assert machine.told(COMMAND, *command) == served.gated


@pytest.mark.parametrize("served", HUBS)
def test_facts_come_without_the_weights_and_are_the_same_with_them(
    served: Served, written: Callable[[Served], Path], machine: Machine
):
    machine.hub.repositories[served.repository] = written(served)
    before = machine.facts(served.name)
    assert served.weights not in machine.hub.fetched()
    loaded = machine.facts(served.name, load=True)
    assert served.weights in machine.hub.fetched()
    after = machine.facts(served.name, connected=False)
    assert before == after == {**loaded, "hash": ""}


@with_keras_hub
def test_the_hash_of_weights_is_that_of_the_same_network_in_a_folder(machine: Machine, tmp_path: Path):
    machine.hub.repositories["acme/tiny"] = folder = write_dinov2(tmp_path / "dino")
    assert machine.facts("hf:acme/tiny", load=True)["hash"] == machine.facts(str(folder), load=True)["hash"]


@with_keras_hub
def test_the_stages_of_a_name_come_without_its_weights(machine: Machine, tmp_path: Path):
    machine.hub.repositories["acme/tiny"] = write_dinov2(tmp_path / "dino")
    done = machine.run(COMMAND, "backbones", "--stages", "hf:acme/tiny")
    assert done.returncode == 0, done.stderr[-3000:]
    assert machine.hub.fetched() == ["README.md", "config.json", "preprocessor_config.json"]


@with_keras_hub
def test_what_another_program_left_in_the_cache_is_enough_without_a_connection(machine: Machine, tmp_path: Path):
    machine.hub.repositories["acme/tiny"] = write_dinov2(tmp_path / "dino")
    fetch = PROGRAM + "import huggingface_hub as hub\nfor file in sys.argv[1:]: hub.hf_hub_download('acme/tiny', file)"
    done = machine.run(fetch, "config.json", "model.safetensors", "preprocessor_config.json")
    assert done.returncode == 0, done.stderr
    assert machine.facts("hf:acme/tiny", connected=False)["size"] == 32
