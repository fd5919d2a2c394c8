"""The pocket CLIP: learns to match pictures and captions; its text tower becomes the pipeline's text encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from textual_inversion_ext.pocket.build.dataset import CAPTIONS_PER_PICTURE, RenderedWorld
from textual_inversion_ext.pocket.build.loop import Schedule, Training
from textual_inversion_ext.pocket.build.tokenizer import MAX_LENGTH
from textual_inversion_ext.pocket.renderer import SIDE

SCHEDULE = Schedule(steps=1800, learning_rate=1e-3, weight_decay=0.1, averaging=0.998)
BATCH = 96
PIXEL_MEAN, PIXEL_STD = 0.5, 0.25


def build_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Make an untrained pocket CLIP; its end-of-text id is the tokenizer's, so pooling happens at the true end."""
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        projection_dim=128,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=16,
        projection_dim=128,
    )
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=128)
    return CLIPModel(config)


def tokenize_captions(tokenizer: CLIPTokenizer, world: RenderedWorld) -> Tensor:
    """Return all captions as ids, int64 (N, CAPTIONS_PER_PICTURE, MAX_LENGTH)."""
    flat = [text for texts in world.captions for text in texts]
    ids = tokenizer(flat, padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="pt").input_ids
    return ids.view(len(world.captions), CAPTIONS_PER_PICTURE, MAX_LENGTH)


def pixels_to_tensor(pixels: np.ndarray, device: torch.device) -> Tensor:
    """Turn uint8 (B, H, W, 3) into float32 (B, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).to(device).permute(0, 3, 1, 2).float() / 255.0


def train_clip(
    model: CLIPModel, world: RenderedWorld, ids: Tensor, folder: Path, device: torch.device, schedule: Schedule = SCHEDULE
) -> CLIPModel:
    """Train the pocket CLIP contrastively (Radford et al. 2021, section 2.3).

    Args:
        model: From `build_clip`.
        world: Pictures.
        ids: Their captions, int64 (N, captions, L).
        folder: Where the checkpoint is kept.
        device: Device to train on.
        schedule: Steps and rates.

    Returns:
        The model with averaged weights.
    """
    model.to(device).train()
    training = Training("clip", model, schedule, folder)
    real_length = (ids != ids[..., -1:]).sum(-1).max().item() + 1

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((1, step))
        rows = np.sort(rng.choice(len(world.pixels), BATCH, replace=False))
        pixels = pixels_to_tensor(world.pixels[rows], device)
        if rng.random() < 0.5:
            pixels = pixels.flip(-1)
        text = ids[torch.from_numpy(rows), torch.from_numpy(rng.integers(0, ids.shape[1], BATCH))].to(device)
        # Positions after the end-of-text token cannot influence it, so padding need not be computed.
        text = text[:, : int(real_length) + 1]
        with torch.autocast(device.type, torch.bfloat16):
            output = model(input_ids=text, pixel_values=(pixels - PIXEL_MEAN) / PIXEL_STD)
        images, texts = (torch.nn.functional.normalize(e.float(), dim=-1) for e in (output.image_embeds, output.text_embeds))
        with torch.no_grad():
            same = (text[:, None, :] == text[None, :, :]).all(-1) & ~torch.eye(BATCH, dtype=torch.bool, device=device)
        # Equal captions in one batch are no negatives of each other.
        logits = (images @ texts.t() * model.logit_scale.exp().clamp(max=100.0)).masked_fill(same, -1e4)
        target = torch.arange(BATCH, device=device)
        return (torch.nn.functional.cross_entropy(logits, target) + torch.nn.functional.cross_entropy(logits.t(), target)) / 2

    training.run(loss_of)
    return training.use_average()  # type: ignore[return-value]
