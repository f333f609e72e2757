"""The errors that a user can cause and put right: one tree, so that a caller can catch all of them at once."""

import ast
import errno
import math
import os
import re
from collections.abc import Callable
from typing import Any

from onepass.features.names import printable

LINE = "\ue003"
"""A new line in a message; any other would be part of a name, and is escaped."""

# A parameter in a message: its name and, if there is one, its value between characters that no text of a user holds.
_PARAMETER = re.compile("\ue000(\\w+)(?:\ue001(.*?))?\ue002", re.DOTALL)


class Parameter:
    """A parameter of ours in a message, alone or with a value; see `opt`."""

    def __init__(self, name: str, *value: object) -> None:
        self._text = "".join(("\ue000", name, *(f"\ue001{_literal(one)}" for one in value), "\ue002"))

    def __call__(self, value: object) -> "Parameter":
        """The parameter with a value."""
        return Parameter(self._text[1:-1], value)

    def __str__(self) -> str:
        return self._text


def _literal(value: object) -> str:
    """A value as Python writes it; what is neither a number nor a text goes by its text."""
    plain = isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))
    return repr(value) if plain else repr(str(value))


class _Parameters:
    def __getattr__(self, name: str) -> Parameter:
        return Parameter(name)


opt = _Parameters()
"""Names a parameter in a message: f"{opt.views} is 0" reads "views is 0" in Python and "--views is 0" in the shell.

f"{opt.views(8)}" reads "views=8" and "--views 8".
"""


class UserError(Exception):
    """Something the user can put right; the message says what was found, what was needed, what to do.

    Args:
        message: Complete sentences; parameters are named by `opt`. What names bring along of control characters is
            escaped (see `names.printable`), so that a message is one line but for `LINE`.
        **facts: The values behind the message, each an attribute of the error.

    >>> error = OptionError(f"{opt.views} is 0; needed: 1 to 1000, such as {opt.views(8)}.", views=0)
    >>> print(error, error.views)
    views is 0; needed: 1 to 1000, such as views=8. 0
    """

    def __init__(self, message: str, **facts: Any) -> None:
        self.message, self.facts = message, facts
        super().__init__(self.spelled(lambda name, *value: "=".join((name, *map(repr, value)))))
        for name, value in facts.items():
            setattr(self, name, value)

    def spelled(self, parameter: Callable[..., str]) -> str:
        """The message with its parameters as somebody else writes them: name -> text, or name and value -> text."""

        def spell(found: re.Match[str]) -> str:
            name, value = found.groups()
            return parameter(name) if value is None else parameter(name, ast.literal_eval(value))

        return printable(_PARAMETER.sub(spell, self.message)).replace(LINE, "\n")


_NO_ROOM = {os.strerror(number) for number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)}


def cannot_write(path: object, error: Exception, place: Parameter | None = None) -> str:
    """What to say where something cannot be written: which file, why, and what to do.

    Args:
        path: As the user knows it.
        error: What the system, or a library in its name, says.
        place: The parameter that names another place, if there is one.

    >>> print(cannot_write("x.csv", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    cannot write x.csv: No space left on device. Make room there, or choose another place.
    """
    room = "Make room there, or choose" if is_full(error) else "Choose"
    return f"cannot write {path}: {reason_of(error)}. {room} another place{f' with {place}' if place else ''}."


def is_full(error: Exception) -> bool:
    """Whether a disk or a quota is full, or a file may not grow further."""
    return reason_of(error) in _NO_ROOM


def reason_of(error: Exception) -> str:
    """Why the system refused something, in a few words; libraries such as HDF5 wrap these in lines of their own."""
    if strerror := getattr(error, "strerror", None):
        text = str(strerror)
    else:
        text = " ".join(str(error).split()) or type(error).__name__
    if "iostream error" in text:  # all that C++ says of a write that failed, in OpenVINO for one
        return os.strerror(errno.ENOSPC)
    return next((known for known in _NO_ROOM if known in text), text.rstrip("."))


class OnepassWarning(UserWarning):
    """Something that went on although the user should know of it; the command line shows these on stderr."""


class MissingSideWarning(OnepassWarning):
    """A class has all its images on one side of a drawn split, although it has several groups."""


class OptionError(UserError, ValueError):
    """An option's value is unknown, out of range, or does not go with another one."""


class DataError(UserError):
    """The image folder cannot be used as it is."""


class UnreadableImageError(UserError):
    """A file is no image that can be used; the message is the reason in a few words."""


class UnreachableImageError(UnreadableImageError):
    """An image cannot be had now, and may be another time."""


class FeatureFileError(UserError):
    """A feature file is missing, damaged, of another format, or cannot be written."""


class DamagedHeaderError(FeatureFileError):
    """Spec, provenance or golden rows of a feature file are damaged, so nothing in it can be believed."""


class RowRangeError(UserError):
    """A row holds numbers that the type it shall be stored as cannot hold."""


class SpecMismatchError(UserError):
    """Rows of two specs were about to be mixed or compared."""


class DriftError(UserError):
    """A backbone no longer computes the rows that it computed once."""


class LockedError(UserError):
    """Another process is writing the same feature file."""


class BackboneError(UserError):
    """A backbone is unknown, or cannot be built or run here."""


class UnknownBackboneError(BackboneError, OptionError):
    """There is no backbone of this name."""


class WeightsError(BackboneError):
    """Pretrained weights could not be downloaded, read, or do not fit the backbone."""


class FileKindError(UserError):
    """A file is of another kind than a command reads."""


class HeadFileError(UserError):
    """A head file is missing, damaged, or of another format."""


class TrainingError(UserError, ValueError):
    """The rows do not allow a head to be trained or scored."""


class ExportError(UserError):
    """A model could not be exported, or is not what was measured."""


class CertificateError(UserError):
    """A certificate is missing, damaged, or does not belong to a model."""


class OutputError(UserError):
    """Results cannot be written where they were to go."""
