"""Words without a name: a row for every identity, so that the denoiser can be trained to paint what no word names.

A name covers one point of a continuous world. Trained on names alone, a denoiser paints what lies near them and knows
nothing in between; a learned word then has nowhere to go. So part of its captions hold a stand-in, whose row a small
network makes of the numbers of who is shown. The network learns with the denoiser and is thrown away afterwards: that
such rows exist is all that remains of it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from textual_inversion_ext.pocket.characters import CHARACTERS
from textual_inversion_ext.pocket.specs import SubjectSpec
from textual_inversion_ext.pocket.vocabulary import ACCESSORIES, PATTERNS, SUBJECTS
from textual_inversion_ext.tokens import attached, word_ids

STAND_IN = next(iter(CHARACTERS))
"""The word in whose place rows stand: any of one token will do."""
_WIDTH = 256
_GAIN = 5.0  # a row moves further than the other weights in as many steps
_JITTER = 0.02  # standard deviation of the noise on rows; what lies near an identity must look like it


def identity_numbers(subject: SubjectSpec) -> np.ndarray:
    """Write an identity as numbers.

    Args:
        subject: Who is shown.

    Returns:
        float32 (IDENTITY_NUMBERS,): which subject, pattern and accessory it is (1 or 0 each), its proportions, and its
        colours, all in [-1, 1]. Hair is left out: a bias is what no word says.
    """
    chosen = [subject.kind == kind for kind in SUBJECTS] + [subject.pattern == pattern for pattern in PATTERNS]
    chosen += [subject.accessory == accessory for accessory in ACCESSORIES]
    colours = np.array([subject.main, subject.accent, subject.accessory_colour]) / 127.5 - 1
    colours[2] *= subject.accessory is not None
    return np.array([*chosen, subject.aspect, subject.feature, *colours.flatten()], dtype=np.float32)


IDENTITY_NUMBERS = len(SUBJECTS) + len(PATTERNS) + len(ACCESSORIES) + 2 + 9


class IdentityRows(nn.Module):
    """Turns identities into rows, each near the row of its subject's word.

    Args:
        tokenizer: The pocket tokenizer.
        text_encoder: Frozen.
    """

    kinds: Tensor

    def __init__(self, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        table = text_encoder.get_input_embeddings().weight
        self.stand_in, self.first_id = _one_token(tokenizer, STAND_IN), len(tokenizer)
        kinds = [_one_token(tokenizer, kind) for kind in SUBJECTS]
        self.register_buffer("kinds", table[kinds].detach().float(), persistent=False)
        first, second, last = (
            nn.Linear(*sizes) for sizes in ((IDENTITY_NUMBERS, _WIDTH), (_WIDTH, _WIDTH), (_WIDTH, table.shape[1]))
        )
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.change = nn.Sequential(first, nn.GELU(), second, nn.GELU(), last)

    def forward(
        self, text_encoder: CLIPTextModel, ids: Tensor, numbers: Tensor, random: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Encode captions with rows in the place of the stand-in.

        Args:
            text_encoder: Frozen.
            ids: Captions, int64 (B, L); those without the stand-in are encoded as they are.
            numbers: Who is shown, float32 (B, IDENTITY_NUMBERS).
            random: Source of the noise on rows.

        Returns:
            States of the text, float32 (B, L, D), and the rows' changes from the words of their subjects, float32
            (B, D).
        """
        change = _GAIN * self.change(numbers)
        rows = self.kinds[numbers[:, : len(SUBJECTS)].argmax(-1)] + change
        rows = rows + _JITTER * torch.randn(rows.shape, generator=random, device=rows.device)
        own = self.first_id + torch.arange(len(ids), device=ids.device)[:, None]
        with attached(text_encoder, self.first_id) as embedding:
            embedding.rows = rows
            return text_encoder(torch.where(ids == self.stand_in, own, ids)).last_hidden_state, change

    def rows(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Make the rows of identities.

        Args:
            numbers: Who they are, float32 (B, IDENTITY_NUMBERS).

        Returns:
            The rows, and their changes from the words of their subjects, both float32 (B, D).
        """
        change = _GAIN * self.change(numbers)
        return self.kinds[numbers[:, : len(SUBJECTS)].argmax(-1)] + change, change


def _one_token(tokenizer: CLIPTokenizer, word: str) -> int:
    """Look up a word that the vocabulary has whole."""
    (token,) = word_ids(tokenizer, word)
    return token
