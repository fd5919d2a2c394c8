"""Checkpoints: a folder of a few kilobytes from which training continues bit for bit."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from textual_inversion_ext import __version__
from textual_inversion_ext.atomic import atomic_folder
from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.errors import CheckpointError

_TENSORS = "state.safetensors"
_FACTS = "state.json"
_NAME = re.compile(r"checkpoint-(\d+)")
LESSONS = "lessons"
"""Name of the facts that a checkpoint keeps for each of its own concepts."""
PART = "process-{}"
"""Folder of a process that trains concepts of its own, inside the output folder."""

# Settings that may differ freely between two sessions of a run: they change no learned row. All others do.
_MODEL = ("pretrained_model_name_or_path", "revision", "variant", "tokenizer_name")
_NO_ROW_DEPENDS_ON = (
    "output_dir", "overwrite_output_dir", "skip_bad_images", "gradient_checkpointing", "allow_tf32", "report_to",
    "logging_dir", "logging_steps", "validation_prompt", "num_validation_images", "validation_steps", "save_steps",
    "save_as_full_pipeline", "checkpointing_steps", "checkpoints_total_limit", "resume_from_checkpoint",
    "keep_per_image_tokens",
    "distribute",  # what it comes to is recorded as "processes"
)  # fmt: skip
# Likewise, as long as no concept stops early and the last rows are kept: evaluating alone changes no row.
_ONLY_EVALUATION = (
    "eval_steps", "eval_batch_size", "dvar_window", "dvar_threshold", "plateau_patience", "plateau_threshold",
)  # fmt: skip


@dataclass
class Progress:
    """How far a run is; what the host counts, while the step counts on the device.

    Lists have one entry for each concept; the checkpoints of several processes are put together by that rule.

    Attributes:
        step: Optimizer steps done.
        done: Steps done by each concept, in the order of the concepts.
        counts: Steps since the last log in which each concept took part.
        evaluated: Evaluations of each concept: after how many of its steps, and the loss.
        seconds: Seconds of training so far, earlier sessions included.
    """

    step: int = 0
    done: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    evaluated: list[list[tuple[int, float]]] = field(default_factory=list)
    seconds: float = 0.0


def trajectory(config: TextualInversionConfig, concepts: Sequence[ConceptSpec], world_size: int) -> dict[str, Any]:
    """The facts on which the learned rows depend, apart from the pictures.

    Args:
        config: The run's settings.
        concepts: What the run learns.
        world_size: Number of processes that share a step.

    Returns:
        JSON values.
    """
    settings = config.to_dict()
    return {
        **{name: settings[name] for name in _MODEL},
        **recipe(config),
        "processes": world_size,
        "concepts": [[concept.placeholder_token, concept.num_vectors] for concept in concepts],
    }


def lessons(concepts: Sequence[ConceptSpec], digests: Sequence[str]) -> dict[str, dict[str, str | None]]:
    """What each concept is learned from; with the settings, what its rows depend on.

    Args:
        concepts: What is learned.
        digests: Fingerprint of each concept's pictures.

    Returns:
        Token -> JSON values.
    """
    return {
        concept.placeholder_token: {
            "learnable_property": concept.learnable_property,
            "class_name": concept.class_name,
            "pictures": digest,
        }
        for concept, digest in zip(concepts, digests, strict=True)
    }


def recipe(config: TextualInversionConfig) -> dict[str, Any]:
    """The settings that decide, with the model and the pictures, which rows are learned.

    Args:
        config: The run's settings.

    Returns:
        JSON values.
    """
    left_out = {*_MODEL, *_NO_ROW_DEPENDS_ON}
    if config.stopping == "none" and config.keep == "last":
        left_out.update(_ONLY_EVALUATION)
    return {name: value for name, value in config.to_dict().items() if name not in left_out}


@dataclass(frozen=True)
class Part:
    """What one checkpoint folder holds: all concepts of a run, or those that one process trains.

    Attributes:
        rows: Token -> how many rows it has, in the order in which they lie in the tensors.
        tensors: Everything on the device that training needs to go on.
        progress: What the host counts.
        facts: ``trajectory`` of the whole run.
    """

    rows: Mapping[str, int]
    tensors: Mapping[str, Tensor]
    progress: Progress
    facts: Mapping[str, Any]


def save_checkpoint(folder: Path, part: Part) -> None:
    """Write a checkpoint; it is there completely or not at all.

    Args:
        folder: The checkpoint's folder.
        part: What to write.

    Raises:
        StorageError: It cannot be written.
    """
    # Not save_file: it reports a full disk as an error of its own type, without the system's error number.
    data = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in part.tensors.items()})
    counted = asdict(part.progress)
    # Nine digits tell one float32 from all others.
    counted["evaluated"] = [
        [[step, float(f"{loss:.9g}")] for step, loss in history] for history in part.progress.evaluated
    ]
    state = {"library_version": __version__, **counted, "rows": dict(part.rows), "trajectory": dict(part.facts)}
    with atomic_folder(folder) as partial:
        (partial / _TENSORS).write_bytes(data)
        (partial / _FACTS).write_text(_one_line_each(state), encoding="utf-8")


def read_checkpoint(folder: Path) -> Part:
    """Read one checkpoint folder.

    Args:
        folder: The checkpoint's folder.

    Returns:
        What it holds, tensors on the CPU.

    Raises:
        CheckpointError: The checkpoint is damaged.
    """
    try:
        state = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        tensors = safetensors.torch.load((folder / _TENSORS).read_bytes())
        counted = {field.name: state[field.name] for field in fields(Progress)}
        counted["evaluated"] = [
            [(step, float(np.float32(loss))) for step, loss in history] for history in state["evaluated"]
        ]
        return Part(state["rows"], tensors, Progress(**counted), state["trajectory"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            f"The checkpoint {folder} is damaged ({type(error).__name__}: {error}). Give an older one by its path."
        ) from error


def _one_line_each(state: Mapping[str, Any]) -> str:
    """JSON with a line for each entry: histories of many evaluations are long, and every token of them a short line."""
    lines = [
        f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}"
        for name, value in state.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Put a checkpoint's tensors back into the step.

    Args:
        module: The training step.
        tensors: From ``load_checkpoint``.
        folder: The checkpoint's folder, for the message.

    Raises:
        CheckpointError: Names or shapes do not fit: the model differs from the one that was trained.
    """
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"The checkpoint {folder} does not fit this model: {reason}") from error


def find_checkpoint(asked: str | None, output_dir: str | Path) -> Path | None:
    """Turn ``resume_from_checkpoint`` into a folder.

    Args:
        asked: None, "latest", or a path. A bare name such as ``checkpoint-500`` is also looked up in ``output_dir``.
        output_dir: The run's output folder.

    Returns:
        The checkpoint's folder, or the run's folder if each process left a checkpoint of its own; None if none was
        asked for or "latest" finds none (so that a command which always says "latest" can also make the first start).

    Raises:
        CheckpointError: The path is no checkpoint.
    """
    if asked is None:
        return None
    if asked == "latest":
        return _latest(Path(output_dir))
    for candidate in (Path(asked), Path(output_dir) / asked):
        if (candidate / _FACTS).is_file():
            return candidate
        if inside := _latest(candidate):  # The output folder of a run stands for its latest checkpoint.
            return inside
    listed = ", ".join(folder.name for folder in checkpoints_in(Path(output_dir))) or "none"
    raise CheckpointError(f"{asked} is no checkpoint of this library. Checkpoints in {output_dir}: {listed}.")


def newest_parts(folder: Path) -> list[Path]:
    """The newest checkpoint of each process.

    Args:
        folder: A checkpoint, or the output folder of a run: each process that trains concepts of its own has a
            folder of its own in it, with its own checkpoints.

    Returns:
        Checkpoint folders; none if there are none.
    """
    if (folder / _FACTS).is_file():
        return [folder]
    homes = [folder, *sorted(folder.glob(PART.format("*")))]
    return [inside[-1] for home in homes if (inside := checkpoints_in(home))]


def _latest(folder: Path) -> Path | None:
    """The newest checkpoint in a folder; the folder itself where several processes have left one each."""
    parts = newest_parts(folder)
    return parts[0] if parts and parts[0].parent == folder and len(parts) == 1 else folder if parts else None


def is_checkpoint_name(name: str) -> bool:
    """Whether a checkpoint of some step, here or of another program, may be called that.

    Args:
        name: Of a folder.

    Returns:
        True for ``checkpoint-500`` and the like.
    """
    return _NAME.fullmatch(name) is not None


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints of a folder.

    Args:
        folder: A run's output folder; may be missing.

    Returns:
        Their folders, oldest first.
    """
    if not folder.is_dir():
        return []
    steps = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(steps) if (path / _FACTS).is_file()]
