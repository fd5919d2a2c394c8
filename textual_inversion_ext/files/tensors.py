"""Nameless tensors in pickles: a list of dictionaries, or one bare tensor; read only.

Source: comfyanonymous/ComfyUI `comfy/sd1_clip.py` (`load_embed`), huggingface/diffusers
`src/diffusers/loaders/textual_inversion.py` (a tensor in the place of a file).
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from ..errors import EmbeddingFileError
from .base import ENCODER_OF_KEY, Content, Format, Found, as_rows, encoder_of, single_token

__all__ = ["BareFormat", "ListFormat"]

_IN_LIST = re.compile(r"\d+(\.(?P<key>.+))?", re.DOTALL)


class ListFormat(Format):
    """``[{"clip_l": (n, dim)}, ...]`` or ``[(n, dim), ...]``: all vectors of one encoder, in order, are one concept."""

    name = "list"
    description = "a list of tensors, or of dictionaries of tensors, in a .pt file; the file's name is the trigger"

    def recognises(self, content: Content) -> bool:
        """Looks for names that begin with a place in a list.

        Args:
            content: The file's content.

        Returns:
            Whether all do; only pickles hold lists.
        """
        numbered = all(_IN_LIST.fullmatch(key) for key in content.tensors)
        return content.container == "pickle" and "list" in content.notes and bool(content.tensors) and numbered

    def read(self, content: Content) -> list[Found]:
        """Joins the vectors of each encoder.

        Args:
            content: The file's content.

        Returns:
            One concept.

        Raises:
            EmbeddingFileError: If tensors of one encoder differ in width.
        """
        grouped: dict[str, list[Tensor]] = {}
        for key, tensor in content.tensors.items():
            match = _IN_LIST.fullmatch(key)
            name = (match["key"] if match else "") or ""
            rows = as_rows(tensor, f"tensor {key!r}")
            grouped.setdefault(ENCODER_OF_KEY.get(name) or encoder_of(rows, content), []).append(rows)
        for encoder, parts in grouped.items():
            if len({rows.shape[1] for rows in parts}) > 1:
                widths = ", ".join(str(rows.shape[1]) for rows in parts)
                raise EmbeddingFileError(f"its list has vectors of several widths for {encoder}: {widths}.")
        return [Found(single_token(content), {encoder: torch.cat(parts) for encoder, parts in grouped.items()})]


class BareFormat(Format):
    """One tensor and no name at all."""

    name = "bare"
    description = "one bare tensor in a .pt file; the file's name is the trigger"

    def recognises(self, content: Content) -> bool:
        """Looks for the one tensor without a name.

        Args:
            content: The file's content.

        Returns:
            Whether it is the only one.
        """
        return set(content.tensors) == {""}

    def read(self, content: Content) -> list[Found]:
        """Takes the tensor.

        Args:
            content: The file's content.

        Returns:
            One concept, named by the file.
        """
        rows = content.tensors[""]
        return [Found(single_token(content), {encoder_of(rows, content): rows})]
