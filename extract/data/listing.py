"""Folders as the names of files spell them, where there is no disk to ask: in archives and buckets."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from onepass.extract.data.watch import hidden

FolderTree = dict[str, dict[str, bool]]
"""Folder -> the names in it, in order, and whether they are folders themselves; "" is the top."""


def is_visible(name: str) -> bool:
    """True unless a file or a folder above it is hidden."""
    return not any(map(hidden, PurePosixPath(name).parts))


def folder_tree(names: Iterable[str], folders: Iterable[str] = ()) -> FolderTree:
    """The folders that names of files spell, with those that are there without files.

    >>> folder_tree(["cats/1.jpg"], ["dogs"])
    {'': {'cats': True, 'dogs': True}, 'cats': {'1.jpg': False}, 'dogs': {}}
    """
    found: FolderTree = {"": {}}
    for name in names:
        folder, _, last = name.rpartition("/")
        _add(found, folder)
        found[folder].setdefault(last, False)
    for folder in folders:
        _add(found, folder)
    return {folder: dict(sorted(inside.items())) for folder, inside in found.items()}


def _add(found: FolderTree, folder: str) -> None:
    while folder not in found:
        found[folder] = {}
        above, _, last = folder.rpartition("/")
        _add(found, above)
        found[above][last] = True


class Listing:
    """Folders of trees, each tree as if it lay at a path.

    Args:
        trees: Path -> the tree that lies there.
    """

    def __init__(self, trees: Mapping[Path, FolderTree]) -> None:
        self._trees = trees

    def children(self, folder: Path) -> list[tuple[str, bool]]:
        """As `folders.Tree`."""
        tree, inner = self._place(folder)
        return list(tree[inner].items())

    def files(self, folder: Path) -> Iterator[Path]:
        """As `folders.Tree`."""
        tree, inner = self._place(folder)
        below = [(folder, inner)]
        while below:
            here, name = below.pop()
            for one, is_folder in tree[name].items():
                if is_folder:
                    below.append((here / one, f"{name}/{one}" if name else one))
                else:
                    yield here / one

    def _place(self, folder: Path) -> tuple[FolderTree, str]:
        for root, tree in self._trees.items():
            if folder.is_relative_to(root):
                inner = folder.relative_to(root).as_posix()
                return tree, "" if inner == "." else inner
        raise KeyError(folder)
