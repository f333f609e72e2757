"""The pages as a site: no warning, no dead link, no example that mkdocs reads otherwise than the tests do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    pages = {path.name for path in (tmp_path / "site").glob("*.html")} - {"404.html"}
    assert pages == {f"{path.stem}.html" for path in (ROOT / "docs").glob("*.md")}
    assert "extract_features" in (tmp_path / "site" / "python.html").read_text()
    assert not [
        path.name
        for path in (tmp_path / "site").glob("*.html")
        if 'src="http' in (text := path.read_text()) or 'rel="stylesheet" href="http' in text
    ]
