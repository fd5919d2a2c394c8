"""Words of single pictures (Gal et al. 2022, section 5.2): they take up what one picture shows and the others do not.

A concept is learned in "a photo of <corgi> with <corgi-3>" for its third picture, so that its background, light and
pose have somewhere else to go than into the concept's own rows. The words are left out of the concept's files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from textual_inversion_ext.concept import ConceptSpec, LearnedConcept
from textual_inversion_ext.records import EncoderSlot
from textual_inversion_ext.row_layout import image_token, row_ranges
from textual_inversion_ext.tokens import word_ids

__all__ = ["NEUTRAL_WORDS", "image_words", "neutral_row", "with_image_rows"]

NEUTRAL_WORDS = ("background", "scene", "something", "picture", "photo")
"""Where the words start: the first that every text encoder has as one token.

The released code starts at uniform random numbers, whose norm is some forty times that of a word of CLIP.
"""


def with_image_rows(
    initial: Mapping[str, Tensor],
    slots: Sequence[EncoderSlot],
    concepts: Sequence[ConceptSpec],
    image_counts: Sequence[int],
) -> dict[str, Tensor]:
    """Put the first rows of single pictures behind those of each concept.

    Args:
        initial: encoder key -> first rows of the concepts' vectors, concept after concept.
        slots: the text encoders.
        concepts: what the run learns.
        image_counts: for each concept its pictures with a word of their own; empty for none.

    Returns:
        Encoder key -> (N, dim) float32, laid out as ``row_ranges`` says.
    """
    if not any(image_counts):
        return dict(initial)
    word = _neutral_word(slots)
    parts: dict[str, list[Tensor]] = {slot.key: [] for slot in slots}
    for slot in slots:
        neutral = neutral_row(slot, word)
        for own, images in zip(row_ranges(concepts), image_counts, strict=True):
            parts[slot.key] += [initial[slot.key][own.start : own.stop], neutral.expand(images, -1)]
    return {key: torch.cat(tensors) for key, tensors in parts.items()}


def neutral_row(slot: EncoderSlot, word: str) -> Tensor:
    """The frozen row of a word; the mean of its pieces where the tokenizer splits it.

    Args:
        slot: the text encoder.
        word: the word.

    Returns:
        (dim,) float32 on the CPU.
    """
    table = slot.text_encoder.get_input_embeddings().weight.detach()
    ids = torch.tensor(word_ids(slot.tokenizer, word), device=table.device)
    return table[ids].float().mean(0).cpu()


def image_words(
    concept: LearnedConcept, rows: Mapping[str, Tensor], owned: range, names: Sequence[str]
) -> tuple[LearnedConcept, ...]:
    """The words of a concept's pictures, as files hold them.

    Args:
        concept: the learned concept.
        rows: encoder key -> (N, dim) rows as files get them.
        owned: positions of the pictures' rows.
        names: file names of the pictures.

    Returns:
        One for each picture: ``<corgi-1>``, ``<corgi-2>``, ...
    """
    return tuple(
        LearnedConcept(
            image_token(concept.token, number),
            {key: tensor[row : row + 1] for key, tensor in rows.items()},
            {**concept.metadata, "picture": name},
        )
        for number, (row, name) in enumerate(zip(owned, names, strict=True), start=1)
    )


def _neutral_word(slots: Sequence[EncoderSlot]) -> str:
    for word in NEUTRAL_WORDS:
        if all(len(word_ids(slot.tokenizer, word)) == 1 for slot in slots):
            return word
    return NEUTRAL_WORDS[-1]
