"""The invariants of a step hold with two text encoders and with UNets that paint into pictures."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.ranks import ranks, together
from tests.tiny import TinyRun, tiny_images, tiny_run
from tests.tiny_families import WIDTH_G, WIDTH_L, tiny_inpainting, tiny_sdxl, tiny_sdxl_inpainting
from textual_inversion_ext.concept import ConceptSpec

CORGI = ConceptSpec("<corgi>", tiny_images(3), "dog", num_vectors=2)
CLOCK = ConceptSpec("<clock>", tiny_images(4, seed=1), "clock", learnable_property="style")
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # see test_step.py

each_model = pytest.mark.parametrize("make", [tiny_sdxl, tiny_sdxl_inpainting, tiny_inpainting])


def trained(make: Any = tiny_sdxl, steps: int = 3, **settings: Any) -> TinyRun:
    run = tiny_run(pipeline=make(), **settings)
    run.steps(steps)
    return run


@each_model
def test_rows_move_and_the_networks_keep_every_bit(make: Any) -> None:
    pipeline = make()
    run = tiny_run(pipeline=pipeline)
    before = {
        name: {key: value.clone() for key, value in part.state_dict().items()}
        for name, part in pipeline.components.items()
        if isinstance(part, torch.nn.Module)
    }
    start = {key: rows.clone() for key, rows in run.step.rows().items()}
    run.steps(2)
    for key, rows in run.step.rows().items():
        assert (rows != start[key]).all() and rows.dtype == torch.float32
    assert all(log.finite.all() for log in run.logs)
    for name, state in before.items():
        after = pipeline.components[name].state_dict()
        assert list(after) == list(state) and all(torch.equal(after[key], value) for key, value in state.items())
        assert not any(p.requires_grad or p.grad is not None for p in pipeline.components[name].parameters())


def test_one_batch_of_4_is_4_accumulated_batches_of_1() -> None:
    whole, parts = trained(batch_size=4), trained(batch_size=1, accumulation=4)
    torch.testing.assert_close(whole.rows, parts.rows, **CLOSE)
    torch.testing.assert_close(whole.logs[-1].loss, parts.logs[-1].loss)


def test_two_concepts_together_are_each_alone() -> None:
    together = trained(specs=[CORGI, CLOCK])
    corgi, clock = trained(specs=[CORGI]), trained(specs=[CLOCK])
    assert together.rows.shape == (3, WIDTH_L + WIDTH_G)
    torch.testing.assert_close(together.rows, torch.cat([corgi.rows, clock.rows]), **CLOSE)
    torch.testing.assert_close(together.logs[-1].loss, torch.cat([corgi.logs[-1].loss, clock.logs[-1].loss]))


@each_model
def test_resumed_is_uninterrupted(make: Any) -> None:
    whole, first = trained(make, 4), trained(make, 2)
    second = tiny_run(pipeline=make())
    second.step.load_state_dict(first.step.state_dict())
    second.done = first.done
    second.steps(2)
    assert torch.equal(second.rows, whole.rows)


def test_a_frozen_row_keeps_every_bit_in_both_encoders() -> None:
    run = tiny_run([CORGI, CLOCK], pipeline=tiny_sdxl())
    run.steps(1)
    before = {key: value.clone() for key, value in run.step.state_dict().items() if key.startswith("parametrizations")}
    assert {key.split(".")[1] for key in before} == {"clip_l", "clip_g"}
    run.steps(1, frozen=[0])
    after = run.step.state_dict()
    assert all(torch.equal(after[key][0], value[0]) for key, value in before.items())
    assert run.step.age.tolist() == [1, 2, 2]


@pytest.mark.parametrize("key", ["clip_l", "clip_g"])
def test_only_the_chosen_encoder_learns(key: str) -> None:
    run = trained(encoders=key)
    (reader,) = run.adapter.readers
    assert list(run.step.rows()) == [key] != [reader.key]
    assert run.resident.prompt_ids[key].max() == run.adapter.slots[0].first_id + 1
    assert run.resident.prompt_ids[reader.key].max() < reader.first_id  # the name as plain text
    both = trained()
    assert not torch.allclose(run.rows, both.step.rows()[key], **CLOSE)


def test_where_a_prompt_is_pooled_is_felt_by_the_rows() -> None:
    assert not torch.equal(trained(pooling="end").rows, trained(pooling="diffusers").rows)


def test_two_processes_are_one() -> None:
    whole = trained(batch_size=2)
    runs = ranks(lambda **rank: tiny_run(pipeline=tiny_sdxl(), batch_size=1, **rank))
    together(runs, lambda run: run.steps(3))
    assert torch.equal(runs[0].rows, runs[1].rows)
    torch.testing.assert_close(runs[0].rows, whole.rows, **CLOSE)


def test_the_unet_is_told_how_large_the_pictures_were_and_where_they_were_cut() -> None:
    wide = [image.resize((40, 24)) for image in tiny_images(2)]
    run = tiny_run([ConceptSpec("<corgi>", wide, "dog")], pipeline=tiny_sdxl())
    told: list[torch.Tensor] = []
    run.adapter.denoiser.register_forward_pre_hook(
        lambda _, __, named: told.append(named["added_cond_kwargs"]["time_ids"]), with_kwargs=True
    )
    run.steps(1)
    # 24 of 40 columns, from the 8th on, became 16: the cut is in pixels of the picture that was made smaller.
    assert told[0].tolist() == [[24, 40, 0, 5, 16, 16]] * 2 and told[0].dtype == torch.float32
