"""Rows with their own clocks, against torch's AdamW."""

from __future__ import annotations

import pytest
import torch

from textual_inversion_ext.parametrizations import FreeRows, UpdateSettings

STEPS = 12


def torch_trajectory(
    initial: torch.Tensor, grads: list[torch.Tensor], lrs: list[float], settings: UpdateSettings
) -> torch.Tensor:
    parameter = torch.nn.Parameter(initial.clone())
    betas = (settings.beta1, settings.beta2)
    optimizer = torch.optim.AdamW([parameter], betas=betas, eps=settings.epsilon, weight_decay=settings.weight_decay)
    for grad, lr in zip(grads, lrs, strict=True):
        optimizer.param_groups[0]["lr"] = lr
        parameter.grad = grad.clone()
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize(
    "settings",
    [
        UpdateSettings(),
        UpdateSettings(weight_decay=1e-2),
        UpdateSettings(beta1=0.5, beta2=0.9, epsilon=1e-4),
        UpdateSettings(beta1=0.0),
    ],
)
def test_each_row_is_torch_adamw_on_its_own_clock(settings: UpdateSettings) -> None:
    generator = torch.Generator().manual_seed(0)
    initial = torch.randn(3, 5, generator=generator)
    grads = [torch.randn(3, 5, generator=generator) * 10.0 ** (step % 3 - 2) for step in range(STEPS)]
    # Row 1 starts late, row 2 pauses: what torch would do is an optimizer of its own for each row.
    active = [[True, step >= 5, step % 3 != 1] for step in range(STEPS)]
    lrs = [[1e-2, 5e-3 * (step + 1), 1e-1] for step in range(STEPS)]
    rows = FreeRows(initial, settings)
    for grad, lr, on in zip(grads, lrs, active, strict=True):
        rows.update(grad, torch.tensor(lr), torch.tensor(on))
    for row in range(3):
        taken = [step for step in range(STEPS) if active[step][row]]
        expected = torch_trajectory(
            initial[row], [grads[step][row] for step in taken], [lrs[step][row] for step in taken], settings
        )
        torch.testing.assert_close(rows()[row], expected, rtol=2e-6, atol=1e-7)
        assert rows.age[row] == len(taken)


def test_many_steps_do_not_drift() -> None:
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(1, 4, generator=generator) for _ in range(1000)]
    rows = FreeRows(torch.zeros(1, 4))
    for grad in grads:
        rows.update(grad, torch.tensor([5e-3]), torch.tensor([True]))
    expected = torch_trajectory(torch.zeros(1, 4), grads, [5e-3] * 1000, UpdateSettings())
    torch.testing.assert_close(rows(), expected, rtol=1e-5, atol=1e-6)
