"""Start from no word at all: the mean of the vocabulary."""

from __future__ import annotations

from torch import Tensor

from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.initializers.base import Initializer, InitializerContext, mean_row
from textual_inversion_ext.records import EncoderSlot


class MeanInitializer(Initializer):
    """The mean of the vocabulary, for things that no word comes near; the concept's ``initializer`` is not used.

    Its rows get a little noise unless ``initializer_noise`` says otherwise: equal rows of one word would otherwise be
    told apart by their position alone. (Drawing rows from U[0, 1), as Gal et al.'s code does for per-image tokens,
    would give them forty times the length of a row of CLIP's vocabulary.)
    """

    name = "mean"
    noise = 0.1

    def __call__(self, concept: ConceptSpec, slot: EncoderSlot, context: InitializerContext) -> Tensor:
        """Average the table; see the base class.

        Args:
            concept: what is to be learned.
            slot: the text encoder in which.
            context: not used.

        Returns:
            (num_vectors, dim) float32 on the CPU, all rows alike.
        """
        return mean_row(slot).repeat(concept.num_vectors, 1)
