"""What follows from a config, concepts and the number of pictures alone: which rows there are, and when they train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.data.sources.collect import Sample
from textual_inversion_ext.row_layout import image_row_ranges, row_ranges
from textual_inversion_ext.training.activation import Activation, activation_steps
from textual_inversion_ext.training.queue import concept_steps

__all__ = ["Plan", "make_plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """Rows and clocks of a run.

    Attributes:
        totals: Optimizer steps each concept is to do.
        rows: Positions of the rows of each concept's vectors.
        image_rows: Positions of the rows of its single pictures' words, right behind those; mostly none.
        image_names: Names of its pictures, in their order.
        activation: When each vector becomes active.
        row_concept: (N,) int64 on the training device, the concept that owns a row.
        row_steps: Steps each row is there for, counted from the step at which it becomes active.
    """

    totals: tuple[int, ...]
    rows: tuple[range, ...]
    image_rows: tuple[range, ...]
    image_names: tuple[tuple[str, ...], ...]
    activation: Activation
    row_concept: Tensor
    row_steps: tuple[int, ...]

    @property
    def image_counts(self) -> tuple[int, ...]:
        """Pictures of each concept that have a word of their own."""
        return tuple(map(len, self.image_rows))


def make_plan(
    config: TextualInversionConfig,
    concepts: Sequence[ConceptSpec],
    samples: Sequence[Sample],
    global_batch: int,
    device: torch.device | str,
) -> Plan:
    """Count steps and lay out rows.

    Args:
        config: The run's settings.
        concepts: What is learned.
        samples: Their pictures.
        global_batch: Pictures of one concept in an optimizer step, all micro-batches and processes.
        device: The training device.

    Returns:
        The plan.
    """
    names = tuple(tuple(sample.name for sample in samples if sample.concept == place) for place in range(len(concepts)))
    totals = tuple(concept_steps(config, len(own), global_batch) for own in names)
    counts = [len(own) if config.per_image_tokens else 0 for own in names]
    rows, image_rows = row_ranges(concepts, counts), image_row_ranges(concepts, counts)
    starts = [
        activation_steps(config, concept.num_vectors, total) for concept, total in zip(concepts, totals, strict=True)
    ]
    owners, steps = [], []
    for place, total in enumerate(totals):
        own = [total - start for start in starts[place]] + [total] * counts[place]
        owners += [place] * len(own)
        steps += own
    activation = Activation(starts, rows, len(owners), device)
    return Plan(totals, rows, image_rows, names, activation, torch.tensor(owners, device=device), tuple(steps))
