"""The pages as a site: no warning, no dead link, no example that mkdocs reads otherwise than the tests do."""

import os
import re
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


RUN = {
    "README.md": "test_readme.py",
    "docs/index.md": "test_readme.py",
    "docs/comparison.md": "test_readme.py",
    "features/FORMAT.md": "test_readme.py",
    "docs/backbones.md": "test_backbones_page.py",
    "docs/looking.md": "test_looking_page.py",
    "docs/report.md": "test_report_page.py",
    "docs/serving.md": "test_serving.py",
    "docs/sharing.md": "test_sharing_page.py",
    "docs/tasks.md": "heads/tasks/test_docs.py",
    "docs/data.md": "test_data_page.py",
}
"""Page -> the test that runs its examples."""


def test_every_page_with_examples_has_a_test_that_runs_them():
    pages = ("README.md", "features/FORMAT.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
    with_examples = {
        page for page in pages if re.search(r"^```[a-z]|^```\n\$ ", (ROOT / page).read_text(), re.MULTILINE)
    }
    assert with_examples == set(RUN)
    for page, test in RUN.items():
        assert Path(page).name in (ROOT / "tests" / test).read_text(), test
