"""How latents are noised, what the denoiser should answer, and how its answer is scored."""

from __future__ import annotations

import torch
from diffusers import DDPMScheduler, SchedulerMixin
from torch import Tensor
from torch.nn import functional as F

from textual_inversion_ext.errors import ModelError
from textual_inversion_ext.records import Noised

PREDICTION_TYPES = ("epsilon", "v_prediction")


class DiffusionObjective:
    r"""Denoising diffusion with a discrete schedule.

    .. math:: x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon

    The target is :math:`\epsilon` (``epsilon``) or
    :math:`\sqrt{\bar\alpha_t}\, \epsilon - \sqrt{1 - \bar\alpha_t}\, x_0` (``v_prediction``).

    Args:
        alphas_cumprod: (T,) float32 in [0, 1].
        prediction_type: one of ``PREDICTION_TYPES``.

    Raises:
        ModelError: unknown prediction type.

    Source:
        Ho et al. 2020, "Denoising Diffusion Probabilistic Models", eq. 4 and 14; Salimans and Ho 2022, appendix D.
    """

    def __init__(self, alphas_cumprod: Tensor, prediction_type: str) -> None:
        if prediction_type not in PREDICTION_TYPES:
            raise ModelError(
                f"the model's scheduler has prediction_type {prediction_type!r}; supported: "
                f"{', '.join(PREDICTION_TYPES)}"
            )
        self.prediction_type = prediction_type
        self.signal = alphas_cumprod.float() ** 0.5
        self.sigma = (1 - alphas_cumprod.float()) ** 0.5

    @classmethod
    def from_scheduler(cls, scheduler: SchedulerMixin) -> DiffusionObjective:
        """Read the training schedule out of whatever scheduler a pipeline samples with.

        Args:
            scheduler: a pipeline's scheduler.

        Returns:
            The objective that the pipeline's denoiser was trained with.

        Raises:
            ModelError: the scheduler has no discrete diffusion schedule (flow matching, EDM, ...).
        """
        # DDPMScheduler.from_config accepts any configuration and falls back to defaults, so look first.
        if "beta_schedule" not in scheduler.config:
            raise ModelError(
                f"{type(scheduler).__name__} has no discrete diffusion schedule; supported are schedulers of models "
                f"trained with DDPM and {' or '.join(PREDICTION_TYPES)}"
            )
        training = DDPMScheduler.from_config(scheduler.config)
        return cls(training.alphas_cumprod, training.config.prediction_type)

    @property
    def num_timesteps(self) -> int:
        """T, number of training timesteps."""
        return self.signal.shape[0]

    def to(self, device: torch.device | str) -> DiffusionObjective:
        """Move the schedule to the training device, so that no step copies it.

        Args:
            device: the training device.

        Returns:
            Itself.
        """
        self.signal, self.sigma = self.signal.to(device), self.sigma.to(device)
        return self

    def sample_timesteps(self, u: Tensor) -> Tensor:
        """Timesteps for uniform numbers.

        Args:
            u: (B,) float32 in [0, 1).

        Returns:
            (B,) int64 in [0, T), uniform.
        """
        return (u * self.num_timesteps).long().clamp(max=self.num_timesteps - 1)

    def noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Noised:
        """Noise latents.

        Args:
            latents: (B, C, h, w) float32.
            noise: (B, C, h, w) float32, standard normal.
            timesteps: (B,) int64.

        Returns:
            Noised latents and the target.
        """
        shape = (-1, *(1,) * (latents.ndim - 1))
        signal, sigma = self.signal[timesteps].view(shape), self.sigma[timesteps].view(shape)
        target = noise if self.prediction_type == "epsilon" else signal * noise - sigma * latents
        return Noised(signal * latents + sigma * noise, timesteps, noise, target)

    def loss(self, prediction: Tensor, noised: Noised) -> Tensor:
        """Mean squared error of each sample.

        Args:
            prediction: (B, C, h, w), any floating dtype.
            noised: what the prediction is for.

        Returns:
            (B,) float32.
        """
        return F.mse_loss(prediction.float(), noised.target, reduction="none").flatten(1).mean(1)
