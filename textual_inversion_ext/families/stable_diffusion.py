"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a UNet with cross-attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from textual_inversion_ext.errors import ModelError
from textual_inversion_ext.families.base import FamilyAdapter, require_components
from textual_inversion_ext.objectives import DiffusionObjective
from textual_inversion_ext.records import Conditioning, EncoderSlot


class StableDiffusionAdapter(FamilyAdapter):
    """Calls a ``StableDiffusionPipeline`` (text-to-image, image-to-image, inpainting with a plain UNet).

    Only ``last_hidden_state`` conditions the UNet, so where the encoder pools does not matter here.

    Args:
        pipeline: a loaded pipeline.

    Raises:
        ModelError: a component is missing, or the UNet takes more than latents (9-channel inpainting, depth).
    """

    name = "stable-diffusion"
    pipeline_classes = (
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
    )

    def __init__(self, pipeline: Any) -> None:
        require_components(pipeline, ("tokenizer", "text_encoder", "unet", "vae", "scheduler"))
        super().__init__(pipeline)
        channels, latent_channels = pipeline.unet.config.in_channels, pipeline.vae.config.latent_channels
        if channels != latent_channels:
            raise ModelError(
                f"the UNet takes {channels} channels and the VAE gives {latent_channels}: this is an inpainting, depth "
                "or similar model. Train on the text-to-image model it was made from; the learned word works in both."
            )
        self.slots = (EncoderSlot("clip_l", pipeline.tokenizer, pipeline.text_encoder),)
        self.objective = DiffusionObjective.from_scheduler(pipeline.scheduler)
        self.native_resolution = _side(pipeline.unet.config.sample_size) * pipeline.vae_scale_factor
        self._uses_attention_mask = bool(getattr(pipeline.text_encoder.config, "use_attention_mask", False))

    def networks(self) -> tuple[torch.nn.Module, ...]:
        """The UNet, the text encoder and the VAE."""
        return self.pipeline.unet, self.pipeline.text_encoder, self.pipeline.vae

    @property
    def denoiser(self) -> torch.nn.Module:
        """The UNet."""
        return self.pipeline.unet

    def latents(self, moments: Tensor, noise: Tensor) -> Tensor:
        """Sample the VAE posterior and scale it; see the base class.

        Args:
            moments: (B, 2C, h, w) float32.
            noise: (B, C, h, w) float32.

        Returns:
            (B, C, h, w) float32.
        """
        posterior = DiagonalGaussianDistribution(moments)
        return (posterior.mean + posterior.std * noise) * self.pipeline.vae.config.scaling_factor

    def encode(self, ids: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> Conditioning:
        """Encode prompts as ``StableDiffusionPipeline.encode_prompt`` does without ``clip_skip``; see the base class.

        Args:
            ids: ``{"clip_l": (B, L) int64}``.
            rows: ``{"clip_l": (N, D) float32}``.

        Returns:
            Last hidden states, (B, L, D).
        """
        (slot,) = self.slots
        self._embedding(slot.key).rows = rows[slot.key]
        prompt = ids[slot.key]
        mask = _attention_mask(prompt, slot.tokenizer.eos_token_id) if self._uses_attention_mask else None
        return Conditioning(slot.text_encoder(prompt, attention_mask=mask)[0])

    def predict(self, noised_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """Call the UNet; see the base class.

        Args:
            noised_latents: (B, C, h, w) float32.
            timesteps: (B,) int64.
            conditioning: the B prompts.

        Returns:
            (B, C, h, w) in the UNet's dtype.
        """
        dtype = self.dtype
        hidden_states = conditioning.hidden_states.to(dtype)
        return self.pipeline.unet(noised_latents.to(dtype), timesteps, hidden_states, return_dict=False)[0]


def _attention_mask(ids: Tensor, eos_token_id: int) -> Tensor:
    """The tokenizer's attention mask, rebuilt from ids: everything up to and including the first end token.

    Args:
        ids: (B, L) int64.
        eos_token_id: the end token, which may be the padding token too.

    Returns:
        (B, L) int64, 1 where the text encoder may look.
    """
    is_end = (ids == eos_token_id).long()
    return (is_end.cumsum(-1) - is_end == 0).long()


def _side(sample_size: int | list[int] | None) -> int:
    """Side length of the latents that a UNet was trained for.

    Args:
        sample_size: ``unet.config.sample_size``.

    Returns:
        The larger side.

    Raises:
        ModelError: the configuration does not say.
    """
    if sample_size is None:
        raise ModelError("unet/config.json has no sample_size; add it (64 for a 512 px model with an 8-fold VAE)")
    return sample_size if isinstance(sample_size, int) else max(sample_size)
