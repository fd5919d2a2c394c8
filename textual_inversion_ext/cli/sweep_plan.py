"""What a sweep tries: its file, and the runs that it stands for.

The file is a JSON object::

    {"flags": {"train_data_dir": "pictures/corgi", "placeholder_token": "<corgi>", "initializer_token": "dog"},
     "runs": {"paper": {"recipe": "gal-1-word"}, "ours": {}},
     "grid": {"num_vectors": [1, 2], "guidance_scale": [3, 7.5]}}

``flags`` hold for every run, ``runs`` (may be left out) names sets of further flags, ``grid`` (may be left out) gives
values of flags, of which every combination is tried. A flag is one of ``train`` or of ``evaluate``, without its dashes;
a list is several values of one flag, ``true`` a flag without a value, and ``null`` the default.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.options import json_object
from textual_inversion_ext.placeholders import file_stem

__all__ = ["SweepRun", "plan_sweep", "read_sweep"]

_KEYS = ("flags", "runs", "grid")
_LONGEST_NAME = 100
_UNREADABLE = re.compile(r"[^\w.+=-]+")


@dataclass(frozen=True, slots=True)
class SweepRun:
    """One point of the grid.

    Attributes:
        name: Of its folder.
        flags: Flags and their values, as the file has them.
    """

    name: str
    flags: Mapping[str, Any]

    def arguments(self, known: Collection[str]) -> list[str]:
        """Write the flags of one command as they are typed.

        Args:
            known: The command's flags, such as ``--seed`` and ``--no-scale_lr``; others are left out.

        Returns:
            The words of its command line.

        Raises:
            ConfigError: A value is nothing that a flag can have.
        """
        written = [_words(flag, value) for flag, value in self.flags.items()]
        return [word for words in written if words and words[0].split("=")[0] in known for word in words]

    def unknown(self, known: Collection[str]) -> list[str]:
        """List the flags that no command has.

        Args:
            known: The flags of all commands.

        Returns:
            Such flags, as they are typed.
        """
        written = [_words(flag, value) for flag, value in self.flags.items()]
        return [words[0].split("=")[0] for words in written if words and words[0].split("=")[0] not in known]


def read_sweep(path: str | Path) -> list[SweepRun]:
    """Read the file of a sweep.

    Args:
        path: The file.

    Returns:
        Its runs.

    Raises:
        ConfigError: The file is missing, is no JSON object, or describes no sweep.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read the sweep {path}: {error}") from error
    return plan_sweep(json_object(text, str(path)), str(path))


def plan_sweep(sweep: Mapping[str, Any], place: str = "the sweep") -> list[SweepRun]:
    """List the runs of a sweep.

    Args:
        sweep: What its file holds.
        place: What errors call it.

    Returns:
        A run for each combination, names and order always the same. A name tells what sets the run apart, so values
        may be added to a grid later without a change of the names of the others.

    Raises:
        ConfigError: A part is missing, unknown or of a wrong kind.
    """
    unknown = sorted(set(sweep) - set(_KEYS))
    if unknown:
        raise ConfigError(f"{place} has unknown keys {unknown}; it may hold {', '.join(_KEYS)}.")
    flags, runs, grid = ({**_object(sweep, key, place)} for key in _KEYS)
    for name, own in runs.items():
        if not isinstance(own, dict):
            raise ConfigError(f'{place}: the run {name!r} must be an object of flags, such as {{"num_vectors": 2}}.')
    for flag, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(
                f'{place}: the grid\'s {flag} is {values!r}; it must be a list of values: "{flag}": [1, 2].'
            )
    if not runs and not grid:
        raise ConfigError(f'{place} describes a single run; give "grid" or "runs", or use `textual-inversion train`.')
    planned = []
    named: dict[str, dict[str, Any]] = runs or {"": {}}
    for name, own in named.items():
        for values in itertools.product(*grid.values()):
            point = dict(zip(grid, values, strict=True))
            parts = ([file_stem(name)] if name else []) + [f"{flag}={_shown(value)}" for flag, value in point.items()]
            planned.append(SweepRun("_".join(parts), {**flags, **own, **point}))
    return _named_apart(planned)


def _object(sweep: Mapping[str, Any], key: str, place: str) -> dict[str, Any]:
    value = sweep.get(key, {})
    if not isinstance(value, dict):
        raise ConfigError(f'{place}: "{key}" must be an object, not {type(value).__name__}.')
    return value


def _shown(value: Any) -> str:
    """A value as a part of a folder's name."""
    if isinstance(value, list):
        return "+".join(_shown(entry) for entry in value)
    if value is None or isinstance(value, bool):
        return {None: "default", True: "on", False: "off"}[value]
    return _UNREADABLE.sub("-", str(value)).strip("-.") or "none"


def _named_apart(runs: list[SweepRun]) -> list[SweepRun]:
    """Shorten long names, and add a hash where two would share a folder (some file systems ignore upper case)."""
    folded = [run.name.casefold() for run in runs]
    named = []
    for run in runs:
        name = run.name
        if len(name.encode()) > _LONGEST_NAME or folded.count(name.casefold()) > 1:
            digest = hashlib.sha256(json.dumps(dict(run.flags), sort_keys=True).encode()).hexdigest()[:8]
            name = f"{name.encode()[: _LONGEST_NAME - 9].decode(errors='ignore')}-{digest}"
        named.append(SweepRun(name, run.flags))
    return named


def _words(flag: str, value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    if isinstance(value, dict):
        raise ConfigError(f"The sweep's {flag} is an object; a flag is a text, a number, true, false, null or a list.")
    if isinstance(value, list):
        return [f"--{flag}", *(str(entry) for entry in value)]
    return [f"--{flag}={value}"]  # in one word, because a value may begin with a dash
