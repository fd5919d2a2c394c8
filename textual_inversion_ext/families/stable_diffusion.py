"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a UNet with cross-attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from textual_inversion_ext.families.base import UNetAdapter, require_components
from textual_inversion_ext.records import Batch, Conditioning, EncoderSlot, Noised


class StableDiffusionAdapter(UNetAdapter):
    """Calls a ``StableDiffusionPipeline`` (text-to-image, image-to-image, inpainting).

    Only ``last_hidden_state`` conditions the UNet, so where the encoder pools does not matter here.

    Args:
        pipeline: a loaded pipeline.

    Raises:
        ModelError: a component is missing, or the UNet takes what training cannot give (depth).
    """

    name = "stable-diffusion"
    pipeline_classes = (
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
    )
    text_pipeline = StableDiffusionPipeline

    def __init__(self, pipeline: Any) -> None:
        require_components(pipeline, ("tokenizer", "text_encoder", "unet", "vae", "scheduler"))
        super().__init__(pipeline)
        self.slots = (EncoderSlot("clip_l", pipeline.tokenizer, pipeline.text_encoder),)
        self._uses_attention_mask = bool(getattr(pipeline.text_encoder.config, "use_attention_mask", False))

    def networks(self) -> tuple[torch.nn.Module, ...]:
        """The UNet, the text encoder and the VAE."""
        return self.pipeline.unet, self.pipeline.text_encoder, self.pipeline.vae

    def encode(self, ids: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> Conditioning:
        """Encode prompts as ``StableDiffusionPipeline.encode_prompt`` does without ``clip_skip``; see the base class.

        Args:
            ids: ``{"clip_l": (B, L) int64}``.
            rows: ``{"clip_l": (N, D) float32}``.

        Returns:
            Last hidden states, (B, L, D).
        """
        (slot,) = self.slots
        self._set_rows(rows)
        prompt = ids[slot.key]
        mask = _attention_mask(prompt, slot.tokenizer.eos_token_id) if self._uses_attention_mask else None
        return Conditioning(slot.text_encoder(prompt, attention_mask=mask)[0])

    def predict(self, noised: Noised, conditioning: Conditioning, batch: Batch) -> Tensor:
        """Call the UNet; see the base class.

        Args:
            noised: latents and timesteps.
            conditioning: the B prompts.
            batch: not used.

        Returns:
            (B, C, h, w) in the UNet's dtype.
        """
        latents = self._canvas.unet_input(noised.latents.to(self.dtype))
        hidden_states = conditioning.hidden_states.to(self.dtype)
        return self.pipeline.unet(latents, noised.timesteps, hidden_states, return_dict=False)[0]


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
