"""Real runs that are judged while they train: what watching must not change, and what it must decide alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.processes import Launched
from tests.runs import Stop, StopAfter, train_flags
from tests.tiny import tiny_images, tiny_pipeline, tiny_run
from textual_inversion_ext import (
    ConceptSpec,
    ConfigError,
    TextualInversionConfig,
    TextualInversionTrainer,
    TrainingResult,
    load_concept,
)
from textual_inversion_ext.cli.main import main
from textual_inversion_ext.training.callbacks import Callback, Run, read_step_log
from textual_inversion_ext.training.queue import remaining_steps

CONCEPTS = (
    ConceptSpec("<a>", tiny_images(3), "cat"),
    ConceptSpec("<b>", tiny_images(5, seed=1), "dog", num_vectors=2),
    ConceptSpec("<c>", tiny_images(2, seed=2), "clock"),
)
TOKENS = [concept.placeholder_token for concept in CONCEPTS]
# With these the three concepts stop at different steps, each with room to its threshold.
DVAR: dict[str, Any] = {
    **{"stopping": "dvar", "dvar_window": 6, "dvar_threshold": 0.15, "eval_steps": 1},
    **{"max_train_steps": 30, "learning_rate": 0.05, "max_concurrent_concepts": 2},
}


class Witness(Callback):
    """Remembers rows and planned steps after every step."""

    def __init__(self) -> None:
        self.rows: dict[int, torch.Tensor] = {}
        self.total_steps: list[int] = []

    def on_step(self, run: Run) -> None:
        self.rows[run.progress.done[0]] = run.learned()[0].vectors["clip_l"]
        self.total_steps.append(run.total_steps)


def session(out: Path, *concepts: ConceptSpec, callbacks: tuple[Callback, ...] = (), **settings: Any) -> TrainingResult:
    config = TextualInversionConfig(
        **{"output_dir": out, "train_batch_size": 2, "max_train_steps": 8, "logging_steps": 3, **settings}
    )
    return TextualInversionTrainer(config, concepts or CONCEPTS, pipeline=tiny_pipeline(), callbacks=callbacks).train()


def rows(path: Path) -> torch.Tensor:
    return load_concept(path).vectors["clip_l"]


def files(out: Path) -> dict[str, bytes]:
    """Every embedding file of a run; their metadata says which step and loss they are from."""
    return {str(file.relative_to(out)): file.read_bytes() for token in "abc" for file in (out / token).iterdir()}


def logged(out: Path) -> list[tuple[int, Any, Any]]:
    return [(line["step"], line["loss"], line["eval_loss"]) for line in read_step_log(out / "steps.jsonl")]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingResult]:
    """A run whose concepts all stop early, with the best rows as final files."""
    out = tmp_path_factory.mktemp("stopped") / "out"
    return out, session(out, keep="best", **DVAR)


@pytest.mark.parametrize("settings", [{"eval_steps": 1}, {"eval_steps": 3, "eval_batch_size": 7}, {"keep": "best"}])
def test_evaluating_changes_no_bit_of_what_is_trained(settings: dict[str, Any], tmp_path: Path) -> None:
    blind, watched = Witness(), Witness()
    without = session(tmp_path / "a", CONCEPTS[0], callbacks=(blind,), eval_steps=0)
    session(tmp_path / "b", CONCEPTS[0], callbacks=(watched,), **settings)
    assert list(blind.rows) == list(range(1, 9))
    assert all(watched.rows[step].equal(rows) for step, rows in blind.rows.items())
    assert without.eval_losses == {"<a>": ()} and without.best_steps == {}
    assert (
        not list((tmp_path / "a").glob("learned_embeds-*")) and "eval_loss" not in load_concept(tmp_path / "a").metadata
    )


def test_concepts_stop_early_each_for_itself(stopped: tuple[Path, TrainingResult]) -> None:
    out, result = stopped
    assert len(set(result.steps.values())) == 3 and max(result.steps.values()) < 30, result.steps
    for token, steps in result.steps.items():
        assert result.stop_reasons[token].startswith("dvar: variance ratio 0.")
        assert load_concept(out / token.strip("<>")).metadata["stopped"] == result.stop_reasons[token]
        assert [step for step, _ in result.eval_losses[token]] == list(range(1, steps + 1))
    # A concept that has stopped leaves its slot to the next one.
    done = read_step_log(out / "steps.jsonl")[-1]["step"]
    assert done == remaining_steps([0, 0, 0], list(result.steps.values()), 2) < sum(result.steps.values())


def test_together_or_alone_a_concept_stops_at_the_same_step(
    stopped: tuple[Path, TrainingResult], tmp_path: Path
) -> None:
    _, together = stopped
    for place, concept in enumerate(CONCEPTS):
        token = concept.placeholder_token
        alone = session(tmp_path / token[1], concept, keep="best", **DVAR)
        assert alone.steps[token] == together.steps[token] and alone.best_steps[token] == together.best_steps[token]
        losses = [[loss for _, loss in result.eval_losses[token]] for result in (alone, together)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        ours, theirs = (result.concepts[number].vectors["clip_l"] for result, number in ((alone, 0), (together, place)))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("last_step", [5, 12])
def test_a_run_with_stopping_resumes_exactly(
    last_step: int, stopped: tuple[Path, TrainingResult], tmp_path: Path
) -> None:
    out, whole = stopped
    with pytest.raises(Stop):
        session(tmp_path / "out", callbacks=(StopAfter(last_step),), checkpointing_steps=4, keep="best", **DVAR)
    result = session(tmp_path / "out", resume_from_checkpoint="latest", keep="best", **DVAR)
    assert files(tmp_path / "out") == files(out)
    assert logged(tmp_path / "out") == logged(out)
    for told in ("eval_losses", "steps", "best_steps", "stop_reasons", "losses"):
        assert getattr(result, told) == getattr(whole, told)


def test_resuming_a_stopped_run_trains_nothing_more_unless_the_rule_is_gone(
    stopped: tuple[Path, TrainingResult], tmp_path: Path
) -> None:
    out, whole = stopped
    folder = tmp_path / "out"
    again = {"resume_from_checkpoint": str(out), **DVAR}
    assert session(folder, callbacks=(StopAfter(1),), **again, keep="best").steps == whole.steps
    assert files(folder) == files(out)
    on = session(tmp_path / "on", **{**again, "stopping": "none", "max_train_steps": 21})
    assert set(on.steps.values()) == {21} and set(on.stop_reasons.values()) == {"max_train_steps"}


def test_the_planned_steps_become_fewer(tmp_path: Path) -> None:
    witness = Witness()
    result = session(tmp_path / "out", callbacks=(witness,), **DVAR)
    assert witness.total_steps[0] == 60, "two slots, three concepts, 30 steps each"
    assert witness.total_steps == sorted(witness.total_steps, reverse=True)
    assert (
        witness.total_steps[-1]
        == len(witness.total_steps)
        == remaining_steps([0, 0, 0], list(result.steps.values()), 2)
    )


@pytest.mark.parametrize("keep", ["best", "last"])
def test_best_rows_are_those_of_the_lowest_loss(keep: str, tmp_path: Path) -> None:
    """On one sample at a large learning rate the loss falls, then rises: the best step is not the last one."""
    witness, out = Witness(), tmp_path / "out"
    settings = {"max_train_steps": 29, "eval_steps": 2, "eval_batch_size": 1, "train_batch_size": 1, "keep": keep}
    settings["learning_rate"] = 0.3
    result = session(out, CONCEPTS[0], callbacks=(witness,), **settings)
    history = dict(result.eval_losses["<a>"])
    assert list(history) == [*range(2, 29, 2), 29]
    # Losses are those of the very rows, computed again from outside the run.
    again = tiny_run([CONCEPTS[0]])
    with again.adapter.attached():
        for step, loss in history.items():
            computed = again.step.evaluate(again.draws.fixed(0, 1), {"clip_l": witness.rows[step]})
            assert loss == pytest.approx(computed.item(), rel=1e-6)
    best = min(history, key=history.__getitem__)
    assert best not in (2, 29), "choose settings under which something is chosen"
    assert result.best_steps == {"<a>": best}
    final, other = (best, 29) if keep == "best" else (29, best)
    beside = "last" if keep == "best" else "best"
    for file, step in (
        (out, final),
        (out / "a.safetensors", final),
        (out / f"learned_embeds-{beside}.safetensors", other),
    ):
        assert rows(file).equal(witness.rows[step])
        told = load_concept(file).metadata
        assert (told["steps"], told["eval_loss"]) == (str(step), f"{history[step]:.6g}")
    assert result.concepts[0].vectors["clip_l"].equal(witness.rows[final])
    earlier = {}
    for file in out.glob("learned_embeds-best-of-*.safetensors"):
        among = int(file.stem.rpartition("-")[2])
        among_those = {step: loss for step, loss in history.items() if step <= among}
        earlier[among] = min(among_those, key=among_those.__getitem__)
        assert rows(file).equal(witness.rows[earlier[among]])
    assert set(earlier) <= {4, 8, 16} and earlier
    assert len({*earlier.values(), best, 29}) == len(earlier) + 2, "nothing is saved twice"


def test_a_progressive_word_is_judged_once_all_its_vectors_have_joined(tmp_path: Path) -> None:
    concept = ConceptSpec("<a>", tiny_images(3), "cat", num_vectors=2)
    plain = session(tmp_path / "plain", concept, keep="best", **DVAR)
    late = session(
        tmp_path / "late", concept, keep="best", **{**DVAR, "progressive_steps": "20", "max_train_steps": 60}
    )
    assert plain.steps["<a>"] < 20 and plain.steps["<a>"] + 6 <= late.steps["<a>"] < 60
    assert late.steps["<a>"] >= 26 and late.best_steps["<a>"] > 20
    assert late.concepts[0].num_vectors == 2
    (earlier,) = [file for file in (tmp_path / "late").glob("*-best-of-16.safetensors")]
    assert load_concept(earlier).num_vectors == 1


def test_plateau_stops_a_real_run(tmp_path: Path) -> None:
    settings = {"stopping": "plateau", "plateau_patience": 6, "plateau_threshold": 0.01, "eval_steps": 2}
    result = session(tmp_path / "out", CONCEPTS[0], max_train_steps=40, learning_rate=1e-4, **settings)
    assert result.steps == {"<a>": 8} and result.stop_reasons["<a>"].startswith("plateau: ")


def test_two_processes_stop_at_the_step_of_one(tmp_path: Path) -> None:
    settings = {**DVAR, "logging_steps": 1}
    alone = train_flags(tmp_path, **settings, train_batch_size=4, output_dir=tmp_path / "alone")
    assert main(alone) == 0
    launched = Launched(train_flags(tmp_path, **settings)[1:], tmp_path / "logs")
    assert launched.wait() == [0, 0], launched.log(0) + launched.log(1)
    one, two = (read_step_log(tmp_path / name / "steps.jsonl") for name in ("alone", "out"))
    assert len(one) == len(two) < 30, "steps done"
    evaluations = [[line["eval_loss"]["<tok>"][0][1] for line in log] for log in (one, two)]
    assert evaluations[0] == pytest.approx(evaluations[1], rel=1e-5)
    assert "stops at step" in launched.log(0) and "stops at step" not in launched.log(1)


def test_the_step_log_carries_every_evaluation_once(tmp_path: Path) -> None:
    result = session(tmp_path / "out", eval_steps=2, max_concurrent_concepts=1)
    found: dict[str, list[tuple[int, float]]] = {token: [] for token in TOKENS}
    for line in read_step_log(tmp_path / "out" / "steps.jsonl"):
        for token, pairs in line["eval_loss"].items():
            assert token in line["loss"]
            found[token] += [(step, loss) for step, loss in pairs]
    assert {token: tuple(pairs) for token, pairs in found.items()} == result.eval_losses
    assert all([step for step, _ in pairs] == [2, 4, 6, 8] for pairs in found.values())


def test_a_rule_that_does_not_exist_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="allowed: none, dvar, plateau"):
        session(tmp_path / "out", stopping="soon")
    assert not (tmp_path / "out").exists()
