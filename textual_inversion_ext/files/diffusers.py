"""The layout that `pipe.load_textual_inversion` of diffusers reads: one tensor, named by the token.

Source: huggingface/diffusers `src/diffusers/loaders/textual_inversion.py` (`_retrieve_tokens_and_embeddings`),
`examples/textual_inversion/textual_inversion_sdxl.py` (`save_progress`).
"""

from __future__ import annotations

from ..concept import LearnedConcept
from ..errors import EmbeddingFileError
from .base import RESERVED_KEYS, Content, Format, Found, Part, encoder_of, in_order

__all__ = ["DiffusersFormat"]


class DiffusersFormat(Format):
    """``{"<tok>": (n, dim)}``; the older ``{"<tok>": (dim,)}`` of the concepts library is read too.

    A file holds one text encoder. For several, one file per encoder is written, as diffusers' SDXL script does.
    """

    name = "diffusers"
    description = "one tensor named by the token; one file per text encoder"

    def recognises(self, content: Content) -> bool:
        """Takes any single tensor whose name is not one that another tool gives a meaning to.

        Args:
            content: The file's content.

        Returns:
            Whether the only tensor's name can be a token.
        """
        is_flat = "nested" not in content.notes
        return is_flat and len(content.tensors) == 1 and not RESERVED_KEYS.intersection(content.tensors)

    def read(self, content: Content) -> list[Found]:
        """Takes the tensor's name as the token.

        Args:
            content: The file's content.

        Returns:
            One concept.
        """
        ((token, rows),) = content.tensors.items()
        return [Found(token, {encoder_of(rows, content): rows}, variant="1-D" if rows.ndim == 1 else "")]

    def write(self, concept: LearnedConcept) -> list[Part]:
        """Lays a concept out as one file per text encoder.

        Args:
            concept: The concept.

        Returns:
            A part per encoder.

        Raises:
            EmbeddingFileError: If the token is a name that loaders take for something else.
        """
        if concept.token in RESERVED_KEYS:
            raise EmbeddingFileError(
                f"the token {concept.token!r} is a tensor name with a meaning of its own in embedding files; rename "
                f"it, e.g. '<{concept.token}>'."
            )
        return [Part({concept.token: concept.vectors[encoder]}, (encoder,)) for encoder in in_order(concept.vectors)]
