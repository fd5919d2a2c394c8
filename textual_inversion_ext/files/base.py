"""What an embedding file format is: how its tensors are named, and where it keeps the token."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from .. import __version__
from ..concept import LearnedConcept
from ..errors import EmbeddingFileError

__all__ = ["RESERVED_KEYS", "Format", "as_rows", "file_metadata", "only_encoder"]

DEFAULT_ENCODER = "clip_l"
"""Encoder key of files with one nameless tensor: Stable Diffusion's only text encoder."""

RESERVED_KEYS = frozenset(
    ["emb_params", "emp_params", "emb_params_out", "emp_params_out", "string_to_param", "string_to_token"]
    + ["clip_l", "clip_g", "t5", "t5xxl", "llama", "gemma", "text_encoders_0", "text_encoders_1"]
)
"""Tensor names that say what a tensor is, in some tool; never the token that it stands for."""


class Format(ABC):
    """One way to lay a concept out in a file of named tensors and text metadata.

    Subclasses name their tensors; opening files, checking numbers and writing atomically is done for them.
    """

    name: ClassVar[str]
    """Key in `FORMATS` and value of the command line's option."""
    description: ClassVar[str]
    """One line for help texts and error messages."""

    @abstractmethod
    def recognises(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bool:
        """Decides by names and shapes only whether a file is of this format.

        Args:
            tensors: All tensors of the file.
            metadata: Its text metadata.

        Returns:
            Whether `token` and `vectors` understand it.
        """

    @abstractmethod
    def token(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], stem: str) -> str:
        """Finds the token in a recognised file.

        Args:
            tensors: All tensors of the file.
            metadata: Its text metadata.
            stem: The file's name without ending; some tools keep the token only there.

        Returns:
            The token.
        """

    @abstractmethod
    def vectors(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Tensor]:
        """Finds the rows in a recognised file.

        Args:
            tensors: All tensors of the file.
            metadata: Its text metadata.

        Returns:
            Encoder key to rows of shape (n, dim), any floating-point type.
        """

    @abstractmethod
    def write(self, concept: LearnedConcept) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Lays a concept out.

        Args:
            concept: The concept.

        Returns:
            Tensors and metadata, such that `read` gives the concept back.
        """

    @abstractmethod
    def file_name(self, concept: LearnedConcept) -> str:
        """Names the file where the user gave only a folder.

        Args:
            concept: The concept.

        Returns:
            The file name that programs reading this format look for.
        """

    def read(
        self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], stem: str, token: str | None = None
    ) -> LearnedConcept:
        """Reads a recognised file. Usually not overridden.

        Args:
            tensors: All tensors of the file.
            metadata: Its text metadata.
            stem: The file's name without ending.
            token: Used instead of the file's own token.

        Returns:
            The concept.
        """
        return LearnedConcept(token or self.token(tensors, metadata, stem), self.vectors(tensors, metadata), metadata)


def as_rows(tensor: Tensor) -> Tensor:
    """Accepts one vector without its row dimension, as older files store it.

    Args:
        tensor: Shape (dim,) or (n, dim).

    Returns:
        Shape (n, dim).

    Raises:
        EmbeddingFileError: If it has another number of dimensions, or no element.
    """
    if tensor.ndim not in (1, 2) or tensor.numel() == 0:
        raise EmbeddingFileError(
            f"the embedding has shape {tuple(tensor.shape)}; expected (dim,) or (vectors, dim), each 1 or more."
        )
    return tensor.reshape(-1, tensor.shape[-1])


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


def file_metadata(concept: LearnedConcept, encoder: str) -> dict[str, str]:
    """Builds the metadata that every file of ours carries.

    What the concept's own metadata says wins, except for the token and `format`, which describe this file.

    Args:
        concept: The concept.
        encoder: Key of the text encoder whose rows are written.

    Returns:
        Text to text: `base_model`, `family`, `steps` ("unknown" where the concept does not say), `library_version`,
        `encoder`, `token`, and the `format` that transformers-style loaders ask for.
    """
    unknown = dict.fromkeys(("base_model", "family", "steps"), "unknown")
    fixed = {"encoder": encoder, "token": concept.token, "format": "pt"}
    return {**unknown, "library_version": __version__, **concept.metadata, **fixed}
