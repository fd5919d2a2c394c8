"""Frozen records to JSON and back, strictly: what a file says wrongly is named with its place, not guessed at."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from textual_inversion_ext.errors import ReportError

Record = TypeVar("Record")

_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}


def encode(value: Any) -> Any:
    """Turn a record into what ``json.dumps`` takes.

    Args:
        value: A dataclass of texts, numbers, tuples, mappings and further dataclasses.

    Returns:
        The same as dicts and lists; a record's keys stand in the order of its fields.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [encode(entry) for entry in value]
    return value


def decode(kind: type[Record], value: Any, place: str) -> Record:
    """Make a record of what ``json.loads`` returned.

    Args:
        kind: The dataclass.
        value: JSON values.
        place: What the errors call the value.

    Returns:
        The record. Fields that have a default may be missing.

    Raises:
        ReportError: A key is missing or unknown, or a value is of another kind.
    """
    if not isinstance(value, dict):
        raise ReportError(f"{place} is {_shown(value)}; it must be an object.")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(value) - set(fields))
    if unknown:
        raise ReportError(f"{place} has unknown keys: {', '.join(unknown)}. Allowed: {', '.join(fields)}.")
    needed = [name for name, field in fields.items() if _is_required(field)]
    missing = [name for name in needed if name not in value]
    if missing:
        raise ReportError(f"{place} lacks {', '.join(missing)}; the file is damaged or was changed by hand.")
    hints = get_type_hints(kind)
    return kind(**{name: _decode(hints[name], entry, f"{place}.{name}") for name, entry in value.items()})


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _decode(hint: Any, value: Any, place: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _decode_union(arguments, value, place)
    if origin is tuple:
        return _decode_tuple(arguments, value, place)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise ReportError(f"{place} is {_shown(value)}; it must be an object.")
        return {key: _decode(arguments[1], entry, f"{place}.{key}") for key, entry in value.items()}
    if dataclasses.is_dataclass(hint):
        return decode(hint, value, place)  # type: ignore[arg-type]
    if not _fits(hint, value):
        raise ReportError(f"{place} is {_shown(value)}; it must be {_NAMES[hint]}.")
    return float(value) if hint is float else value


def _decode_union(arguments: tuple[Any, ...], value: Any, place: str) -> Any:
    for hint in arguments:
        if hint in _NAMES and _fits(hint, value):
            return float(value) if hint is float else value
    others = [hint for hint in arguments if hint not in _NAMES]
    if len(others) == 1:
        return _decode(others[0], value, place)
    allowed = " or ".join(_NAMES[hint] for hint in arguments if hint in _NAMES)
    raise ReportError(f"{place} is {_shown(value)}; it must be {allowed}.")


def _decode_tuple(arguments: tuple[Any, ...], value: Any, place: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ReportError(f"{place} is {_shown(value)}; it must be a list.")
    hints = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
    if len(hints) != len(value):
        raise ReportError(f"{place} has {len(value)} entries; it must have {len(hints)}.")
    return tuple(
        _decode(hint, entry, f"{place}[{n}]") for n, (hint, entry) in enumerate(zip(hints, value, strict=True))
    )


def _fits(hint: Any, value: Any) -> bool:
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
