"""The pocket denoiser: a small UNet of Stable Diffusion's class, conditioned on the pocket text encoder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from textual_inversion_ext.pocket.build.dataset import RenderedWorld
from textual_inversion_ext.pocket.build.identities import IdentityRows
from textual_inversion_ext.pocket.build.loop import Schedule, Training
from textual_inversion_ext.pocket.build.tokenizer import tokenize
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
# Added to the background's weight of 1 where a subject is, and where its accent or accessory is: those are small, and
# the plain mean forgets them. Many captions leave nothing out, which tells what a text means in every detail.
SUBJECT_WEIGHT, DETAIL_WEIGHT = 3.0, 12.0
FULL_SHARE = 0.4
# Shares of a batch whose captions have a row for the identity that they show (see `identities`), and that show named
# characters. The weight keeps such rows near the words of their subjects, where words that are learned start; ten times
# as much holds them closer than words end, and leaves them little room to tell colours apart.
NAMELESS_SHARE, CHARACTERS_SHARE = 9 / 16, 3 / 16
CHANGE_WEIGHT = 2e-5
# Once fine noise is known, few samples are spent on it, each counted for many.
FINE_TIMESTEPS, FINE_SHARE = 250, 0.12

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
    tokenizer: CLIPTokenizer,
    latents: Tensor,
    world: RenderedWorld,
    folder: Path,
    device: torch.device,
    schedule: Schedule = SCHEDULE,
    *,
    batch: int = BATCH,
    coarse_from: int = COARSE_FROM,
) -> UNet2DConditionModel:
    """Train the denoiser on noise prediction (see `denoising_error`).

    Args:
        model: From `build_unet`.
        text_encoder: Frozen.
        tokenizer: The pocket tokenizer.
        latents: Scaled latents of pictures and mirror images, float16 (2, N, 8, 16, 16).
        world: What the pictures show, and their captions.
        folder: Where the checkpoint is kept.
        device: Device to train on.
        schedule: Steps and rates.
        batch: Latents a step.
        coarse_from: Step from which the coarse error counts.

    Returns:
        The model with averaged weights.
    """
    text_encoder.to(device).eval().requires_grad_(False)
    nameless = IdentityRows(tokenizer, text_encoder)
    both = nn.ModuleDict({"unet": model.to(memory_format=torch.channels_last), "rows": nameless}).to(device).train()
    training = Training("unet", both, schedule, folder)
    alphas = DDPMScheduler(**NOISE).alphas_cumprod.to(device)
    samples = _Samples(latents.to(device), world, tokenizer, batch)

    def loss_of(step: int) -> Tensor:
        coarse = step >= coarse_from
        drawn = samples.draw(step, spread=coarse)
        alpha = alphas[drawn.timesteps].view(-1, 1, 1, 1)
        count = len(drawn.identities)
        states, change = nameless(text_encoder, drawn.text[:count], drawn.identities, drawn.random)
        with torch.no_grad():
            others = text_encoder(drawn.text[count:]).last_hidden_state
        states = torch.cat([states, others])
        noised = (alpha.sqrt() * drawn.clean + (1 - alpha).sqrt() * drawn.noise).contiguous(
            memory_format=torch.channels_last
        )
        with torch.autocast(device.type, torch.bfloat16):
            predicted = model(noised, drawn.timesteps, states).sample.float()
        snr = (alpha / (1 - alpha)).flatten()
        error = denoising_error(predicted - drawn.noise, snr, drawn.weights, drawn.counted, coarse=coarse)
        return error + CHANGE_WEIGHT * change.square().sum(-1).mean()

    training.run(loss_of)
    training.use_average()
    return model


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A batch of B, of which the first K have captions for `IdentityRows`.

    Clean latents and noise (B, C, h, w), ids (B, L), timesteps (B,), what cells and samples count for, who the first
    are (K, IDENTITY_NUMBERS), and the source of all further randomness of the step.
    """

    clean: Tensor
    noise: Tensor
    text: Tensor
    timesteps: Tensor
    weights: Tensor
    counted: Tensor
    identities: Tensor
    random: torch.Generator


class _Samples:
    """Draws batches; what a step draws depends on its number alone.

    Args:
        latents: As for `train_unet`, like all of these.
        world: What the pictures show, and their captions.
        tokenizer: The pocket tokenizer.
        batch: Samples a step.
    """

    def __init__(self, latents: Tensor, world: RenderedWorld, tokenizer: CLIPTokenizer, batch: int) -> None:
        device = latents.device
        self.latents, self.batch = latents, batch
        ends = [round(batch * share) for share in (NAMELESS_SHARE, NAMELESS_SHARE + CHARACTERS_SHARE)]
        self.of_nameless, self.of_characters = slice(ends[0]), slice(*ends)
        self.weights = part_weights(world.coverage).to(device)
        self.ids = tokenize(tokenizer, world.captions).to(device)
        self.empty_ids = tokenize(tokenizer, [[""]])[0, 0].to(device)
        self.alone = torch.tensor([place for place, texts in enumerate(world.nameless) if texts], device=device)
        self.nameless = tokenize(tokenizer, [texts for texts in world.nameless if texts]).to(device)
        self.identities = torch.from_numpy(world.identities).to(device)
        self.characters = torch.tensor(world.characters, device=device)

    def draw(self, step: int, *, spread: bool) -> _Drawn:
        """Draw a batch.

        Args:
            step: Its number.
            spread: Whether to spend few samples on fine noise.

        Returns:
            The batch.
        """
        device, last = self.latents.device, self.ids.shape[1] - 1
        random = torch.Generator(device).manual_seed(step)
        draw = partial(torch.rand, self.batch, generator=random, device=device)
        first, second = self.of_nameless, self.of_characters
        chance, chosen = draw(), draw()
        rows = (chance * self.latents.shape[1]).long()
        alone = (chance[first] * len(self.alone)).long()
        rows[first] = self.alone[alone]
        rows[second] = self.characters[(chance[second] * len(self.characters)).long()]
        text = self.ids[rows, torch.where(draw() < FULL_SHARE, last, (chosen * last).long())]
        text[first] = self.nameless[alone, (chosen[first] * self.nameless.shape[1]).long()]
        mirrored = (draw() < 0.5).long()
        clean = self.latents[mirrored, rows].float()
        # Stratified timesteps: each batch covers the whole schedule, which steadies the loss. In random order: the
        # first samples are of other kinds than the last.
        u = (torch.randperm(self.batch, generator=random, device=device) + draw()) / self.batch
        timesteps, counted = spread_timesteps(u) if spread else ((u * 1000).long().clamp(max=999), torch.ones_like(u))
        return _Drawn(
            clean=clean,
            noise=torch.randn(clean.shape, generator=random, device=device),
            text=torch.where(draw()[:, None] < CAPTION_DROPOUT, self.empty_ids, text),
            timesteps=timesteps,
            weights=self.weights[mirrored, rows],
            counted=counted,
            identities=self.identities[rows[first]],
            random=random,
        )


def part_weights(coverage: np.ndarray) -> Tensor:
    """Weigh the cells of every picture by what they show.

    Args:
        coverage: float16 (N, 2, h, w), see `renderer.coverage`.

    Returns:
        float32 (2, N, 1, h, w) with a mean of 1, for pictures and their mirror images.
    """
    covered = torch.from_numpy(np.asarray(coverage, dtype=np.float32))
    weights = 1 + SUBJECT_WEIGHT * covered[:, :1] + DETAIL_WEIGHT * covered[:, 1:]
    weights = weights / weights.mean()
    return torch.stack([weights, weights.flip(-1)])


def spread_timesteps(u: Tensor) -> tuple[Tensor, Tensor]:
    """Draw fewer of the timesteps with little noise.

    Args:
        u: Uniform numbers in [0, 1), float32 (B,).

    Returns:
        Timesteps, int64 (B,), and what each sample must count for, float32 (B,), so that the expected loss is that of
        uniform timesteps.
    """
    share = FINE_TIMESTEPS / 1000
    fine = u < FINE_SHARE
    rest = FINE_TIMESTEPS + (u - FINE_SHARE) / (1 - FINE_SHARE) * (1000 - FINE_TIMESTEPS)
    timesteps = torch.where(fine, u / FINE_SHARE * FINE_TIMESTEPS, rest).long().clamp(max=999)
    return timesteps, torch.where(fine, share / FINE_SHARE, (1 - share) / (1 - FINE_SHARE))


def denoising_error(error: Tensor, snr: Tensor, weights: Tensor, counted: Tensor, *, coarse: bool) -> Tensor:
    """Weighted mean squared error of a batch; whatever the weights, the best prediction is the same.

    Timesteps have min-SNR weights (Hang et al. 2023, section 3.4). The coarse error adds the averages of the error over
    2x2, 4x4, 8x8 and 16x16 latents, each scaled to the variance of fine noise (after the multiscale loss of Hoogeboom
    et al. 2023, "simple diffusion"), and raises the weights of the noisiest timesteps.

    Args:
        error: Predicted minus true noise, float32 (B, C, H, W).
        snr: Signal-to-noise ratio of each sample, float32 (B,).
        weights: From `part_weights`, float32 (B, 1, H, W).
        counted: From `spread_timesteps`, float32 (B,).
        coarse: Whether the coarse error counts.

    Returns:
        Scalar.
    """
    total = (error.square() * weights).mean((1, 2, 3))
    if not coarse:
        weight = snr.clamp(max=MIN_SNR_GAMMA) / snr
        return (total * weight).sum() / weight.sum()
    while error.shape[-1] > 1:
        error = 2 * functional.avg_pool2d(error, 2)  # the mean of four has a quarter of the variance of one
        weights = functional.avg_pool2d(weights, 2)
        total = total + COARSE_WEIGHT * (error.square() * weights).mean((1, 2, 3))
    weight = ((snr + SNR_FLOOR).clamp(max=MIN_SNR_GAMMA) / snr).clamp(max=MOST_WEIGHT)
    return (total * weight * counted).mean()
