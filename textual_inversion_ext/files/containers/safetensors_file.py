"""Safetensors in and out: named tensors and text, nothing about what they mean."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from ...errors import EmbeddingFileError
from ..base import Content
from .limits import MOST_BYTES, check_size, looks_like

__all__ = ["read_safetensors", "safetensors_bytes"]

_BUNDLED = "bundle_emb."


def read_safetensors(path: Path, head: bytes) -> Content:
    """Reads all tensors of a small file, or the embeddings that a LoRA of any size carries.

    Args:
        path: The file.
        head: Its first bytes.

    Returns:
        Its tensors and text metadata.

    Raises:
        EmbeddingFileError: If it is not a sound safetensors file or far too large for an embedding.
    """
    try:
        with warnings.catch_warnings(), safetensors.safe_open(path, framework="pt") as file:
            warnings.simplefilter("ignore")  # torch's own, about number types that a damaged header may name
            # Iterating the file itself is not supported by safe_open; keys() is its interface.
            keys = list(file.keys())  # noqa: SIM118
            bundled = [key for key in keys if key.startswith(_BUNDLED)]
            if bundled:
                keys = bundled
            else:
                check_size(path)
            if sum(math.prod(file.get_slice(key).get_shape()) for key in keys) > MOST_BYTES:
                raise EmbeddingFileError(f"{path} holds tensors of more than {MOST_BYTES} numbers.")
            return Content({key: file.get_tensor(key) for key in keys}, dict(sorted((file.metadata() or {}).items())))
    except EmbeddingFileError:
        raise
    # The reader reports through SafetensorError, the system through OSError, and torch through nearly anything when a
    # header promises odd shapes or types; none of it is this program's fault, so none of it may pass.
    except Exception as error:
        check_size(path)
        raise EmbeddingFileError(f"{path} is no sound safetensors file ({error}): {looks_like(head)}.") from error


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Serialises tensors so that equal content gives equal bytes.

    Args:
        tensors: Contiguous tensors on the CPU.
        metadata: Text to text.

    Returns:
        The file's content.
    """
    content = safetensors.torch.save(dict(tensors), dict(metadata))
    # The library writes metadata in the random order of a hash map; sorting it makes two equal runs equal on disk.
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    # The format wants the data to start at a multiple of 8.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]
