"""How latents are noised, what the denoiser should answer, and how its answer is scored."""

from __future__ import annotations

import copy

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

    With ``snr_gamma`` a sample's loss is weighted by its timestep's signal-to-noise ratio
    :math:`\mathrm{SNR} = \bar\alpha_t / (1 - \bar\alpha_t)`: by :math:`\min(\mathrm{SNR}, \gamma) / \mathrm{SNR}` for
    ``epsilon`` and :math:`\min(\mathrm{SNR}, \gamma) / (\mathrm{SNR} + 1)` for ``v_prediction``, both of which amount
    to a loss on :math:`x_0` weighted by :math:`\min(\mathrm{SNR}, \gamma)`.

    Args:
        alphas_cumprod: (T,) float32 in [0, 1].
        prediction_type: one of ``PREDICTION_TYPES``.
        snr_gamma: gamma of min-SNR weighting; None weighs all timesteps alike.

    Attributes:
        weights: (T,) float32 weight of each timestep's loss, or None for 1 everywhere.

    Raises:
        ModelError: unknown prediction type.

    Source:
        Ho et al. 2020, "Denoising Diffusion Probabilistic Models", eq. 4 and 14; Salimans and Ho 2022, appendix D; Hang
        et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy", section 3.4.
    """

    def __init__(self, alphas_cumprod: Tensor, prediction_type: str, snr_gamma: float | None = None) -> None:
        if prediction_type not in PREDICTION_TYPES:
            raise ModelError(
                f"the model's scheduler has prediction_type {prediction_type!r}; supported: "
                f"{', '.join(PREDICTION_TYPES)}"
            )
        self.prediction_type = prediction_type
        self.signal = alphas_cumprod.float() ** 0.5
        self.sigma = (1 - alphas_cumprod.float()) ** 0.5
        self.weights = None if snr_gamma is None else _min_snr(alphas_cumprod.float(), prediction_type, snr_gamma)

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

    def weighted(self, snr_gamma: float | None) -> DiffusionObjective:
        """The same objective with another weighting of its timesteps.

        Args:
            snr_gamma: gamma of min-SNR weighting; None weighs all timesteps alike.

        Returns:
            A new objective on the same device.
        """
        changed = copy.copy(self)
        changed.weights = None if snr_gamma is None else _min_snr(self.signal**2, self.prediction_type, snr_gamma)
        return changed

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
        self.weights = None if self.weights is None else self.weights.to(device)
        return self

    def sample_timesteps(self, u: Tensor) -> Tensor:
        """Timesteps for uniform numbers.

        Args:
            u: (B,) float32 in [0, 1]; 1 is the noisiest.

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

    def loss(self, prediction: Tensor, noised: Noised, mask: Tensor | None = None) -> Tensor:
        """Mean squared error of each sample, weighted as asked.

        With a mask it is the weighted mean: the errors times the mask, divided by the sum of the mask. So a picture
        counts as much as any other however small its subject is, and a mask of ones changes no bit.

        Args:
            prediction: (B, C, h, w), any floating dtype.
            noised: what the prediction is for.
            mask: (B, 1, h, w) float32 weights, at least 0; None for 1 everywhere.

        Returns:
            (B,) float32; 0 for a sample whose mask is 0 everywhere.
        """
        error = F.mse_loss(prediction.float(), noised.target, reduction="none")
        if mask is None:
            per_sample = error.flatten(1).mean(1)
        else:
            share = mask.flatten(1).sum(1) / mask[0].numel()
            per_sample = (error * mask).flatten(1).mean(1) / share.clamp(min=torch.finfo(share.dtype).tiny)
        return per_sample if self.weights is None else per_sample * self.weights[noised.timesteps]


def _min_snr(alphas_cumprod: Tensor, prediction_type: str, gamma: float) -> Tensor:
    """Min-SNR weights, written so that neither pure noise (SNR 0) nor a clean picture (SNR infinite) divides by 0.

    Args:
        alphas_cumprod: (T,) float32 in [0, 1].
        prediction_type: one of ``PREDICTION_TYPES``.
        gamma: upper limit of the ratio.

    Returns:
        (T,) float32 in [0, 1].
    """
    capped = gamma * (1 - alphas_cumprod)
    if prediction_type == "epsilon":
        return (capped / alphas_cumprod).clamp(max=1)
    return torch.minimum(alphas_cumprod, capped)
