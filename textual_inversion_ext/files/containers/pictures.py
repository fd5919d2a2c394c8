"""Pictures that carry an embedding, as AUTOMATIC1111 saves them beside the previews of a training.

Source: AUTOMATIC1111/stable-diffusion-webui `modules/textual_inversion/image_embedding.py`.
"""

from __future__ import annotations

import base64
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ...errors import EmbeddingFileError
from ..base import Content
from .limits import check_size, looks_like
from .nested import flatten

__all__ = ["read_picture"]

_CHUNK = "sd-ti-embedding"
_MOST_PIXELS = 32_000_000  # to look at; a preview has a quarter of a million


def read_picture(path: Path, head: bytes) -> Content:
    """Reads the embedding in a picture's text chunk; its pixels are looked at, not decoded into an embedding.

    Args:
        path: The picture.
        head: Its first bytes.

    Returns:
        The dictionary in the chunk, flat.

    Raises:
        EmbeddingFileError: If the picture is damaged, or has no such chunk; the message says whether its pixels seem to
            hold an embedding.
    """
    check_size(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about large or odd pictures
            with Image.open(path) as picture:
                text = picture.info.get(_CHUNK)
                if text is None:
                    raise EmbeddingFileError(_without_chunk(path, picture))
        dictionary = json.loads(base64.b64decode(text, validate=True), object_hook=_tensors)
        return flatten(dictionary, "picture")
    except EmbeddingFileError as error:
        raise error if str(path) in str(error) else EmbeddingFileError(f"{path} {error}") from error
    # Pillow's many readers fail in many ways, and what is in the chunk may be anything at all.
    except Exception as error:
        cause = " ".join(str(error).split())[:120] or type(error).__name__
        raise EmbeddingFileError(f"{path} holds no readable embedding ({cause}): {looks_like(head)}.") from error


def _tensors(values: dict[str, Any]) -> Any:
    """Turn the JSON form of a tensor into one."""
    return torch.tensor(values["TORCHTENSOR"], dtype=torch.float32) if "TORCHTENSOR" in values else values


def _without_chunk(path: Path, picture: Image.Image) -> str:
    if _has_strips(picture):
        return (
            f"{path} seems to hold an embedding in its pixels (AUTOMATIC1111's side strips), which is not read. Its "
            f"text chunk {_CHUNK!r} was lost, as happens on upload to many sites; get the original or the .pt file."
        )
    return f"{path} is a picture without an embedding: it has no text chunk {_CHUNK!r}."


def _has_strips(picture: Image.Image) -> bool:
    """Whether the pixels look like a strip of data, a black column, a picture, a black column, a strip of data."""
    if picture.width * picture.height > _MOST_PIXELS:
        return False
    pixels = np.asarray(picture.convert("RGB"))
    black = np.flatnonzero((pixels & 0x0F).sum(axis=(0, 2)) == 0)
    if len(black) < 2 or not 0 < black[0] < black[-1] < pixels.shape[1] - 1:
        return False
    left, right = pixels[:, : black[0]] & 0x0F, pixels[:, black[-1] + 1 :] & 0x0F
    # Both strips have the same width, and data that was scrambled uses all sixteen values evenly.
    counts = [np.bincount(strip.ravel(), minlength=16) for strip in (left, right)]
    return left.shape == right.shape and all(count.min() > count.mean() / 4 for count in counts)
