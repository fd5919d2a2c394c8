"""Tiny real CLIP models whose text tower is a given text encoder: its twin, with a vision tower beside it."""

from __future__ import annotations

from typing import Any

import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

from textual_inversion_ext.records import EncoderSlot


def tiny_twin(slot: EncoderSlot, more_layers: int = 0, seed: int = 0, **text_config: Any) -> tuple[Any, Any]:
    """A CLIP model with random weights, but for the text tower.

    Args:
        slot: the text encoder that becomes the tower.
        more_layers: layers of the tower behind the encoder's, as in Stable Diffusion 2.
        seed: of the other weights.
        **text_config: changes to the tower's configuration.
    """
    encoder = slot.text_encoder
    text = {**encoder.config.to_dict(), **text_config}
    text["num_hidden_layers"] += more_layers
    text.pop("dtype", None)
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
        "projection_dim": slot.dim,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=slot.dim))
    weights = {name.removeprefix("text_model."): weight.float() for name, weight in encoder.state_dict().items()}
    projection = weights.pop("text_projection.weight", None)
    if projection is not None:
        model.text_projection.load_state_dict({"weight": projection})
    model.text_model.load_state_dict(weights, strict=False)
    images = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    return model.eval().requires_grad_(False), CLIPProcessor(images, slot.tokenizer)
