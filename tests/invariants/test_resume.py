"""Interrupted and resumed equals uninterrupted, bit for bit: rows and step log."""

from __future__ import annotations

import logging
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from tests.runs import Stop, StopAfter, rows_of, start_cli, train_flags, wait_until
from tests.tiny import tiny_images, tiny_pipeline
from tests.tiny_clip import tiny_twin
from textual_inversion_ext import (
    CheckpointError,
    ConceptSpec,
    OutputFolderError,
    TextualInversionConfig,
    TextualInversionTrainer,
)
from textual_inversion_ext.cli.main import main
from textual_inversion_ext.families import adapter_for
from textual_inversion_ext.files import load_concept
from textual_inversion_ext.training.callbacks import Callback, Run, read_step_log

# Long enough to be caught in the middle by a process that watches from outside.
LONG: dict[str, Any] = {"max_train_steps": 120, "checkpointing_steps": 20, "logging_steps": 3}


def session(out: Path, *callbacks: Callback, **settings: Any) -> TextualInversionTrainer:
    concepts = [
        ConceptSpec("<a>", tiny_images(3), "cat"),
        ConceptSpec("<b>", tiny_images(5, seed=1), "dog", num_vectors=2),
        ConceptSpec("<c>", tiny_images(2, seed=2), "clock"),
    ]
    config = TextualInversionConfig(
        **{
            **{"output_dir": out, "num_train_epochs": 4, "train_batch_size": 2, "max_concurrent_concepts": 2},
            **{"checkpointing_steps": 3, "logging_steps": 2},
            **settings,
        }
    )
    return TextualInversionTrainer(config, concepts, pipeline=tiny_pipeline(), callbacks=callbacks)


def all_rows(out: Path) -> list[list[float]]:
    return [row for name in "abc" for row in rows_of(out / name).tolist()]


def losses(out: Path) -> list[tuple[int, dict[str, float]]]:
    return [(entry["step"], entry["loss"]) for entry in read_step_log(out / "steps.jsonl")]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted") / "out"
    session(out).train()
    return out


@pytest.mark.parametrize("last_step", [3, 7, 10])
def test_a_queue_of_concepts_resumes_exactly(last_step: int, uninterrupted: Path, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        session(tmp_path / "out", StopAfter(last_step)).train()
    result = session(tmp_path / "out", resume_from_checkpoint="latest").train()
    assert all_rows(tmp_path / "out") == all_rows(uninterrupted)
    assert losses(tmp_path / "out") == losses(uninterrupted)
    assert result.steps == {"<a>": 6, "<b>": 10, "<c>": 4}


def test_a_checkpoint_elsewhere_is_used_where_it_lies(uninterrupted: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "backup" / "kept"
    shutil.copytree(uninterrupted / "checkpoint-6", elsewhere)
    started: list[int] = []

    class Watcher(Callback):
        def on_start(self, run: Run) -> None:
            started.append(run.progress.step)

    session(tmp_path / "out", Watcher(), resume_from_checkpoint=str(elsewhere)).train()
    assert started == [6] and all_rows(tmp_path / "out") == all_rows(uninterrupted)
    with pytest.raises(OutputFolderError):  # a folder of another run stays what it is
        session(tmp_path / "out", seed=1, resume_from_checkpoint=str(elsewhere)).train()
    session(tmp_path / "out", resume_from_checkpoint=str(elsewhere)).train()  # its own run may go on from there
    assert losses(tmp_path / "out")[-1] == losses(uninterrupted)[-1]


def test_the_folder_of_a_run_stands_for_its_latest_checkpoint(uninterrupted: Path, tmp_path: Path) -> None:
    session(tmp_path / "out", StopAfter(99), resume_from_checkpoint=str(uninterrupted)).train()
    assert all_rows(tmp_path / "out") == all_rows(uninterrupted)


def test_resuming_a_finished_run_trains_nothing_more(uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(uninterrupted, out)
    before, log = all_rows(out), losses(out)
    result = session(out, StopAfter(1), resume_from_checkpoint="latest").train()
    assert all_rows(out) == before and losses(out) == log
    assert result.steps == {"<a>": 6, "<b>": 10, "<c>": 4} and len(result.losses["<b>"]) == 5


def test_latest_without_a_checkpoint_starts_from_the_beginning(uninterrupted: Path, tmp_path: Path) -> None:
    session(tmp_path / "out", resume_from_checkpoint="latest").train()
    assert all_rows(tmp_path / "out") == all_rows(uninterrupted)


def test_going_on_from_an_older_checkpoint_leaves_nothing_of_the_later_ones(
    uninterrupted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    shutil.copytree(uninterrupted, out)
    (out / "a" / "learned_embeds-steps-9.safetensors").write_bytes(b"of the steps that are done anew")
    (out / "a" / "learned_embeds-steps-3.safetensors").write_bytes(b"of the steps that are kept")
    with pytest.raises(Stop):
        session(out, StopAfter(4), resume_from_checkpoint=str(out / "checkpoint-3"), learning_rate=0.1).train()
    assert [path.name for path in sorted(out.glob("checkpoint-*"))] == ["checkpoint-3"]
    assert [path.name for path in out.glob("a/*-steps-*")] == ["learned_embeds-steps-3.safetensors"]
    assert "checkpoint-6, checkpoint-9" in caplog.text
    limit = {"checkpoints_total_limit": 1, "max_train_steps": 5}
    session(out, resume_from_checkpoint="latest", learning_rate=0.1, **limit).train()
    assert len(list(out.glob("checkpoint-*"))) == 1 and all_rows(out) != all_rows(uninterrupted)


def test_latest_does_not_begin_again_over_a_finished_run(uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(uninterrupted, out, ignore=shutil.ignore_patterns("checkpoint-*"))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(OutputFolderError, match="already holds a run"):
        session(out, resume_from_checkpoint="latest").train()
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    for file in out.rglob("learned_embeds*"):  # of a run that was killed before its first checkpoint
        file.unlink()
    session(out, resume_from_checkpoint="latest").train()
    assert all_rows(out) == all_rows(uninterrupted)


def test_other_lessons_are_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings: dict[str, Any] = {"output_dir": tmp_path, "max_train_steps": 2, "eval_steps": 0}
    concept = ConceptSpec("<a>", tiny_images(3), "cat")
    TextualInversionTrainer(TextualInversionConfig(**settings), [concept], pipeline=tiny_pipeline()).train()
    settings |= {"resume_from_checkpoint": "latest", "max_train_steps": 3}
    TextualInversionTrainer(TextualInversionConfig(**settings), [concept], pipeline=tiny_pipeline()).train()
    assert "pictures of <a>" not in caplog.text
    other = ConceptSpec("<a>", tiny_images(3, seed=5), "cat", learnable_property="style")
    settings["max_train_steps"] = 4
    TextualInversionTrainer(TextualInversionConfig(**settings), [other], pipeline=tiny_pipeline()).train()
    assert "the pictures of <a> are not those that it was learned from" in caplog.text
    assert "learnable_property of <a> was 'object' and is now 'style'" in caplog.text


def test_a_lora_cannot_join_a_run_that_had_none(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"output_dir": tmp_path, "max_train_steps": 2, "eval_steps": 0}
    concept = ConceptSpec("<a>", tiny_images(3), "cat")
    TextualInversionTrainer(TextualInversionConfig(**settings), [concept], pipeline=tiny_pipeline()).train()
    config = TextualInversionConfig(**settings, lora_rank=2, resume_from_checkpoint="latest")
    with pytest.raises(CheckpointError, match="its lora_rank is 0, this run's is 2"):
        TextualInversionTrainer(config, [concept], pipeline=tiny_pipeline()).train()


def test_a_lora_cannot_go_on_in_other_layers(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"output_dir": tmp_path, "max_train_steps": 1, "eval_steps": 0, "lora_layers": "to_q"}
    settings |= {"lora_rank": 2}
    concept = ConceptSpec("<a>", tiny_images(3), "cat")
    TextualInversionTrainer(TextualInversionConfig(**settings), [concept], pipeline=tiny_pipeline()).train()
    settings |= {"resume_from_checkpoint": "latest", "lora_layers": "to_out.0"}
    with pytest.raises(CheckpointError, match=r"its lora_layers is to_q, this run's is to_out\.0"):
        TextualInversionTrainer(TextualInversionConfig(**settings), [concept], pipeline=tiny_pipeline()).train()


def test_a_run_that_goes_on_in_float16_has_a_loss_scale_of_its_own(tmp_path: Path) -> None:
    scales = []

    class Look(Callback):
        def on_start(self, run: Run) -> None:
            scales.append(safetensors.torch.load_file(run.folder.checkpoint(1) / "state.safetensors"))

    session(tmp_path, checkpointing_steps=1, max_train_steps=1).train()
    settings: dict[str, Any] = {"mixed_precision": "fp16", "resume_from_checkpoint": "latest", "max_train_steps": 2}
    session(tmp_path, Look(), checkpointing_steps=1, **settings).train()
    newest = max(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    fresh = safetensors.torch.load_file(newest / "state.safetensors")["loss_scale.scale"]
    assert "loss_scale.scale" not in scales[0] and fresh.tolist() == [4096.0] * 3


def test_other_settings_are_mentioned(uninterrupted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    session(tmp_path / "out", resume_from_checkpoint=str(uninterrupted / "checkpoint-3"), learning_rate=0.1).train()
    before = TextualInversionConfig(output_dir="out").learning_rate
    assert f"learning_rate was {before} and is now 0.1" in caplog.text


def test_a_model_is_the_same_however_its_folder_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models/sd15").mkdir(parents=True)
    short: dict[str, Any] = {"num_train_epochs": None, "max_train_steps": 3}
    session(Path("out"), pretrained_model_name_or_path="models/sd15", **short).train()
    shutil.copytree("out/checkpoint-3", "kept")
    record = Path("out/config.json")
    full = record.read_text()
    assert f'"{tmp_path}/models/sd15"' in full
    for recorded in (full, full.replace(f"{tmp_path}/models", "models")):  # as it is, and as it was once
        record.write_text(recorded)
        for typed in ("models/sd15", f"{tmp_path}/models/sd15"):
            session(Path("out"), pretrained_model_name_or_path=typed, resume_from_checkpoint="kept", **short).train()
    assert "is now" not in caplog.text


def from_pictures(out: Path, clip: Path, *callbacks: Callback, **settings: Any) -> None:
    concepts = [ConceptSpec("<a>", tiny_images(3), "cat"), ConceptSpec("<b>", tiny_images(2, seed=1), "dog")]
    config = TextualInversionConfig(
        **{
            **{"output_dir": out, "max_train_steps": 5, "train_batch_size": 2, "checkpointing_steps": 2},
            **{"initialization": "images", "clip_model": str(clip), "clip_init_steps": 3, **settings},
        }
    )
    TextualInversionTrainer(config, concepts, pipeline=tiny_pipeline(), callbacks=callbacks).train()


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_resumed_run_needs_nothing_that_rows_started_from(
    weight: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The search through CLIP is not repeated, even where rows are pulled to what it found."""
    clip = tmp_path / "clip"
    for part in tiny_twin(adapter_for(tiny_pipeline()).slots[0]):
        part.save_pretrained(clip)
    settings = {"initial_l2_weight": weight}
    with caplog.at_level(logging.INFO):
        from_pictures(tmp_path / "whole", clip, **settings)
        assert caplog.text.count("start from the pictures") == 2
        with pytest.raises(Stop):
            from_pictures(tmp_path / "out", clip, StopAfter(3), **settings)
        if weight == 0:  # what is pulled to its start from now on must know where that was
            shutil.copytree(tmp_path / "out", tmp_path / "pulled")
            caplog.clear()
            from_pictures(tmp_path / "pulled", clip, resume_from_checkpoint="latest", initial_l2_weight=1.0)
            assert caplog.text.count("start from the pictures") == 2
        shutil.rmtree(clip)
        caplog.clear()
        from_pictures(tmp_path / "out", clip, resume_from_checkpoint="latest", **settings)
    assert "start from" not in caplog.text
    for name in "ab":
        assert rows_of(tmp_path / "out" / name).equal(rows_of(tmp_path / "whole" / name))


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with model, pictures, and the output of an uninterrupted run in `whole`."""
    folder = tmp_path_factory.mktemp("long")
    assert main(train_flags(folder, **LONG, output_dir=folder / "whole")) == 0
    return folder


def test_a_killed_process(long_run: Path) -> None:
    out = long_run / "killed"
    flags = train_flags(long_run, **LONG, output_dir=out)
    process = start_cli(flags)
    wait_until((out / "checkpoint-20" / "state.json").exists, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "learned_embeds.safetensors").exists(), "killed too late to show anything"
    assert main([*flags, "--resume_from_checkpoint", "latest"]) == 0
    assert rows_of(out).equal(rows_of(long_run / "whole"))
    assert losses(out) == losses(long_run / "whole")


def test_ctrl_c_in_a_process(long_run: Path) -> None:
    out = long_run / "stopped"
    flags = train_flags(long_run, **{**LONG, "checkpointing_steps": 1000}, output_dir=out)
    process = start_cli(flags)
    wait_until(lambda: len(read_step_log(out / "steps.jsonl")) > 5, process)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "--resume_from_checkpoint latest" in shown and "Traceback" not in shown
    (checkpoint,) = out.glob("checkpoint-*")
    assert 15 < int(checkpoint.name.split("-")[1]) < 120 and rows_of(out).shape == (1, 16)
    assert load_concept(out).metadata["stopped"] == "interruption"
    assert main([*flags, "--resume_from_checkpoint", "latest"]) == 0
    assert load_concept(out).metadata["stopped"] == "max_train_steps"
    assert rows_of(out).equal(rows_of(long_run / "whole"))
    assert losses(out) == losses(long_run / "whole")
