"""Resuming: which checkpoints a process needs, and its concepts' share of each.

A concept's rows depend on nothing but its own steps, so checkpoints can be taken apart and put together by concepts:
what two processes left is continued by one, by three, or by two that share their work otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.errors import CheckpointError
from textual_inversion_ext.regularizers import REGULARIZERS
from textual_inversion_ext.run_file import full_path
from textual_inversion_ext.training.state import LESSONS, Part, Progress, newest_parts, read_checkpoint


def load_parts(folder: Path, fresh: Part) -> tuple[Part, list[str]]:
    """Read what a process needs to go on.

    Args:
        folder: A checkpoint, or the folder of a run with a checkpoint of each process.
        fresh: The process's own concepts as they start, for what no checkpoint knows; also the facts of this run.

    Returns:
        The state from which to go on, and one sentence for each difference that changes the rows.

    Raises:
        CheckpointError: A checkpoint is damaged, belongs to another run, or cannot be taken apart.
    """
    found = [(path, read_checkpoint(path)) for path in newest_parts(folder)]
    changed: list[str] = []
    for path, part in found:
        changed += [sentence for sentence in _differences(path, part, fresh) if sentence not in changed]
    chosen = [_furthest([part for _, part in found], token, fresh) for token in fresh.rows]
    unknown = [token for token, part in zip(fresh.rows, chosen, strict=True) if part is fresh]
    if unknown:
        changed.append(f"{folder} knows nothing of {' '.join(unknown)}, so that starts from the beginning")
    first = chosen[0]
    if all(part is first for part in chosen) and list(first.rows.items()) == list(fresh.rows.items()):
        return first, changed
    try:
        return _assembled(chosen, fresh), changed
    except (RuntimeError, KeyError, IndexError) as error:
        raise CheckpointError(
            f"The checkpoints in {folder} cannot be divided among this number of processes ({error}). Resume with as"
            " many processes as wrote them."
        ) from error


def tokens_with_rows(folder: Path, config: TextualInversionConfig) -> frozenset[str]:
    """The concepts whose rows all come from a checkpoint, so that nobody needs to find out where they start.

    Args:
        folder: A checkpoint, or the folder of a run with a checkpoint of each process.
        config: The settings of this session.

    Returns:
        Their tokens; none if this session has regularizers, which pull to the first rows, and the last one had none.

    Raises:
        CheckpointError: A checkpoint is damaged.
    """
    needed = any(getattr(config, f"{name}_weight") for name in REGULARIZERS)
    found = [read_checkpoint(path) for path in newest_parts(folder)]
    if needed and not all(any(name.startswith("penalties.") for name in part.tensors) for part in found):
        return frozenset()
    return frozenset(token for part in found for token in part.rows)


def _furthest(parts: Sequence[Part], token: str, fresh: Part) -> Part:
    """The part in which a concept has come furthest, which is the newest whoever left it; else the fresh one."""
    done = [dict(zip(part.rows, part.progress.done, strict=True)).get(token, -1) for part in parts]
    best = max(range(len(parts)), key=done.__getitem__, default=None)
    return fresh if best is None or done[best] < 0 else parts[best]


def _differences(path: Path, part: Part, fresh: Part) -> list[str]:
    """One sentence for each setting that differs; refuses what cannot be continued at all."""
    same = ["concepts", "parametrization", "optimizer", "lora_rank", "lora_text_encoder_rank"]
    same += ["lora_layers"] if fresh.facts["lora_rank"] else []
    for name in same:
        if part.facts.get(name, fresh.facts[name]) != fresh.facts[name]:
            raise CheckpointError(
                f"The checkpoint {path} was written by another run: its {name} is {part.facts.get(name)}, this run's is"
                f" {fresh.facts[name]}. Resume with the same, or start afresh without --resume_from_checkpoint."
            )
    for token, count in fresh.rows.items():
        if part.rows.get(token, count) != count:
            raise CheckpointError(
                f"The checkpoint {path} has {part.rows[token]} row(s) of {token}, this run has {count}; resume with the"
                " same number of pictures and vectors, or start afresh without --resume_from_checkpoint."
            )
    changed = [
        f"{name} was {part.facts.get(name)!r} and is now {value!r}"
        for name, value in fresh.facts.items()
        if name != LESSONS and not _same(part.facts.get(name), value)
    ]
    return changed + _changed_lessons(part, fresh)


def _same(before: Any, now: Any) -> bool:
    """Whether a setting is what it was; a model's folder may be typed in several ways, and ``config.json`` has one."""
    if isinstance(before, str) and isinstance(now, str):
        return full_path(before) == full_path(now)
    return bool(before == now)


def _changed_lessons(part: Part, fresh: Part) -> list[str]:
    """One sentence for everything else than before that a concept is learned from."""
    changed = []
    for token, now in fresh.facts[LESSONS].items():
        before = part.facts.get(LESSONS, {}).get(token, now)  # a checkpoint of several processes knows its own only
        if before["pictures"] != now["pictures"]:
            changed.append(f"the pictures of {token} are not those that it was learned from")
        for name in ("learnable_property", "class_name"):
            if before[name] != now[name]:
                changed.append(f"{name} of {token} was {before[name]!r} and is now {now[name]!r}")
    return changed


def _assembled(chosen: Sequence[Part], fresh: Part) -> Part:
    """Put the state of each concept together from the part that has come furthest."""
    sources = [(part, list(part.rows).index(token)) for token, part in zip(fresh.rows, chosen, strict=True)]
    # What one of them lacks, such as evaluations that were switched off, none brings along.
    names = [name for name in fresh.tensors if all(name in part.tensors for part, _ in sources)]
    tensors = {name: _joined(name, sources) for name in names}
    counted: dict[str, Any] = {}
    for field in fields(Progress):
        values = [getattr(part.progress, field.name) for part, _ in sources]
        if isinstance(values[0], list):
            counted[field.name] = [value[place] for value, (_, place) in zip(values, sources, strict=True)]
        else:
            counted[field.name] = max(values)
    return Part(fresh.rows, tensors, Progress(**counted), fresh.facts)


def _joined(name: str, sources: Sequence[tuple[Part, int]]) -> Tensor:
    """One tensor for all concepts; its first dimension counts rows or concepts.

    Where each concept has one row, both are the same. Where only the first dimensions agree, the shorter end in zeros.

    Args:
        name: Of the tensor.
        sources: For each concept the part that it comes from, and its place there.

    Returns:
        The tensor, on the CPU.

    Raises:
        RuntimeError: The tensor is neither, and the parts do not agree on it.
    """
    pieces = []
    for part, place in sources:
        tensor, counts = part.tensors[name], list(part.rows.values())
        length = tensor.shape[0] if tensor.dim() else 0
        if length == sum(counts):
            start = sum(counts[:place])
            pieces.append(tensor[start : start + counts[place]])
        elif length == len(counts):
            pieces.append(tensor[place : place + 1])
        elif all(other.tensors[name].equal(tensor) for other, _ in sources):
            return tensor
        else:
            raise RuntimeError(f"{name} belongs to all concepts together")
    longest = max(piece[0].numel() for piece in pieces) if pieces[0].dim() == 2 else 0
    return torch.cat([pad(piece.cpu(), (0, longest - piece.shape[1])) if longest else piece.cpu() for piece in pieces])
