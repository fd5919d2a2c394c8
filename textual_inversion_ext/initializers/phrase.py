"""Start from a phrase of any length: one row per token, or summed up where there are fewer vectors than tokens."""

from __future__ import annotations

from torch import Tensor

from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.initializers.base import Initializer, InitializerContext, rows_of_ids, spread, token_ids_of
from textual_inversion_ext.records import EncoderSlot


class PhraseInitializer(Initializer):
    """Rows of a phrase's tokens, laid out over the vectors as ``spread`` says.

    It never refuses a phrase for its length: it is the way to start one vector from "corgi" where that word is several
    pieces, or from a whole caption. With as many vectors as tokens it is the same as ``words``.
    """

    name = "phrase"

    def __call__(self, concept: ConceptSpec, slot: EncoderSlot, context: InitializerContext) -> Tensor:
        """Look the tokens up and lay them out; see the base class.

        Args:
            concept: what is to be learned; an empty initializer means its ``class_name``.
            slot: the text encoder in which.
            context: not used.

        Returns:
            (num_vectors, dim) float32 on the CPU.
        """
        return spread(rows_of_ids(slot, token_ids_of(concept, slot)), concept.num_vectors)
