"""A notebook of ten cells runs with `from onepass import ...` alone, beside files whose names ours once were."""

import subprocess
import sys
from pathlib import Path

from support import PATIENCE, MakeFolder, picture

CELLS = [
    "from onepass import evaluate, export, extract_features, fine_tune, info, predict, train_head, verify",
    "path = extract_features('photos', TINY)",
    "print(info(path))",
    "trained = train_head(path, head='logreg'); print(trained)",
    "from onepass import compare_heads, verify_export; print(compare_heads(path, heads='logreg,ridge,centroid'))",
    "tuned = fine_tune(trained.head, unfreeze=2, lr=1e-3, epochs=1, keep='always'); print(tuned)",
    "answers = predict('photos.tiny.logreg.head', ['new.jpg', 'photos']); assert len(answers) == 41",
    "print(evaluate('photos.tiny.logreg.head', 'photos', split='all'))",
    "print(export('photos.tiny.logreg.head', to='openvino', out='model.xml'))",
    "assert verify(path).verdict == verify_export('model.xml', data='photos').verdict == 'whole'",
]


def test_the_notebook_runs(make_folder: MakeFolder, tiny_file: Path, tmp_path: Path, rng):
    make_folder({"cats": 20, "dogs": 20})
    picture(rng).save(tmp_path / "new.jpg")
    for name in ("features.py", "extract.py", "cli.py", "heads/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise ImportError('a file of the user')\n")
    code = "\n".join([f"TINY = {str(tiny_file)!r}", *CELLS])
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "photos.tiny.h5: 40 images x 1 view" in done.stdout
