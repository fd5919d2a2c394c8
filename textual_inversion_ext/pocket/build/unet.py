"""The pocket denoiser: a small UNet of Stable Diffusion's class, conditioned on the pocket text encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel

from textual_inversion_ext.pocket.build.loop import Schedule, Training
from textual_inversion_ext.pocket.build.vae import LATENT_CHANNELS

SCHEDULE = Schedule(steps=9000, learning_rate=8e-4, weight_decay=0.01, averaging=0.9993)
BATCH = 32
CAPTION_DROPOUT = 0.1
MIN_SNR_GAMMA = 5.0

# Ho et al. 2020, section 4. Stable Diffusion's own schedule keeps 7 % of the signal at its last step. The mean colour
# of 16x16 latents can still be read from that, so pictures made from pure noise would take their tint from the noise.
NOISE = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


def build_unet() -> UNet2DConditionModel:
    """Make an untrained pocket UNet."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(48, 96, 128),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def train_unet(
    model: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    latents: Tensor,
    ids: Tensor,
    empty_ids: Tensor,
    folder: Path,
    device: torch.device,
    schedule: Schedule = SCHEDULE,
    *,
    compiled: bool = False,
) -> UNet2DConditionModel:
    """Train the denoiser on noise prediction with min-SNR weights (Hang et al. 2023, section 3.4).

    Args:
        model: From `build_unet`.
        text_encoder: Frozen.
        latents: Scaled latents of pictures and mirror images, float16 (2, N, 8, 16, 16).
        ids: Captions, int64 (N, captions, L).
        empty_ids: The empty prompt, int64 (L,).
        folder: Where the checkpoint is kept.
        device: Device to train on.
        schedule: Steps and rates.
        compiled: Whether to run the denoiser through `torch.compile`.

    Returns:
        The model with averaged weights.
    """
    model.to(device, memory_format=torch.channels_last).train()
    text_encoder.to(device).eval().requires_grad_(False)
    training = Training("unet", model, schedule, folder)
    alphas = DDPMScheduler(**NOISE).alphas_cumprod.to(device)
    forward = torch.compile(model) if compiled else model

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((3, step))
        rows = torch.from_numpy(rng.integers(0, latents.shape[1], BATCH))
        clean = latents[torch.from_numpy(rng.integers(0, 2, BATCH)), rows].float().to(device)
        text = ids[rows, torch.from_numpy(rng.integers(0, ids.shape[1], BATCH))]
        text[torch.from_numpy(rng.random(BATCH) < CAPTION_DROPOUT)] = empty_ids
        # Stratified timesteps: each batch covers the whole schedule, which steadies the loss.
        strata = (np.arange(BATCH) + rng.random(BATCH)) / BATCH
        timesteps = torch.from_numpy((strata * 1000).astype(np.int64)).to(device)
        noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32)).to(device)
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        with torch.no_grad():
            states = text_encoder(text.to(device)).last_hidden_state
        noised = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        with torch.autocast(device.type, torch.bfloat16):
            predicted = forward(noised.contiguous(memory_format=torch.channels_last), timesteps, states).sample.float()
        snr = (alpha / (1 - alpha)).flatten()
        weight = snr.clamp(max=MIN_SNR_GAMMA) / snr
        return ((predicted - noise).square().mean((1, 2, 3)) * weight).sum() / weight.sum()

    training.run(loss_of)
    return training.use_average()
