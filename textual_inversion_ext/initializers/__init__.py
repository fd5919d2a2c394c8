"""Where a row starts: one file per idea, and this table is the only list."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.data.sources.collect import Sample
from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.initializers.base import ClipLoader, Initializer, InitializerContext, rows_of_ids
from textual_inversion_ext.initializers.cross import CrossInitializer
from textual_inversion_ext.initializers.file import FileInitializer
from textual_inversion_ext.initializers.images import ImagesInitializer
from textual_inversion_ext.initializers.mean import MeanInitializer
from textual_inversion_ext.initializers.noise import row_noise
from textual_inversion_ext.initializers.phrase import PhraseInitializer
from textual_inversion_ext.initializers.words import WordsInitializer
from textual_inversion_ext.pipelines.loading import load_clip
from textual_inversion_ext.records import EncoderSlot

__all__ = [
    "AUTO",
    "INITIALIZERS",
    "ClipLoader",
    "CrossInitializer",
    "FileInitializer",
    "ImagesInitializer",
    "Initializer",
    "InitializerContext",
    "MeanInitializer",
    "PhraseInitializer",
    "WordsInitializer",
    "first_rows",
    "initial_rows",
    "initializer_of",
    "resolve",
]

AUTO = "auto"
"""The value of ``initialization`` that leaves the choice to each concept's ``initializer``."""

INITIALIZERS: dict[str, type[Initializer]] = {
    FileInitializer.name: FileInitializer,
    PhraseInitializer.name: PhraseInitializer,
    MeanInitializer.name: MeanInitializer,
    CrossInitializer.name: CrossInitializer,
    ImagesInitializer.name: ImagesInitializer,
    WordsInitializer.name: WordsInitializer,  # takes any text, so it comes last
}


def resolve(concept: ConceptSpec, initialization: str = AUTO) -> Initializer:
    """The initializer of a concept.

    Args:
        concept: what is to be learned.
        initialization: a key of the table; "auto": the first in its order that recognises the concept's
            ``initializer`` (a path is a file, other text is words).

    Returns:
        The initializer.

    Raises:
        ConfigError: there is none of that name.
    """
    if initialization == AUTO:
        return next(kind() for kind in INITIALIZERS.values() if kind.recognises(concept.initializer))
    if initialization not in INITIALIZERS:
        raise ConfigError(f"initialization is {initialization!r}; allowed: {', '.join((AUTO, *INITIALIZERS))}.")
    return INITIALIZERS[initialization]()


def initializer_of(concept: ConceptSpec, config: TextualInversionConfig) -> Initializer:
    """The initializer of a concept of a run.

    Args:
        concept: what is to be learned; its own ``initialization`` wins.
        config: the run's settings.

    Returns:
        The initializer.

    Raises:
        ConfigError: there is none of that name.
    """
    return resolve(concept, config.initialization if concept.initialization is None else concept.initialization)


def initial_rows(concept: ConceptSpec, slot: EncoderSlot, context: InitializerContext) -> Tensor:
    """Where the rows of a concept start in one text encoder.

    Args:
        concept: what is to be learned; its own ``initialization`` wins over the setting.
        slot: the text encoder; only read.
        context: settings (``initialization``, ``initializer_noise``, the seed), the concept's pictures, models.

    Returns:
        (num_vectors, dim) float32 on the CPU, an independent copy.
    """
    initializer = initializer_of(concept, context.config)
    rows = initializer(concept, slot, context)
    asked = context.config.initializer_noise
    scale = initializer.noise if asked is None else asked
    if scale == 0:
        return rows
    return rows + scale * row_noise(slot, context.config.seed, concept.placeholder_token, concept.num_vectors)


def first_rows(
    config: TextualInversionConfig,
    concepts: Sequence[ConceptSpec],
    slots: Sequence[EncoderSlot],
    samples: Sequence[Sample],
    continued: Collection[str] = (),
) -> dict[str, Tensor]:
    """Where the rows of all concepts of a run start in all of its text encoders.

    Args:
        config: the run's settings.
        concepts: what the run learns.
        slots: the text encoders.
        samples: the pictures of all concepts.
        continued: tokens of concepts whose rows come from a checkpoint: nothing is searched, read or looked up for
            them, and what is handed back only has the right shape.

    Returns:
        Encoder key -> (N, dim) float32 on the CPU, concept after concept.
    """
    # One CLIP for all concepts of an encoder, and no more than one at a time: the largest take gigabytes.
    load = lru_cache(maxsize=1)(load_clip)
    contexts = [
        InitializerContext(config, [sample for sample in samples if sample.concept == place], load)
        for place in range(len(concepts))
    ]

    def rows(spec: ConceptSpec, slot: EncoderSlot, context: InitializerContext) -> Tensor:
        if spec.placeholder_token in continued:
            return rows_of_ids(slot, [0] * spec.num_vectors)
        return initial_rows(spec, slot, context)

    pairs = list(zip(concepts, contexts, strict=True))
    return {slot.key: torch.cat([rows(spec, slot, context) for spec, context in pairs]) for slot in slots}
