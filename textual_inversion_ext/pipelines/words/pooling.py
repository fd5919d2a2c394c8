"""Make CLIP pool at the end of the prompt while learned words are loaded.

Old configurations say ``eos_token_id: 2`` (Stable Diffusion 1.x, the second encoder of SDXL, Flux's CLIP). With that
number transformers pools at the highest id of the prompt: its end, until a learned word with a still higher id stands
before it. Sources: https://github.com/huggingface/transformers/issues/24650,
https://github.com/huggingface/diffusers/issues/10754
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.config import Pooling
from textual_inversion_ext.records import EncoderSlot

logger = logging.getLogger(__name__)

_POOLS_AT_HIGHEST_ID = 2


def pool_at_end(slot: EncoderSlot) -> bool:
    """Let a CLIP text encoder find the end of a prompt by the tokenizer's end token.

    Prompts without learned words are pooled where they were before.

    Args:
        slot: Any text encoder; those that pool rightly, or not at all, are left alone.

    Returns:
        Whether something was changed.
    """
    end = slot.tokenizer.eos_token_id
    if slot.text_encoder.config.model_type != "clip_text_model" or end in (None, _POOLS_AT_HIGHEST_ID):
        return False
    return _replace(slot, _POOLS_AT_HIGHEST_ID, end)


def recorded_pooling(concepts: Sequence[LearnedConcept]) -> Pooling:
    """Where prompts were pooled while words were learned, as their files' metadata tell (``recipe``).

    Args:
        concepts: Words that are used together.

    Returns:
        "diffusers" if all of them were learned so; else "end", with a warning if some were.
    """
    told = {concept.token: _told_pooling(concept) for concept in concepts}
    otherwise = [token for token, pooling in told.items() if pooling == "diffusers"]
    if otherwise and len(otherwise) == len(told):
        return "diffusers"
    if otherwise:
        logger.warning(
            "notice: %s learned with --pooling diffusers and %s not; prompts are pooled at their end for all of them.",
            " ".join(otherwise),
            " ".join(token for token in told if token not in otherwise),
        )
    return "end"


def _told_pooling(concept: LearnedConcept) -> Any:
    try:
        recipe = json.loads(concept.metadata.get("recipe", "{}"))
    except ValueError:
        return None
    return recipe.get("pooling") if isinstance(recipe, dict) else None


def pool_at_highest_id(slot: EncoderSlot) -> None:
    """Undo `pool_at_end`.

    Args:
        slot: A text encoder for which it returned True.
    """
    _replace(slot, slot.tokenizer.eos_token_id, _POOLS_AT_HIGHEST_ID)


def _replace(slot: EncoderSlot, old: int, new: int) -> bool:
    # The model copies the number out of its configuration once, and with a projection it holds one model in another.
    modules: list[Any] = list(slot.text_encoder.modules())
    holders = [*modules, *(module.config for module in modules if hasattr(module, "config"))]
    found = [holder for holder in holders if getattr(holder, "eos_token_id", None) == old]
    for holder in found:
        holder.eos_token_id = new
    return bool(found)
