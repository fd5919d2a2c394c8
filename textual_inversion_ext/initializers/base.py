"""The contract of an initializer: where the rows of a concept start; and the words that most of them begin with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.data.sources.collect import Sample
from textual_inversion_ext.errors import ConceptError
from textual_inversion_ext.pipelines.loading import load_clip
from textual_inversion_ext.records import EncoderSlot
from textual_inversion_ext.tokens import word_ids

ClipLoader: TypeAlias = Callable[[str], tuple[Any, Any]]
"""From a name to a ``CLIPModel`` and its ``CLIPProcessor``; raises ModelError."""


@dataclass(frozen=True, slots=True)
class InitializerContext:
    """What an initializer may look at beside the concept and the encoder.

    Attributes:
        config: the run's settings; its seed makes whatever is random.
        samples: the concept's own pictures; they are opened only by those who look at them.
        load_clip: loads a CLIP model by its name. A run hands in a loader that remembers, for one CLIP may serve many
            concepts.
    """

    config: TextualInversionConfig = field(default_factory=TextualInversionConfig)
    samples: Sequence[Sample] = ()
    load_clip: ClipLoader = load_clip


class Initializer(ABC):
    """Gives the first rows of a concept in one text encoder.

    The encoder is only read. The same concept, encoder, pictures and settings give the same rows (bit for bit on CPU),
    whatever else is learned in the run.

    Attributes:
        name: its key in ``INITIALIZERS``.
        noise: how much noise its rows get unless ``initializer_noise`` says otherwise; in units of the vocabulary's
            own spread.
    """

    name: ClassVar[str]
    noise: ClassVar[float] = 0.0

    @classmethod
    def recognises(cls, initializer: str) -> bool:
        """Whether ``initialization="auto"`` gives a concept with this ``initializer`` to this class.

        Args:
            initializer: the text the user gave, possibly empty.

        Returns:
            True when it does; here False: to be had by its name only.
        """
        return False

    @abstractmethod
    def __call__(self, concept: ConceptSpec, slot: EncoderSlot, context: InitializerContext) -> Tensor:
        """First rows of a concept, without noise.

        Args:
            concept: what is to be learned.
            slot: the text encoder in which.
            context: settings, pictures, and models on demand.

        Returns:
            (num_vectors, dim) float32 on the CPU, an independent copy.

        Raises:
            ConceptError: the initializer does not fit the concept or the encoder.
        """


def words_of(concept: ConceptSpec) -> str:
    """The word or phrase that stands for a concept before it is learned.

    Args:
        concept: what is to be learned.

    Returns:
        Its ``initializer``, else its ``class_name``, else "".
    """
    return (concept.initializer or concept.class_name or "").strip()


def token_ids_of(concept: ConceptSpec, slot: EncoderSlot) -> list[int]:
    """Token ids of a concept's word or phrase.

    Args:
        concept: what is to be learned.
        slot: whose tokenizer.

    Returns:
        At least one id.

    Raises:
        ConceptError: there is no word, or the tokenizer cannot spell it.
    """
    text, token = words_of(concept), concept.placeholder_token
    if not text:
        raise ConceptError(
            f"{token}: no initializer. Give the word that comes closest, such as 'dog' or 'teapot' "
            "(--initializer_token), or a class_name."
        )
    ids = word_ids(slot.tokenizer, text)
    if not ids or slot.tokenizer.unk_token_id in ids:
        pieces = slot.tokenizer.convert_ids_to_tokens(ids)
        raise ConceptError(
            f"{token}: the {slot.key} tokenizer does not know the initializer {text!r} (it reads {pieces}); "
            "choose a common word."
        )
    return ids


def rows_of_ids(slot: EncoderSlot, ids: Sequence[int]) -> Tensor:
    """Rows of an encoder's own table.

    Args:
        slot: the text encoder.
        ids: T token ids of its vocabulary.

    Returns:
        (T, dim) float32 on the CPU, a copy.
    """
    table = slot.text_encoder.get_input_embeddings().weight.detach()
    return table[torch.tensor(list(ids), device=table.device)].to("cpu", torch.float32, copy=True)


def mean_row(slot: EncoderSlot) -> Tensor:
    """The mean of the rows that stand for a token (a T5's table has spare rows behind them).

    Args:
        slot: the text encoder.

    Returns:
        (1, dim) float32 on the CPU.
    """
    # Summed in float32 without a copy of the whole table in it, which for a T5 is half a gigabyte.
    table = slot.text_encoder.get_input_embeddings().weight.detach()
    return torch.mean(table[: slot.first_id], dim=0, keepdim=True, dtype=torch.float32).cpu()


def spread(rows: Tensor, count: int) -> Tensor:
    """Lay the rows of a phrase out over a concept's vectors; nothing of the phrase is dropped.

    One vector per token where there are as many. With more vectors the last token repeats: in an English phrase it is
    the noun ("red dog" on three vectors is red, dog, dog). With fewer, neighbouring tokens share a vector, as even as
    it goes: the mean of their rows, brought back to their mean length (a mean of unlike rows is shorter than a row of
    the vocabulary should be).

    Args:
        rows: (T, dim) float32, one row per token.
        count: vectors of the concept.

    Returns:
        (count, dim) float32.
    """
    if count >= len(rows):
        return torch.cat([rows, rows[-1:].repeat(count - len(rows), 1)])
    groups = torch.tensor_split(rows, count)
    means = torch.stack([group.mean(0) for group in groups])
    lengths = torch.stack([group.norm(dim=-1).mean() for group in groups])
    return means * (lengths / means.norm(dim=-1).clamp(min=torch.finfo(means.dtype).tiny)).unsqueeze(-1)
