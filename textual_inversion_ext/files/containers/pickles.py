"""Pickles in, through PyTorch's restricted unpickler only: tensors and plain values, and no foreign code."""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path

import torch
from torch import nn

from ...errors import EmbeddingFileError
from ..base import Content
from .limits import MOST_BYTES, check_size, looks_like
from .nested import flatten

__all__ = ["read_pickle"]

# torch stores tensors uncompressed; a hundred times smaller than declared is no embedding's doing.
_MOST_RATIO = 100
_MOST_ENTRIES = 10_000
# torch's message goes on to advise `weights_only=False`, so only the name it complains about is taken from it.
_FORBIDDEN = re.compile(r"(?:GLOBAL|class|global|function:?)\s+`?([\w.]*\w\.\w[\w.]*)")

# Before 1.6, the class of a module was saved together with its source file.
_OLD_MODULE = "Only persistent_load of storage is allowed"


def read_pickle(path: Path, head: bytes) -> Content:
    """Reads a `.pt`, `.bin` or `.ckpt` file.

    One class beyond PyTorch's own list is let through: `nn.ParameterDict`, in which the first implementation of
    textual inversion and old versions of AUTOMATIC1111 saved. It is a container; making one runs nothing of the file.

    Args:
        path: The file.
        head: Its first bytes.

    Returns:
        Its tensors and single values, flat.

    Raises:
        EmbeddingFileError: If it asks for any other class or function, is damaged, or is larger than it should be.
    """
    check_size(path)
    if head.startswith(b"PK"):
        _check_archive(path)
    try:
        # A stream, not a path: torch would choose another reader by the ending.
        with warnings.catch_warnings(), torch.serialization.safe_globals([nn.ParameterDict]), path.open("rb") as stream:
            warnings.simplefilter("ignore")  # about old storages, of which these files are full
            return flatten(torch.load(stream, map_location="cpu", weights_only=True), "pickle")
    except EmbeddingFileError as error:
        raise EmbeddingFileError(f"{path} {error}") from error
    # A pickle is a program: a damaged one fails in the unpickler, in torch or in zip with nearly any exception.
    except Exception as error:
        forbidden = _FORBIDDEN.search(str(error)) if "nsupported" in str(error) else None
        if forbidden:
            raise EmbeddingFileError(
                f"{path} is a pickle that asks for `{forbidden[1][:80]}`, which no embedding needs; it may be "
                "malicious. Nothing of it was run. Get the embedding as .safetensors from a source that you trust."
            ) from error
        why = looks_like(head)
        if _OLD_MODULE in str(error):
            why = "it is in the format of PyTorch before 1.6 and holds a class by its source code, which is never read"
        raise EmbeddingFileError(f"{path} is no sound pickle of tensors: {why}.") from error


def _check_archive(path: Path) -> None:
    """Refuse a zip archive by what it declares, before anything is unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    # A damaged directory of a zip archive makes `zipfile` fail with struct errors, index errors and its own.
    except Exception as error:
        raise EmbeddingFileError(
            f"{path} is no sound pickle of tensors: its zip directory is damaged or incomplete; download or copy it "
            "again."
        ) from error
    unpacked, packed = sum(entry.file_size for entry in entries), sum(entry.compress_size for entry in entries)
    if len(entries) > _MOST_ENTRIES or unpacked > min(MOST_BYTES, _MOST_RATIO * packed + 10_000):
        raise EmbeddingFileError(
            f"{path} would unpack {packed} bytes in {len(entries)} entries to {unpacked} bytes (a zip bomb?); an "
            "embedding has kilobytes. Nothing was unpacked."
        )
