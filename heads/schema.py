"""Checks values read from a file against the annotations of the dataclass they fill."""

from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin


def require_kinds(record: object) -> None:
    """Refuses a dataclass with values of other types than its annotations say, at any depth, or infinite numbers.

    Raises:
        TypeError, ValueError: Naming the first.

    >>> from dataclasses import make_dataclass
    >>> require_kinds(make_dataclass("Score", [("n", int)])("ten"))
    Traceback (most recent call last):
    TypeError: n is 'ten'; needed: int
    """
    assert is_dataclass(record)
    for field in fields(record):
        _require(field.name, getattr(record, field.name), field.type)


def _require(name: str, value: object, kind: object) -> None:
    outer, inner = get_origin(kind), get_args(kind)
    if kind in (Any, object):
        return
    if outer in (Union, UnionType):  # X | None is all there is
        if value is not None:
            _require(name, value, next(one for one in inner if one is not NoneType))
    elif outer in (list, dict, tuple):
        if (
            not isinstance(value, list | dict | tuple)
            or type(value) is not outer
            or (outer is tuple and len(value) != len(inner))
        ):
            raise TypeError(f"{name} is {str(value)[:40]!r}; needed: {kind}")
        for one in value.values() if isinstance(value, dict) else value:
            _require(name, one, inner[-1])
    elif type(value) is not kind and not (kind is float and type(value) is int):
        raise TypeError(f"{name} is {str(value)[:40]!r}; needed: {getattr(kind, '__name__', kind)}")
    elif is_dataclass(kind):
        require_kinds(value)
    elif isinstance(value, int | float) and not abs(value) < 1e300:  # so NaN is refused, and integers of any length
        raise ValueError(f"{name} is {str(value)[:40]}; needed: a finite number")
