"""What is loaded in a text encoder: kept with the encoder, because pipelines share encoders.

The tokenizer tells names, ids and numbers of rows. What it cannot tell is noted in the encoder's configuration, so that
it survives saving and loading a pipeline: which of its added tokens are concepts, their metadata, and whether pooling
was mended. The rows as they came, in float32, are remembered beside it: the table may be in half precision.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.embedding_table import table_of
from textual_inversion_ext.pipelines.words.pooling import pool_at_end, pool_at_highest_id
from textual_inversion_ext.records import EncoderSlot
from textual_inversion_ext.vocabulary import added_words

_NOTE = "textual_inversion"  # in the configuration: {"concepts": {token: metadata}, "pooling_mended": bool}
_ROWS = "_learned_rows"  # on the model: {token: (n, D) float32}


def loaded_words(slot: EncoderSlot) -> dict[str, tuple[int, ...]]:
    """The concepts of a text encoder, those that plain diffusers loaded included.

    Args:
        slot: A text encoder.

    Returns:
        Token -> ids of its rows.
    """
    noted = _noted(slot)
    # Some tokenizers come with added tokens of their own, so not every one is a concept. diffusers' loader leaves a
    # table exactly as high as the vocabulary; the models with such tokens have a higher one.
    adopts = len(table_of(slot.text_encoder)) == len(slot.tokenizer)
    return {token: ids for token, ids in added_words(slot.tokenizer).items() if adopts or token in noted}


def loaded_concepts(slots: Sequence[EncoderSlot]) -> dict[str, LearnedConcept]:
    """The concepts of a pipeline.

    Args:
        slots: Its text encoders.

    Returns:
        Token -> concept, with rows for every encoder that it is loaded in.
    """
    vectors: dict[str, dict[str, Tensor]] = {}
    metadata: dict[str, Mapping[str, str]] = {}
    for slot in slots:
        exact, table = getattr(slot.text_encoder, _ROWS, {}), table_of(slot.text_encoder)
        for token, ids in loaded_words(slot).items():
            vectors.setdefault(token, {})[slot.key] = exact[token] if token in exact else table[list(ids)]
            metadata[token] = {**metadata.get(token, {}), **_noted(slot).get(token, {})}
    return {token: LearnedConcept(token, rows, metadata[token]) for token, rows in vectors.items()}


def remember(slot: EncoderSlot, rows: Mapping[str, Tensor], metadata: Mapping[str, Mapping[str, str]]) -> None:
    """Note concepts that were added, and let the encoder pool rightly from now on.

    Args:
        slot: A text encoder.
        rows: Token -> rows, (n, D) float32.
        metadata: Token -> metadata.
    """
    noted = {**_noted(slot), **{token: dict(metadata[token]) for token in rows}}
    mended = pool_at_end(slot) or _pooling_mended(slot)
    setattr(slot.text_encoder.config, _NOTE, {"concepts": noted, "pooling_mended": mended})
    setattr(slot.text_encoder, _ROWS, {**getattr(slot.text_encoder, _ROWS, {}), **rows})


def forget(slot: EncoderSlot, tokens: Collection[str]) -> None:
    """Drop the notes about concepts that were removed; with the last one, nothing of ours is left.

    Args:
        slot: A text encoder.
        tokens: The tokens.
    """
    config: Any = slot.text_encoder.config
    if not hasattr(config, _NOTE):  # all of them were loaded by plain diffusers
        return
    left = {token: noted for token, noted in _noted(slot).items() if token not in tokens}
    if left:
        setattr(config, _NOTE, {"concepts": left, "pooling_mended": _pooling_mended(slot)})
        rows = getattr(slot.text_encoder, _ROWS, {})
        setattr(slot.text_encoder, _ROWS, {token: rows[token] for token in rows if token not in tokens})
        return
    if _pooling_mended(slot):
        pool_at_highest_id(slot)
    delattr(config, _NOTE)
    slot.text_encoder.__dict__.pop(_ROWS, None)


def _noted(slot: EncoderSlot) -> dict[str, dict[str, str]]:
    return getattr(slot.text_encoder.config, _NOTE, {}).get("concepts", {})


def _pooling_mended(slot: EncoderSlot) -> bool:
    return bool(getattr(slot.text_encoder.config, _NOTE, {}).get("pooling_mended", False))
