"""Start from a word or phrase of the vocabulary, one row per token (Gal et al. 2022: one coarse word)."""

from __future__ import annotations

import torch
from torch import Tensor

from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.errors import ConceptError
from textual_inversion_ext.initializers.base import Initializer
from textual_inversion_ext.records import EncoderSlot
from textual_inversion_ext.tokens import word_ids


class WordsInitializer(Initializer):
    """Rows of the frozen table for the tokens of a word or phrase.

    With more vectors than tokens the tokens repeat in order; with fewer it refuses rather than drop half a phrase.
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

    def __call__(self, concept: ConceptSpec, slot: EncoderSlot) -> Tensor:
        """Look the tokens up; see the base class.

        Args:
            concept: what is to be learned; an empty initializer means its ``class_name``.
            slot: the text encoder in which.

        Returns:
            (num_vectors, dim) float32 on the CPU.

        Raises:
            ConceptError: no word, a word the tokenizer cannot spell, or more tokens than vectors.
        """
        text = concept.initializer or concept.class_name or ""
        token = concept.placeholder_token
        if not text.strip():
            raise ConceptError(
                f"{token}: no initializer. Give the word that comes closest, such as 'dog' or 'teapot' "
                "(--initializer_token), or a class_name."
            )
        ids = word_ids(slot.tokenizer, text)
        pieces = slot.tokenizer.convert_ids_to_tokens(ids)
        if not ids or slot.tokenizer.unk_token_id in ids:
            raise ConceptError(
                f"{token}: the {slot.key} tokenizer does not know the initializer {text!r} (it reads {pieces}); "
                "choose a common word."
            )
        if len(ids) > concept.num_vectors:
            raise ConceptError(
                f"{token}: the initializer {text!r} splits into {len(ids)} tokens of {slot.key} ({', '.join(pieces)}) "
                f"but the concept has num_vectors={concept.num_vectors}; choose a word that is one token, or set "
                f"num_vectors={len(ids)} to start with one vector per token."
            )
        table = slot.text_encoder.get_input_embeddings().weight
        cycled = [ids[position % len(ids)] for position in range(concept.num_vectors)]
        rows = table.detach()[torch.tensor(cycled, device=table.device)]
        return rows.to("cpu", torch.float32, copy=True)
