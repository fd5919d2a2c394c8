"""Which tokenizer of a pipeline belongs to which text encoder, and what embedding files call that encoder."""

from __future__ import annotations

from typing import Any

from textual_inversion_ext.errors import ConfigError, ModelError
from textual_inversion_ext.records import EncoderSlot

# diffusers numbers a pipeline's encoders: text_encoder, text_encoder_2, ...; tokenizers and prompts likewise.
SUFFIXES = ("", "_2", "_3", "_4")
_KEY_OF_MODEL = {"umt5": "t5", "gemma2": "gemma", "gemma3_text": "gemma"}  # the others are called by their type


def slots_of(pipeline: object) -> dict[str, EncoderSlot]:
    """The text encoders of a pipeline that are loaded.

    Args:
        pipeline: Any object with `tokenizer`, `text_encoder`, `tokenizer_2`, ...

    Returns:
        Suffix ("", "_2", ...) to tokenizer and text encoder.

    Raises:
        ModelError: If there is none, or a tokenizer cannot be given new words.
    """
    slots = {}
    for suffix in SUFFIXES:
        tokenizer = getattr(pipeline, f"tokenizer{suffix}", None)
        text_encoder = getattr(pipeline, f"text_encoder{suffix}", None)
        if tokenizer is not None and text_encoder is not None:
            slots[suffix] = _slot(suffix, tokenizer, text_encoder)
    if not slots:
        raise ModelError(
            f"{type(pipeline).__name__} has no tokenizer with a text encoder, so there is nothing to load a word into. "
            "Load the pipeline with its text encoders."
        )
    return slots


def chosen_slots(pipeline: object, tokenizer: Any = None, text_encoder: Any = None) -> list[EncoderSlot]:
    """The text encoders that a call is about: all, or the one that was named by a part of it.

    Args:
        pipeline: A pipeline.
        tokenizer: One of its tokenizers, or a foreign one together with `text_encoder`.
        text_encoder: One of its text encoders, or a foreign one.

    Returns:
        One slot, or all.

    Raises:
        ConfigError: If only one part was given and it is none of the pipeline's.
    """
    if tokenizer is None and text_encoder is None:
        return list(slots_of(pipeline).values())
    if tokenizer is not None and text_encoder is not None:
        suffix = next((s for s in SUFFIXES if getattr(pipeline, f"text_encoder{s}", None) is text_encoder), "")
        return [_slot(suffix, tokenizer, text_encoder)]
    slots = slots_of(pipeline)
    for slot in slots.values():
        if slot.tokenizer is tokenizer or slot.text_encoder is text_encoder:
            return [slot]
    given = "tokenizer" if text_encoder is None else "text_encoder"
    raise ConfigError(
        f"{given}= is none of this pipeline's; it has {', '.join(given + suffix for suffix in slots)}. Give one of "
        "them, or both tokenizer= and text_encoder=."
    )


def _slot(suffix: str, tokenizer: Any, text_encoder: Any) -> EncoderSlot:
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise ModelError(
            f"tokenizer{suffix} is a {type(tokenizer).__name__}, which is not backed by the `tokenizers` library; "
            "words can be added to those only. Load the pipeline with the fast version of its tokenizer."
        )
    return EncoderSlot(_key(suffix, text_encoder), tokenizer, text_encoder)


def _key(suffix: str, text_encoder: Any) -> str:
    """What embedding files call this text encoder."""
    model_type = text_encoder.config.model_type
    if model_type == "clip_text_model":
        # OpenCLIP's big encoder is the second one of SDXL and SD3, with a projection; others' second CLIP has none.
        return "clip_g" if suffix == "_2" and hasattr(text_encoder, "text_projection") else "clip_l"
    return _KEY_OF_MODEL.get(model_type, model_type)
