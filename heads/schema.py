"""Checks values that come out of a file against the annotations of the dataclass they are to fill."""

from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin


def require_kinds(record: Any) -> None:
    """Refuses a dataclass with values of other types than its annotations say, at any depth; numbers are finite.

    Raises:
        TypeError, ValueError: Naming the first.
    """
    for field in fields(record):
        _require(field.name, getattr(record, field.name), field.type)


def _require(name: str, value: Any, kind: Any) -> None:
    outer, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return
    if outer in (Union, UnionType):  # X | None is all there is
        if value is not None:
            _require(name, value, next(one for one in inner if one is not NoneType))
    elif outer in (list, dict, tuple):
        if type(value) is not outer or (outer is tuple and len(value) != len(inner)):
            raise TypeError(f"{name} is {str(value)[:40]!r}; needed: {kind}")
        for one in value.values() if outer is dict else value:
            _require(name, one, inner[-1])
    elif type(value) is not kind and not (kind is float and type(value) is int):
        raise TypeError(f"{name} is {str(value)[:40]!r}; needed: {kind.__name__}")
    elif is_dataclass(kind):
        require_kinds(value)
    elif kind in (int, float) and not abs(value) < 1e300:  # which is false for NaN, and safe for integers of any length
        raise ValueError(f"{name} is {str(value)[:40]}; needed: a finite number")
