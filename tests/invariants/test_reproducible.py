"""One seed on a CPU: the same rows, bit for bit, whatever else the process did or how many processes there are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.runs import ROOT, rows_of, train_flags
from textual_inversion_ext.cli.main import main


def test_two_runs_of_one_seed(tmp_path: Path) -> None:
    assert main(train_flags(tmp_path, num_vectors=2, gradient_accumulation_steps=2)) == 0
    torch.manual_seed(11)  # the global generator has no say
    torch.rand(3)
    again = tmp_path / "again"
    assert main(train_flags(tmp_path, num_vectors=2, gradient_accumulation_steps=2, output_dir=again)) == 0
    assert rows_of(tmp_path / "out").equal(rows_of(again))


def test_another_seed_gives_other_rows(tmp_path: Path) -> None:
    assert main(train_flags(tmp_path)) == 0
    assert main(train_flags(tmp_path, seed=1, output_dir=tmp_path / "other")) == 0
    assert not rows_of(tmp_path / "out").equal(rows_of(tmp_path / "other"))


@pytest.mark.parametrize("setting", ["logging_steps", "checkpointing_steps", "save_steps", "eval_steps"])
def test_watching_changes_nothing(setting: str, tmp_path: Path) -> None:
    assert main(train_flags(tmp_path)) == 0
    assert main(train_flags(tmp_path, **{setting: 1}, output_dir=tmp_path / "watched")) == 0
    assert rows_of(tmp_path / "out").equal(rows_of(tmp_path / "watched"))


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    """The example script in two processes with half of the batch each, started as `accelerate launch` starts them."""
    assert main(train_flags(tmp_path, train_batch_size=4, output_dir=tmp_path / "one")) == 0
    # For CPUs `accelerate launch` itself starts several processes through MPI only; torchrun is what it uses for GPUs.
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = str(ROOT / "examples" / "train_textual_inversion.py")
    flags = train_flags(tmp_path, train_batch_size=2, logging_steps=1)[1:]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [sys.executable, *launch, script, *flags],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(rows_of(tmp_path / "out"), rows_of(tmp_path / "one"), rtol=1e-4, atol=1e-5)
    assert done.stderr.count("Learned <tok>") == 1, "only the main process speaks"
    assert len((tmp_path / "out" / "steps.jsonl").read_text().splitlines()) == 4
