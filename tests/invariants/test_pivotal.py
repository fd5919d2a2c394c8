"""Ways of training a LoRA beside the word that must give the same, and what must never change."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file

from tests.pivotal_runs import (
    PIPELINES,
    Seen,
    assert_same_files,
    everything,
    load_plainly,
    plain_answers,
    rows_of,
    trained,
)
from tests.ranks import ranks, together
from tests.runs import Stop, StopAfter
from tests.tiny import TinyRun, tiny_pipeline, tiny_run
from textual_inversion_ext import TextualInversionConfig
from textual_inversion_ext.errors import TrainingDiverged
from textual_inversion_ext.pipelines.lora import LORA_FILE
from textual_inversion_ext.training.callbacks import Callback, Run
from textual_inversion_ext.training.pivotal.settings import make_networks


def with_lora(config: TextualInversionConfig, world_size: int = 1, **settings: Any) -> TinyRun:
    """A run of the bare step whose loop has just begun."""
    run = tiny_run(world_size=world_size, config=config, **settings)
    run.step.networks = make_networks(config, run.adapter, [9], world_size)
    run.done = 1  # the loop counts steps from 1
    return run


def weights(run: TinyRun) -> torch.Tensor:
    assert run.step.networks is not None
    return torch.cat([part for name, part in run.step.networks.state_dict().items() if name.endswith("weights")], 1)


@pytest.mark.parametrize("kind", PIPELINES)
@pytest.mark.parametrize("ends_early", [False, True])
def test_the_pipeline_is_left_as_it_was(kind: str, ends_early: bool, tmp_path: Path) -> None:
    pipeline = PIPELINES[kind]()
    pipeline.unet.requires_grad_(False)
    before = everything(pipeline)
    settings = {"lora_rank": 2, "lora_text_encoder_rank": 2, "gradient_checkpointing": True}
    if ends_early:
        with pytest.raises(Stop):
            trained(tmp_path, pipeline, (StopAfter(3),), **settings)
    else:
        trained(tmp_path, pipeline, **settings)
    after = everything(pipeline)
    for name, (tensors, modules, _, had_adapters) in before.items():
        assert list(after[name][0]) == list(tensors)
        assert all(torch.equal(after[name][0][key], value) for key, value in tensors.items())
        assert after[name][1] == modules and after[name][2] == [] and after[name][3] == had_adapters is False


def test_gradient_checkpointing_changes_nothing(tmp_path: Path) -> None:
    both = {"lora_rank": 2, "lora_text_encoder_rank": 2}
    trained(tmp_path / "plain", **both)
    trained(tmp_path / "saving", **both, gradient_checkpointing=True)
    assert_same_files(tmp_path / "plain", tmp_path / "saving")


@pytest.mark.parametrize("step", [2, 4])
def test_resumed_is_uninterrupted(step: int, tmp_path: Path) -> None:
    settings = {"lora_rank": 2, "lora_text_encoder_rank": 2, "lora_start": 0.5, "continue_inversion_lr": 1e-3}
    settings |= {"checkpointing_steps": 2, "lr_scheduler": "linear"}
    trained(tmp_path / "whole", **settings)
    with pytest.raises(Stop):
        trained(tmp_path / "parts", callbacks=(StopAfter(step + 1),), **settings)
    assert not (tmp_path / "parts" / LORA_FILE).exists()
    trained(tmp_path / "parts", **settings, resume_from_checkpoint="latest")
    assert_same_files(tmp_path / "whole", tmp_path / "parts")


def test_accumulated_batches_are_one_batch(tmp_path: Path) -> None:
    settings = {"lora_rank": 2, "lora_text_encoder_rank": 2, "adam_epsilon": 1e-4}
    trained(tmp_path / "whole", **settings, train_batch_size=4)
    trained(tmp_path / "parts", **settings, train_batch_size=1, gradient_accumulation_steps=4)
    assert_same_files(tmp_path / "whole", tmp_path / "parts", rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_networks_train_a_float32_lora(precision: str, tmp_path: Path) -> None:
    seen = Seen()
    both = {"lora_rank": 2, "lora_text_encoder_rank": 2}
    trained(tmp_path / "half", callbacks=(seen,), mixed_precision=precision, **both)
    trained(tmp_path / "full", **both)
    half, full = load_file(tmp_path / "half" / LORA_FILE), load_file(tmp_path / "full" / LORA_FILE)
    assert {tensor.dtype for tensor in half.values()} == {torch.float32}
    ups = [name for name in half if name.endswith("up.weight")]  # they start at zero
    assert all(half[name].abs().sum() > 0 and half[name].isfinite().all() for name in ups)
    likeness = torch.cosine_similarity(*(torch.cat([file[n].flatten() for n in ups]) for file in (half, full)), dim=0)
    assert likeness > 0.9
    loaded = plain_answers(load_plainly(tiny_pipeline(), tmp_path / "half"))
    torch.testing.assert_close(loaded[-1], seen.answers[-1].float(), rtol=0.05, atol=0.05)


def test_a_step_that_is_not_finite_moves_neither(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()

    class Breaker(Callback):
        def on_step(self, run: Run) -> None:
            if run.progress.step == 3:
                next(pipeline.unet.parameters()).data.fill_(math.nan)

    settings = {"lora_rank": 2, "lr_scheduler": "constant", "checkpointing_steps": 1}
    with pytest.raises(TrainingDiverged, match="<tok> at step 4"):
        trained(tmp_path / "broken", pipeline, (Breaker(),), **settings)
    trained(tmp_path / "good", **settings, max_train_steps=3)
    assert_same_files(tmp_path / "broken", tmp_path / "good")


def one_update(run: TinyRun, gradient: float) -> None:
    """One update from gradients that are the same number everywhere."""
    assert run.step.networks is not None
    grads = {"clip_l": torch.ones(2, 16), "unet": torch.full_like(weights(run), gradient)}
    run.step._update((0,), grads, torch.ones(1), torch.full((2,), 0.1), torch.ones(2, dtype=torch.bool))


def test_a_gradient_of_the_lora_that_is_not_finite_holds_back_the_word_too() -> None:
    run = with_lora(TextualInversionConfig(lora_rank=2))
    rows, lora = run.rows, weights(run)
    one_update(run, math.inf)
    assert torch.equal(run.rows, rows) and torch.equal(weights(run), lora)
    assert run.step.diverged() == {0: 1} and run.step.age.tolist() == [0, 0]
    one_update(run, 1.0)
    assert torch.equal(run.rows, rows) and torch.equal(weights(run), lora), "neither moves again"
    good = with_lora(TextualInversionConfig(lora_rank=2))
    one_update(good, 1.0)
    assert not torch.equal(good.rows, rows) and not torch.equal(weights(good), lora)


def test_the_gradient_of_a_network_is_clipped_as_a_row_is() -> None:
    clipped = with_lora(TextualInversionConfig(lora_rank=2, max_grad_norm=0.5))
    one_update(clipped, 10.0)
    moment = clipped.step.state_dict()["networks.loras.unet.optimizer.exp_avg"]
    torch.testing.assert_close(moment.norm(), torch.tensor(0.1 * 0.5))


@pytest.mark.parametrize("more", [{}, {"lora_text_encoder_rank": 2}, {"initial_l2_weight": 1.0}], ids=str)
def test_rows_that_stay_are_not_differentiated_and_the_lora_does_not_notice(more: dict[str, Any]) -> None:
    """Beside a word that is at rest by its phase, and one that is differentiated but moves by nothing."""
    differentiated: list[bool] = []

    def watch(module: Any, inputs: Any, output: Any) -> None:
        differentiated.append(output[0].requires_grad)

    loras = []
    for phase in ({"train_text_encoder_ti_frac": 2 / 9}, {}):
        run = with_lora(
            TextualInversionConfig(lora_rank=2, lora_learning_rate=1e-2, text_encoder_lr=1e-2, **phase, **more)
        )
        networks = run.step.networks
        assert networks is not None
        differentiated.clear()
        handle = run.adapter.slots[0].text_encoder.register_forward_hook(watch)
        with networks.attached():
            run.steps(2)
            run.steps(3, lr=0.0)
        handle.remove()
        loras.append((run.rows, weights(run)))
        expected = [True] * 5 if more or not phase else [True, True, False, False, False]
        assert differentiated == expected
    for ours, theirs in zip(*loras, strict=True):
        assert torch.equal(ours, theirs)


def test_a_lora_that_blows_up_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged):
        trained(tmp_path, lora_rank=2, lora_learning_rate=3e38, max_train_steps=10)
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / LORA_FILE).values())


def test_it_moves_as_a_training_script_with_peft_and_adamw_moves_it() -> None:
    """The oracle: diffusers' own `add_adapter`, torch's AdamW, and the loss written down again."""
    config = TextualInversionConfig(lora_rank=2, lora_alpha=4.0, lora_learning_rate=1e-3, lr_scheduler="constant")
    ours, theirs = with_lora(config), tiny_run()
    networks = ours.step.networks
    assert networks is not None
    (first,) = networks.parts()  # alpha is multiplied in, and B is zero: A is as it will be used
    pipeline = theirs.adapter.pipeline
    layers = list(theirs.adapter.lora_layers)
    pipeline.unet.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=layers, init_lora_weights="gaussian"))
    parameters = {
        name.replace(".default.", "."): value for name, value in pipeline.unet.named_parameters() if "lora_" in name
    }
    assert set(parameters) == set(first.weights)
    for name, value in parameters.items():
        value.data.copy_(first.weights[name])
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-3, weight_decay=1e-2)
    rows = theirs.step.rows()
    with networks.attached():
        ours.steps(3, lr=0.0)
    with theirs.adapter.attached():
        for step in range(1, 4):
            (draws,) = theirs.draws.draw((0,), [step])
            batch = theirs.resident.gather(draws)
            objective = theirs.adapter.objective
            noised = objective.noise(batch.latents, draws.noise, objective.sample_timesteps(draws.u))
            hidden_states = theirs.adapter.encode(batch.ids, rows).hidden_states
            prediction = pipeline.unet(noised.latents, noised.timesteps, hidden_states)[0]
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(prediction, noised.target).backward()
            optimizer.step()
    (last,) = networks.parts()
    for name, value in last.weights.items():
        expected = parameters[name].detach() * (2 if "lora_B" in name else 1)
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)


def test_two_processes_are_one() -> None:
    config = TextualInversionConfig(lora_rank=2, lora_text_encoder_rank=2, lora_learning_rate=1e-2, adam_epsilon=1e-4)
    whole = with_lora(config, batch_size=2, accumulation=2)
    runs = ranks(lambda **rank: with_lora(config, batch_size=1, accumulation=2, **rank))
    assert torch.equal(weights(runs[0]), weights(runs[1])) and torch.equal(weights(runs[0]), weights(whole))
    with ExitStack() as stack:
        for run in (whole, *runs):
            assert run.step.networks is not None
            stack.enter_context(run.step.networks.attached())
        whole.steps(4)
        together(runs, lambda run: run.steps(4))
    assert torch.equal(weights(runs[0]), weights(runs[1]))
    torch.testing.assert_close(weights(runs[0]), weights(whole), rtol=1e-3, atol=1e-5)


def test_no_rank_is_no_lora(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trained(tmp_path / "plain", lora_learning_rate=1e-4, text_encoder_lr=1e-5)
    assert "LoRA" not in caplog.text
    trained(tmp_path / "off", lora_rank=0, lora_alpha=3.0, lora_start=0.5, continue_inversion_lr=0.0)
    assert "lora_alpha" in caplog.text and "continue_inversion_lr" in caplog.text
    assert rows_of(tmp_path / "plain").equal(rows_of(tmp_path / "off"))
    assert not list(tmp_path.rglob("pytorch_lora*"))
    tensors = load_file(next((tmp_path / "off").glob("checkpoint-*")) / "state.safetensors")
    assert not any("lora" in name for name in tensors)
