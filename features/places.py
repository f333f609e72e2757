"""Where results are to go, looked at before anything is computed."""

import os
from collections.abc import Sequence
from pathlib import Path

from onepass.features.atomic import remove_leftovers
from onepass.features.errors import OptionError, OutputError, Parameter


def require_place(path: str | Path, *, endings: Sequence[str] = (), option: str = "out", fresh: bool = False) -> None:
    """Refuses a place that no file can be written to, as far as can be told without writing.

    Args:
        path: The file that is to be written.
        endings: One of these its name must have; by default any.
        option: The parameter that named it, for the message.
        fresh: Whether nothing may be there yet.

    Raises:
        OptionError: Another ending, a folder that is not there, a folder of that name, or a file that is in the way.
        OutputError: The folder may not be written.

    >>> require_place("x.head")
    """
    path, named = Path(path), Parameter(option, path)
    if endings and path.suffix.lower() not in endings:
        raise OptionError(f"{Parameter(option)} is {path}; needed: a name that ends in {_listed(endings)}.", path=path)
    remove_leftovers(path.parent, path.name)  # of a run that was killed with everything done but this
    if fresh and os.path.lexists(path):
        raise OptionError(
            f"{path} exists and is not overwritten. Choose another name with {Parameter(option)}, or delete it.",
            path=path,
        )
    folder = path.absolute().parent
    if not folder.is_dir():
        raise OptionError(f"the folder of {named} does not exist. Make it, or name another one.", path=path)
    if path.is_dir():
        raise OptionError(f"{named} is a folder; needed: the name of a file.", path=path)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(
            f"the folder of {named} may not be written. Choose another place with {Parameter(option)}.", path=path
        )


def _listed(endings: Sequence[str]) -> str:
    return endings[0] if len(endings) == 1 else f"{', '.join(endings[:-1])} or {endings[-1]}"
