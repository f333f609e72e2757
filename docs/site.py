"""For mkdocs: the folders of this repository as the package that is installed, for the page that documents it."""

from pathlib import Path
from typing import Any

_PARTS = ("__init__.py", "__init__.pyi", "cli.py", "extract", "features", "heads")


def on_startup(**_: Any) -> None:
    """Called by mkdocs before it reads anything."""
    root = Path(__file__).parents[1]
    package = root / "build" / "api" / "onepass"
    package.mkdir(parents=True, exist_ok=True)
    for name in _PARTS:
        link = package / name
        if not link.exists():
            link.symlink_to(root / name)
