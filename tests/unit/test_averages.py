"""Moving averages of rows against diffusers' EMAModel, and clipping against torch's."""

from __future__ import annotations

import torch
from diffusers.training_utils import EMAModel

from textual_inversion_ext.training.averages import RowAverages, clip_rows


def test_each_row_is_averaged_on_its_own_clock_as_diffusers_does() -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(2, 4, generator=generator)
    averages = RowAverages({"clip_l": first}, 0.8)
    parameters = [torch.nn.Parameter(first[row].clone()) for row in range(2)]
    oracles = [EMAModel([parameter], decay=0.8) for parameter in parameters]
    age = torch.zeros(2, dtype=torch.int64)
    for step in range(40):
        rows = torch.randn(2, 4, generator=generator)
        moved = torch.tensor([True, step >= 3 and step % 4 != 0])
        age += moved
        averages.update({"clip_l": rows}, age, moved)
        for row in range(2):
            if moved[row]:
                parameters[row].data.copy_(rows[row])
                oracles[row].step([parameters[row]])
    for row in range(2):
        torch.testing.assert_close(averages()["clip_l"][row], oracles[row].shadow_params[0])


def test_a_row_that_never_moved_is_its_own_average_even_beside_nan() -> None:
    first = torch.randn(2, 4)
    averages = RowAverages({"clip_l": first}, 0.9)
    for step in range(3):
        rows = torch.stack([torch.randn(4), torch.full((4,), float("nan"))])
        averages.update({"clip_l": rows}, torch.tensor([step + 1, 0]), torch.tensor([True, False]))
    assert torch.equal(averages()["clip_l"][1], first[1]) and averages()["clip_l"].isfinite().all()


def test_each_row_is_clipped_by_itself_as_torch_does() -> None:
    grad = torch.randn(3, 5) * torch.tensor([[0.01], [1.0], [100.0]])
    clipped = clip_rows(grad, 0.5)
    for row in range(3):
        parameter = torch.nn.Parameter(torch.zeros(5))
        parameter.grad = grad[row].clone()
        torch.nn.utils.clip_grad_norm_([parameter], 0.5)
        torch.testing.assert_close(clipped[row], parameter.grad)
    assert torch.equal(clipped[0], grad[0])


def test_a_broken_gradient_stays_broken_and_alone() -> None:
    grad = torch.ones(3, 2)
    grad[0, 0], grad[1, 0] = float("nan"), float("inf")
    clipped = clip_rows(grad, 1.0)
    assert not clipped[0].isfinite().all() and not clipped[1].isfinite().all() and clipped[2].isfinite().all()
