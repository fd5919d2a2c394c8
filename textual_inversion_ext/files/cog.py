"""The pair of embeddings that cog-sdxl trains beside its LoRA; read only.

Source: replicate/cog-sdxl `dataset_and_utils.py` (`TokenEmbeddingsHandler.save_embeddings`), `train.py`
(`special_params.json`).
"""

from __future__ import annotations

import json

from .base import Content, Format, Found

__all__ = ["CogFormat"]

_ENCODER_OF_KEY = {"text_encoders_0": "clip_l", "text_encoders_1": "clip_g"}
_DEFAULT_TRIGGER = "TOK"  # cog-sdxl's own default


class CogFormat(Format):
    """``embeddings.pti`` with ``text_encoders_0`` and ``text_encoders_1``; ``special_params.json`` has the trigger."""

    name = "cog"
    description = "embeddings.pti of cog-sdxl, with special_params.json beside it"

    def recognises(self, content: Content) -> bool:
        """Looks for the names of the two text encoders.

        Args:
            content: The file's content.

        Returns:
            Whether there is nothing else.
        """
        return bool(content.tensors) and set(content.tensors) <= set(_ENCODER_OF_KEY)

    def read(self, content: Content) -> list[Found]:
        """Takes the rows of both encoders.

        Args:
            content: The file's content.

        Returns:
            One concept: all vectors together are what the trigger stands for.
        """
        vectors = {_ENCODER_OF_KEY[key]: rows for key, rows in content.tensors.items()}
        return [Found(content.metadata.get("token") or self._trigger(content), vectors)]

    def _trigger(self, content: Content) -> str:
        try:
            params = json.loads(content.metadata.get("special_params", "{}"))
        except (ValueError, RecursionError):
            params = {}
        triggers = list(params) if isinstance(params, dict) else []
        return triggers[0] if len(triggers) == 1 else _DEFAULT_TRIGGER
