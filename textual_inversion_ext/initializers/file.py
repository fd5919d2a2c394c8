"""Start from an embedding file: go on learning what somebody learned before."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.errors import ConceptError
from textual_inversion_ext.files import ENDINGS, load_concept
from textual_inversion_ext.initializers.base import Initializer, InitializerContext, words_of
from textual_inversion_ext.records import EncoderSlot


class FileInitializer(Initializer):
    """Rows of an embedding file of any format that ``files/`` reads, of a run's output folder, or from the Hub.

    Of several concepts in one place it takes the one that has the placeholder's name. It never cuts or fills up: a part
    of what somebody learned is not what they learned.
    """

    name = "file"

    @classmethod
    def recognises(cls, initializer: str) -> bool:
        """A path: it ends like an embedding file, is an address, or holds a separator and exists; see the base class.

        A bare ``user/repository`` of the Hub could as well be words: it needs ``initialization="file"``.

        Args:
            initializer: the text the user gave.

        Returns:
            True for a path.
        """
        # A word such as "dog" stays a word even if a file of that name lies in the working directory.
        looks_like_path = "/" in initializer or "\\" in initializer
        ends_like_one = initializer.lower().endswith(tuple(ENDINGS))
        is_address = initializer.startswith(("https://", "http://"))
        return ends_like_one or is_address or (looks_like_path and Path(initializer).exists())

    def __call__(self, concept: ConceptSpec, slot: EncoderSlot, context: InitializerContext) -> Tensor:
        """Read the file; see the base class.

        Args:
            concept: what is to be learned; its ``initializer`` is what ``load_concept`` takes.
            slot: the text encoder in which.
            context: not used.

        Returns:
            (num_vectors, dim) float32 on the CPU.

        Raises:
            ConceptError: no file is named, or it has no rows for this encoder, or another width or number of them.
        """
        token, path = concept.placeholder_token, concept.initializer
        if not path.strip():
            raise ConceptError(
                f"{token}: initialization='file' and no file; give its path or Hub repository as the initializer "
                f"(--initializer_token){', not only a class_name' if words_of(concept) else ''}."
            )
        learned = load_concept(path, token=token)
        where = f"{token}: the initializer {path!r}"
        if slot.key not in learned.vectors:
            raise ConceptError(
                f"{where} has vectors for {', '.join(learned.vectors)}; the model needs {slot.key} too. "
                "It was learned for another kind of model."
            )
        rows = learned.vectors[slot.key]
        if rows.shape[1] != slot.dim:
            raise ConceptError(
                f"{where} has vectors of width {rows.shape[1]}, the model's {slot.key} encoder has {slot.dim}; "
                "it was learned for another kind of model."
            )
        if rows.shape[0] != concept.num_vectors:
            raise ConceptError(
                f"{where} holds {rows.shape[0]} vector(s) and the concept has num_vectors={concept.num_vectors}; "
                f"set num_vectors={rows.shape[0]}."
            )
        return rows.to("cpu", torch.float32, copy=True)
