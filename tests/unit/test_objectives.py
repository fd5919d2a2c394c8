"""The objective against diffusers' own DDPM scheduler."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler
from diffusers.training_utils import compute_snr

from textual_inversion_ext.errors import ModelError
from textual_inversion_ext.objectives import DiffusionObjective

SETTINGS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("scheduler_class", [DDPMScheduler, DDIMScheduler, PNDMScheduler])
def test_noise_and_target_equal_diffusers(scheduler_class: type, prediction_type: str) -> None:
    objective = DiffusionObjective.from_scheduler(scheduler_class(**SETTINGS, prediction_type=prediction_type))
    oracle = DDPMScheduler(**SETTINGS)
    latents, noise = torch.randn(2, 6, 4, 8, 8).unbind()
    timesteps = torch.tensor([0, 1, 250, 500, 998, 999])
    noised = objective.noise(latents, noise, timesteps)
    assert torch.equal(noised.latents, oracle.add_noise(latents, noise, timesteps))
    target = noise if prediction_type == "epsilon" else oracle.get_velocity(latents, noise, timesteps)
    assert torch.equal(noised.target, target)


def test_loss_is_the_mean_square_of_each_sample() -> None:
    objective = DiffusionObjective.from_scheduler(DDPMScheduler(**SETTINGS))
    latents, noise, prediction = torch.randn(3, 2, 4, 8, 8).unbind()
    noised = objective.noise(latents, noise, torch.tensor([3, 900]))
    expected = torch.stack([((prediction[i] - noise[i]) ** 2).mean() for i in range(2)])
    torch.testing.assert_close(objective.loss(prediction, noised), expected)
    assert objective.loss(prediction.half(), noised).dtype == torch.float32


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("gamma", [0.5, 5.0])
def test_min_snr_weights_are_those_of_diffusers_scripts(prediction_type: str, gamma: float) -> None:
    scheduler = DDPMScheduler(**SETTINGS, prediction_type=prediction_type)
    timesteps = torch.arange(1000)
    snr = compute_snr(scheduler, timesteps)
    expected = snr.clamp(max=gamma) / (snr if prediction_type == "epsilon" else snr + 1)
    plain = DiffusionObjective.from_scheduler(scheduler)
    weighted = plain.weighted(gamma)
    torch.testing.assert_close(weighted.weights, expected)
    assert plain.weights is None
    latents, noise, prediction = torch.randn(3, 2, 4, 8, 8).unbind()
    noised = plain.noise(latents, noise, torch.tensor([3, 900]))
    expected_loss = plain.loss(prediction, noised) * expected[[3, 900]]
    torch.testing.assert_close(weighted.loss(prediction, noised), expected_loss)
    assert torch.equal(weighted.weighted(None).loss(prediction, noised), plain.loss(prediction, noised))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_min_snr_at_both_ends_of_the_schedule(prediction_type: str) -> None:
    weights = DiffusionObjective(torch.tensor([1.0, 0.0]), prediction_type, snr_gamma=5.0).weights
    assert weights is not None
    # Pure noise says nothing of the picture: its weight is 1 for epsilon, 0 for v; a clean picture's is 0.
    assert weights.tolist() == [0.0, 1.0 if prediction_type == "epsilon" else 0.0]


def test_min_snr_is_one_loss_on_the_picture() -> None:
    """Weighted epsilon and v losses of the same prediction are the same loss on x0."""
    settings = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    latents, noise, guess = torch.randn(3, 4, 4, 8, 8, dtype=torch.float64).unbind()
    timesteps = torch.tensor([10, 300, 600, 900])
    losses = []
    for prediction_type in ("epsilon", "v_prediction"):
        scheduler = DDPMScheduler(**settings, prediction_type=prediction_type)
        objective = DiffusionObjective.from_scheduler(scheduler).weighted(5.0)
        objective.signal, objective.sigma = objective.signal.double(), objective.sigma.double()
        noised = objective.noise(latents, noise, timesteps)
        signal, sigma = (part[timesteps].view(-1, 1, 1, 1) for part in (objective.signal, objective.sigma))
        epsilon = (noised.latents - signal * guess) / sigma
        prediction = epsilon if prediction_type == "epsilon" else signal * epsilon - sigma * guess
        losses.append(objective.loss(prediction, noised))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=0)


def test_a_mask_of_ones_is_no_mask() -> None:
    objective = DiffusionObjective.from_scheduler(DDPMScheduler(**SETTINGS))
    latents, noise, prediction = torch.randn(3, 5, 4, 7, 9).unbind()
    noised = objective.noise(latents, noise, torch.tensor([3, 900, 5, 6, 7]))
    grads, losses = [], []
    for mask in (None, torch.ones(5, 1, 7, 9)):
        leaf = prediction.clone().requires_grad_(True)
        losses.append(objective.loss(leaf, noised, mask))
        losses[-1].sum().backward()
        grads.append(leaf.grad)
    assert torch.equal(losses[0], losses[1]) and torch.equal(grads[0], grads[1])


def test_a_mask_weighs_the_mean() -> None:
    objective = DiffusionObjective.from_scheduler(DDPMScheduler(**SETTINGS))
    latents, noise, prediction = torch.randn(3, 2, 4, 8, 8).unbind()
    noised = objective.noise(latents, noise, torch.tensor([3, 900]))
    mask = torch.rand(2, 1, 8, 8)
    error = (prediction - noised.target) ** 2
    expected = (error * mask).sum((1, 2, 3)) / (4 * mask.sum((1, 2, 3)))
    torch.testing.assert_close(objective.loss(prediction, noised, mask), expected)
    torch.testing.assert_close(objective.loss(prediction, noised, 0.1 * mask), expected)
    half = torch.ones(2, 1, 8, 8)
    half[..., 4:] = 0
    torch.testing.assert_close(objective.loss(prediction, noised, half), error[..., :4].mean((1, 2, 3)))
    assert objective.loss(prediction, noised, torch.zeros(2, 1, 8, 8)).tolist() == [0, 0]


def test_timesteps_cover_the_range_evenly() -> None:
    objective = DiffusionObjective.from_scheduler(DDPMScheduler(**SETTINGS))
    assert objective.sample_timesteps(torch.tensor([0.0, 0.5, 1 - 2**-24])).tolist() == [0, 500, 999]
    counts = objective.sample_timesteps(torch.arange(0, 1, 1e-4)).bincount(minlength=1000)
    assert counts.min() >= 9 and counts.max() <= 11


def test_other_objectives_are_refused() -> None:
    with pytest.raises(ModelError, match="FlowMatchEulerDiscreteScheduler"):
        DiffusionObjective.from_scheduler(FlowMatchEulerDiscreteScheduler())
    with pytest.raises(ModelError, match=r"sample.*epsilon, v_prediction"):
        DiffusionObjective.from_scheduler(DDPMScheduler(prediction_type="sample"))
