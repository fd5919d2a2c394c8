"""What an embedding file format is, and what every format needs: which encoder a tensor is for, and sound rows."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ..concept import LearnedConcept
from ..errors import EmbeddingFileError

__all__ = [
    "ENCODERS",
    "ENCODER_OF_KEY",
    "RESERVED_KEYS",
    "Content",
    "Format",
    "Found",
    "Part",
    "as_rows",
    "encoder_of",
    "in_order",
    "only_encoder",
    "single_token",
    "without_outputs",
]

ENCODER_OF_KEY = {
    "clip_l": "clip_l",
    "clip_g": "clip_g",
    "t5": "t5",
    "t5xxl": "t5",  # ComfyUI's name for the same encoder
    "llama": "llama",
    "gemma": "gemma",
}
"""Tensor names that name a text encoder, and that encoder's key in `LearnedConcept.vectors`."""

ENCODERS = tuple(dict.fromkeys(ENCODER_OF_KEY.values()))
"""Encoder keys in the order in which pipelines have their text encoders."""

NAMELESS_KEYS = ("emb_params", "emp_params")
"""Tensor names of files for models with one text encoder."""

RESERVED_KEYS = frozenset(
    [*ENCODER_OF_KEY, *NAMELESS_KEYS, *(f"{key}_out" for key in (*ENCODER_OF_KEY, *NAMELESS_KEYS))]
    + ["string_to_param", "string_to_token", "text_encoders_0", "text_encoders_1"]
)
"""Tensor names that say what a tensor is, in some tool; never the token that it stands for."""

# Of all text encoders in use, only these widths belong to one kind.
_ENCODER_OF_WIDTH = {1280: "clip_g", 4096: "t5"}
_DEFAULT_ENCODER = "clip_l"
# `learned_embeds_2` and `learned_embeds_2-steps-500` of diffusers' SDXL script; `learned_embeds_2000` is a step's.
_SECOND_FILE = re.compile(r"learned_embeds_2(-.*)?")

# Twice the widest text encoder in use, and more vectors than any prompt has room for. A file of a few bytes can claim
# any shape (stride 0), so this is checked before a single number is copied.
_MOST_VECTORS, _MOST_DIMS = 4096, 16384


@dataclass(frozen=True, slots=True)
class Content:
    """What a file holds, whatever its container: flat names, no meaning yet.

    Attributes:
        tensors: Name to tensor, as stored. Names of nested values are joined by dots, those of lists are numbers; a
            file that is one bare tensor has it under the empty name.
        metadata: Text, and other single values as text, by the same names.
        stem: The file's name without ending; some tools keep the token only there.
        container: ``"safetensors"``, ``"pickle"`` or ``"picture"``.
        notes: What tensors and texts do not show: ``"list"`` (it is one), ``"nested"`` (tensors lie deeper than in one
            dictionary), ``"parameter dict"`` (an ``nn.ParameterDict`` was there).
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    stem: str = "concept"
    container: str = "safetensors"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """One concept in a file, before its rows are checked.

    Attributes:
        token: Its token.
        vectors: Encoder key to tensor of shape (dim,) or (n, dim), any type.
        metadata: What the format knows beyond the file's own metadata.
        variant: Which kind of the format it is, where tools treat the kinds differently.
    """

    token: str
    vectors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    variant: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a written concept.

    Attributes:
        tensors: Name to rows.
        encoders: Keys of the text encoders whose rows it holds.
    """

    tensors: dict[str, Tensor]
    encoders: tuple[str, ...]


class Format(ABC):
    """One way to lay concepts out as named tensors.

    Opening files, checking numbers, metadata and writing are done for it.
    """

    name: ClassVar[str]
    """Key in `FORMATS`."""
    description: ClassVar[str]
    """One line for help texts and error messages."""

    @abstractmethod
    def recognises(self, content: Content) -> bool:
        """Decides by names and shapes only whether a file is of this format.

        Args:
            content: The file's content.

        Returns:
            Whether `read` is the one to read it, or to say why it cannot be read.
        """

    @abstractmethod
    def read(self, content: Content) -> list[Found]:
        """Finds the concepts in a recognised file.

        Args:
            content: The file's content.

        Returns:
            One entry per concept, at least one.

        Raises:
            EmbeddingFileError: If the format is known and still cannot be used; the message says why.
        """

    def write(self, concept: LearnedConcept) -> list[Part]:
        """Lays a concept out. Overridden by formats that can be written.

        Args:
            concept: The concept.

        Returns:
            One part per file, such that `read` gives the concept back.

        Raises:
            EmbeddingFileError: If the format cannot hold it.
        """
        raise EmbeddingFileError(f"files of format {self.name!r} are read, not written.")


def in_order(encoders: Iterable[str]) -> list[str]:
    """Sorts encoder keys as pipelines have them.

    Args:
        encoders: Keys; unknown ones come last.

    Returns:
        The keys, sorted.
    """
    return sorted(encoders, key=lambda key: ENCODERS.index(key) if key in ENCODERS else len(ENCODERS))


def as_rows(tensor: Tensor, name: str) -> Tensor:
    """Checks a tensor of a file and turns it into rows.

    Args:
        tensor: Anything that a file may hold.
        name: What to call it in messages.

    Returns:
        Shape (n, dim), float32, contiguous, on the CPU, finite.

    Raises:
        EmbeddingFileError: If it cannot be rows of an embedding table.
    """
    shape = tuple(tensor.shape)
    if tensor.ndim not in (1, 2) or 0 in shape:
        raise EmbeddingFileError(f"{name} has shape {shape}; expected (dim,) or (vectors, dim), each 1 or more.")
    vectors, dims = (1, *shape) if tensor.ndim == 1 else shape
    if vectors > _MOST_VECTORS or dims > _MOST_DIMS:
        raise EmbeddingFileError(
            f"{name} has shape {shape}; no more than {_MOST_VECTORS} vectors of {_MOST_DIMS} numbers are read. This is "
            "no embedding; a whole table or a model may have been given by mistake."
        )
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise EmbeddingFileError(f"{name} holds no plain numbers (layout {tensor.layout}, device {tensor.device}).")
    if not tensor.is_floating_point():
        raise EmbeddingFileError(f"{name} holds numbers of type {tensor.dtype}; embeddings are floating-point numbers.")
    try:
        rows = tensor.detach().reshape(vectors, dims).to(torch.float32, copy=True)
    except (RuntimeError, TypeError) as error:  # types that torch can store and not convert, such as 4-bit ones
        raise EmbeddingFileError(f"{name} holds numbers of type {tensor.dtype}, which cannot be read here.") from error
    if not bool(rows.isfinite().all()):
        raise EmbeddingFileError(f"{name} holds NaN or infinite numbers; the embedding is broken.")
    return rows.contiguous()


def encoder_of(tensor: Tensor, content: Content) -> str:
    """Decides which text encoder a tensor is for when its name does not say so.

    Args:
        tensor: Shape (dim,) or (n, dim).
        content: The file it is from.

    Returns:
        What our own metadata says; else 1280 numbers are CLIP-G and 4096 T5-XXL; else CLIP-G for diffusers' second
        SDXL file; else CLIP-L.
    """
    told = content.metadata.get("encoder", "")
    if told in ENCODER_OF_KEY:
        return ENCODER_OF_KEY[told]
    by_name = "clip_g" if _SECOND_FILE.fullmatch(content.stem) else _DEFAULT_ENCODER
    return _ENCODER_OF_WIDTH.get(tensor.shape[-1], by_name) if tensor.ndim else by_name


def single_token(content: Content) -> str:
    """Names the concept of a file whose tensors do not: our metadata, else the file's name.

    Args:
        content: The file's content.

    Returns:
        The token; spaces in a file name become ``_``, because a token is one word.
    """
    return content.metadata.get("token") or "_".join(content.stem.split())


def without_outputs(keys: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """Sets OneTrainer's output embeddings (names ending in ``_out``) apart.

    They are added to what the text encoder puts out and are no rows of its input table, so no concept can hold them.

    Args:
        keys: Names of tensors.

    Returns:
        The other names, and metadata that says what is left out.

    Raises:
        EmbeddingFileError: If there are only output embeddings.
    """
    inputs: list[str] = []
    outputs: list[str] = []
    for key in keys:
        (outputs if key.endswith("_out") else inputs).append(key)
    if not outputs:
        return inputs, {}
    told = f"{', '.join(sorted(outputs))}: output embeddings, added after the text encoder; no rows of its input table"
    if "t5_out" in outputs and any(key.startswith("llama") for key in (*inputs, *outputs)):
        told += " (OneTrainer stores the second CLIP's output of HiDream under the name t5_out)"
    if not inputs:
        raise EmbeddingFileError(f"it holds only {told}. In OneTrainer, train without 'output embedding'.")
    return inputs, {"not_read": told}


def only_encoder(concept: LearnedConcept, format_name: str) -> tuple[str, Tensor]:
    """Takes the rows of a concept for a format that holds one text encoder.

    Args:
        concept: The concept.
        format_name: Named in the message.

    Returns:
        Encoder key and rows of shape (n, dim).

    Raises:
        EmbeddingFileError: If the concept has rows for several text encoders.
    """
    if len(concept.vectors) > 1:
        raise EmbeddingFileError(
            f"{concept.token} has rows for {len(concept.vectors)} text encoders ({', '.join(concept.vectors)}); "
            f"a file of format {format_name!r} holds one."
        )
    return next(iter(concept.vectors.items()))
