"""The objective against diffusers' own DDPM scheduler."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler

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
