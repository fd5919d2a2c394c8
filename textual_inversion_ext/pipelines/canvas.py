"""What the UNet of a pipeline paints on: noise alone, or for inpainting models a picture of which all is masked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from textual_inversion_ext.errors import ModelError
from textual_inversion_ext.pipelines.quiet import move


class Canvas:
    """Gives a UNet its channels, in training and when a pipeline is to make pictures from text alone.

    Inpainting UNets take 9 channels: latents, a mask, and the latents of the masked picture. Here all is masked: the
    mask is one everywhere and the masked picture is empty, as when such a model makes a whole picture from text.
    diffusers' inpainting script draws random masks, which teaches a model to continue pictures; a word has to carry all
    that it stands for, and what is visible of a picture would tell the denoiser what the word should.

    Args:
        pipeline: a loaded pipeline with a UNet and a KL autoencoder.
        scaled: latents as the VAE gives them to latents as the UNet takes them.

    Raises:
        ModelError: the UNet takes something else (depth, another picture), or its configuration is incomplete.
    """

    def __init__(self, pipeline: Any, scaled: Callable[[Tensor], Tensor]) -> None:
        self.pipeline = pipeline
        self.scaled = scaled
        self.native_resolution = _side(pipeline.unet.config.sample_size) * pipeline.vae_scale_factor
        self._empty: dict[tuple[int, int], Tensor] = {}
        channels, latent_channels = pipeline.unet.config.in_channels, pipeline.vae.config.latent_channels
        self.is_masked = channels == 2 * latent_channels + 1
        if not self.is_masked and channels != latent_channels:
            raise ModelError(
                f"the UNet takes {channels} channels and the VAE gives {latent_channels}: this is a depth, upscaling "
                "or similar model. Train on the text-to-image model it was made from; the learned word works in both."
            )
        if self.is_masked and not self._takes("mask_image"):
            raise ModelError(
                f"the UNet paints into pictures, and {type(pipeline).__name__} does not. Load the model with "
                "DiffusionPipeline.from_pretrained or with an inpainting pipeline."
            )

    def prepare(self, height: int, width: int) -> None:
        """Encode the empty picture while the VAE is at hand.

        Args:
            height: height of the latents.
            width: width of the latents.
        """
        if self.is_masked:
            self._empty_picture(height, width)

    def unet_input(self, latents: Tensor) -> Tensor:
        """Add mask and masked picture where the UNet takes them.

        Args:
            latents: (B, C, h, w), noised, in the UNet's dtype.

        Returns:
            (B, C or 2C + 1, h, w) in the same dtype.
        """
        if not self.is_masked:
            return latents
        count, _, height, width = latents.shape
        empty = self._empty_picture(height, width).to(latents).expand(count, -1, -1, -1)
        return torch.cat([latents, torch.ones_like(latents[:, :1]), empty], dim=1)

    def text_to_image(self, kind: type[Any], size: tuple[int, int] | None) -> tuple[Any, dict[str, Any]]:
        """What makes pictures from text alone: the pipeline itself, its plain relative, or itself painting everything.

        Args:
            kind: the text-to-image pipeline of the same components.
            size: width and height in pixels, or None for the model's own.

        Returns:
            A pipeline, and its arguments beside prompt and size.
        """
        if not self._takes("image"):
            return self.pipeline, {}
        if not self.is_masked:
            asked = inspect.signature(kind.__init__).parameters
            parts = {**self.pipeline.config, **self.pipeline.components}
            return kind(**{name: part for name, part in parts.items() if name in asked}), {}
        width, height = size or (self.native_resolution, self.native_resolution)
        factor = self.pipeline.vae_scale_factor
        return self.pipeline, {
            "image": torch.zeros(1, 3, height, width),
            "mask_image": torch.ones(1, 1, height, width),
            "masked_image_latents": self._empty_picture(height // factor, width // factor),
            "strength": 1.0,
        }

    @torch.no_grad()
    def _empty_picture(self, height: int, width: int) -> Tensor:
        """Latents of a picture of which all is masked.

        Args:
            height: height of the latents.
            width: width of the latents.

        Returns:
            (1, C, height, width) float32 on the UNet's device.
        """
        if (height, width) not in self._empty:
            factor = self.pipeline.vae_scale_factor
            with in_float32(self.pipeline.vae) as vae:
                gray = torch.zeros(1, 3, height * factor, width * factor, device=vae.device)
                latents = self.scaled(vae.encode(gray).latent_dist.mean)
            self._empty[height, width] = latents.to(self.pipeline.unet.device)
        return self._empty[height, width]

    def _takes(self, argument: str) -> bool:
        """Whether a call of the pipeline takes an argument.

        Args:
            argument: its name.

        Returns:
            True if it does.
        """
        return argument in inspect.signature(type(self.pipeline).__call__).parameters


@contextmanager
def in_float32(vae: Any) -> Iterator[Any]:
    """Let a VAE compute in float32 for the length of a ``with`` block.

    Args:
        vae: a VAE in any dtype.

    Yields:
        The same.
    """
    dtype = vae.dtype
    if dtype == torch.float32:
        yield vae
        return
    move(vae, vae.device, torch.float32)
    try:
        yield vae
    finally:
        move(vae, vae.device, dtype)


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
