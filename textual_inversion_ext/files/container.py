"""Safetensors in and out: named tensors and text, nothing about what they mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from ..errors import EmbeddingFileError

__all__ = ["read_safetensors", "safetensors_bytes"]

# The largest embeddings in use (a hundred T5-XXL vectors) have 2 MB; beyond this it is a model, given by mistake.
_MAX_BYTES = 256 * 1024**2


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads all tensors of a small file.

    Args:
        path: The file.

    Returns:
        Tensors as stored, and the text metadata.

    Raises:
        EmbeddingFileError: If it is not a sound safetensors file or far too large for an embedding.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            head = stream.read(64)
    except OSError as error:
        raise EmbeddingFileError(f"{path} cannot be opened: {error.strerror}.") from error
    if size > _MAX_BYTES:
        raise EmbeddingFileError(
            f"{path} has {size / 1024**2:.0f} MiB; an embedding file has kilobytes. This looks like a model or a LoRA."
        )
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            # Iterating the file itself is not supported by safe_open; keys() is its interface.
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    # The reader reports through SafetensorError; the rest comes from torch when a header promises odd shapes or types.
    except (
        safetensors.SafetensorError,
        OSError,
        ValueError,
        RuntimeError,
        TypeError,
        KeyError,
        AttributeError,
    ) as error:
        raise EmbeddingFileError(
            f"{path} is no sound safetensors file ({error}): {_looks_like(head, size)}."
        ) from error


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


def _looks_like(head: bytes, size: int) -> str:
    if size == 0:
        return "it is empty, and was probably never copied completely"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; run `git lfs pull` where it came from"
    if head.startswith((b"PK", b"\x80")):
        return "it is a pickle (.pt or .bin) with another name, which is not read"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "it is a web page; download the file itself"
    return "it is damaged or incomplete; download or copy it again"
