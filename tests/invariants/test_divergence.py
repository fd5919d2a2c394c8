"""One concept of several diverges: it stops alone, the others do not notice, and a resumed run does the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.processes import Launched
from tests.runs import Stop, StopAfter, rows_of, save_images, save_model
from tests.tiny import tiny_images, tiny_pipeline
from textual_inversion_ext import (
    ConceptSpec,
    LearnedConcept,
    TextualInversionConfig,
    TextualInversionTrainer,
    TrainingDiverged,
    TrainingResult,
    load_concept,
)
from textual_inversion_ext.cli.main import main
from textual_inversion_ext.training.callbacks import Callback, Run, read_step_log
from textual_inversion_ext.training.divergence import LOOK_STEPS

BAD = 5
"""Step at which the second vector of <b> joins and ruins it: its numbers are at the end of float32."""
SETTINGS: dict[str, Any] = {
    **{"max_train_steps": 13, "train_batch_size": 2, "max_concurrent_concepts": 2, "progressive_steps": str(BAD - 1)},
    **{"logging_steps": 3, "checkpointing_steps": 4, "eval_steps": 2, "save_steps": 6},
}


class Witness(Callback):
    """Remembers the rows of <b> and who was in each step."""

    def __init__(self) -> None:
        self.rows: dict[int, torch.Tensor] = {}
        self.done: list[list[int]] = []

    def on_step(self, run: Run) -> None:
        self.rows[run.progress.step] = run.learned()[1].vectors["clip_l"]
        self.done.append(list(run.progress.done))


def ruinous(folder: Path) -> Path:
    """A file of two vectors, of which the second is finite and no network survives it."""
    rows = torch.stack([torch.randn(16, generator=torch.Generator().manual_seed(1)), torch.full((16,), 3e38)])
    # One place for all tests: the file's name is part of what embedding files tell.
    return LearnedConcept("<b>", {"clip_l": rows}).save(folder.parent / "ruinous.safetensors")


def session(folder: Path, *callbacks: Callback, **settings: Any) -> TrainingResult:
    concepts = [
        ConceptSpec("<a>", tiny_images(3), "cat"),
        ConceptSpec("<b>", tiny_images(5, seed=1), str(ruinous(folder)), num_vectors=2),
        ConceptSpec("<c>", tiny_images(2, seed=2), "clock"),
    ]
    config = TextualInversionConfig(**{"output_dir": folder / "out", **SETTINGS, **settings})
    return TextualInversionTrainer(config, concepts, pipeline=tiny_pipeline(), callbacks=callbacks).train()


def ended(folder: Path, *callbacks: Callback, **settings: Any) -> TrainingResult:
    """The result of a run that reports the divergence of <b> at its end."""
    with pytest.raises(TrainingDiverged, match=rf"<b> at step {BAD}\. .*other 2 concept.*learned to the end") as error:
        session(folder, *callbacks, **settings)
    assert isinstance(error.value.result, TrainingResult) and str(folder / "out") in str(error.value)
    return error.value.result


def files(out: Path) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for name in "abc" for file in (out / name).iterdir()}


def logged(out: Path) -> list[tuple[int, Any, Any]]:
    return [(line["step"], line["loss"], line["eval_loss"]) for line in read_step_log(out / "steps.jsonl")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingResult, Witness]:
    folder, witness = tmp_path_factory.mktemp("whole"), Witness()
    return folder, ended(folder, witness), witness


def test_its_last_good_rows_are_kept_and_say_so(whole: tuple[Path, TrainingResult, Witness]) -> None:
    folder, result, witness = whole
    assert result.stop_reasons == {"<a>": "max_train_steps", "<b>": "diverged at step 5", "<c>": "max_train_steps"}
    assert result.steps == {"<a>": 13, "<b>": BAD - 1, "<c>": 13} and result.diverged == {"<b>": BAD}
    saved = load_concept(folder / "out" / "b")
    assert saved.metadata["steps"] == str(BAD - 1) and saved.vectors["clip_l"].equal(
        result.concepts[1].vectors["clip_l"]
    )
    assert saved.vectors["clip_l"].equal(witness.rows[BAD - 1]) and saved.num_vectors == 1
    assert not saved.vectors["clip_l"].equal(witness.rows[BAD - 2]), "it had been learning"
    # The snapshot of a step at which it was still in the batch says which step its rows are from, too.
    snapshot = load_concept(folder / "out" / "b" / "learned_embeds-steps-6.safetensors")
    assert snapshot.metadata["steps"] == str(BAD - 1) and snapshot.vectors["clip_l"].equal(saved.vectors["clip_l"])


def test_its_slot_goes_to_the_next_and_no_number_of_it_to_the_log(whole: tuple[Path, TrainingResult, Witness]) -> None:
    folder, result, witness = whole
    assert witness.done[LOOK_STEPS - 2] == [9, 9, 0] and witness.done[LOOK_STEPS - 1] == [10, BAD - 1, 0]
    assert witness.done[LOOK_STEPS] == [11, BAD - 1, 1] and len(witness.done) == LOOK_STEPS + 13
    text = (folder / "out" / "steps.jsonl").read_text()
    assert "NaN" not in text
    assert [line["step"] for line in read_step_log(folder / "out" / "steps.jsonl") if "<b>" in line["loss"]] == [3]
    assert all(line["samples_per_second"] > 0 for line in read_step_log(folder / "out" / "steps.jsonl"))
    assert [step for step, _ in result.eval_losses["<b>"]] == [2, 4]


def test_the_others_are_learned_as_if_alone(whole: tuple[Path, TrainingResult, Witness], tmp_path: Path) -> None:
    _, result, _ = whole
    config = TextualInversionConfig(output_dir=tmp_path, **{**SETTINGS, "progressive_steps": None})
    for place, spec in (
        (0, ConceptSpec("<a>", tiny_images(3), "cat")),
        (2, ConceptSpec("<c>", tiny_images(2, seed=2), "clock")),
    ):
        alone = TextualInversionTrainer(
            TextualInversionConfig.from_dict({**config.to_dict(), "output_dir": str(tmp_path / spec.name)}),
            [spec],
            pipeline=tiny_pipeline(),
        ).train()
        ours, theirs = result.concepts[place].vectors["clip_l"], alone.concepts[0].vectors["clip_l"]
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("last_step", [4, 8, 9, 13])
def test_resumed_equals_uninterrupted(
    last_step: int, whole: tuple[Path, TrainingResult, Witness], tmp_path: Path
) -> None:
    """Before it diverged, after that but before anybody looked (twice), and after it was let go."""
    with pytest.raises(Stop):
        session(tmp_path, StopAfter(last_step))
    result = ended(tmp_path, resume_from_checkpoint="latest")
    assert files(tmp_path / "out") == files(whole[0] / "out")
    assert logged(tmp_path / "out") == logged(whole[0] / "out")
    for told in ("eval_losses", "steps", "best_steps", "stop_reasons", "losses", "diverged"):
        assert getattr(result, told) == getattr(whole[1], told)


def test_how_often_one_logs_saves_and_evaluates_changes_no_bit(
    whole: tuple[Path, TrainingResult, Witness], tmp_path: Path
) -> None:
    often = ended(tmp_path, logging_steps=1, checkpointing_steps=1, save_steps=7, eval_steps=0)
    for ours, theirs in zip(often.concepts, whole[1].concepts, strict=True):
        assert ours.vectors["clip_l"].equal(theirs.vectors["clip_l"])


def test_resuming_the_finished_run_trains_nothing_and_reports_again(tmp_path: Path) -> None:
    ended(tmp_path)
    before = files(tmp_path / "out")
    ended(tmp_path, StopAfter(1), resume_from_checkpoint="latest", max_train_steps=13)
    assert files(tmp_path / "out") == before


def test_the_best_rows_of_it_may_be_the_final_ones(tmp_path: Path) -> None:
    result = ended(tmp_path, keep="best")
    kept = load_concept(tmp_path / "out" / "b").metadata
    assert kept["steps"] == str(result.best_steps["<b>"]) and result.best_steps["<b>"] in (2, 4)


def flags(folder: Path, out: str) -> list[str]:
    """The same three concepts for the command line, pictures and model in a folder."""
    if not (folder / "model").exists():
        save_model(folder / "model")
        for number, name in enumerate("abc"):
            save_images(folder / name, 3 + number, seed=number)
    settings = {**SETTINGS, "pretrained_model_name_or_path": folder / "model", "output_dir": folder / out}
    words = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    words += ["--train_data_dir", *(str(folder / name) for name in "abc"), "--placeholder_token", "<a>", "<b>", "<c>"]
    return [*words, "--initializer_token", "cat", str(ruinous(folder)), "clock", "--num_vectors", "1", "2", "1"]


def test_the_command_fails_after_all_is_saved_also_when_concepts_are_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """<b> has a process of its own; were it to end it at once, it would take the other process along."""
    assert main(["train", *flags(tmp_path, "one")]) == 1
    (shown,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert f"<b> at step {BAD}" in shown and "--learning_rate" in shown
    launched = Launched(flags(tmp_path, "two"), tmp_path / "logs")
    assert launched.wait(120) == [1, 1], launched.log(0) + launched.log(1)
    for rank in range(2):
        assert f"<b> at step {BAD}" in launched.log(rank) and "Traceback" not in launched.log(rank)
    for name in "abc":
        one, two = rows_of(tmp_path / "one" / name), rows_of(tmp_path / "two" / name)
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)
        assert load_concept(tmp_path / "two" / name).metadata["steps"] == ("4" if name == "b" else "13")
