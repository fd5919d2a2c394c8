"""Several processes learn what one learns: real processes of the example script, with gloo between them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.processes import EXAMPLE, Launched
from tests.runs import ROOT, rows_of, save_images, save_model, train_flags, wait_until
from textual_inversion_ext.cli.main import main
from textual_inversion_ext.pipelines.lora import LORA_FILE
from textual_inversion_ext.run_file import load_run
from textual_inversion_ext.training.callbacks import read_step_log

# Long enough to be caught in the middle by whoever watches from outside.
BATCH: dict[str, Any] = {
    **{"max_train_steps": 120, "logging_steps": 3, "checkpointing_steps": 1000, "eval_steps": 40},
    **{"train_batch_size": 1, "gradient_accumulation_steps": 2, "learning_rate": 1e-3},
}
TOKENS = ("<a>", "<b>", "<c>")
# Adam divides a gradient by its own size, so rounding differences of tiny gradients show in the rows.
CLOSE = {"rtol": 1e-3, "atol": 1e-4}


def accelerate_launch(flags: list[str], *launcher_flags: str) -> subprocess.Popen[str]:
    """The real door, in a group of processes of its own, so that it can be interrupted as a terminal does it.

    Without a GPU `accelerate launch` asks for MPI; told that there are several, it starts workers as it does on them.
    """
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    return subprocess.Popen(
        [sys.executable, *launch, "--dynamo_backend", "no", *launcher_flags, str(EXAMPLE), *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def losses(out: Path) -> list[tuple[int, dict[str, float]]]:
    return [(entry["step"], entry["loss"]) for entry in read_step_log(out / "steps.jsonl")]


def all_rows(out: Path) -> list[torch.Tensor]:
    return [rows_of(out / token.strip("<>")) for token in TOKENS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model and pictures; the runs of this file lie beside them."""
    folder = tmp_path_factory.mktemp("processes")
    save_model(folder / "model")
    for number, name in enumerate(("images", "images-b", "images-c")):
        save_images(folder / name, 3 + number, seed=number)
    return folder


def batch_flags(folder: Path, out: str, **settings: object) -> list[str]:
    return [*train_flags(folder, **{**BATCH, "output_dir": folder / out, **settings})[1:], "--scale_lr"]


def split_flags(folder: Path, out: str, *more: str) -> list[str]:
    """Three concepts of three, four and five pictures that train for as many steps as these need."""
    settings = {
        **{"pretrained_model_name_or_path": folder / "model", "output_dir": folder / out, "train_batch_size": 2},
        **{"num_train_epochs": 40, "checkpointing_steps": 7, "logging_steps": 4, "eval_steps": 5, "keep": "best"},
    }
    flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    flags += ["--train_data_dir", *(str(folder / name) for name in ("images", "images-b", "images-c"))]
    return [*flags, "--placeholder_token", *TOKENS, "--initializer_token", "cat", *more]


@pytest.fixture(scope="module")
def shared(folder: Path) -> Launched:
    """An uninterrupted run of one concept on two processes, in `shared`."""
    launched = Launched(batch_flags(folder, "shared"), folder / "logs-shared")
    assert launched.wait() == [0, 0], launched.log(0) + launched.log(1)
    return launched


@pytest.fixture(scope="module")
def split(folder: Path) -> Launched:
    """An uninterrupted run of three concepts on two processes, in `split`."""
    launched = Launched(split_flags(folder, "split"), folder / "logs-split")
    assert launched.wait() == [0, 0], launched.log(0) + launched.log(1)
    return launched


def test_two_processes_share_the_batch_of_one_concept(folder: Path, shared: Launched) -> None:
    """Together they learn what one process learns with the doubled batch, and --scale_lr counts both."""
    assert main(["train", *batch_flags(folder, "alone", train_batch_size=4, gradient_accumulation_steps=1)]) == 0
    torch.testing.assert_close(rows_of(folder / "shared"), rows_of(folder / "alone"), **CLOSE)
    for (step, loss), (step_alone, loss_alone) in zip(losses(folder / "shared"), losses(folder / "alone"), strict=True):
        assert step == step_alone and loss["<tok>"] == pytest.approx(loss_alone["<tok>"], rel=1e-3)


def test_one_process_speaks_and_writes(folder: Path, shared: Launched) -> None:
    sentences = ("2 processes share every step: 4 pictures of each concept, 2 in each.", "Learned <tok> in 120 steps")
    assert all(sentence in shared.log(0) and sentence not in shared.log(1) for sentence in sentences)
    assert not list((folder / "shared").glob("process-*"))
    assert [entry["step"] for entry in read_step_log(folder / "shared" / "steps.jsonl")] == list(range(3, 121, 3))


def test_a_lora_beside_the_word_is_shared_too(folder: Path) -> None:
    settings = {"lora_rank": 2, "lora_learning_rate": 1e-2, "max_train_steps": 6, "gradient_accumulation_steps": 1}
    launched = Launched(batch_flags(folder, "lora", **settings, train_batch_size=1), folder / "logs-lora")
    assert launched.wait() == [0, 0], launched.log(0) + launched.log(1)
    assert main(["train", *batch_flags(folder, "lora-alone", **settings, train_batch_size=2)]) == 0
    shared, alone = (load_file(folder / out / LORA_FILE) for out in ("lora", "lora-alone"))
    assert set(shared) == set(alone) and any(tensor.abs().sum() > 0 for tensor in shared.values())
    for name, tensor in shared.items():
        torch.testing.assert_close(tensor, alone[name], **CLOSE)
    torch.testing.assert_close(rows_of(folder / "lora"), rows_of(folder / "lora-alone"), **CLOSE)


def test_ctrl_c_and_resuming(folder: Path, shared: Launched) -> None:
    """A terminal interrupts the launcher and its workers; the launcher then interrupts the workers once more."""
    out = folder / "stopped"
    process = accelerate_launch(batch_flags(folder, "stopped"), "--mixed_precision", "bf16")
    wait_until(lambda: len(read_step_log(out / "steps.jsonl")) > 3, process)  # type: ignore[arg-type]
    os.killpg(process.pid, signal.SIGINT)
    _, shown = process.communicate(timeout=300)
    assert process.returncode != 0 and "--resume_from_checkpoint latest" in shown
    (checkpoint,) = out.glob("checkpoint-*")
    assert 9 < int(checkpoint.name.split("-")[1]) < 120, "too late to show anything"
    # Our setting wins over the launcher's, and says so.
    assert "accelerate is configured with mixed_precision bf16; this run uses --mixed_precision no" in shown
    facts = json.loads((checkpoint / "state.json").read_text())["trajectory"]
    assert (load_run(out)[0].mixed_precision, facts["mixed_precision"], facts["processes"]) == ("no", "no", 2)

    again = Launched([*batch_flags(folder, "stopped"), "--resume_from_checkpoint", "latest"], folder / "logs-stopped")
    assert again.wait() == [0, 0], again.log(0) + again.log(1)
    assert rows_of(out).equal(rows_of(folder / "shared"))
    assert losses(out) == losses(folder / "shared")


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_takes_the_other_along(folder: Path, victim: int) -> None:
    out = folder / f"died-{victim}"
    launched = Launched(batch_flags(folder, out.name), folder / f"logs-died-{victim}")
    launched.wait_until(lambda: len(read_step_log(out / "steps.jsonl")) > 1)
    launched.processes[victim].kill()
    assert launched.wait(60)[1 - victim] == 1
    shown = launched.log(1 - victim)
    assert "error: Another process of this run has ended" in shown and "Traceback" not in shown


def test_many_concepts_are_split(folder: Path, split: Launched) -> None:
    """Each is trained by one process, with the batch of one process, and they say so."""
    assert main(["train", *split_flags(folder, "together")]) == 0
    for own, together in zip(all_rows(folder / "split"), all_rows(folder / "together"), strict=True):
        torch.testing.assert_close(own, together, **CLOSE)
    assert "2 processes split the concepts; each trains its own. process 0: <a> <c>; process 1: <b>." in split.log(0)
    assert "Learned <a> <b> <c> in 100 steps" in split.log(0) and "Learned" not in split.log(1)


def test_the_main_process_writes_what_all_share(folder: Path, split: Launched) -> None:
    out = folder / "split"
    config, concepts = load_run(out)
    assert [concept["placeholder_token"] for concept in concepts] == list(TOKENS) and config.train_batch_size == 2
    everything = dict(losses(out))
    assert set(everything[4]) == set(TOKENS) and set(everything[100]) == {"<c>"}
    for number, tokens in enumerate((("<a>", "<c>"), ("<b>",))):
        log = dict(losses(out / f"process-{number}"))
        assert all(set(loss) <= set(tokens) for loss in log.values())
        assert all(everything[step][token] == value for step, loss in log.items() for token, value in loss.items())
    assert {path.name for path in out.iterdir()} == {
        *("a", "b", "c", "config.json", "steps.jsonl", "process-0", "process-1"),
    }


def test_a_split_run_resumes_with_as_many_processes_with_fewer_and_with_more(folder: Path, split: Launched) -> None:
    """One process is killed; the other one finishes its concepts, then learns that it is alone, and ends."""
    out = folder / "torn"
    launched = Launched(split_flags(folder, "torn"), folder / "logs-torn")
    launched.wait_until((out / "process-1" / "checkpoint-14" / "state.json").exists)
    launched.processes[1].kill()
    assert launched.wait(60)[0] == 1 and "error: Another process of this run has ended" in launched.log(0)
    assert not (out / "b" / "learned_embeds.safetensors").exists(), "killed too late to show anything"
    for name in ("torn-1", "torn-3"):
        shutil.copytree(out, folder / name)

    resume = ("--resume_from_checkpoint", "latest")
    two = Launched(split_flags(folder, "torn", *resume), folder / "logs-torn-2")
    three = Launched(split_flags(folder, "torn-3", *resume), folder / "logs-torn-3", count=3)
    assert two.wait() == [0, 0], two.log(0) + two.log(1)
    assert three.wait() == [0, 0, 0], three.log(0) + three.log(1) + three.log(2)
    assert main(["train", *split_flags(folder, "torn-1", *resume)]) == 0
    for rows, again in zip(all_rows(folder / "split"), all_rows(out), strict=True):
        assert again.equal(rows)
    assert losses(out) == losses(folder / "split")
    for name in ("torn-1", "torn-3"):
        for rows, again in zip(all_rows(folder / "split"), all_rows(folder / name), strict=True):
            torch.testing.assert_close(again, rows, **CLOSE)


def test_a_process_that_cannot_start_takes_the_other_along(folder: Path) -> None:
    save_images(folder / "empty", 0)
    flags = [str(folder / "empty") if flag == str(folder / "images-b") else flag for flag in split_flags(folder, "no")]
    launched = Launched(flags, folder / "logs-no")
    assert launched.wait(60) == [1, 1]
    assert "error: " in launched.log(1) and "empty" in launched.log(1)
    assert "error: Another process of this run has ended" in launched.log(0) and not (folder / "no").exists()
