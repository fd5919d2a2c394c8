"""The same training with diffusers' own script and with ours: what a step costs, and what the start costs.

    python -m benchmarks.beside_diffusers --script diffusers/examples/textual_inversion/textual_inversion.py

The script is not part of the diffusers package; take it from diffusers' repository. It needs torchvision. Both train
one word on the pocket model, saved as an ordinary folder, with the same flags. Each is run at two lengths, in turn:
what the longer run takes beyond the shorter is its steps', the rest is the start and the end.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from textual_inversion_ext.pocket import load_pipeline, write_concept

OURS = Path(__file__).parent.parent / "examples" / "train_textual_inversion.py"


def seconds(script: Path, model: Path, pictures: Path, steps: int, batch_size: int) -> float:
    """Wall time of a training with either script; its output is shown if it fails."""
    with tempfile.TemporaryDirectory() as output:
        flags: dict[str, object] = {
            "pretrained_model_name_or_path": model,
            "train_data_dir": pictures,
            "learnable_property": "object",
            "placeholder_token": "<mochi>",
            "initializer_token": "cat",
            "resolution": 64,
            "train_batch_size": batch_size,
            "max_train_steps": steps,
            "learning_rate": 5e-3,
            "lr_scheduler": "constant",
            "save_steps": 10**6,
            "checkpointing_steps": 10**6,
            "output_dir": output,
            "seed": 0,
        }
        words = [sys.executable, str(script), *(f"--{name}={value}" for name, value in flags.items())]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        start = time.perf_counter()
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        taken = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stdout}{done.stderr}")
    return taken


def measure(scripts: Sequence[Path], folder: Path, arguments: argparse.Namespace, batch_size: int) -> str:
    """Measure one batch size; the scripts take turns, so that noise hits both alike."""
    short, long = arguments.steps
    step: dict[Path, list[float]] = {script: [] for script in scripts}
    rest: dict[Path, list[float]] = {script: [] for script in scripts}
    for _ in range(arguments.repeats):
        for script in scripts:
            brief, full = (
                seconds(script, folder / "model", folder / "mochi", steps, batch_size) for steps in arguments.steps
            )
            step[script].append((full - brief) / (long - short))
            rest[script].append(brief - short * step[script][-1])
    theirs, ours = (1e3 * statistics.median(step[script]) for script in scripts)
    start, own_start = (statistics.median(rest[script]) for script in scripts)
    return f"| {batch_size} | {theirs:.1f} | {ours:.1f} | {ours / theirs:.2f} | {start:.1f} | {own_start:.1f} |"


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--script", type=Path, required=True, help="diffusers' textual_inversion.py")
    parser.add_argument("--steps", type=int, nargs=2, default=(50, 250), help="lengths of the shorter and longer run")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print("| batch | diffusers, ms a step | ours | ours / diffusers | diffusers, start and end in s | ours |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        load_pipeline().save_pretrained(folder / "model")
        write_concept("mochi", folder / "mochi")
        for batch_size in arguments.batch_sizes:
            print(measure((arguments.script, OURS), folder, arguments, batch_size), flush=True)


if __name__ == "__main__":
    main()
