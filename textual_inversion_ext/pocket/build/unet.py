"""The pocket denoiser: a small UNet of Stable Diffusion's class, conditioned on the pocket text encoder."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel

from textual_inversion_ext.pocket.build.loop import Schedule, Training
from textual_inversion_ext.pocket.build.vae import LATENT_CHANNELS

SCHEDULE = Schedule(steps=20000, learning_rate=1e-3, weight_decay=0.01, averaging=0.9995)
CONTINUED = Schedule(steps=5000, learning_rate=5e-4, weight_decay=0.01, averaging=0.999, decay_share=0.3)
BATCH = 256
CONTINUED_BATCH = 64
CAPTION_DROPOUT = 0.1
MIN_SNR_GAMMA = 5.0
# Layout and tint are decided where next to no signal is left, by the coarsest averages of the latents; the plain mean
# hardly weighs either. From this step on, when the network knows fine noise, both count more (see `denoising_error`).
COARSE_FROM = 2500
COARSE_WEIGHT = 0.1
SNR_FLOOR, MOST_WEIGHT = 0.05, 10.0

# Stable Diffusion's betas end at 0.012 and keep 7 % of the signal at the last step. The mean colour of 16x16 latents
# can still be read from that, so pictures made from pure noise would take their tint from the noise. This end leaves
# 1.5 %.
NOISE = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.02, "beta_schedule": "scaled_linear"}


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
    batch: int = BATCH,
    coarse_from: int = COARSE_FROM,
    compiled: bool = False,
) -> UNet2DConditionModel:
    """Train the denoiser on noise prediction (see `denoising_error`).

    Args:
        model: From `build_unet`.
        text_encoder: Frozen.
        latents: Scaled latents of pictures and mirror images, float16 (2, N, 8, 16, 16).
        ids: Captions, int64 (N, captions, L).
        empty_ids: The empty prompt, int64 (L,).
        folder: Where the checkpoint is kept.
        device: Device to train on.
        schedule: Steps and rates.
        batch: Latents a step.
        coarse_from: Step from which the coarse error counts.
        compiled: Whether to run the denoiser through `torch.compile`.

    Returns:
        The model with averaged weights.
    """
    model.to(device, memory_format=torch.channels_last).train()
    text_encoder.to(device).eval().requires_grad_(False)
    training = Training("unet", model, schedule, folder)
    alphas = DDPMScheduler(**NOISE).alphas_cumprod.to(device)
    latents, ids, empty_ids = latents.to(device), ids.to(device), empty_ids.to(device)
    forward = torch.compile(model) if compiled else model

    def loss_of(step: int) -> Tensor:
        random = torch.Generator(device).manual_seed(step)
        draw = partial(torch.rand, batch, generator=random, device=device)
        rows = (draw() * latents.shape[1]).long()
        clean = latents[(draw() < 0.5).long(), rows].float()
        text = ids[rows, (draw() * ids.shape[1]).long()]
        text = torch.where(draw()[:, None] < CAPTION_DROPOUT, empty_ids, text)
        # Stratified timesteps: each batch covers the whole schedule, which steadies the loss.
        timesteps = ((torch.arange(batch, device=device) + draw()) * (1000 / batch)).long().clamp(max=999)
        noise = torch.randn(clean.shape, generator=random, device=device)
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        with torch.no_grad():
            states = text_encoder(text).last_hidden_state
        noised = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        with torch.autocast(device.type, torch.bfloat16):
            predicted = forward(noised.contiguous(memory_format=torch.channels_last), timesteps, states).sample.float()
        return denoising_error(predicted - noise, (alpha / (1 - alpha)).flatten(), coarse=step >= coarse_from)

    training.run(loss_of)
    return training.use_average()


def denoising_error(error: Tensor, snr: Tensor, *, coarse: bool) -> Tensor:
    """Weighted mean squared error of a batch; whatever the weights, the best prediction is the same.

    Timesteps have min-SNR weights (Hang et al. 2023, section 3.4). The coarse error adds the averages of the error over
    2x2, 4x4, 8x8 and 16x16 latents, each scaled to the variance of fine noise (after the multiscale loss of Hoogeboom
    et al. 2023, "simple diffusion"), and raises the weights of the noisiest timesteps.

    Args:
        error: Predicted minus true noise, float32 (B, C, H, W).
        snr: Signal-to-noise ratio of each sample, float32 (B,).
        coarse: Whether the coarse error counts.

    Returns:
        Scalar.
    """
    if not coarse:
        weight = snr.clamp(max=MIN_SNR_GAMMA) / snr
        return (error.square().mean((1, 2, 3)) * weight).sum() / weight.sum()
    total = error.square().mean((1, 2, 3))
    while error.shape[-1] > 1:
        error = 2 * torch.nn.functional.avg_pool2d(error, 2)  # the mean of four has a quarter of the variance of one
        total = total + COARSE_WEIGHT * error.square().mean((1, 2, 3))
    weight = ((snr + SNR_FLOOR).clamp(max=MIN_SNR_GAMMA) / snr).clamp(max=MOST_WEIGHT)
    return (total * weight).mean()
