"""A little noise on first rows, so that several vectors of one word do not start alike."""

from __future__ import annotations

import torch
from torch import Tensor

from textual_inversion_ext.data.seeds import seed_for
from textual_inversion_ext.records import EncoderSlot


def row_noise(slot: EncoderSlot, seed: int, token: str, count: int) -> Tensor:
    """Noise of the vocabulary's own spread: a pure function of seed, token, encoder and row.

    Args:
        slot: the text encoder.
        seed: the run's seed.
        token: placeholder token of the concept.
        count: rows; further rows do not change the first ones.

    Returns:
        (count, dim) float32 on the CPU, normal with mean 0 and, in each dimension, the vocabulary's variance.
    """
    # Per dimension: noise of one size for all would be much where rows hardly differ and nothing where they do.
    table = slot.text_encoder.get_input_embeddings().weight.detach()[: slot.first_id]
    spread = table.to("cpu", torch.float32).std(0)
    rows = []
    for row in range(count):
        generator = torch.Generator().manual_seed(seed_for(seed, token, f"first row in {slot.key}", row))
        rows.append(torch.randn(slot.dim, generator=generator))
    return torch.stack(rows) * spread
