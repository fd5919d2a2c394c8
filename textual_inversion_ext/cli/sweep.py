"""Runs of a sweep, one after the other: train, evaluate, and go on where an earlier call stopped."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, Protocol

from textual_inversion_ext.atomic import atomic_write
from textual_inversion_ext.cli import evaluate, train
from textual_inversion_ext.cli.evaluate_jobs import reports_fit
from textual_inversion_ext.cli.parser import read_train_flags
from textual_inversion_ext.cli.sweep_pictures import share_pictures
from textual_inversion_ext.cli.sweep_plan import SweepRun
from textual_inversion_ext.errors import ConfigError, StorageError, TextualInversionError

__all__ = ["MARKER", "SweepResult", "run_sweep"]

MARKER = "sweep-run.json"
"""File in a run's folder that says with which flags it was made, and how far it came."""

# What the sweep itself says to the two commands.
_OWN_FLAGS = ("output_dir", "concept", "resume_from_checkpoint", "overwrite_output_dir", "config")
_FILE_FLAGS = ("prompts",)  # flags of evaluate whose value is a file to be read
# Of both commands, with another meaning in each; the other common flags (model, number format) mean the same.
_OF_TRAIN_ALONE = frozenset({"--captions"})

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What came of a sweep.

    Attributes:
        folders: Folders of the runs that are trained and evaluated, in the sweep's order.
        failures: Name of a run and what was wrong with it.
    """

    folders: tuple[Path, ...]
    failures: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Job:
    """A run with the arguments of its two commands.

    Attributes:
        name: The run's.
        folder: Where its report goes.
        home: Where its words are trained: its own folder, or that of a run that trains the same.
        training: Arguments of ``train``.
        evaluation: Arguments of ``evaluate``.
    """

    name: str
    folder: Path
    home: Path
    training: tuple[str, ...]
    evaluation: tuple[str, ...]


class Verb(Protocol):
    """A command whose flags a sweep may vary."""

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's flags to a parser."""


class _Parser(argparse.ArgumentParser):
    """Raises where the console's parser would end the program."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"The sweep's flags: {message}")


def run_sweep(runs: Sequence[SweepRun], folder: str | Path) -> SweepResult:
    """Train and evaluate every run, each in a folder of its own.

    Everything that can be checked is checked before the first run starts. What an earlier call has done is skipped; a
    run in which it was interrupted goes on from its last checkpoint. A run that fails is left, and the others go on.

    Args:
        runs: The runs.
        folder: The folder of the sweep.

    Returns:
        Which runs are done and which failed.

    Raises:
        ConfigError: A flag is unknown or has a value that is not allowed, or a folder holds a run that was trained with
            other flags.
        StorageError: A folder cannot be written to.
        TrainingInterrupted: Ctrl-C while training; a checkpoint was written.
    """
    jobs = _shared([_job(run, Path(folder)) for run in runs])
    todo = [job for job in jobs if not _is_done(job)]
    if len(todo) < len(jobs):
        logger.info("%d of %d runs are done already.", len(jobs) - len(todo), len(jobs))
    failures: list[tuple[str, str]] = []
    start = time.monotonic()
    for number, job in enumerate(todo):
        left = (time.monotonic() - start) / number * (len(todo) - number) if number else None
        told = "" if left is None else f", about {_duration(left)} left"
        logger.info("Run %d of %d%s: %s", number + 1, len(todo), told, job.name)
        try:
            _do(job, [other for other in jobs if _flags_apart(other.evaluation) == _flags_apart(job.evaluation)])
        except (KeyboardInterrupt, StorageError):
            raise  # A full disk fails the other runs too.
        except TextualInversionError as error:
            failures.append((job.name, str(error)))
            logger.error("%s failed: %s", job.name, error)
    failed = {name for name, _ in failures}
    return SweepResult(tuple(job.folder for job in jobs if job.name not in failed), tuple(failures))


def _job(run: SweepRun, folder: Path) -> _Job:
    """Sort a run's flags by the command that knows them, and let the commands' own readers check them."""
    own = [flag for flag in _OWN_FLAGS if flag in run.flags]
    if own:
        raise ConfigError(f"{run.name}: a sweep sets {own[0]} by itself; leave it out.")
    known = [_flags_of(train), _flags_of(evaluate) - _OF_TRAIN_ALONE]
    if unknown := run.unknown(known[0] | known[1]):
        raise ConfigError(f"{run.name}: neither train nor evaluate has the flag {unknown[0]}.")
    place = folder / run.name
    job = _Job(run.name, place, place, tuple(run.arguments(known[0])), tuple(run.arguments(known[1])))
    _evaluate_flags(job)
    return job


def _shared(jobs: Sequence[_Job]) -> list[_Job]:
    """Train once for runs that differ in their evaluation alone: in the first folder, or where it is done already."""
    homes: dict[frozenset[tuple[str, ...]], Path] = {}
    for job in sorted(jobs, key=lambda job: not _marker(job.folder).get("trained")):
        homes.setdefault(_flags_apart(job.training), job.folder)
    return [replace(job, home=homes[_flags_apart(job.training)]) for job in jobs]


def _parser(verb: Verb) -> _Parser:
    parser = _Parser(allow_abbrev=False, add_help=False)
    verb.add_flags(parser)
    return parser


def _flags_of(verb: Verb) -> set[str]:
    return {option for action in _parser(verb)._actions for option in action.option_strings}


def _train_flags(job: _Job) -> argparse.Namespace:
    # "latest" also serves the first start: it finds no checkpoint then.
    return _parser(train).parse_args([*job.training, f"--output_dir={job.home}", "--resume_from_checkpoint=latest"])


def _evaluate_flags(job: _Job) -> argparse.Namespace:
    # Of several concepts each report goes into a folder of its own in there.
    single = len(read_train_flags(_train_flags(job)).concepts) == 1
    place = job.folder / "evaluation" if single else job.folder
    return _parser(evaluate).parse_args([*job.evaluation, f"--concept={job.home}", f"--output_dir={place}"])


def _is_done(job: _Job) -> bool:
    """Whether a run is trained and evaluated with these flags; one that was trained with others is refused."""
    marker = _marker(job.folder)
    changed = _flags_apart(marker.get("training", job.training)) ^ _flags_apart(job.training)
    if changed:
        told = " ".join(sorted(" ".join(flag) for flag in changed))
        raise ConfigError(
            f"{job.folder} was trained with other flags ({told}). Remove that folder, or give the sweep another"
            " --output_dir."
        )
    if _marker(job.home).get("trained") is not True or not _evaluated_alike(marker, job):
        return False
    # Flags are not everything: a file of prompts may say something else now, a report may be gone, words replaced.
    digests = _digests(job)
    return marker.get("files", digests) == digests and reports_fit(_evaluate_flags(job))


def _flags_apart(arguments: Sequence[str]) -> frozenset[tuple[str, ...]]:
    """Flags with their values: the order in which a sweep's file names them says nothing."""
    flags: list[list[str]] = []
    for word in arguments:
        if word.startswith("--") or not flags:
            flags.append([word])
        else:
            flags[-1].append(word)
    return frozenset(tuple(flag) for flag in flags)


def _evaluated_alike(marker: Mapping[str, Any], job: _Job) -> bool:
    return "evaluated" in marker and _flags_apart(marker["evaluated"]) == _flags_apart(job.evaluation)


def _marker(folder: Path) -> dict[str, Any]:
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return marker if isinstance(marker, dict) else {}


def _do(job: _Job, alike: Sequence[_Job]) -> None:
    """Train what is not trained, evaluate; take over the baselines of runs that are evaluated alike."""
    marker = {"training": list(job.training), "trained": _marker(job.folder).get("trained") is True}
    if job.home != job.folder and _marker(job.home).get("trained") is not True:
        raise ConfigError(f"its words are those of {job.home.name}, which failed.")
    if job.home == job.folder and not marker["trained"]:
        _write_marker(job, marker)
        train.run(_train_flags(job))
        marker["trained"] = True
        _write_marker(job, marker)
    for other in alike:
        if _evaluated_alike(_marker(other.folder), job):
            share_pictures(other.folder, job.folder)
            break
    digests = _digests(job)
    evaluate.run(_evaluate_flags(job))
    _write_marker(job, {**marker, "evaluated": list(job.evaluation), "files": digests})


def _digests(job: _Job) -> dict[str, str]:
    """What the files say that the evaluation's flags name."""
    flags = vars(_evaluate_flags(job))
    places = {name: Path(flags[name]) for name in _FILE_FLAGS if flags[name] is not None}
    return {
        name: hashlib.sha256(place.read_bytes()).hexdigest()[:16] for name, place in places.items() if place.is_file()
    }


def _write_marker(job: _Job, marker: dict[str, Any]) -> None:
    atomic_write(job.folder / MARKER, json.dumps(marker, indent=2, ensure_ascii=False) + "\n")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{max(1, minutes)} min"
