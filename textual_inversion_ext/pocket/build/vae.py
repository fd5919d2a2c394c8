"""The pocket VAE: 64x64 pictures to 16x16x8 latents and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from tqdm import tqdm

from textual_inversion_ext.pocket.build.clip import pixels_to_tensor
from textual_inversion_ext.pocket.build.dataset import RenderedWorld
from textual_inversion_ext.pocket.build.loop import Schedule, Training
from textual_inversion_ext.pocket.renderer import SIDE

SCHEDULE = Schedule(steps=6000, learning_rate=2e-3, weight_decay=0.0, averaging=0.998)
BATCH = 32
CROP = 32
LATENT_CHANNELS = 8  # four lose eyes, stripes and thin outlines of 64-pixel pictures (26.7 dB)
FULL_SHARE = 0.2  # the last part of training sees whole pictures, as inference does
KL_WEIGHT = 1e-5


def build_vae() -> AutoencoderKL:
    """Make an untrained pocket VAE: no attention, so that it can learn from crops."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 48, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=SIDE,
        mid_block_add_attention=False,
    )


def train_vae(
    model: AutoencoderKL, world: RenderedWorld, folder: Path, device: torch.device, schedule: Schedule = SCHEDULE
) -> AutoencoderKL:
    """Train the VAE on reconstruction with a weak KL term (Rombach et al. 2022, appendix G).

    Args:
        model: From `build_vae`.
        world: Pictures.
        folder: Where the checkpoint is kept.
        device: Device to train on.
        schedule: Steps and rates.

    Returns:
        The model with averaged weights, its `scaling_factor` not yet set.
    """
    model.to(device).train()
    training = Training("vae", model, schedule, folder)

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((2, step))
        whole = step >= schedule.steps * (1 - FULL_SHARE)
        rows = np.sort(rng.choice(len(world.pixels), BATCH if whole else 2 * BATCH, replace=False))
        pixels = world.pixels[rows]
        if not whole:
            y, x = rng.integers(0, (SIDE - CROP) // 4 + 1, 2) * 4
            pixels = pixels[:, y : y + CROP, x : x + CROP]
        target = pixels_to_tensor(pixels, device) * 2 - 1
        with torch.autocast(device.type, torch.bfloat16):
            posterior = model.encode(target).latent_dist
            noise = torch.from_numpy(rng.standard_normal(posterior.mean.shape, dtype=np.float32)).to(device)
            output = model.decode(posterior.mean + posterior.std * noise).sample
        error = output.float() - target
        # The absolute error keeps edges sharp, the squared one is what PSNR measures.
        return (
            error.square().mean() + 0.2 * error.abs().mean() + KL_WEIGHT * posterior.kl().float().mean() / CROP**2 * 64
        )

    training.run(loss_of)
    return training.use_average()


@torch.no_grad()
def encode_world(model: AutoencoderKL, world: RenderedWorld, device: torch.device) -> Tensor:
    """Return the latent means of all pictures and of their mirror images, float16 (2, N, 8, 16, 16), unscaled."""
    out = torch.empty((2, len(world.pixels), LATENT_CHANNELS, SIDE // 4, SIDE // 4), dtype=torch.float16)
    for start in tqdm(range(0, len(world.pixels), 250), desc="encoding", unit="batch"):
        pixels = pixels_to_tensor(world.pixels[start : start + 250], device) * 2 - 1
        for index, view in enumerate((pixels, pixels.flip(-1))):
            with torch.autocast(device.type, torch.bfloat16):
                out[index, start : start + 250] = model.encode(view).latent_dist.mean.half().cpu()
    return out
