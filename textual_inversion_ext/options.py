"""A setting's help text and limits, and the checks that read them back."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from textual_inversion_ext.errors import ConfigError


def option(default: Any, text: str, **limits: float) -> Any:
    """A field with its help text and the limits that ``__post_init__`` checks.

    Args:
        default: The field's default.
        text: One line for ``--help``.
        **limits: ``least`` (>=), ``above`` (>), ``most`` (<=), ``below`` (<).

    Returns:
        What ``dataclasses.field`` returns.
    """
    return dataclasses.field(default=default, metadata={"help": text, "limits": limits})


def json_object(text: str, what: str) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        text: The JSON.
        what: What to call it in messages.

    Returns:
        Its fields.

    Raises:
        ConfigError: The text is no JSON, or no object.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{what} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{what} must hold a JSON object, not {type(value).__name__}.")
    return value


def checked_type(name: str, value: Any, hint: Any) -> Any:
    """Check the type of a setting; an int is fine as a float, a path as text.

    Args:
        name: The setting.
        value: What was given.
        hint: Its type annotation.

    Returns:
        The value, converted where the two are the same thing.

    Raises:
        ConfigError: It does not fit; the message says what is allowed.
    """
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ConfigError(f"{name} is {value!r}; allowed are {', '.join(get_args(hint))}.")
        return value
    allowed = get_args(hint) or (hint,)
    if isinstance(value, os.PathLike) and str in allowed:
        return os.fspath(value)
    if float in allowed and type(value) is int:
        try:
            return float(value)
        except OverflowError as error:
            raise ConfigError(
                f"{name} is a whole number of more than 300 digits; no number may be beyond {sys.float_info.max:.1e}."
            ) from error
    if type(value) not in allowed:
        wanted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in allowed)
        hint_text = " In JSON, write numbers without quotes." if isinstance(value, str) else ""
        raise ConfigError(f"{name} is {value!r} ({type(value).__name__}); it must be {wanted}.{hint_text}")
    return value


def check_limits(name: str, value: Any, limits: Mapping[str, float]) -> None:
    """Check the limits of a setting.

    Args:
        name: The setting.
        value: What was given; None has no limits.
        limits: As given to ``option``.

    Raises:
        ConfigError: The value lies outside, or is no finite number.
    """
    if value is None or not limits:
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name} is {value}; it must be a finite number.")
    tests = {
        "least": (lambda limit: value >= limit, "at least"),
        "above": (lambda limit: value > limit, "above"),
        "most": (lambda limit: value <= limit, "at most"),
        "below": (lambda limit: value < limit, "below"),
    }
    for kind, limit in limits.items():
        holds, words = tests[kind]
        if not holds(limit):
            raise ConfigError(f"{name} is {value}; it must be {words} {limit}.")
