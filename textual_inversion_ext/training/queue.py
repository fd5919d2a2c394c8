"""Which concepts share a step: the first unfinished ones; a finished concept leaves its slot to the next in line."""

from __future__ import annotations

import math
from collections.abc import Sequence

from textual_inversion_ext.config import DEFAULT_STEPS, TextualInversionConfig


def active_concepts(done: Sequence[int], totals: Sequence[int], slots: int) -> tuple[int, ...]:
    """The concepts of the next step.

    Args:
        done: Steps done by each concept.
        totals: Steps each concept is to do.
        slots: How many concepts share a step at most.

    Returns:
        Their positions, in order; empty when all are finished.
    """
    unfinished = [place for place, (have, want) in enumerate(zip(done, totals, strict=True)) if have < want]
    return tuple(unfinished[:slots])


def remaining_steps(done: Sequence[int], totals: Sequence[int], slots: int) -> int:
    """Optimizer steps until all concepts are finished.

    Args:
        done: Steps done by each concept.
        totals: Steps each concept is to do.
        slots: How many concepts share a step at most.

    Returns:
        The number of steps.
    """
    clock, count = list(done), 0
    while active := active_concepts(clock, totals, slots):
        stride = min(totals[place] - clock[place] for place in active)
        for place in active:
            clock[place] += stride
        count += stride
    return count


def concept_steps(config: TextualInversionConfig, num_images: int, global_batch: int) -> int:
    """Optimizer steps of one concept.

    Args:
        config: ``max_train_steps`` wins over ``num_train_epochs``.
        num_images: The concept's pictures; an epoch shows as many.
        global_batch: Pictures of the concept in one optimizer step, all micro-batches and processes.

    Returns:
        The number of steps, at least 1.
    """
    if config.max_train_steps is not None:
        return config.max_train_steps
    if config.num_train_epochs is not None:
        return max(1, math.ceil(config.num_train_epochs * num_images / global_batch))
    return DEFAULT_STEPS
