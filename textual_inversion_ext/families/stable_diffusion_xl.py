"""Stable Diffusion XL: two CLIP text encoders, a pooled prompt, and a UNet that is told the picture's sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from textual_inversion_ext.errors import ModelError
from textual_inversion_ext.families.base import UNetAdapter, require_components
from textual_inversion_ext.pipelines.canvas import in_float32
from textual_inversion_ext.records import Batch, Conditioning, EncoderSlot, Noised

_NUM_SIZES = 6  # original height and width, crop top and left, target height and width
_PARTS = ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2", "unet", "vae", "scheduler")


class StableDiffusionXLAdapter(UNetAdapter):
    """Calls a ``StableDiffusionXLPipeline`` (text-to-image, image-to-image, inpainting).

    The pooled prompt is the second encoder's state at the end of the prompt (``pooling`` "end"), as kohya's trainer,
    ComfyUI, A1111 and this library's loader have it. Its configuration says ``eos_token_id: 2``, with which plain
    diffusers takes the state at the highest id: the end, until a learned word stands before it. ``pooling`` "diffusers"
    trains for that.

    Args:
        pipeline: a loaded pipeline.

    Raises:
        ModelError: a component is missing, or it is the refiner or another relative that cannot be trained.

    Source:
        Podell et al. 2023, "SDXL", sections 2.1 and 2.2; https://github.com/huggingface/diffusers/issues/10754
    """

    name = "stable-diffusion-xl"
    pipeline_classes = (
        "StableDiffusionXLPipeline",
        "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionXLInpaintPipeline",
    )
    text_pipeline = StableDiffusionXLPipeline

    def __init__(self, pipeline: Any) -> None:
        if getattr(pipeline, "text_encoder", None) is None and getattr(pipeline, "text_encoder_2", None) is not None:
            raise ModelError(
                "this is the refiner of Stable Diffusion XL: it has one text encoder and knows the last steps of "
                "denoising only, which say little about what a word means. Train on the base model."
            )
        require_components(pipeline, _PARTS)
        _check_added_conditions(pipeline)
        super().__init__(pipeline)
        self.slots = (
            EncoderSlot("clip_l", pipeline.tokenizer, pipeline.text_encoder),
            EncoderSlot("clip_g", pipeline.tokenizer_2, pipeline.text_encoder_2),
        )
        self._encoders = self.slots
        self.zero_negative = bool(pipeline.config.get("force_zeros_for_empty_prompt", False))
        self._whole_picture: dict[tuple[int, int], Tensor] = {}
        self._shifts: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def networks(self) -> tuple[torch.nn.Module, ...]:
        """The UNet, both text encoders and the VAE."""
        pipeline: Any = self.pipeline
        return pipeline.unet, pipeline.text_encoder, pipeline.text_encoder_2, pipeline.vae

    @torch.no_grad()
    def pixels(self, latents: Tensor) -> Tensor:
        """Decode latents; the original VAE overflows in float16, so it then computes in float32; see the base class.

        Args:
            latents: (B, C, h, w).

        Returns:
            (B, 3, H, W) in [-1, 1].
        """
        vae: Any = self.pipeline.vae
        if vae.dtype == torch.float16 and vae.config.force_upcast:
            with in_float32(vae):
                return self.pixels(latents)
        latents = latents.to(vae.dtype) / vae.config.scaling_factor
        shift = self._shift(latents.device)
        if shift is not None:
            mean, std = shift
            latents = latents * std.to(latents) + mean.to(latents)
        return vae.decode(latents, return_dict=False)[0]

    def encode(self, ids: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> Conditioning:
        """Encode prompts as ``StableDiffusionXLPipeline.encode_prompt`` does without ``clip_skip``; see the base class.

        Args:
            ids: ``{"clip_l": (B, L) int64, "clip_g": (B, L) int64}``.
            rows: ``{"clip_l": (N, 768) float32, "clip_g": (N, 1280) float32}``, or one of them (``learn_in``).

        Returns:
            The last hidden states but one of both encoders, (B, L, 2048), and the pooled prompt, (B, 1280).
        """
        self._set_rows(rows)
        first, second = self._encoders
        outputs = [slot.text_encoder(ids[slot.key], output_hidden_states=True) for slot in self._encoders]
        hidden_states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        hidden_states = hidden_states.to(second.text_encoder.dtype)
        if self.pooling == "diffusers":
            return Conditioning(hidden_states, outputs[1].text_embeds)
        prompt, states = ids[second.key], outputs[1].last_hidden_state
        end = (prompt == second.tokenizer.eos_token_id).int().argmax(-1)
        at_end = states[torch.arange(len(states), device=states.device), end]
        return Conditioning(hidden_states, second.text_encoder.text_projection(at_end))

    def predict(self, noised: Noised, conditioning: Conditioning, batch: Batch) -> Tensor:
        """Call the UNet; see the base class.

        Args:
            noised: latents and timesteps.
            conditioning: the B prompts.
            batch: ``sizes`` is used; without them the pictures count as whole ones of the latents' size.

        Returns:
            (B, C, h, w) in the UNet's dtype.

        Raises:
            ValueError: the prompts were not pooled.
        """
        if conditioning.pooled is None:
            raise ValueError("the conditioning has no pooled prompts; this family's encode() makes them")
        sizes = self._own_sizes(noised.latents) if batch.sizes is None else batch.sizes
        # The sizes stay float32: bfloat16 would round 1365 to 1368.
        added = {"text_embeds": conditioning.pooled.to(self.dtype), "time_ids": sizes}
        latents = self._canvas.unet_input(noised.latents.to(self.dtype))
        hidden_states = conditioning.hidden_states.to(self.dtype)
        return self.pipeline.unet(latents, noised.timesteps, hidden_states, added_cond_kwargs=added, return_dict=False)[
            0
        ]

    def _own_sizes(self, latents: Tensor) -> Tensor:
        """Sizes of pictures neither scaled nor cropped; made once per shape, as the copy waits for the device.

        Args:
            latents: (B, C, h, w).

        Returns:
            (B, 6) float32.
        """
        count, _, height, width = latents.shape
        if (height, width) not in self._whole_picture:
            factor = self.pipeline.vae_scale_factor
            size = [height * factor, width * factor]
            told = torch.tensor([[*size, 0, 0, *size]], dtype=torch.float32, device=latents.device)
            self._whole_picture[height, width] = told
        return self._whole_picture[height, width].expand(count, -1)

    def _scaled(self, latents: Tensor) -> Tensor:
        shift = self._shift(latents.device)
        if shift is not None:
            mean, std = shift
            latents = (latents - mean.to(latents)) / std.to(latents)
        return super()._scaled(latents)

    def _shift(self, device: torch.device) -> tuple[Tensor, Tensor] | None:
        """Mean and standard deviation of the latents' channels, which some fine-tuned models come with.

        Args:
            device: where they are wanted; copied there once, as the copy waits for the device.

        Returns:
            Two times (1, C, 1, 1) float32, or None for a model that has a scaling factor only.
        """
        config: Any = self.pipeline.vae.config
        both = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if None in both:
            return None
        if device not in self._shifts:
            mean, std = (torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1) for values in both)
            self._shifts[device] = mean, std
        return self._shifts[device]


def _check_added_conditions(pipeline: Any) -> None:
    """Check that the UNet wants a pooled prompt and six sizes.

    Args:
        pipeline: a loaded pipeline.

    Raises:
        ModelError: it wants something else.
    """
    config, projection = pipeline.unet.config, pipeline.text_encoder_2.config.projection_dim
    expected = (config.addition_time_embed_dim or 0) * _NUM_SIZES + projection
    if config.addition_embed_type != "text_time" or config.projection_class_embeddings_input_dim != expected:
        raise ModelError(
            f"the UNet takes added conditions {config.addition_embed_type!r} of width "
            f"{config.projection_class_embeddings_input_dim}; Stable Diffusion XL's are 'text_time' of width {expected}"
            " (a pooled prompt and six sizes). This is a relative that cannot be trained; train on the base model."
        )
