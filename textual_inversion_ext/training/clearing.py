"""Removing what an older run left in a folder, and nothing that it did not write."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from diffusers import DiffusionPipeline

from textual_inversion_ext.pipelines.lora import LORA_FILE
from textual_inversion_ext.training.state import checkpoints_in

__all__ = [
    "EMBEDDINGS",
    "PER_IMAGE",
    "STEP_LOG",
    "clear_embeddings",
    "clear_lora",
    "clear_pipeline",
    "clear_progress",
    "remove_empty",
]

STEP_LOG = "steps.jsonl"
"""Name of the step log."""

PER_IMAGE = "per_image"
"""Folder of the words of single pictures, beside their concept."""

EMBEDDINGS = "learned_embeds*.safetensors"
"""Pattern of the names of diffusers' files: the final one, snapshots, the best rows."""


def clear_embeddings(folder: Path, names: Sequence[str]) -> None:
    """Remove the files of a run's concepts.

    Args:
        folder: Of the run, or of one of its concepts.
        names: Stems of the files for other interfaces.
    """
    for file in (*folder.glob(EMBEDDINGS), *(folder / f"{name}.safetensors" for name in names)):
        file.unlink(missing_ok=True)
    _clear_image_words(folder / PER_IMAGE)


def clear_lora(folder: Path) -> None:
    """Remove the LoRA of a run, and its snapshots.

    Args:
        folder: Of the run.
    """
    for file in folder.glob(f"{Path(LORA_FILE).stem}*.safetensors"):
        file.unlink()


def clear_progress(home: Path) -> None:
    """Remove step log and checkpoints.

    Args:
        home: The folder of the run, or of a process in it.
    """
    (home / STEP_LOG).unlink(missing_ok=True)
    for checkpoint in checkpoints_in(home):
        shutil.rmtree(checkpoint)


def clear_pipeline(home: Path) -> None:
    """Remove a model that was saved whole: the old word is built into it.

    Args:
        home: The folder of the run.
    """
    index = home / DiffusionPipeline.config_name
    if not index.exists():
        return
    for name, value in json.loads(index.read_text(encoding="utf-8")).items():
        if isinstance(value, list) and (home / name).is_dir():
            shutil.rmtree(home / name)
    index.unlink()


def remove_empty(folder: Path) -> None:
    """Remove a folder if nothing is in it.

    Args:
        folder: Any folder.
    """
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _clear_image_words(home: Path) -> None:
    """Remove the words of single pictures, and their folders where nothing else is in them."""
    for folder in [*home.glob("*/"), home]:
        for file in folder.glob(EMBEDDINGS):
            file.unlink()
        remove_empty(folder)
