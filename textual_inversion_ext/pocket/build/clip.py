"""The pocket CLIP, in two stages: first both towers together, then a sharper vision tower for the finished text tower.

The first stage gives the pipeline its text encoder, so the denoiser can start training; the second (Zhai et al. 2022,
"LiT") replaces the coarse vision tower while the text tower stays as it is.
"""

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
from textual_inversion_ext.pocket.vocabulary import SCENES, SUBJECTS

SCHEDULE = Schedule(steps=1800, learning_rate=1e-3, weight_decay=0.1, averaging=0.998)
VISION_SCHEDULE = Schedule(steps=2500, learning_rate=1.5e-3, weight_decay=0.05, averaging=0.998)
BATCH = 96
ONE_SCENE = 0.7  # share of the second stage's batches whose pictures all show one scene
COARSE_PATCH, FINE_PATCH = 16, 8
PIXEL_MEAN, PIXEL_STD = 0.5, 0.25


def build_clip(tokenizer: CLIPTokenizer, patch_size: int) -> CLIPModel:
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
        patch_size=patch_size,
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
    model: CLIPModel,
    world: RenderedWorld,
    ids: Tensor,
    folder: Path,
    device: torch.device,
    schedule: Schedule = SCHEDULE,
) -> CLIPModel:
    """Train both towers contrastively (Radford et al. 2021, section 2.3).

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
    length = _used_length(ids)

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((1, step))
        rows = np.sort(rng.choice(len(world.pixels), BATCH, replace=False))
        images, texts, same = _embedded(model, world, ids[..., :length], rows, rng, device)
        return _matching_loss(model.logit_scale.exp().clamp(max=100.0) * images @ texts.t(), same)

    training.run(loss_of)
    return training.use_average()


def train_vision(
    coarse: CLIPModel,
    model: CLIPModel,
    tokenizer: CLIPTokenizer,
    world: RenderedWorld,
    ids: Tensor,
    folder: Path,
    device: torch.device,
    schedule: Schedule = VISION_SCHEDULE,
) -> CLIPModel:
    """Train a new vision tower and the projections against the frozen text tower (Zhai et al. 2022, section 3).

    In most batches all pictures show one scene: place alone then tells no pair apart, subject and colours must. Beside
    the captions, each picture is matched with one prompt per subject word: shape is what a vision transformer learns
    last, and captions differ in so much else that they hardly ask for it.

    Args:
        coarse: Finished first stage; gives its text tower.
        model: From `build_clip`, with the finer patches.
        tokenizer: The pocket tokenizer.
        world: Pictures.
        ids: Their captions, int64 (N, captions, L).
        folder: Where the checkpoint is kept.
        device: Device to train on.
        schedule: Steps and rates.

    Returns:
        The model with averaged weights.
    """
    model.text_model.load_state_dict(coarse.text_model.state_dict())
    model.text_projection.load_state_dict(coarse.text_projection.state_dict())
    model.to(device).train()
    model.text_model.requires_grad_(False)
    training = Training("vision", model, schedule, folder)
    length, by_scene, subjects = _used_length(ids), _rows_by_scene(world), _subjects(world)
    prompts = tokenizer([f"a photo of a {word}" for word in SUBJECTS], padding="max_length", return_tensors="pt")
    subject_ids = prompts.input_ids[:, :length].to(device)

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((4, step))
        one_scene = rng.random() < ONE_SCENE
        pool = by_scene[int(rng.integers(len(by_scene)))] if one_scene else np.arange(len(world.pixels))
        rows = np.sort(rng.choice(pool, BATCH, replace=False))
        images, texts, same = _embedded(model, world, ids[..., :length], rows, rng, device)
        with torch.autocast(device.type, torch.bfloat16):
            words = model.get_text_features(subject_ids).pooler_output
        scale = model.logit_scale.exp().clamp(max=100.0)
        named = scale * images @ torch.nn.functional.normalize(words.float(), dim=-1).t()
        recognised = torch.nn.functional.cross_entropy(named, subjects[rows].to(device), ignore_index=-1)
        return _matching_loss(scale * images @ texts.t(), same) + recognised

    training.run(loss_of)
    return training.use_average()


def _used_length(ids: Tensor) -> int:
    """Longest caption; positions after the end-of-text token cannot influence it, so padding need not be computed."""
    return min(ids.shape[-1], int((ids != ids[..., -1:]).sum(-1).max()) + 2)


def _rows_by_scene(world: RenderedWorld) -> list[np.ndarray]:
    """Group the pictures by the scene that their captions mention."""
    texts = [" ".join(captions) for captions in world.captions]
    return [np.flatnonzero([phrase in text for text in texts]) for phrase in SCENES.values()]


def _subjects(world: RenderedWorld) -> Tensor:
    """Return the position in `SUBJECTS` of each picture's subject, int64 (N,); -1 where captions name none or two."""
    found = []
    for captions in world.captions:
        words = set(" ".join(captions).split())
        named = [index for index, subject in enumerate(SUBJECTS) if subject in words]
        found.append(named[0] if len(named) == 1 else -1)
    return torch.tensor(found)


def _embedded(
    model: CLIPModel,
    world: RenderedWorld,
    ids: Tensor,
    rows: np.ndarray,
    rng: np.random.Generator,
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor]:
    """Embed pictures and one caption of each; the third tensor marks different pictures with equal captions."""
    pixels = pixels_to_tensor(world.pixels[rows], device)
    if rng.random() < 0.5:
        pixels = pixels.flip(-1)
    count = len(rows)
    text = ids[torch.from_numpy(rows), torch.from_numpy(rng.integers(0, ids.shape[1], count))].to(device)
    with torch.autocast(device.type, torch.bfloat16):
        output = model(input_ids=text, pixel_values=(pixels - PIXEL_MEAN) / PIXEL_STD)
    same = (text[:, None, :] == text[None, :, :]).all(-1) & ~torch.eye(count, dtype=torch.bool, device=device)
    images, texts = (
        torch.nn.functional.normalize(e.float(), dim=-1) for e in (output.image_embeds, output.text_embeds)
    )
    return images, texts, same


def _matching_loss(logits: Tensor, same: Tensor) -> Tensor:
    """Symmetric cross-entropy over a batch; equal captions are no negatives of each other."""
    logits = logits.masked_fill(same, -1e4)
    target, entropy = torch.arange(len(logits), device=logits.device), torch.nn.functional.cross_entropy
    return (entropy(logits, target) + entropy(logits.t(), target)) / 2
