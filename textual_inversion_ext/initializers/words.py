"""Start from a word or phrase of the vocabulary, one row per token (Gal et al. 2022: one coarse word)."""

from __future__ import annotations

from torch import Tensor

from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.errors import ConceptError
from textual_inversion_ext.initializers.base import (
    Initializer,
    InitializerContext,
    rows_of_ids,
    token_ids_of,
    words_of,
)
from textual_inversion_ext.records import EncoderSlot


class WordsInitializer(Initializer):
    """Rows of the frozen table for the tokens of a word or phrase.

    With more vectors than tokens the tokens repeat in order; with fewer it refuses rather than drop half a phrase
    (``initialization="phrase"`` sums it up instead).

    Source: Gal et al. 2022 (arXiv:2208.01618), section 4.
    """

    name = "words"

    @classmethod
    def recognises(cls, initializer: str) -> bool:
        """Any text is words, unless another initializer claims it; see the base class.

        Args:
            initializer: the text the user gave.

        Returns:
            True.
        """
        return True

    def __call__(self, concept: ConceptSpec, slot: EncoderSlot, context: InitializerContext) -> Tensor:
        """Look the tokens up; see the base class.

        Args:
            concept: what is to be learned; an empty initializer means its ``class_name``.
            slot: the text encoder in which.
            context: not used.

        Returns:
            (num_vectors, dim) float32 on the CPU.

        Raises:
            ConceptError: no word, a word the tokenizer cannot spell, or more tokens than vectors.
        """
        ids = token_ids_of(concept, slot)
        if len(ids) > concept.num_vectors:
            pieces = ", ".join(slot.tokenizer.convert_ids_to_tokens(ids))
            raise ConceptError(
                f"{concept.placeholder_token}: the initializer {words_of(concept)!r} splits into {len(ids)} tokens of "
                f"{slot.key} ({pieces}) but the concept has num_vectors={concept.num_vectors}; choose a word that is "
                f"one token, set num_vectors={len(ids)} to start with one vector per token, or set "
                "initialization='phrase' to sum the tokens up in fewer vectors."
            )
        return rows_of_ids(slot, [ids[position % len(ids)] for position in range(concept.num_vectors)])
