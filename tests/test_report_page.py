"""docs/report.md: its commands and its code run."""

import contextlib
import io
import re
import shlex
import shutil
from pathlib import Path

from onepass import train_head
from onepass.extract import run_extraction
from support import run_program, write_folder

TEXT = (Path(__file__).parents[1] / "docs" / "report.md").read_text()
COMMANDS = re.findall(r"^\$ (.*)\n((?:(?!\$ |```).*\n)*)", TEXT, re.MULTILINE)


def test_every_example_runs(tmp_path: Path, tiny_file: Path):
    write_folder(tmp_path / "photos", {"cats": 30, "dogs": 30})
    shutil.copy(tiny_file, tmp_path / "mine.keras")
    run_extraction(tmp_path / "photos", str(tmp_path / "mine.keras"), out=tmp_path / "photos.mine.h5")
    train_head(tmp_path / "photos.mine.h5", out=tmp_path / "photos.mine.logreg.head")
    assert len(COMMANDS) == 4
    for command, shown in COMMANDS:
        words, _, target = command.partition(" > ")
        done = run_program(*shlex.split(words), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(shown.strip()), done.stdout
        if target:
            (tmp_path / target).write_text(done.stdout)
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    shown = io.StringIO()
    with contextlib.chdir(tmp_path), contextlib.redirect_stdout(shown):
        exec(code, {})
    assert re.fullmatch(r"[\d.]+ % of \d+ \w+ images are named correctly\n", shown.getvalue())
