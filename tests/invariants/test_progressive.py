"""Vectors that join later: not there before, and from then on like any other, with a clock of their own."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.invariants.test_resume import Stop, StopAfter
from tests.tiny import TinyRun, tiny_images, tiny_pipeline, tiny_run
from textual_inversion_ext import ConceptSpec, TextualInversionConfig, TextualInversionTrainer
from textual_inversion_ext.errors import ConceptError, ConfigError
from textual_inversion_ext.files import load_concept
from textual_inversion_ext.parametrizations import UpdateSettings

THREE = ConceptSpec("<tok>", tiny_images(3), "dog", num_vectors=3)
ONE = ConceptSpec("<tok>", tiny_images(3), "dog")
OTHER = ConceptSpec("<other>", tiny_images(2, seed=1), "clock", num_vectors=2)


def run_of(*specs: ConceptSpec, **settings: Any) -> TinyRun:
    return tiny_run(
        list(specs),
        config=TextualInversionConfig(**{"max_train_steps": 8, **settings}),
        settings=UpdateSettings(weight_decay=0.1),
    )


def test_all_from_the_first_step_is_multi_vector() -> None:
    one, other = run_of(THREE), run_of(THREE, progressive_steps="0 0")
    one.steps(4)
    other.steps(4)
    assert torch.equal(one.rows, other.rows)
    assert torch.equal(one.logs[-1].loss, other.logs[-1].loss)


def test_before_it_joins_a_vector_is_not_there() -> None:
    run, alone = run_of(THREE, progressive_steps="3 6"), run_of(ONE)
    before = {key: value.clone() for key, value in run.step.state_dict().items() if "clip_l" in key}
    run.steps(3)
    alone.steps(3)
    assert torch.equal(run.rows[:1], alone.rows), "the first vector trains as if it were the only one"
    after = run.step.state_dict()
    assert all(torch.equal(after[key][1:], value[1:]) for key, value in before.items()), "neither gradient nor decay"
    run.steps(3)
    assert run.step.age.tolist() == [6, 3, 0]
    assert torch.equal(run.rows[2], before[next(key for key in before if key.endswith("rows"))][2])
    run.steps(2)
    assert run.step.age.tolist() == [8, 5, 2]


def test_prompts_hold_the_active_vectors() -> None:
    run = run_of(OTHER, THREE, progressive_steps="3 6")
    (slot,) = run.adapter.slots
    for step, counts in ((0, (1, 1)), (2, (1, 1)), (3, (2, 2)), (5, (2, 2)), (6, (2, 3))):
        (draws,) = run.draws.draw((0, 1), (step, step))
        learned = run.resident.gather(draws).ids["clip_l"] - slot.first_id
        for place, (first, count) in enumerate(zip((0, 2), counts, strict=True)):
            for ids in learned[2 * place : 2 * place + 2]:
                assert [row for row in ids.tolist() if row >= 0] == list(range(first, first + count))


def test_evaluations_use_the_vectors_that_have_trained() -> None:
    run = run_of(THREE, progressive_steps="3 6")
    (slot,) = run.adapter.slots

    def vectors(done: int | None) -> int:
        ids = run.resident.gather(run.draws.fixed(0, 2, done)).ids["clip_l"]
        return int((ids >= slot.first_id).sum()) // 2

    assert [vectors(done) for done in (0, 1, 3, 4, 6, 7, None)] == [1, 1, 1, 2, 2, 3, 3]


def test_together_is_alone_with_clocks_of_their_own() -> None:
    settings: dict[str, Any] = {"progressive_steps": "2 3"}
    together, three, other = run_of(THREE, OTHER, **settings), run_of(THREE, **settings), run_of(OTHER, **settings)
    for run in (together, three, other):
        run.steps(5)
    torch.testing.assert_close(together.rows, torch.cat([three.rows, other.rows]), rtol=1e-4, atol=1e-5)


def test_a_later_vector_has_a_schedule_from_its_start_to_the_end_of_the_run() -> None:
    run = run_of(THREE, OTHER, progressive_steps="0.5 0.75")
    assert run.plan.row_steps == (8, 4, 2, 8, 4)


def trainer(out: Path, *watchers: Any, pictures: int = 3, **settings: Any) -> TextualInversionTrainer:
    concepts = [ConceptSpec("<tok>", tiny_images(pictures), "dog", num_vectors=3)]
    defaults = {"max_train_steps": 6, "train_batch_size": 2, "checkpointing_steps": 2, "save_steps": 2}
    config = TextualInversionConfig(**{"output_dir": str(out), **defaults, **settings})
    return TextualInversionTrainer(config, concepts, pipeline=tiny_pipeline(), callbacks=watchers)


@pytest.mark.parametrize("last_step", [2, 3, 4])
def test_resumed_across_a_start_is_uninterrupted(last_step: int, tmp_path: Path) -> None:
    settings = {"progressive_steps": "3 5", "lr_scheduler": "cosine"}
    whole = trainer(tmp_path / "whole", **settings).train().concepts[0]
    with pytest.raises(Stop):
        trainer(tmp_path / "out", StopAfter(last_step), **settings).train()
    resumed = trainer(tmp_path / "out", resume_from_checkpoint="latest", **settings).train().concepts[0]
    assert torch.equal(resumed.vectors["clip_l"], whole.vectors["clip_l"]) and whole.num_vectors == 3


def test_files_hold_the_vectors_that_have_trained(tmp_path: Path) -> None:
    trainer(tmp_path, progressive_steps="2 5").train()
    counts = {step: load_concept(tmp_path / f"learned_embeds-steps-{step}.safetensors").num_vectors for step in (2, 4)}
    assert counts == {2: 1, 4: 2} and load_concept(tmp_path).num_vectors == 3


def test_a_list_that_cannot_work_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="need 2"):
        trainer(tmp_path, progressive_steps="2")
    with pytest.raises(ConfigError, match="at step 9 of 6"):
        trainer(tmp_path, progressive_steps="2 9")


def test_as_many_vectors_as_fit_train_and_one_more_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = ConceptSpec("<tok>", tiny_images(2), "dog", num_vectors=22)  # the tiny encoder reads 24 tokens
    with caplog.at_level(logging.WARNING):
        run = tiny_run([spec])
    assert "27 of 27 sentences have no room for 22 vectors" in caplog.text
    start = run.rows
    run.steps(2)
    assert (run.rows != start).any(dim=1).all(), "every vector learns"
    with pytest.raises(ConceptError, match="alone, with 23 vector"):
        tiny_run([ConceptSpec("<tok>", tiny_images(2), "dog", num_vectors=23)])
