"""Directional rows against a straightforward SphericalSGD, one row at a time."""

from __future__ import annotations

import pytest
import torch

from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.parametrizations import DirectionalRows, UpdateSettings

STEPS = 15


def reference(
    initial: torch.Tensor, grads: list[torch.Tensor], lrs: list[float], settings: UpdateSettings, magnitude: float
) -> torch.Tensor:
    """The released algorithm in float64, by autograd at the direction."""
    direction = (initial / initial.norm()).double().requires_grad_(True)
    centre, second_moment = direction.detach().clone(), torch.zeros((), dtype=torch.float64)
    for step, (grad, lr) in enumerate(zip(grads, lrs, strict=True), start=1):
        (slope,) = torch.autograd.grad((magnitude * direction * grad.double()).sum(), direction)
        with torch.no_grad():
            slope = slope - settings.kappa * centre
            slope = slope - slope.dot(direction) * direction
            second_moment = settings.direction_beta * second_moment + (1 - settings.direction_beta) * slope.dot(slope)
            unbiased = second_moment / (1 - settings.direction_beta**step)
            direction -= lr * slope / (unbiased.sqrt() + 1e-8)
            direction /= direction.norm()
    return (magnitude * direction).detach().float()


@pytest.mark.parametrize("beta", [0.0, 0.99])
@pytest.mark.parametrize("kappa", [0.0, 1e-4, 0.5])
def test_each_row_is_spherical_sgd_on_its_own_clock(kappa: float, beta: float) -> None:
    generator = torch.Generator().manual_seed(0)
    initial = torch.randn(3, 5, generator=generator)
    grads = [torch.randn(3, 5, generator=generator) * 10.0 ** (step % 3 - 2) for step in range(STEPS)]
    active = [[True, step >= 5, step % 3 != 1] for step in range(STEPS)]
    lrs = [[1e-2, 5e-3 * (step + 1), 1e-1] for step in range(STEPS)]
    settings = UpdateSettings(kappa=kappa, direction_beta=beta, magnitude=0.4)
    rows = DirectionalRows(initial, settings)
    for grad, lr, on in zip(grads, lrs, active, strict=True):
        rows.update(grad, torch.tensor(lr), torch.tensor(on))
    for row in range(3):
        taken = [step for step in range(STEPS) if active[step][row]]
        own_grads, own_lrs = [grads[step][row] for step in taken], [lrs[step][row] for step in taken]
        expected = reference(initial[row], own_grads, own_lrs, settings, 0.4)
        torch.testing.assert_close(rows()[row], expected, rtol=1e-5, atol=1e-6)


def test_the_norm_is_constant() -> None:
    rows = DirectionalRows(torch.randn(4, 768), UpdateSettings(magnitude=0.39))
    for _ in range(500):
        rows.update(torch.randn(4, 768), torch.full((4,), 0.04), torch.ones(4, dtype=torch.bool))
        assert (rows().double().norm(dim=1) - 0.39).abs().max() < 1e-6


def test_without_a_magnitude_rows_keep_their_own_norm() -> None:
    initial = torch.randn(3, 16) * torch.tensor([[0.1], [1.0], [5.0]])
    rows = DirectionalRows(initial)
    torch.testing.assert_close(rows(), initial)
    rows.update(torch.randn(3, 16), torch.full((3,), 0.1), torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(rows().norm(dim=1), initial.norm(dim=1))
    assert not torch.isclose(rows(), initial, rtol=1e-3).all()


def test_every_step_turns_by_the_same_angle() -> None:
    rows = DirectionalRows(torch.randn(1, 8), UpdateSettings(kappa=0.0))
    before = rows().clone()
    rows.update(1e-6 * torch.randn(1, 8), torch.tensor([0.04]), torch.tensor([True]))
    cosine = torch.cosine_similarity(before.double(), rows().double())
    torch.testing.assert_close(cosine.acos(), torch.tensor([0.04], dtype=torch.float64).atan(), rtol=2e-2, atol=0)


def test_a_strong_prior_leads_back_to_the_first_direction() -> None:
    initial = torch.randn(2, 8)
    rows = DirectionalRows(initial, UpdateSettings(kappa=100.0))
    rows.direction.copy_(torch.nn.functional.normalize(torch.randn(2, 8), dim=1))
    for _ in range(400):
        rows.update(torch.randn(2, 8), torch.full((2,), 0.02), torch.ones(2, dtype=torch.bool))
    assert torch.cosine_similarity(rows(), initial).min() > 0.99


def test_a_row_of_zeros_starts_moving() -> None:
    rows = DirectionalRows(torch.zeros(1, 4), UpdateSettings(magnitude=2.0))
    grad = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    rows.update(grad, torch.tensor([0.1]), torch.tensor([True]))
    torch.testing.assert_close(rows(), -2 * grad)


def test_no_other_optimizer() -> None:
    with pytest.raises(ConfigError, match=r"torch.optim.SGD.*leave it at AdamW.*parametrization free"):
        DirectionalRows(torch.ones(1, 2), UpdateSettings(optimizer="torch.optim.SGD"))
