"""Who does what when a run has several processes, and how their files become one run's again."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import tiny_images, tiny_pipeline, tiny_run
from textual_inversion_ext import (
    CheckpointError,
    ConceptSpec,
    ConfigError,
    TextualInversionConfig,
    TextualInversionTrainer,
)
from textual_inversion_ext.training import interrupt
from textual_inversion_ext.training.interrupt import InterruptGuard
from textual_inversion_ext.training.outputs import RunFolder
from textual_inversion_ext.training.parts import load_parts
from textual_inversion_ext.training.processes.division import are_split, deal, launch_notices
from textual_inversion_ext.training.processes.gathering import join_step_logs
from textual_inversion_ext.training.state import (
    LESSONS,
    Part,
    Progress,
    find_checkpoint,
    newest_parts,
    read_checkpoint,
    save_checkpoint,
)

FACTS = {
    **{"concepts": [["<a>", 1], ["<b>", 2], ["<c>", 1]], "parametrization": "free", "optimizer": "AdamW", "seed": 0},
    **{"lora_rank": 0, "lora_text_encoder_rank": 0, LESSONS: {}},
}


@pytest.mark.parametrize(
    ("distribute", "concepts", "processes", "split"),
    [
        ("auto", 1, 1, False),
        ("auto", 9, 1, False),
        ("concepts", 9, 1, False),
        ("auto", 1, 2, False),
        ("auto", 2, 2, True),
        ("auto", 2, 3, False),
        ("concepts", 3, 3, True),
        ("batch", 64, 2, False),
    ],
)
def test_concepts_are_split_when_every_process_gets_one(
    distribute: Any, concepts: int, processes: int, split: bool
) -> None:
    assert are_split(distribute, concepts, processes) is split


def test_more_processes_than_concepts_cannot_split_them() -> None:
    with pytest.raises(ConfigError, match="at most 2, or say --distribute batch"):
        are_split("concepts", 2, 3)


@pytest.mark.parametrize(("concepts", "processes"), [(2, 2), (3, 2), (64, 8), (65, 8), (5, 3)])
def test_everybody_gets_a_fair_share(concepts: int, processes: int) -> None:
    shares = deal(concepts, processes)
    assert sorted(place for share in shares for place in share) == list(range(concepts))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1 and min(map(len, shares)) >= 1


def test_the_main_process_gets_what_it_shows() -> None:
    assert deal(4, 2, first=[3]) == ((1, 3), (0, 2))
    assert deal(4, 2, first=[1, 2, 3]) == ((1, 2), (0, 3)), "but no more than its share"


def test_each_process_draws_noise_of_its_own() -> None:
    """All of it together is what one process draws."""
    (whole,) = tiny_run(batch_size=4).draws.draw((0,), (5,))
    parts = [tiny_run(batch_size=2, world_size=2, rank=rank).draws.draw((0,), (5,))[0] for rank in range(2)]
    assert not torch.equal(parts[0].noise, parts[1].noise) and not torch.equal(parts[0].u, parts[1].u)
    for name in ("noise", "posterior_noise", "u", "image", "prompt"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


@pytest.mark.parametrize(
    ("environment", "settings", "words"),
    [
        ({}, {}, []),
        ({"ACCELERATE_MIXED_PRECISION": "no"}, {"mixed_precision": "bf16"}, []),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, {"mixed_precision": "bf16"}, []),
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, {}, ["mixed_precision fp16; this run uses --mixed_precision no"]),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, {}, ["gradient_accumulation_steps 4"]),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, {}, ["does not compile"]),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, {}, ["DEEPSPEED"]),
    ],
)
def test_what_accelerate_is_told_otherwise_is_mentioned(
    environment: dict[str, str], settings: dict[str, Any], words: list[str]
) -> None:
    notices = launch_notices(TextualInversionConfig(**settings), environment)
    assert len(notices) == len(words) and all(word in notice for word, notice in zip(words, notices, strict=True))


def part(done: dict[str, int], step: int, **facts: Any) -> Part:
    """The state of some concepts; every number in it says whose it is."""
    rows = {token: 2 if token == "<b>" else 1 for token in done}
    owners = [token for token, count in rows.items() for _ in range(count)]
    tensors = {
        "rows": torch.tensor([[float(ord(token[1])), float(done[token])] for token in owners]),
        "age": torch.tensor([done[token] for token in owners]),
        "scale": torch.tensor([100.0 + done[token] for token in done]),
    }
    counts, evaluated = [1] * len(done), [[(have, 0.5)] for have in done.values()]
    progress = Progress(step, list(done.values()), counts, evaluated, seconds=float(step))
    return Part(rows, tensors, progress, {**FACTS, **facts})


def test_long_histories_are_short_in_a_checkpoint_and_come_back_bit_for_bit(tmp_path: Path) -> None:
    generator, many = torch.Generator().manual_seed(0), 500
    losses = [(torch.rand(many, generator=generator) * 10.0**power).tolist() for power in (-30, -2, 0, 30)]
    losses[0][:3] = torch.tensor([math.inf, 0.0, 1e-45]).tolist()
    histories = [[(10 * number, loss) for number, loss in enumerate(own, start=1)] for own in losses]
    progress = Progress(5000, [5000] * 4, [0] * 4, histories)
    save_checkpoint(tmp_path / "checkpoint-5000", Part(dict.fromkeys("abcd", 1), {}, progress, FACTS))
    file = tmp_path / "checkpoint-5000" / "state.json"
    assert file.stat().st_size < 4 * many * 21 + 1000
    assert json.loads(file.read_text())["done"] == [5000] * 4
    assert read_checkpoint(file.parent).progress == progress


def test_checkpoints_are_taken_apart_and_put_together(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "process-0" / "checkpoint-4", part({"<a>": 4, "<c>": 3}, 4))
    save_checkpoint(tmp_path / "process-0" / "checkpoint-9", part({"<a>": 9, "<c>": 8}, 9))
    save_checkpoint(tmp_path / "process-1" / "checkpoint-6", part({"<b>": 6}, 6))
    assert find_checkpoint("latest", tmp_path) == tmp_path
    assert [path.name for path in newest_parts(tmp_path)] == ["checkpoint-9", "checkpoint-6"]
    fresh = part({"<a>": 0, "<b>": 0, "<c>": 0}, 0)
    state, changed = load_parts(tmp_path, fresh)
    assert changed == [] and state.progress == part({"<a>": 9, "<b>": 6, "<c>": 8}, 9).progress
    expected = part({"<a>": 9, "<b>": 6, "<c>": 8}, 9).tensors
    assert all(torch.equal(state.tensors[name], tensor) for name, tensor in expected.items())
    alone, _ = load_parts(tmp_path, part({"<c>": 0}, 0))
    assert alone.progress.done == [8] and alone.tensors["rows"].tolist() == [[ord("c"), 8]]


def test_the_state_that_has_come_furthest_is_the_newest(tmp_path: Path) -> None:
    """Two processes, interrupted; then one process, which was killed before its next checkpoint but one."""
    save_checkpoint(tmp_path / "process-0" / "checkpoint-9", part({"<a>": 9, "<c>": 8}, 9))
    save_checkpoint(tmp_path / "process-1" / "checkpoint-6", part({"<b>": 6}, 6))
    save_checkpoint(tmp_path / "checkpoint-12", part({"<a>": 12, "<b>": 9, "<c>": 11}, 12))
    state, _ = load_parts(tmp_path, part({"<a>": 0, "<b>": 0, "<c>": 0}, 0))
    assert state.progress.done == [12, 9, 11] and state.tensors["age"].tolist() == [12, 9, 9, 11]


def test_a_concept_without_a_checkpoint_starts_from_the_beginning(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "process-0" / "checkpoint-9", part({"<a>": 9, "<c>": 8}, 9))
    state, changed = load_parts(tmp_path, part({"<a>": 0, "<b>": 0, "<c>": 0}, 0))
    assert state.progress.done == [9, 0, 8] and state.tensors["age"].tolist() == [9, 0, 0, 8]
    assert "knows nothing of <b>" in changed[0]


def test_what_belongs_to_all_concepts_cannot_be_taken_apart(tmp_path: Path) -> None:
    for number, (token, value) in enumerate((("<a>", 1.0), ("<c>", 2.0))):
        one = part({token: 3}, 3)
        one.tensors["common"] = torch.full((7,), value)  # type: ignore[index]
        save_checkpoint(tmp_path / f"process-{number}" / "checkpoint-3", one)
    fresh = part({"<a>": 0, "<c>": 0}, 0)
    fresh.tensors["common"] = torch.zeros(7)  # type: ignore[index]
    with pytest.raises(CheckpointError, match=r"common belongs to all .* as many processes"):
        load_parts(tmp_path, fresh)


def test_checkpoints_of_another_run_are_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint-3", part({"<a>": 3}, 3, concepts=[["<a>", 1]]))
    with pytest.raises(CheckpointError, match="its concepts"):
        load_parts(tmp_path / "checkpoint-3", part({"<a>": 0}, 0))
    save_checkpoint(tmp_path / "checkpoint-4", part({"<a>": 4}, 4, seed=1))
    assert load_parts(tmp_path / "checkpoint-4", part({"<a>": 0}, 0))[1] == ["seed was 1 and is now 0"]


@pytest.mark.parametrize(
    "settings",
    [
        {"ema_decay": 0.9, "mixed_precision": "fp16", "keep": "best"},
        {"parametrization": "directional"},
        {"optimizer": "torch.optim.SGD", "optimizer_args": '{"momentum": 0.9}'},
        {"per_image_tokens": True},
    ],
)
def test_every_tensor_of_a_checkpoint_counts_rows_or_concepts(settings: dict[str, Any], tmp_path: Path) -> None:
    """So that it can be taken apart."""
    specs = [ConceptSpec(f"<{name}>", tiny_images(2), "cat", num_vectors=5) for name in "abc"]
    config = TextualInversionConfig(
        **{"output_dir": tmp_path, "max_train_steps": 2, "train_batch_size": 1, "eval_steps": 1, **settings}
    )
    TextualInversionTrainer(config, specs, pipeline=tiny_pipeline()).train()
    state = read_checkpoint(tmp_path / "checkpoint-2")
    sizes = {name: tuple(tensor.shape) for name, tensor in state.tensors.items()}
    assert {size[0] for size in sizes.values()} == {3, sum(state.rows.values())}, sizes
    alone, _ = load_parts(tmp_path, Part({"<b>": state.rows["<b>"]}, state.tensors, Progress(), state.facts))
    assert alone.progress.done == [2]


def test_step_logs_are_joined(tmp_path: Path) -> None:
    def entry(step: int, **loss: float) -> dict[str, Any]:
        return {"step": step, "loss": loss, "seconds": step * 2.0, "samples_per_second": 5.0}

    before = [entry(2, a=1.0, b=2.0, c=3.0)]
    logs = {
        tmp_path: before,
        tmp_path / "process-0": [entry(4, a=0.9), entry(6, a=0.8)],
        tmp_path / "process-1": [{**entry(4, b=1.9), "seconds": 11.0}],
    }
    for folder, entries in logs.items():
        folder.mkdir(exist_ok=True)
        (folder / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in entries))
    folder = RunFolder(tmp_path, [ConceptSpec(token, tmp_path) for token in ("<a>", "<b>", "<c>")])
    joined = [*before, {**entry(4, a=0.9, b=1.9), "seconds": 11.0, "samples_per_second": 10.0}, entry(6, a=0.8)]
    assert join_step_logs(folder) == joined
    assert join_step_logs(folder) == joined, "joining again changes nothing"
    folder.drop_process_step_logs()
    assert join_step_logs(folder) == joined


def test_the_echo_of_a_signal_is_not_a_second_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    with InterruptGuard() as guard:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert guard.requested
    monkeypatch.setattr(interrupt, "ECHO_SECONDS", 0.0)
    with InterruptGuard() as guard, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
        assert guard.requested
        signal.raise_signal(signal.SIGINT)


def test_going_on_leaves_alone_what_other_processes_wrote(tmp_path: Path) -> None:
    """Steps of two processes that train concepts of their own are not the same steps."""
    concepts = [ConceptSpec(token, tmp_path) for token in ("<a>", "<b>")]
    files = {
        token: tmp_path / token / f"learned_embeds-steps-{step}.safetensors" for token, step in (("a", 4), ("b", 24))
    }
    for file in files.values():
        file.parent.mkdir()
        file.write_bytes(b"rows")
    RunFolder(tmp_path, concepts, 0).drop_later(3, ["<a>"])
    assert [file.exists() for file in files.values()] == [False, True]


def test_going_back_to_a_checkpoint_of_other_processes_drops_what_came_after_it(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "state.json").write_text("{}")
    (tmp_path / "steps.jsonl").touch()
    folder = RunFolder(tmp_path, [ConceptSpec(token, tmp_path) for token in ("<a>", "<b>")])
    assert folder.drop_after(tmp_path / "checkpoint-2") == (tmp_path / "steps.jsonl", 2)
    assert [place.name for place in folder.checkpoints()] == ["checkpoint-2"]
    assert folder.drop_after(tmp_path) is None and folder.drop_after(tmp_path.parent / "other" / "checkpoint-2") is None
