"""The words of docs/tasks.md are run."""

import contextlib
import io
import re
from pathlib import Path

import numpy as np

from onepass.heads.head_options import HEADS_OF
from task_files import labelled, numbers, write_labels, write_numbers

PAGE = (Path(__file__).parents[3] / "docs" / "tasks.md").read_text()


def test_the_code_runs_as_it_stands(tmp_path: Path, rng: np.random.Generator):
    write_numbers(tmp_path / "ages.h5", *numbers(rng))
    write_labels(tmp_path / "labels.h5", *labelled(rng))
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    shown = io.StringIO()
    with contextlib.chdir(tmp_path), contextlib.redirect_stdout(shown):
        exec(code, {})
    assert re.search(r"held-out images; 95% are wanted\nridge .* is the best; knn is worse", shown.getvalue())


def test_the_heads_of_each_task_are_listed():
    for task, heads in HEADS_OF.items():
        assert f"| {task} | {', '.join(heads)} |" in PAGE.replace("kernel-ridge, lda", "lda")
