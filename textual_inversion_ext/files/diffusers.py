"""The layout that `pipe.load_textual_inversion` of diffusers reads: one tensor, named by the token.

Source: huggingface/diffusers `src/diffusers/loaders/textual_inversion.py` (`_retrieve_tokens_and_embeddings`).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..concept import LearnedConcept
from ..errors import EmbeddingFileError
from .base import DEFAULT_ENCODER, RESERVED_KEYS, Format, as_rows, file_metadata, only_encoder

__all__ = ["DiffusersFormat"]


class DiffusersFormat(Format):
    """``{"<tok>": (n, dim)}``; the older ``{"<tok>": (dim,)}`` of the concepts library is read too."""

    name = "diffusers"
    description = "learned_embeds.safetensors with one tensor named by the token, for load_textual_inversion"

    def recognises(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bool:
        """Takes any single tensor whose name is not one that another tool gives a meaning to.

        Args:
            tensors: All tensors of the file.
            metadata: Not used.

        Returns:
            Whether the only tensor's name can be a token.
        """
        return len(tensors) == 1 and not RESERVED_KEYS.intersection(tensors)

    def token(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], stem: str) -> str:
        """Takes the tensor's name.

        Args:
            tensors: All tensors of the file.
            metadata: Not used.
            stem: Not used.

        Returns:
            The token.
        """
        return next(iter(tensors))

    def vectors(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Tensor]:
        """Takes the one tensor.

        Args:
            tensors: All tensors of the file.
            metadata: May name the encoder.

        Returns:
            Encoder key to rows.
        """
        return {metadata.get("encoder", DEFAULT_ENCODER): as_rows(next(iter(tensors.values())))}

    def write(self, concept: LearnedConcept) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Lays a concept out as one tensor.

        Args:
            concept: The concept, with rows for one text encoder.

        Returns:
            Tensors and metadata.

        Raises:
            EmbeddingFileError: If the token is a name that loaders take for something else.
        """
        encoder, rows = only_encoder(concept, self.name)
        if concept.token in RESERVED_KEYS:
            raise EmbeddingFileError(
                f"the token {concept.token!r} is a tensor name with a meaning of its own in embedding files; rename "
                f"it, e.g. '<{concept.token}>'."
            )
        return {concept.token: rows}, file_metadata(concept, encoder)

    def file_name(self, concept: LearnedConcept) -> str:
        """Names the file as diffusers looks for it.

        Args:
            concept: Not used.

        Returns:
            ``learned_embeds.safetensors``.
        """
        return "learned_embeds.safetensors"
