"""The pocket CLIP: both towers trained together on batches in which the place gives nothing away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from textual_inversion_ext.pocket.build.dataset import RenderedWorld
from textual_inversion_ext.pocket.build.loop import Schedule, Training
from textual_inversion_ext.pocket.build.tokenizer import MAX_LENGTH, tokenize
from textual_inversion_ext.pocket.characters import CHARACTERS
from textual_inversion_ext.pocket.renderer import SIDE
from textual_inversion_ext.pocket.vocabulary import SCENES, SUBJECTS

SCHEDULE = Schedule(steps=6000, learning_rate=1e-3, weight_decay=0.1, averaging=0.999)
CONTINUED = Schedule(steps=1500, learning_rate=6e-4, weight_decay=0.1, averaging=0.998, decay_share=0.4, save_every=100)
BATCH = 256
# Shares of the batches whose pictures all show one scene, and one subject in one scene; they grow from nothing over the
# first steps, because towers that know nothing yet learn nothing from pairs that differ in little.
ONE_SCENE, ONE_SUBJECT, GROWTH = 0.45, 0.25, 1000
PATCH = 8
PIXEL_MEAN, PIXEL_STD = 0.5, 0.25


def build_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Make an untrained pocket CLIP; its end-of-text id is the tokenizer's, so pooling happens at the true end."""
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        hidden_act="gelu",
        max_position_embeddings=MAX_LENGTH,
        projection_dim=128,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=128,
    )
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=128)
    return CLIPModel(config)


def pixels_to_tensor(pixels: np.ndarray, device: torch.device) -> Tensor:
    """Turn uint8 (B, H, W, 3) into float32 (B, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(pixels)).to(device).permute(0, 3, 1, 2).float() / 255.0


def train_clip(
    model: CLIPModel,
    tokenizer: CLIPTokenizer,
    world: RenderedWorld,
    folder: Path,
    device: torch.device,
    schedule: Schedule = SCHEDULE,
    growth: int = GROWTH,
) -> CLIPModel:
    """Train both towers contrastively (Radford et al. 2021, section 2.3).

    Beside the captions, each picture is matched with one prompt per subject word: shape is what a vision transformer
    learns last, and captions differ in so much else that they hardly ask for it.

    Args:
        model: From `build_clip`.
        tokenizer: The pocket tokenizer.
        world: Pictures with captions.
        folder: Where the checkpoint is kept.
        device: Device to train on.
        schedule: Steps and rates.
        growth: Steps over which the shares of hard batches grow to their full size.

    Returns:
        The model with averaged weights.
    """
    model.to(device).train()
    training = Training("clip", model, schedule, folder)
    ids, batches = tokenize(tokenizer, world.captions), Batches(world)
    length = _used_length(ids)
    prompts = tokenizer([f"a photo of a {word}" for word in SUBJECTS], padding="max_length", return_tensors="pt")
    subject_ids = prompts.input_ids[:, :length].to(device)

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((1, step))
        rows = batches.draw(rng, min(1.0, step / growth))
        images, texts, same = _embedded(model, world, ids[..., :length], rows, rng, device)
        same |= batches.same_character(rows).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            words = model.get_text_features(subject_ids).pooler_output
        scale = model.logit_scale.exp().clamp(max=100.0)
        named = scale * images @ torch.nn.functional.normalize(words.float(), dim=-1).t()
        recognised = torch.nn.functional.cross_entropy(named, batches.subjects[rows].to(device), ignore_index=-1)
        return _matching_loss(scale * images @ texts.t(), same) + recognised

    training.run(loss_of)
    return training.use_average()


class Batches:
    """Chooses the pictures of a batch.

    Where all pictures show one scene, place tells no pair apart: subject and colours must. Where they show one subject
    in one scene as well, only colours, pattern, proportions and accessories are left to tell them apart.

    Args:
        world: Pictures with captions.
    """

    def __init__(self, world: RenderedWorld) -> None:
        texts = [" ".join(captions) for captions in world.captions]
        self.count = len(texts)
        self.subjects = torch.tensor([_only_subject(text) for text in texts])
        self.characters = torch.tensor([_only_character(text) for text in texts])
        subjects = self.subjects.numpy()
        scenes = [np.array([phrase in text for text in texts]) for phrase in SCENES.values()]
        self._by_scene = [np.flatnonzero(seen) for seen in scenes]
        self._by_both = [np.flatnonzero(seen & (subjects == k)) for seen in scenes for k in range(len(SUBJECTS))]

    def same_character(self, rows: np.ndarray) -> Tensor:
        """Mark different pictures of one character: their captions fit each other's pictures, in all but the place.

        Args:
            rows: Positions of a batch's pictures, int64 (B,).

        Returns:
            bool (B, B).
        """
        drawn = self.characters[torch.from_numpy(rows)]
        return (drawn[:, None] == drawn[None, :]) & (drawn >= 0) & ~torch.eye(len(rows), dtype=torch.bool)

    def draw(self, rng: np.random.Generator, hardness: float) -> np.ndarray:
        """Draw a batch.

        Args:
            rng: Source of randomness.
            hardness: What part of the shares of hard batches holds, 0 to 1.

        Returns:
            Sorted positions of at most `BATCH` pictures, int64.
        """
        kind = rng.random() / max(hardness, 1e-9)
        pools = self._by_both if kind < ONE_SUBJECT else self._by_scene if kind < ONE_SUBJECT + ONE_SCENE else []
        pool = pools[int(rng.integers(len(pools)))] if pools else np.arange(self.count)
        if len(pool) < 2:  # a world too small to hold this pair
            pool = np.arange(self.count)
        return np.sort(rng.choice(pool, min(BATCH, len(pool)), replace=False))


def _only_subject(text: str) -> int:
    """Return the position in `SUBJECTS` of the one subject that captions speak of; -1 for none or several."""
    words = set(text.split())
    named = {*(words & set(SUBJECTS)), *(CHARACTERS[word].kind for word in words & CHARACTERS.keys())}
    return SUBJECTS.index(named.pop()) if len(named) == 1 else -1


def _only_character(text: str) -> int:
    """Return the number of the one character that captions name; -1 where they name none or two."""
    named = set(text.split()) & CHARACTERS.keys()
    return list(CHARACTERS).index(named.pop()) if len(named) == 1 else -1


def _used_length(ids: Tensor) -> int:
    """Longest caption; positions after the end-of-text token cannot influence it, so padding need not be computed."""
    return min(ids.shape[-1], int((ids != ids[..., -1:]).sum(-1).max()) + 2)


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
