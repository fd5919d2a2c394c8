"""One flat tensor per token, alone or among the tensors of a LoRA; read only.

Source: cloneofsimo/lora `lora_diffusion/lora.py` (`save_safeloras_with_embeds`, `apply_learned_embed_in_clip`).
"""

from __future__ import annotations

import re

from .base import RESERVED_KEYS, Content, Format, Found, encoder_of

__all__ = ["CloneofsimoFormat"]

_MARK = "<embed>"
_LORA_KEY = re.compile(r"(unet|text_encoder):\d+:(up|down)")
_TOKEN = re.compile(r"<[^<>]+>")


class CloneofsimoFormat(Format):
    """``{"<s1>": (dim,), "<s2>": (dim,), "unet:0:up": ..., ...}``, the tokens marked ``<embed>`` in the metadata."""

    name = "cloneofsimo"
    description = "several tensors named by their tokens, or marked '<embed>' in the metadata of a LoRA file"

    def recognises(self, content: Content) -> bool:
        """Looks for marked tokens, or for nothing but tokens and that LoRA's tensors.

        Args:
            content: The file's content.

        Returns:
            Whether the tokens can be told from the rest.
        """
        tokens = self._tokens(content)
        if not tokens or "nested" in content.notes or RESERVED_KEYS.intersection(tokens):
            return False
        marked = all(content.metadata.get(key) == _MARK for key in tokens)
        return marked or (len(tokens) > 1 and all(_TOKEN.fullmatch(key) for key in tokens))

    def read(self, content: Content) -> list[Found]:
        """Takes every token.

        Args:
            content: The file's content.

        Returns:
            A concept per token; such files often use them in a row, as in ``<s1><s2>``.
        """
        tensors = content.tensors
        # The marks are the layout, not facts about a concept.
        return [Found(token, {encoder_of(tensors[token], content): tensors[token]}) for token in self._tokens(content)]

    def _tokens(self, content: Content) -> list[str]:
        marked = [key for key in content.tensors if content.metadata.get(key) == _MARK]
        return marked or [key for key in content.tensors if not _LORA_KEY.fullmatch(key)]
