import csv
import json
import os
import platform
import re
import shutil
import signal
from pathlib import Path

import pytest

from onepass.cli import _flag
from onepass.extract import Backbone
from onepass.extract.one_pass.run import run_extraction
from onepass.extract.pixels.formats import format_names
from onepass.features import FeatureFile
from onepass.features.errors import OptionError, opt
from onepass.features.names import unshown
from onepass.heads import load_head
from support import PATIENCE, READ, MakeFolder, run_process, run_program, started, wait_for, write_folder

PROGRAMS = ["extract", "train-head", "compare-heads", "fine-tune"]
COMMANDS = [*PROGRAMS, "choose", "inspect", "predict", "nearest", "evaluate", "shift", "share", "info"]
COMMANDS += ["backbones", "doctor", "cache"]


@pytest.fixture(scope="module")
def work(tiny_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as after `extract photos/`, with one bad photo, and a trained svm."""
    folder = tmp_path_factory.mktemp("work")
    data = write_folder(folder / "photos", {"cats": 20, "dogs": 20})
    (data / "cats" / "bad.jpg").write_text("text")
    run_extraction(data, tiny_backbone, out=folder / "photos.tiny.h5")
    assert run_program("train-head", "--head", "svm", cwd=folder).returncode == 0
    return folder


def run_json(*command: str, cwd: Path) -> dict:
    done = run_program(*command, "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, tmp_path: Path):
    done = run_program("onepass", command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert re.search(rf"Example: (onepass )?{command}", done.stdout)
    assert "--json" in done.stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_programs_stand_alone_too(program: str, tmp_path: Path):
    done = run_program(program, "--help", cwd=tmp_path)
    assert f"Usage: {program} [OPTIONS]" in done.stdout


def test_extract_reports_what_it_did(make_folder: MakeFolder, tiny_file: Path, tmp_path: Path):
    data = make_folder({"cats": 5, "dogs": 4})
    (data / "cats" / "bad.jpg").write_text("text")
    found = run_json("extract", "photos/", "--backbone", str(tiny_file), cwd=tmp_path)
    assert {k: v for k, v in found.items() if "second" not in k} == {
        "path": "photos.tiny.h5",
        "images": 9,
        "task": "classes",
        "classes": {"cats": 5, "dogs": 4},
        "computed": 9,
        "reused": 0,
        "skipped": 1,
        "undone": 0,
        "skipped_images": [{"path": "cats/bad.jpg", "reason": f"not an image ({READ})"}],
        "engine": "openvino",
        "precision": found["precision"],
        "views": 1,
        "computed_rows": 9,
        "duplicates": [],
        "near_copies": 0,
        "thumbnails": 0,
        "without_thumbnail": 0,
        "groups": 0,
        "overlapping_groups": [],
        "row_dtype": "float32",
        "dropped": 0,
        "drawn_split": True,
        "quantisation": None,
        "drift": None,
        "equal_rows": False,
        "depth": 16,
        "deep": 0,
        "depth_notes": [],
        "preprocess": {
            "resize": "squash",
            "size": 32,
            "antialias": True,
            "channels": "RGB",
            "rescale": 1.0,
            "mean": [0.0, 0.0, 0.0],
            "std": [1.0, 1.0, 1.0],
        },
        "licence": "",
        "also": [],
    }
    assert found["images_per_second"] > 0
    again = run_program("extract", "photos/", "--backbone", str(tiny_file), cwd=tmp_path)
    assert again.stdout.splitlines()[0] == "photos.tiny.h5: 9 images, 2 classes (cats 5, dogs 4)"
    assert again.stdout.splitlines()[1].startswith("0 computed, 9 reused, 1 skipped in ")
    assert again.stderr == f"skipped cats/bad.jpg: not an image ({READ})\nNext: train-head photos.tiny.h5\n"


def test_the_bundled_backbone_is_the_default(make_folder: MakeFolder, tmp_path: Path):
    make_folder({"cats": 3, "dogs": 3})
    found = run_json("extract", "photos", "--image-size", "32", cwd=tmp_path)
    assert found["path"] == "photos.efficientnet_lite0.h5"


def test_train_head_reports_what_it_found(work: Path):
    found = run_json("train-head", "--head", "mlp", "--hidden", "16,8", "--epochs", "5", cwd=work)
    assert list(found) == [
        "path", "head", "split", "n", "accuracy", "interval", "per_class", "log_loss", "calibration_error", "leak_free",
        "weighted", "seconds", "parameters", "history", "suggestion",
    ]  # fmt: skip
    assert found["path"] == "photos.tiny.mlp.head"
    assert found["split"] == "test"
    assert found["parameters"]["hidden"] == [16, 8]
    assert found["interval"][0] <= found["accuracy"] <= found["interval"][1]
    assert sum(value["n"] for value in found["per_class"].values()) == found["n"]


def test_sigmoid_and_no_hidden_layer_by_flags(work: Path):
    run_json("train-head", "--head", "mlp", "--hidden", "0", "--output", "sigmoid", "--epochs", "2", cwd=work)
    text = run_program("onepass", "info", "photos.tiny.mlp.head", "--summary", cwd=work).stdout
    assert re.search(r"dense_1 \(Dense\) +│ \(None, 1\) +│ +9 │", text)


def test_no_file_and_several_files_here_are_told(work: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    done = run_program("train-head", cwd=tmp_path / "empty")
    assert (done.returncode, done.stderr) == (
        1, "error: no feature file in this folder. Make one with: extract DATA\n",
    )  # fmt: skip
    for name in ("b.h5", "photos.tiny.h5"):
        (tmp_path / name).write_bytes((work / "photos.tiny.h5").read_bytes())
    (tmp_path / "weights.h5").write_bytes(b"something else")
    done = run_program("train-head", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2, "error: several feature files here; name one of b.h5, photos.tiny.h5.\n",
    )  # fmt: skip


def test_predict_lists_what_it_could_not_read(work: Path):
    arguments = ["predict", "photos.tiny.svm.head", "photos/cats", "none.jpg"]
    found = run_json("onepass", *arguments, cwd=work)
    assert [p["path"] for p in found["predictions"]] == sorted(f"photos/cats/{i}.png" for i in range(20))
    assert [s["path"] for s in found["skipped"]] == ["photos/cats/bad.jpg", "none.jpg"]
    assert found["predictions"][0]["class"] in ("cats", "dogs")
    assert sum(t["probability"] for t in found["predictions"][0]["top"]) == pytest.approx(1)

    plain = run_program("onepass", *arguments, "--top", "1", cwd=work)
    assert plain.returncode == 0
    assert re.fullmatch(r"photos/cats/0\.png +(cats|dogs) [01]\.\d{3}", plain.stdout.splitlines()[0])
    assert "skipped none.jpg: no such file or directory" in plain.stderr
    assert run_program("onepass", *arguments, "--strict", cwd=work).returncode == 1


def test_predict_without_any_readable_image_fails(work: Path):
    done = run_program("onepass", "predict", "photos.tiny.svm.head", "photos/cats/bad.jpg", cwd=work)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: no image could be read (photos/cats/bad.jpg: not an image ({READ})). Needed: {format_names('or')} "
        "files.\n"
    )


def test_predict_writes_tables_and_overwrites_none(work: Path):
    run = ["onepass", "predict", "photos.tiny.svm.head", "photos/dogs/1.png", "photos/cats/bad.jpg", "--out"]
    assert run_program(*run, "new.csv", cwd=work).stdout == "new.csv: 1 images predicted, 1 skipped\n"
    with open(work / "new.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert list(first) == ["path", "class", "probability", "class_2", "probability_2", "skipped"]
    assert first["path"] == "photos/dogs/1.png"
    assert float(first["probability"]) + float(first["probability_2"]) == pytest.approx(1)
    assert second["skipped"].startswith("not an image")
    assert run_program(*run, "new.json", cwd=work).returncode == 0
    assert json.loads((work / "new.json").read_text())["predictions"][0]["path"] == "photos/dogs/1.png"

    done = run_program(*run, "new.csv", cwd=work)
    assert (done.returncode, done.stderr) == (
        2, "error: new.csv exists and is not overwritten. Choose another name with --out, or delete it.\n",
    )  # fmt: skip
    done = run_program(*run, "new.xlsx", cwd=work)
    assert done.stderr.startswith("error: --out new.xlsx ends in neither .csv, .json, .jsonl nor .parquet; give it one")


def test_predict_takes_names_from_stdin_and_answers_in_their_order(work: Path):
    names = ["photos/dogs/1.png", "photos/cats/bad.jpg", "photos/cats/0.png"]
    command = ["onepass", "predict", "photos.tiny.svm.head", "-", "--out", "jsonl", "--unknown", "0.1"]
    done = run_program(*command, cwd=work, stdin="\n".join(names) + "\n")
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [unshown(answer["path"]) for answer in found] == names
    assert [answer.get("unknown") in (True, False) for answer in found] == [True, False, True]


def test_predict_skips_names_that_no_file_can_have(work: Path):
    names = ["x" * 300, "photos/dogs/1.png", "a\0b"]
    done = run_program(
        "onepass", "predict", "photos.tiny.svm.head", "-", "--out", "jsonl", cwd=work, stdin="\n".join(names)
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [unshown(answer["path"]) for answer in found] == names
    assert [answer.get("reason") for answer in found] == ["file name too long", None, "embedded null byte"]


def ignore_ctrl_c() -> None:
    """As in the background of a shell, which starts its commands with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def test_predict_watches_a_folder_until_it_is_interrupted(work: Path, tmp_path: Path):
    """Also in the background of a shell."""
    (tmp_path / "in").mkdir()
    shutil.copy(work / "photos/dogs/1.png", tmp_path / "in" / "first.png")
    command = ["onepass", "predict", str(work / "photos.tiny.svm.head"), "--watch", "in", "--out", "jsonl"]
    with started(*command, cwd=tmp_path, preexec_fn=ignore_ctrl_c) as watching:
        assert watching.stdout
        assert json.loads(watching.stdout.readline())["path"] == "in/first.png"
        shutil.copy(work / "photos/cats/0.png", tmp_path / "in" / "second.png")
        assert json.loads(watching.stdout.readline())["path"] == "in/second.png"
        watching.send_signal(signal.SIGINT)
        assert watching.communicate(timeout=PATIENCE) == ("", "")
    assert watching.returncode == 0


def test_sigterm_ends_watching_with_every_line_whole(work: Path, tmp_path: Path):
    shutil.copytree(work / "photos" / "dogs", tmp_path / "in")
    command = ["onepass", "predict", str(work / "photos.tiny.svm.head"), "--watch", "in", "--out", "new.csv"]
    out = tmp_path / "new.csv"
    with started(*command, cwd=tmp_path) as watching:
        wait_for(lambda: out.exists() and out.read_bytes().count(b"\n") > 2, watching)
        watching.send_signal(signal.SIGTERM)
        _, message = watching.communicate(timeout=PATIENCE)
    assert watching.returncode == 0, message
    text = out.read_text()
    assert text.endswith("\n")
    lines = list(csv.reader(text.splitlines()))
    assert {len(line) for line in lines} == {6}
    assert {line[0] for line in lines[1:]} <= {f"in/{i}.png" for i in range(20)}
    assert len({line[0] for line in lines}) == len(lines) > 2


@pytest.mark.parametrize(("args", "message"), [
    ([], "error: no images are named; give files, folders, - for names on stdin, or --watch FOLDER.\n"),
    (["--watch", "photos", "--out", "x.json"], ("error: --watch has no end, which .json and .parquet need; write .csv "
     "or .jsonl.\n")),
    (["--watch", "nowhere"], "error: there is no folder nowhere to watch. Make it, or name another one.\n"),
    (["photos", "--json", "--out", "x.csv"], "error: --json prints and --out writes; leave one of them out.\n"),
    (["photos", "--unknown", "7"], "error: --unknown is 7.0; needed: a share between 0 and 1, such as 0.05.\n"),
])  # fmt: skip
def test_predict_refuses_in_one_line(args: list[str], message: str, work: Path):
    done = run_program("onepass", "predict", "photos.tiny.svm.head", *args, cwd=work)
    assert (done.returncode in (1, 2), done.stdout, done.stderr) == (True, "", message)


def test_nearest_names_training_images_with_their_classes(work: Path):
    found = run_json("onepass", "nearest", "photos.tiny.svm.head", "photos/dogs/1.png", "--k", "3", cwd=work)
    assert len(found) == 3
    assert found[0].keys() == {"path", "label", "split", "cosine"}
    assert all(n["path"].split("/")[0] == n["label"] for n in found)
    plain = run_program("onepass", "nearest", "photos.tiny.svm.head", "photos/dogs/1.png", cwd=work)
    assert plain.stdout.splitlines()[0].split() == ["image", "class", "split", "cosine"]
    assert len(plain.stdout.splitlines()) == 6
    done = run_program("onepass", "nearest", "photos.tiny.svm.head", "photos/cats/bad.jpg", cwd=work)
    assert done.stderr == (f"error: photos/cats/bad.jpg cannot be read: not an image ({READ})\n")


def test_a_loaded_head_predicts_images_by_itself(work: Path):
    head = load_head(work / "photos.tiny.svm.head")
    photos = [str(work / "photos" / name) for name in ("dogs/1.png", "cats/0.png")]
    named = run_json("onepass", "predict", "photos.tiny.svm.head", *photos, cwd=work)
    assert [head.class_names[i] for i in head.predict(photos)] == [p["class"] for p in named["predictions"]]


def test_info_says_how_calling_images_unknown_goes(work: Path):
    found = run_json("onepass", "info", "photos.tiny.svm.head", cwd=work)["unknown"]
    assert found["alpha"] == 0.05
    assert 0 <= found["abstained"] <= 1 - found["coverage"] + 1e-9
    plain = run_program("onepass", "info", "photos.tiny.svm.head", cwd=work).stdout
    assert f"unknown=0.05 calls {found['abstained']:.1%} of {found['n']} held-out images unknown" in " ".join(
        plain.split()
    )


def test_evaluating_the_training_folder_scores_what_was_held_out_wherever_it_lies(work: Path, tmp_path: Path):
    trained = run_json("onepass", "info", "photos.tiny.svm.head", cwd=work)["evaluation"]
    by_file = run_json("onepass", "evaluate", "photos.tiny.svm.head", cwd=work)
    by_folder = run_json("onepass", "evaluate", "photos.tiny.svm.head", "photos", cwd=work)
    shutil.copytree(work / "photos", tmp_path / "moved")
    moved = run_json("onepass", "evaluate", str(work / "photos.tiny.svm.head"), "moved", cwd=tmp_path)
    assert {found["measured_on"] for found in (by_file, by_folder, moved)} == {"unseen"}
    for found in (by_file, by_folder, moved):
        assert {k: found[k] for k in ("n", "accuracy", "confusion")} == {
            k: trained[k] for k in ("n", "accuracy", "confusion")
        }
    everything = run_json("onepass", "evaluate", "photos.tiny.svm.head", "photos", "--split", "all", cwd=work)
    assert everything["n"] == 40


def test_evaluate_prints_classes_and_confusion(work: Path):
    done = run_program("onepass", "evaluate", "photos.tiny.svm.head", "photos.tiny.h5", cwd=work)
    assert done.stdout.startswith("photos.tiny.svm.head on photos.tiny.h5 (unseen): accuracy ")
    assert "class  n   precision  recall  f1" in done.stdout.replace("n  precision", "n   precision")
    assert "confusion (rows: true class, columns: predicted)\n      cats  dogs\ncats  " in done.stdout


def test_info_says_what_files_hold(work: Path):
    facts = run_json("onepass", "info", "photos.tiny.h5", cwd=work)
    assert (facts["images"], facts["committed"], facts["classes"]) == (41, 40, {"cats": 20, "dogs": 20})
    assert facts["positions"] == {"0": "cats", "1": "dogs"}
    assert facts["provenance"]["data"] == str(work / "photos")
    plain = run_program("onepass", "info", cwd=work)
    assert "committed     40 of 41 images" in plain.stdout
    assert "skipped cats/bad.jpg: not an image" in plain.stderr
    head = run_program("onepass", "info", "photos.tiny.svm.head", cwd=work).stdout
    assert head.startswith("photos.tiny.svm.head: svm head, test accuracy ")
    assert re.search(r"^classes +0 cats, 1 dogs$", head, re.MULTILINE)
    summary = run_json("onepass", "info", "photos.tiny.svm.head", "--summary", cwd=work)["summary"]
    assert "dense_1 (Dense)" in summary
    done = run_program("onepass", "info", "photos.tiny.h5", "--summary", cwd=work)
    assert done.stderr == "error: --summary is for head files and Keras models; photos.tiny.h5 is a feature file.\n"


def test_backbones_lists_sizes_and_widths(tmp_path: Path):
    assert run_json("onepass", "backbones", cwd=tmp_path)["resnet50"] == {"image_size": 224, "width": 2048}
    assert "xception" in run_program("onepass", "backbones", cwd=tmp_path).stdout


def test_backbones_lists_the_stages_of_one(tmp_path: Path, tiny_file: Path):
    plain = run_program("onepass", "backbones", "--stages", "mobilenet_0.25", cwd=tmp_path).stdout.splitlines()
    assert plain[0].split() == ["stage", "first", "layer", "layers", "parameters", "boundary", "bytes", "per", "image"]
    assert plain[1].split() == ["conv1", "conv1", "3", "248", "the", "image", "-"]
    assert plain[-1].split() == ["block13", "conv_dw_13", "6", "69,888", "conv_pw_12_relu", "50,176"]
    listed = run_json("onepass", "backbones", "--stages", "efficientnet_lite0", cwd=tmp_path)
    assert [stage["name"] for stage in listed] == ["stem", *(f"block{i}" for i in range(1, 8)), "top"]
    assert listed[-1] == {
        "name": "top",
        "first": "_conv_head",
        "position": 138,
        "layers": 3,
        "parameters": 320 * 1280 + 4 * 1280,
        "boundary": "_blocks.15._bn2",
        "shape": [7, 7, 320],
        "boundary_bytes": 7 * 7 * 320 * 4,
    }
    own = run_program("onepass", "backbones", "--stages", str(tiny_file), cwd=tmp_path)
    assert own.stdout == (
        f"{tiny_file} has no layers with the usual names, so no stages. Parts of it are named by a layer or a number.\n"
    )
    unknown = run_program("onepass", "backbones", "--stages", "resnet5", cwd=tmp_path)
    assert unknown.stderr.startswith("error: unknown backbone 'resnet5'. Did you mean resnet50?")


@pytest.mark.parametrize(("command", "code", "message"), [
    (["extract", "nowhere"], 1, "error: nowhere is not there; needed: a folder of images.\n"),
    (["extract", "photos", "--backbone", "resnet5"], 2, "error: unknown backbone 'resnet5'. Did you mean resnet50?"),
    (
        ["extract", "photos", "--pooling", "sum"],
        2,
        "error: --pooling is 'sum'; needed: one of avg, max, flatten, cls, mean, cls+mean, last4, pooled.\n",
    ),
    (["train-head", "--head", "svm", "--hidden", "3"], 2, "error: --hidden does not go with --head svm; it belongs"),
    (["train-head", "--head", "mlp", "--hidden", "x"], 2, "error: --hidden is 'x'; needed: units of each layer, such"),
    (["train-head", "--class-weight", "cats=x"], 2, "error: --class-weight is 'cats=x'; needed: balanced, or such as"),
    (["train-head", "--class-weight", "emus=2"], 2, "error: class weights name 'emus'; the classes are cats, dogs.\n"),
    (["train-head", "--tune", "slow"], 2, "error: --tune is 'slow'; needed: one of none, fast, thorough.\n"),
    (["train-head", "--memory", "nan"], 2, "error: --memory is nan; needed: a finite number above 0.\n"),
    (["train-head", "--memory", "inf"], 2, "error: --memory is inf; needed: a finite number above 0.\n"),
    (["fine-tune", "--boundary-cache", "nan"], 2, "error: --boundary-cache is 'nan'; needed: off, auto, or so many"),
    (["compare-heads", "--heads", "forest"], 2, "error: unknown head 'forest'; there are logreg, svm, rbf-svm, ridge,"),
    (["compare-heads", "none.h5"], 1, "error: there is no feature file none.h5. Make one"),
    (["onepass", "inspect", "none.h5"], 1, "error: there is no feature file none.h5. Make one"),
    (["onepass", "predict", "none.head", "x.jpg"], 1, "error: there is no head file none.head. Make one with: train-"),
    (["onepass", "info", "photos/cats/0.png"], 1, "error: photos/cats/0.png is no file that onepass writes; nee"),
    (["onepass", "evaluate", "photos.tiny.svm.head", "no.h5"], 1, "error: there is no feature file no.h5. Make one"),
    (["onepass", "evaluate", "photos.tiny.svm.head", "photos", "--split", "dev"], 2, "error: --split is 'dev'; needed"),
    (["extract"], 2, "error: DATA is missing. `extract --help` says what there is.\n"),
])  # fmt: skip
def test_mistakes_end_in_one_message_and_an_exit_code(work: Path, command: list[str], code: int, message: str):
    done = run_program(*command, cwd=work)
    assert done.returncode == code
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("program", ["onepass", *PROGRAMS])
def test_every_program_tells_the_versions_that_matter(program: str, tmp_path: Path):
    done = run_program(program, "--version", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = dict(line.split() for line in done.stdout.splitlines())
    assert list(told) == [
        "onepass", "Python", "keras", "tensorflow", "openvino", "numpy", "scikit-learn", "h5py", "pillow",
    ]  # fmt: skip
    assert told["Python"] == platform.python_version()


def test_verbose_tells_phases_and_where_an_error_came_from(work: Path):
    done = run_program("train-head", "--head", "ridge", "--verbose", cwd=work)
    *lines, following = done.stderr.splitlines()
    assert following.startswith("Next: ")
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines)
    told = [line[9:] for line in lines]
    assert "fitting ridge ..." in told
    assert any(re.fullmatch(r"fitting ridge: \d+\.\d s", line) for line in told)
    assert any(line.startswith("chosen: alpha ") for line in told)
    failed = run_program("train-head", "none.h5", "-v", cwd=work).stderr.splitlines()
    assert failed[0] == "Traceback (most recent call last):"
    assert failed[-1] == "error: there is no feature file none.h5. Make one with: extract DATA"


@pytest.mark.parametrize(("program", "typed", "offered"), [
    ("onepass", "onepass tra", ["train-head"]),
    ("onepass", "onepass train-head --act", ["--activation"]),
    ("extract", "extract --res", ["--resize"]),
    ("fine-tune", "fine-tune --optim", ["--optimizer"]),
])  # fmt: skip
def test_the_shell_completes_commands_and_options(program: str, typed: str, offered: list[str], tmp_path: Path):
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    variable = f"_{program.replace('-', '_').upper()}_COMPLETE"
    done = run_program(program, cwd=tmp_path, **{variable: "complete_bash"}, **words)
    assert (done.returncode, done.stdout.split()) == (0, offered)


@pytest.mark.parametrize("program", ["onepass", *PROGRAMS])
def test_every_program_gives_the_script_for_the_shell(program: str, tmp_path: Path):
    variable = f"_{program.replace('-', '_').upper()}_COMPLETE"
    done = run_program(program, cwd=tmp_path, **{variable: "source_bash"})
    assert f"{variable}=complete_bash" in done.stdout
    assert done.stdout.strip().endswith(f"_completion {program}")


@pytest.mark.parametrize(("command", "following"), [
    (["train-head", "--head", "ridge", "--out", "my ridge.head"], "onepass predict 'my ridge.head' IMAGES"),
    (["compare-heads", "--heads", "ridge", "--tune", "none"], "train-head photos.tiny.h5 --head ridge"),
    (["onepass", "inspect", "--no-labels"], "onepass inspect photos.tiny.h5 --csv findings.csv"),
    (["onepass", "predict", "photos.tiny.svm.head", "photos/cats"], "onepass nearest photos.tiny.svm.head IMAGE"),
    (["onepass", "nearest", "photos.tiny.svm.head", "photos/cats/0.png"], "onepass inspect photos.tiny.h5"),
    (["onepass", "evaluate", "photos.tiny.svm.head"], "onepass export photos.tiny.svm.head --to onnx"),
    (["onepass", "shift", "photos.tiny.h5", "photos"], "onepass shift photos.tiny.h5 photos --head HEAD"),
    (["onepass", "share", "photos.tiny.h5", "--to", "projector", "--out", "map"], "tensorboard --logdir map"),
    (["onepass", "verify", "photos.tiny.h5", "--no-golden"], "train-head photos.tiny.h5"),
    (["onepass", "repair"], "onepass verify photos.tiny.h5"),
    (["onepass", "info"], "train-head photos.tiny.h5"),
    (["onepass", "info", "photos.tiny.svm.head"], "onepass predict photos.tiny.svm.head IMAGES"),
    (["onepass", "backbones"], "extract FOLDER --backbone efficientnet_lite0"),
    (["onepass", "doctor", "--offline"], "extract FOLDER"),
])  # fmt: skip
def test_every_command_ends_with_the_next_one(work: Path, command: list[str], following: str):
    done = run_program(*command, cwd=work)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == f"Next: {following}"
    assert "Next: " not in run_program(*command, "--json", cwd=work).stderr


def test_train_head_shows_who_is_taken_for_whom(work: Path):
    lines = run_program("train-head", "--head", "ridge", cwd=work).stdout.splitlines()
    at = lines.index("confusion (rows: true class, columns: predicted)")
    assert [line.split()[0] for line in lines[at + 1 : at + 4]] == ["cats", "cats", "dogs"]


def test_only_true_and_false_are_spelled_as_switches():
    message = f"{opt.max_flips(0)}, {opt.max_flips(1)}, {opt.accept_drift(True)}, {opt.labels(False)}"
    assert OptionError(message).spelled(_flag) == "--max-flips 0, --max-flips 1, --accept-drift, --no-labels"


def test_ctrl_c_keeps_the_rows_and_says_how_to_continue(make_folder: MakeFolder, tmp_path: Path):
    make_folder({"cats": 150, "dogs": 150})
    command = ["extract", "photos", "--image-size", "128", "--batch-size", "4"]
    out = tmp_path / "photos.efficientnet_lite0.h5"
    with started(*command, cwd=tmp_path) as process:
        wait_for(lambda: out.exists() and FeatureFile(out).committed.any(), process)
        process.send_signal(signal.SIGINT)
        _, message = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert (
        message.splitlines(keepends=True)[-1]
        == "interrupted; what was finished is kept. Run the same command again to continue.\n"
    )
    again = run_json(*command, cwd=tmp_path)
    assert again["computed"] + again["reused"] == 300
    assert 0 < again["reused"] < 300


def test_a_pipe_gets_no_control_codes_and_no_noise(work: Path):
    done = run_program("train-head", "--head", "mlp", "--epochs", "2", cwd=work)
    assert re.fullmatch(r"Next: .*\n", done.stderr)
    assert "\x1b" not in done.stdout
    assert os.linesep in done.stdout


def test_a_head_finds_a_keras_backbone_that_was_moved(work: Path, tiny_file: Path, tmp_path: Path):
    run = ["predict", str(work / "photos.tiny.svm.head"), str(work / "photos" / "dogs" / "1.png"), "--json"]
    moved = tmp_path / "moved" / "tiny.keras"
    moved.parent.mkdir()
    shutil.copy(tiny_file, moved)
    empty = str(tmp_path / "cache")
    done = run_program("onepass", *run, "--weights", str(moved), cwd=tmp_path, ONEPASS_CACHE=empty)
    assert json.loads(done.stdout) == json.loads(run_program("onepass", *run, cwd=work).stdout), done.stderr


def test_an_unknown_class_is_refused_before_anything_is_computed(work: Path, tmp_path: Path):
    write_folder(tmp_path / "other", {"foxes": 2})
    done = run_program("onepass", "evaluate", str(work / "photos.tiny.svm.head"), "other", cwd=tmp_path)
    assert done.stderr == (
        "error: other has the class 'foxes', which the head does not know; it knows cats, dogs. "
        "Give the images the names of these, or train a head on these images.\n"
    )


def test_names_that_are_not_utf8_can_be_printed(work: Path, tmp_path: Path):
    odd = os.fsencode(tmp_path) + b"/f\xffo.png"
    with open(work / "photos" / "cats" / "0.png", "rb") as source, open(odd, "wb") as target:
        target.write(source.read())
    command = ["onepass", "predict", str(work / "photos.tiny.svm.head"), str(tmp_path)]
    done = run_process(*command, cwd=tmp_path, PYTHONIOENCODING="utf-8:strict")
    assert done.returncode == 0, done.stderr
    assert "f\\xffo.png  " in done.stdout
