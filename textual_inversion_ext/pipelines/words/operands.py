"""What a name in `pipe.blend` stands for: a loaded concept, or a word or phrase of the model's own vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.embedding_table import table_of
from textual_inversion_ext.errors import ConceptError
from textual_inversion_ext.records import EncoderSlot
from textual_inversion_ext.tokens import word_ids


def find_token(name: str, loaded: Mapping[str, object]) -> str | None:
    """Find a loaded concept by name, in any letter case.

    Args:
        name: What the caller wrote.
        loaded: Loaded tokens.

    Returns:
        The token as it was loaded, or None.
    """
    return next((token for token in loaded if token.casefold() == name.casefold()), None)


def vectors_of(
    operand: str | LearnedConcept, slots: Sequence[EncoderSlot], loaded: Mapping[str, LearnedConcept]
) -> Mapping[str, Tensor]:
    """The rows that a name stands for.

    Args:
        operand: The token of a loaded concept, a concept that need not be loaded, or a word or phrase.
        slots: The pipeline's text encoders.
        loaded: Token -> loaded concept.

    Returns:
        Encoder key -> rows, (n, D). A word may be of several tokens, in one encoder more than in another.

    Raises:
        ConceptError: If the name is neither loaded nor made of words.
    """
    if isinstance(operand, LearnedConcept):
        return operand.vectors
    token = find_token(operand, loaded)
    if token is not None:
        return loaded[token].vectors
    # A mistyped token would be read as a bracket, some letters and a bracket.
    if not operand.strip() or not all(letter.isalnum() or letter in " -'" for letter in operand):
        raise ConceptError(
            f"{operand!r} is neither a loaded concept ({', '.join(loaded) or 'none is loaded'}) nor a word or phrase."
        )
    vectors = {}
    for slot in slots:
        ids = word_ids(slot.tokenizer, operand)
        if not ids or (slot.tokenizer.unk_token_id in ids):
            raise ConceptError(f"the tokenizer of {slot.key} cannot read {operand!r}; use a word that it knows.")
        vectors[slot.key] = table_of(slot.text_encoder)[ids].float().cpu()
    return vectors
