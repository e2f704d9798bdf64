"""Frozen dataclasses to and from JSON values, checked against their annotations."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from math import isfinite
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Record = TypeVar("Record")


def to_json(value: Any) -> Any:
    """A dataclass as nested dictionaries, lists, strings, numbers, booleans and None."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def from_json(kind: type[Record], value: Any, where: str = "") -> Record:
    """The record that ``to_json`` wrote; ``ValueError`` names the entry that is missing, unknown or of a wrong type."""
    result: Record = _convert(kind, value, where or kind.__name__)
    return result


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if is_dataclass(kind) and isinstance(kind, type):
        return _convert_record(kind, value, where)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(each for each in arguments if each is not type(None)), value, where)
    if origin is tuple:
        items = _expect(list, value, where)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_convert(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(items))
        if len(items) != len(arguments):
            raise ValueError(f"{where} must have {len(arguments)} items, not {len(items)}")
        return tuple(
            _convert(each, item, f"{where}[{index}]")
            for index, (each, item) in enumerate(zip(arguments, items, strict=True))
        )
    if origin in (dict, Mapping):
        entries = _expect(dict, value, where)
        return {key: _convert(arguments[1], item, f"{where}.{key}") for key, item in entries.items()}
    if kind is float and type(value) is int:
        value = float(value)
    if kind is float and type(value) is float and not isfinite(value):
        raise ValueError(f"{where} must be finite")
    return _expect(kind, value, where)


def _convert_record(kind: Any, value: Any, where: str) -> Any:
    entries = _expect(dict, value, where)
    hints = get_type_hints(kind)
    unknown = sorted(set(entries) - set(hints))
    if unknown:
        raise ValueError(f"{where} has no entry '{unknown[0]}'")
    for field in fields(kind):
        if field.name not in entries and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{where}.{field.name} is missing")
    return kind(**{name: _convert(hints[name], item, f"{where}.{name}") for name, item in entries.items()})


def _expect(kind: Any, value: Any, where: str) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{where} must be {kind.__name__}, not {type(value).__name__}")
    return value
