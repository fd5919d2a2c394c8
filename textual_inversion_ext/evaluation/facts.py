"""What a report says beside its scores: records of texts and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptFacts:
    """What was evaluated.

    Attributes:
        token: The placeholder.
        base_model: The model that made the pictures: Hub id, folder or "pocket".
        num_vectors: Encoder key -> number of rows.
        class_word: Coarse word, if one is known.
        initializer: What the rows started from, as the run's settings name it.
        learnable_property: "object" or "style".
        train_steps: Optimizer steps, if known.
        references: How many real pictures it was compared with.
        own_references: Whether they are the pictures that its run learned from.
        rows_hash: Hash of the rows, so that a report can be matched with its file.
    """

    token: str
    base_model: str
    num_vectors: Mapping[str, int]
    class_word: str | None = None
    initializer: str | None = None
    learnable_property: str = "object"
    train_steps: int | None = None
    references: int = 0
    own_references: bool = False
    rows_hash: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolFacts:
    """By which rules.

    Attributes:
        name: Key of the protocol table, or the file of the user's own prompts.
        source: Paper or page that it is from.
        prompts: The prompts with ``{}`` where the word goes.
        seeds: Seeds of the pictures of each prompt.
        text_mode: What a text metric reads where the word stood: "omit" (nothing) or "class" (the class word).
    """

    name: str
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    source: str = ""
    text_mode: str = "omit"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderRows:
    """The learned rows beside the vocabulary of their text encoder.

    Attributes:
        encoder: The encoder's key.
        norms: Length of each row.
        vocabulary_norms: 5 %, 50 % and 95 % quantiles of the lengths of the vocabulary's rows.
        nearest: For each row the nearest words and their cosines, nearest first.
    """

    encoder: str
    norms: tuple[float, ...]
    vocabulary_norms: tuple[float, float, float]
    nearest: tuple[tuple[tuple[str, float], ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSet:
    """Where the pictures of a subject and a prompt lie.

    Attributes:
        subject: Whose pictures.
        prompt: The prompt with ``{}``; None for real pictures.
        text: The prompt as the model got it; for real pictures "".
        seeds: The seed of each picture; empty for real pictures.
        files: File names with ``/``, relative to the folder of the report, in the order of ``Score.per_image``.
    """

    subject: str
    prompt: str | None
    text: str
    files: tuple[str, ...]
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedScore:
    """A number that somebody else published for the same protocol; never ours.

    Attributes:
        method: Whose.
        metric: Name of the metric as the source has it.
        mean: The number, on the scale of ours (raw cosine).
        source: Where it is printed.
    """

    method: str
    metric: str
    mean: float
    source: str
