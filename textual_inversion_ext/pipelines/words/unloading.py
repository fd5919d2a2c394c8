"""Taking loaded concepts out of text encoders again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from textual_inversion_ext.errors import ConceptError
from textual_inversion_ext.pipelines.words.operands import find_token
from textual_inversion_ext.pipelines.words.registry import forget, loaded_words
from textual_inversion_ext.placeholders import vector_tokens
from textual_inversion_ext.records import EncoderSlot
from textual_inversion_ext.vocabulary import remove_words, unchanged_on_error


def unload(slots: Sequence[EncoderSlot], tokens: Sequence[str] | None) -> None:
    """Unload words from text encoders, in all of them or after an error in none.

    Args:
        slots: The text encoders.
        tokens: The words; None for all.

    Raises:
        ConceptError: If a word is loaded in none of them.
    """
    loaded = [loaded_words(slot) for slot in slots]
    everywhere = {token: len(ids) for words in loaded for token, ids in words.items()}
    wanted = set(everywhere) if tokens is None else _found(tokens, everywhere)
    removals = [
        (slot, words, [token for token in words if token in wanted]) for slot, words in zip(slots, loaded, strict=True)
    ]
    removals = [removal for removal in removals if removal[2]]
    with unchanged_on_error([slot for slot, _, _ in removals]):
        for slot, words, going in removals:
            remove_words(slot, {row for token in going for row in words[token]})
    for slot, _, going in removals:
        forget(slot, going)


def _found(tokens: Sequence[str], loaded: Mapping[str, int]) -> set[str]:
    """The loaded words that were meant; rows of theirs may be listed beside them, as diffusers needs it."""
    wanted = {token for token in (find_token(name, loaded) for name in tokens) if token is not None}
    rows = {row.casefold() for token in wanted for row in vector_tokens(token, loaded[token])}
    for name in tokens:
        if name.casefold() not in rows:
            owner = next((token for token in loaded if name in vector_tokens(token, loaded[token])), None)
            advice = f"it is a vector of {owner}; unload that" if owner else f"loaded: {', '.join(loaded) or 'nothing'}"
            raise ConceptError(f"{name} cannot be unloaded: {advice}.")
    return wanted
