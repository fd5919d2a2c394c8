"""What several processes have learned and logged by themselves, put together at the end of a run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from textual_inversion_ext.atomic import atomic_write
from textual_inversion_ext.records import TrainingResult
from textual_inversion_ext.training.callbacks import read_step_log
from textual_inversion_ext.training.outputs import RunFolder
from textual_inversion_ext.training.processes.group import Processes


def gathered(processes: Processes, result: TrainingResult, whole: RunFolder) -> TrainingResult:
    """The result of the whole run, in every process; the main one also writes the step log of the whole run.

    Args:
        processes: The processes of the run.
        result: That of this process's concepts.
        whole: The output folder as all processes see it.

    Returns:
        ``result`` itself if all processes train the same concepts.

    Raises:
        DistributedError: Another process has gone.
    """
    if not processes.split:
        return result
    processes.wait()  # until all logs are written
    logged = join_step_logs(whole) if processes.is_main else []
    everyones = processes.gather((result, logged))
    entries = everyones[0][1]
    parts = [part for part, _ in everyones]
    learned = {concept.token: concept for part in parts for concept in part.concepts}
    tokens = [spec.placeholder_token for spec in processes.concepts]
    united: dict[str, Any] = {
        field.name: _union([getattr(part, field.name) for part in parts], tokens)
        for field in dataclasses.fields(TrainingResult)
        if isinstance(getattr(result, field.name), Mapping)
    }
    # A log on another machine's disk is not in the joined one.
    united["losses"] = {token: _losses(entries, token) or united["losses"][token] for token in tokens}
    united["concepts"] = tuple(learned[token] for token in tokens)
    united["seconds"] = max(part.seconds for part in parts)
    return TrainingResult(**united)


def join_step_logs(whole: RunFolder) -> list[dict[str, Any]]:
    """Make one step log of those of all processes, and of what was logged before they went apart.

    Args:
        whole: The output folder as all processes see it.

    Returns:
        Its lines.

    Raises:
        StorageError: It cannot be written.
    """
    by_step: dict[int, dict[str, Any]] = {}
    for entry in read_step_log(whole.step_log):
        by_step[entry["step"]] = entry
    joined: set[int] = set()
    for file in whole.process_step_logs():
        for entry in read_step_log(file):
            step = entry["step"]
            by_step[step] = _joined(by_step[step], entry, again=step in joined) if step in by_step else entry
            joined.add(step)
    entries = [by_step[step] for step in sorted(by_step)]
    if joined:
        atomic_write(whole.step_log, "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries))
    return entries


def _joined(one: Mapping[str, Any], other: Mapping[str, Any], again: bool) -> dict[str, Any]:
    """Two entries of one step.

    Args:
        one: From the joined log, or from a process.
        other: From a process.
        again: Whether ``one`` is from a process too: then speeds add up.

    Returns:
        Values of all their tokens, the later of their times.
    """
    entry = {**one, **other}
    for name, value in one.items():
        if isinstance(value, dict):
            entry[name] = {**value, **other.get(name, {})}
    if again:
        entry["seconds"] = max(one["seconds"], other["seconds"])
        entry["samples_per_second"] = one["samples_per_second"] + other["samples_per_second"]
    return entry


def _union(mappings: Sequence[Mapping[str, Any]], tokens: Sequence[str]) -> dict[str, Any]:
    union = {token: value for mapping in mappings for token, value in mapping.items()}
    return {token: union[token] for token in tokens if token in union}


def _losses(entries: Sequence[Mapping[str, Any]], token: str) -> tuple[float, ...]:
    return tuple(entry["loss"][token] for entry in entries if token in entry["loss"])
