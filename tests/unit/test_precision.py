"""Half precision: the loss scale of float16 networks, and rows that stay float32."""

from __future__ import annotations

import pytest
import torch

from tests.tiny import tiny_run
from tests.tiny_families import tiny_sdxl
from textual_inversion_ext.training.precision import LossScale

TRUE, FALSE = torch.tensor([True, True]), torch.tensor([False, False])


def test_it_falls_and_grows_for_each_concept_apart() -> None:
    scale = LossScale(2, enabled=True, initial=8.0, growth_interval=3)
    assert not scale.update(TRUE, torch.tensor([True, False])).any()
    assert scale.scale.tolist() == [4.0, 8.0]
    for _ in range(2):
        scale.update(TRUE, FALSE)
    assert scale.scale.tolist() == [4.0, 16.0]
    scale.update(torch.tensor([True, False]), FALSE)
    assert scale.scale.tolist() == [8.0, 16.0]


def test_an_overflow_that_no_scale_cures_is_reported() -> None:
    scale = LossScale(2, enabled=True, initial=2.0)
    overflow = torch.tensor([True, False])
    assert scale.update(TRUE, overflow).tolist() == [False, False]
    assert scale.update(TRUE, overflow).tolist() == [True, False]


def test_scaling_is_undone() -> None:
    scale = LossScale(2, enabled=True, initial=8.0)
    scale.update(TRUE, torch.tensor([False, True]))
    assert scale.scaled(torch.ones(2), torch.tensor([1, 0])).tolist() == [4.0, 8.0]
    assert scale.unscaled(torch.full((3, 1), 8.0), torch.tensor([0, 1, 1])).flatten().tolist() == [1.0, 2.0, 2.0]


def test_without_float16_it_does_nothing() -> None:
    scale = LossScale(2, enabled=False)
    assert scale.update(TRUE, torch.tensor([True, False])).tolist() == [True, False]
    assert scale.scale.tolist() == [1.0, 1.0]


def test_float16_scales_the_loss_of_two_encoders_alike() -> None:
    """One scale a concept: an overflow in either encoder holds both back, and a smaller scale lets both go on."""
    run = tiny_run(pipeline=tiny_sdxl(), dtype=torch.float16)
    full = tiny_run(pipeline=tiny_sdxl())
    start = {key: rows.clone() for key, rows in run.step.rows().items()}
    run.step.loss_scale.scale.fill_(2.0**24)  # the gradients of this tiny model leave float16 there
    run.steps(1)
    assert not run.logs[0].finite.any() and run.logs[0].loss.isfinite().all()
    assert all(torch.equal(rows, start[key]) for key, rows in run.step.rows().items())
    assert run.step.age.tolist() == [0, 0] and run.step.loss_scale.scale.tolist() == [2.0**23]
    run.step.loss_scale.scale.fill_(2.0**8)
    run.steps(2)
    full.steps(2)
    assert all(log.finite.all() for log in run.logs) and run.step.first_bad_step.tolist() == [-1]
    torch.testing.assert_close(run.logs[0].loss, full.logs[0].loss, rtol=0.5, atol=0)
    state = {key: value for key, value in run.step.parametrizations.state_dict().items() if not key.endswith("age")}
    assert {value.dtype for value in state.values()} == {torch.float32}
    for key, rows in run.step.rows().items():
        assert rows.dtype == torch.float32 and (rows != start[key]).any(1).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_networks_learn_what_full_ones_learn(dtype: torch.dtype) -> None:
    half, full = tiny_run(pipeline=tiny_sdxl(), dtype=dtype), tiny_run(pipeline=tiny_sdxl())
    starts = half.rows, full.rows
    half.steps(1)
    full.steps(1)
    torch.testing.assert_close(half.logs[0].loss, full.logs[0].loss, rtol=2e-2, atol=0)
    # Adam's first step is the learning rate with the gradient's sign.
    agreement = (torch.sign(half.rows - starts[0]) == torch.sign(full.rows - starts[1])).float().mean()
    assert agreement > 0.9
