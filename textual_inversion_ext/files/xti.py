"""Per-layer embeddings (extended textual inversion): recognised, and refused with the reason.

Source: kohya-ss/sd-scripts `train_textual_inversion_XTI.py`, `XTI_hijack.py`; P+ (Voynov et al. 2023,
arXiv 2303.09522).
"""

from __future__ import annotations

from typing import NoReturn

from ..errors import EmbeddingFileError
from .base import Content, Format

__all__ = ["XTIFormat"]

_LAYERS = frozenset(
    [f"IN{layer:02d}" for layer in (1, 2, 4, 5, 7, 8)] + ["MID"] + [f"OUT{layer:02d}" for layer in range(3, 12)]
)


class XTIFormat(Format):
    """Sixteen tensors ``IN01`` ... ``MID`` ... ``OUT11``, each (n, 768): another word for every layer of the UNet."""

    name = "xti"
    description = "per-layer embeddings (XTI): recognised, not usable"

    def recognises(self, content: Content) -> bool:
        """Looks for names of UNet layers only.

        Args:
            content: The file's content.

        Returns:
            Whether every tensor is named by a layer.
        """
        return bool(content.tensors) and _LAYERS.issuperset(content.tensors)

    def read(self, content: Content) -> NoReturn:
        """Says why it cannot be used.

        Args:
            content: The file's content.

        Raises:
            EmbeddingFileError: Always.
        """
        raise EmbeddingFileError(
            "it holds per-layer embeddings (XTI): another set of vectors for each of 16 layers of the UNet. A prompt's "
            "word has one set, so there is nothing to load; use kohya's generation script, or train a plain embedding."
        )
