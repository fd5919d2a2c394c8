"""The loss scale of float16 networks."""

from __future__ import annotations

import torch

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
