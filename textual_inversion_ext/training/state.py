"""Checkpoints: a folder of a few kilobytes from which training continues bit for bit."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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

# Settings that may differ freely between two sessions of a run: they change no learned row. All others do.
_MODEL = ("pretrained_model_name_or_path", "revision", "variant", "tokenizer_name")
_NO_ROW_DEPENDS_ON = (
    "output_dir", "overwrite_output_dir", "skip_bad_images", "gradient_checkpointing", "allow_tf32", "report_to",
    "logging_dir", "logging_steps", "validation_prompt", "num_validation_images", "validation_steps", "save_steps",
    "save_as_full_pipeline", "checkpointing_steps", "checkpoints_total_limit", "resume_from_checkpoint",
)  # fmt: skip


@dataclass
class Progress:
    """How far a run is; what the host counts, while the step counts on the device.

    Attributes:
        step: Optimizer steps done.
        done: Steps done by each concept, in the order of the concepts.
        counts: Steps since the last log in which each concept took part.
        seconds: Seconds of training so far, earlier sessions included.
        first_step: Step at which this session began.
    """

    step: int = 0
    done: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    seconds: float = 0.0
    first_step: int = 0


def trajectory(config: TextualInversionConfig, concepts: Sequence[ConceptSpec], world_size: int) -> dict[str, Any]:
    """The facts on which the learned rows depend, apart from the pictures.

    Args:
        config: The run's settings.
        concepts: What the run learns.
        world_size: Number of processes.

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


def recipe(config: TextualInversionConfig) -> dict[str, Any]:
    """The settings that decide, with the model and the pictures, which rows are learned.

    Args:
        config: The run's settings.

    Returns:
        JSON values.
    """
    left_out = {*_MODEL, *_NO_ROW_DEPENDS_ON}
    return {name: value for name, value in config.to_dict().items() if name not in left_out}


def save_checkpoint(folder: Path, tensors: Mapping[str, Tensor], progress: Progress, facts: Mapping[str, Any]) -> None:
    """Write a checkpoint; it is there completely or not at all.

    Args:
        folder: The checkpoint's folder.
        tensors: Everything on the device that training needs to go on.
        progress: What the host counts.
        facts: ``trajectory`` of the run.

    Raises:
        StorageError: It cannot be written.
    """
    # Not save_file: it reports a full disk as an error of its own type, without the system's error number.
    data = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    state = {
        "library_version": __version__,
        "step": progress.step,
        "done": progress.done,
        "counts": progress.counts,
        "seconds": progress.seconds,
        "trajectory": dict(facts),
    }
    with atomic_folder(folder) as partial:
        (partial / _TENSORS).write_bytes(data)
        (partial / _FACTS).write_text(json.dumps(state, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_checkpoint(folder: Path, facts: Mapping[str, Any]) -> tuple[dict[str, Tensor], Progress, list[str]]:
    """Read a checkpoint.

    Args:
        folder: The checkpoint's folder.
        facts: ``trajectory`` of the run that wants to continue.

    Returns:
        The tensors on the CPU, what the host had counted, and one sentence for each setting that differs.

    Raises:
        CheckpointError: The checkpoint is damaged, or other concepts or another parametrization were trained.
    """
    try:
        state = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        tensors = safetensors.torch.load((folder / _TENSORS).read_bytes())
        before = state["trajectory"]
        progress = Progress(
            step=state["step"],
            done=state["done"],
            counts=state["counts"],
            seconds=state["seconds"],
            first_step=state["step"],
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            f"The checkpoint {folder} is damaged ({type(error).__name__}: {error}). Give an older one by its path."
        ) from error
    for name in ("concepts", "parametrization"):
        if before.get(name) != facts[name]:
            raise CheckpointError(
                f"The checkpoint {folder} was written by another run: its {name} is {before.get(name)}, this run's is"
                f" {facts[name]}. Resume with the same, or start afresh without --resume_from_checkpoint."
            )
    changed = [
        f"{name} was {before.get(name)!r} and is now {value!r}"
        for name, value in facts.items()
        if before.get(name) != value
    ]
    return tensors, progress, changed


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
        The checkpoint's folder; None if none was asked for or "latest" finds none (so that a command which always says
        "latest" can also make the first start).

    Raises:
        CheckpointError: The path is no checkpoint.
    """
    if asked is None:
        return None
    found = checkpoints_in(Path(output_dir))
    if asked == "latest":
        return found[-1] if found else None
    for candidate in (Path(asked), Path(output_dir) / asked):
        if (candidate / _FACTS).is_file():
            return candidate
        inside = checkpoints_in(candidate)
        if inside:  # The output folder of a run stands for its latest checkpoint.
            return inside[-1]
    listed = ", ".join(folder.name for folder in found) or "none"
    raise CheckpointError(f"{asked} is no checkpoint of this library. Checkpoints in {output_dir}: {listed}.")


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
