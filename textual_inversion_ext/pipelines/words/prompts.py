"""Prompts on their way into a pipeline: words written out for each tokenizer, and a warning about what is cut."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, MutableMapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from textual_inversion_ext.records import EncoderSlot
from textual_inversion_ext.vocabulary import added_words, expand

logger = logging.getLogger(__name__)

_NO_LIMIT = 1_000_000  # tokenizers that were never told their length say 1e30


def convert_arguments(
    arguments: MutableMapping[str, Any], known: Collection[str], slots: Mapping[str, EncoderSlot]
) -> None:
    """Write out the words in the prompts of an `encode_prompt` call, for each text encoder as its tokenizer needs them.

    Args:
        arguments: The call's arguments; changed in place.
        known: The parameters of that `encode_prompt`.
        slots: Suffix ("", "_2", ...) -> text encoder.
    """
    given = dict(arguments)
    for kind in ("prompt", "negative_prompt"):
        by_default = given.get(kind)
        for suffix, slot in slots.items():
            name, wanted = kind + suffix, given.get(kind + suffix) or by_default
            text = converted(wanted, slot.tokenizer)
            # An empty `prompt_2` means `prompt`; it is filled in where that, written out for another tokenizer, would
            # not do here.
            if name in known and (given.get(name) or text != arguments.get(kind)):
                arguments[name] = text
            warn_of_cut(text, slot, arguments.get("max_sequence_length"))


def converted(prompt: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
    """Write out the words of one prompt or a list of them.

    Args:
        prompt: A text or a list of texts; anything else comes back as it is.
        tokenizer: What will read it.

    Returns:
        The same kind of thing.
    """
    if isinstance(prompt, list | tuple):
        return type(prompt)(converted(text, tokenizer) for text in prompt)
    return expand(prompt, tokenizer) if isinstance(prompt, str) else prompt


def warn_of_cut(prompt: Any, slot: EncoderSlot, max_sequence_length: int | None = None) -> None:
    """Say what of a prompt is longer than the text encoder reads, and which learned words suffer.

    Args:
        prompt: A text or a list of texts, words written out.
        slot: The text encoder.
        max_sequence_length: The pipeline's limit for encoders other than CLIP.
    """
    limit = slot.tokenizer.model_max_length
    if max_sequence_length is not None and not slot.key.startswith("clip"):
        limit = max_sequence_length
    texts = prompt if isinstance(prompt, list | tuple) else [prompt]
    for text in texts if limit < _NO_LIMIT else ():
        if not isinstance(text, str):
            continue
        ids = slot.tokenizer(text, verbose=False).input_ids
        if len(ids) > limit:
            cut = ids[limit - 1 : -1]  # the end token keeps its place
            hurt = [token for token, rows in added_words(slot.tokenizer).items() if set(rows) & set(cut)]
            logger.warning(
                "%s reads %d tokens, and a prompt has %d; cut: %r%s",
                slot.key,
                limit,
                len(ids),
                slot.tokenizer.decode(cut),
                f" (vectors of {', '.join(hurt)}, which have no effect there)" if hurt else "",
            )
