"""Embeddings that travel inside a LoRA file; read only.

Source: AUTOMATIC1111/stable-diffusion-webui `extensions-builtin/Lora/networks.py` (`bundle_emb`),
Nerogar/OneTrainer `modules/modelSaver/mixin/LoRASaverMixin.py`.
"""

from __future__ import annotations

import re

from torch import Tensor

from ..errors import EmbeddingFileError
from .base import ENCODER_OF_KEY, Content, Format, Found, encoder_of, without_outputs

__all__ = ["BundleFormat"]

_PREFIX = "bundle_emb."
_KEY = re.compile(r"bundle_emb\.(?P<name>.+?)\.(?P<part>string_to_param\..+|[^.]+)", re.DOTALL)


class BundleFormat(Format):
    """``bundle_emb.<name>.string_to_param.*`` or ``bundle_emb.<name>.<encoder>``, among the LoRA's own tensors."""

    name = "bundle"
    description = "embeddings inside a LoRA file: bundle_emb.<name>.<encoder> or bundle_emb.<name>.string_to_param.*"

    def recognises(self, content: Content) -> bool:
        """Looks for one bundled embedding.

        Args:
            content: The file's content.

        Returns:
            Whether any tensor's name begins with ``bundle_emb.``.
        """
        return any(key.startswith(_PREFIX) for key in content.tensors)

    def read(self, content: Content) -> list[Found]:
        """Takes every bundled embedding; the LoRA itself is left out.

        Args:
            content: The file's content.

        Returns:
            A concept per name.

        Raises:
            EmbeddingFileError: If a name is put together in an unknown way.
        """
        parts: dict[str, dict[str, Tensor]] = {}
        for key, rows in content.tensors.items():
            match = _KEY.fullmatch(key)
            if match:
                parts.setdefault(match["name"], {})[match["part"]] = rows
            elif key.startswith(_PREFIX):
                raise EmbeddingFileError(f"the bundled embedding {key!r} is not named <name>.<encoder>.")
        return [self._read_one(name, tensors, content) for name, tensors in parts.items()]

    def _read_one(self, name: str, tensors: dict[str, Tensor], content: Content) -> Found:
        keys, left_out = without_outputs(tensors)
        vectors: dict[str, Tensor] = {}
        for key in keys:
            by_name = ENCODER_OF_KEY.get(key)
            if by_name is None and not key.startswith("string_to_param.") and key not in ("emb_params", "emp_params"):
                known = ", ".join(ENCODER_OF_KEY)
                raise EmbeddingFileError(f"the bundled embedding {name!r} has {key!r}; known are {known}.")
            encoder = by_name or encoder_of(tensors[key], content)
            if encoder in vectors:
                raise EmbeddingFileError(f"the bundled embedding {name!r} has two tensors for {encoder}.")
            vectors[encoder] = tensors[key]
        return Found("_".join(name.split()), vectors, left_out)
