"""The contract of an initializer: where the rows of a concept start."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.records import EncoderSlot


class Initializer(ABC):
    """Gives the first rows of a concept in one text encoder.

    Attributes:
        name: its key in ``INITIALIZERS``.
    """

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def recognises(cls, initializer: str) -> bool:
        """Whether a concept's ``initializer`` is meant for this class.

        Args:
            initializer: the text the user gave, possibly empty.

        Returns:
            True when it is.
        """

    @abstractmethod
    def __call__(self, concept: ConceptSpec, slot: EncoderSlot) -> Tensor:
        """First rows of a concept.

        Args:
            concept: what is to be learned.
            slot: the text encoder in which.

        Returns:
            (num_vectors, dim) float32 on the CPU, an independent copy.

        Raises:
            ConceptError: the initializer does not fit the concept or the encoder.
        """
