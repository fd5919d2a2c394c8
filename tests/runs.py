"""What tests of whole runs share: a tiny model and pictures on disk, and the command line, here or in a process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tests.tiny import tiny_images, tiny_pipeline
from textual_inversion_ext.files import load_concept
from textual_inversion_ext.training.callbacks import Callback, Run

ROOT = Path(__file__).resolve().parent.parent


def save_model(folder: Path, prediction_type: str = "epsilon") -> Path:
    tiny_pipeline(prediction_type).save_pretrained(folder)
    return folder


def save_images(folder: Path, count: int = 3, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(tiny_images(count, seed=seed)):
        image.save(folder / f"{number}.png")
    return folder


def train_flags(folder: Path, **settings: object) -> list[str]:
    """Flags of a short run on the tiny model, everything inside ``folder``; settings override or add flags."""
    model, images = folder / "model", folder / "images"
    if not model.exists():
        save_model(model)
        save_images(images)
    flags = {
        "pretrained_model_name_or_path": model,
        "train_data_dir": images,
        "placeholder_token": "<tok>",
        "initializer_token": "cat",
        "output_dir": folder / "out",
        "train_batch_size": 2,
        "max_train_steps": 4,
        **settings,
    }
    return ["train", *(part for name, value in flags.items() for part in (f"--{name}", str(value)))]


def rows_of(path: Path) -> torch.Tensor:
    """The learned rows of an output folder or embedding file."""
    return load_concept(path).vectors["clip_l"]


def start_cli(flags: list[str]) -> subprocess.Popen[str]:
    """Start the command line as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "textual_inversion_ext.cli.main", *flags],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 600) -> None:
    """Poll closely: the process is to be caught in the middle of its work."""
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            raise AssertionError(f"the process ended too early ({process.returncode}): {process.communicate()}")
        if time.monotonic() > end:
            process.kill()
            raise AssertionError("the process took too long")
        time.sleep(0.005)


class Stop(Exception):
    """Stands for whatever ends a session early."""


class StopAfter(Callback):
    """Ends a session after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, run: Run) -> None:
        if run.progress.step == self.step:
            raise Stop
