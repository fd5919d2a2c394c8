"""Start from an embedding file: go on learning what somebody learned before."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.errors import ConceptError
from textual_inversion_ext.files import load_concept
from textual_inversion_ext.initializers.base import Initializer
from textual_inversion_ext.records import EncoderSlot

SUFFIXES = (".safetensors", ".bin", ".pt")


class FileInitializer(Initializer):
    """Rows of an embedding file or of a run's output folder."""

    name = "file"

    @classmethod
    def recognises(cls, initializer: str) -> bool:
        """A path: it ends like an embedding file, or holds a separator and exists; see the base class.

        Args:
            initializer: the text the user gave.

        Returns:
            True for a path.
        """
        # A word such as "dog" stays a word even if a file of that name lies in the working directory.
        looks_like_path = "/" in initializer or "\\" in initializer
        return initializer.lower().endswith(SUFFIXES) or (looks_like_path and Path(initializer).exists())

    def __call__(self, concept: ConceptSpec, slot: EncoderSlot) -> Tensor:
        """Read the file; see the base class.

        Args:
            concept: what is to be learned.
            slot: the text encoder in which.

        Returns:
            (num_vectors, dim) float32 on the CPU.

        Raises:
            ConceptError: the file has no rows for this encoder, or another width or number of them.
        """
        learned = load_concept(concept.initializer)
        where = f"{concept.placeholder_token}: the initializer {concept.initializer!r}"
        if slot.key not in learned.vectors:
            raise ConceptError(f"{where} has vectors for {', '.join(learned.vectors)}; the model needs {slot.key}.")
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
