"""Progressive vectors: when each vector of a word joins in (Gal et al. 2022, section 5.2, "progressive extensions").

A vector that has not joined takes no part in any prompt, gets no gradient and no decay, and its clock stands still.
Everything here counts a concept's own steps, so nothing needs to be saved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.config import DEFAULT_STEPS, TextualInversionConfig
from textual_inversion_ext.errors import ConfigError


def activation_steps(config: TextualInversionConfig, num_vectors: int, total_steps: int | None) -> tuple[int, ...]:
    """The step of its concept at which each vector becomes active.

    Args:
        config: ``progressive_steps`` is used; its first entry is that of the second vector, and so on.
        num_vectors: vectors of the concept.
        total_steps: optimizer steps that the concept is to do; None where they are not known yet: then the list's
            order and its end are not looked at.

    Returns:
        One step for each vector, never falling, the first 0.

    Raises:
        ConfigError: the list is no list of numbers, is too short, falls, or goes beyond the run.
    """
    if config.progressive_steps is None:
        return (0,) * num_vectors
    text = config.progressive_steps
    steps = [0, *(_step(entry, total_steps or 1, text) for entry in text.replace(",", " ").split())]
    if len(steps) < num_vectors:
        raise ConfigError(
            f"progressive_steps is {text!r}: {len(steps) - 1} entries, but {num_vectors} vectors need "
            f"{num_vectors - 1}, one for each after the first."
        )
    steps = steps[:num_vectors]
    if total_steps is None:
        return tuple(steps)
    if steps != sorted(steps):
        raise ConfigError(f"progressive_steps is {text!r}, steps {steps[1:]}; vectors join in order, so none is less.")
    if steps[-1] >= total_steps:
        raise ConfigError(
            f"progressive_steps is {text!r}: a vector would join at step {steps[-1]} of {total_steps} and never be "
            f"trained. Say shares of the run ('0.33 0.66'), or raise --max_train_steps."
        )
    return tuple(steps)


def check_progressive(config: TextualInversionConfig, concepts: Sequence[ConceptSpec]) -> None:
    """Refuse what can be seen to be wrong before any picture or model is opened.

    Args:
        config: ``progressive_steps`` is used.
        concepts: what the run learns.

    Raises:
        ConfigError: the list does not suit a concept, or no concept has a second vector.
    """
    if config.progressive_steps is None:
        return
    by_default = None if config.num_train_epochs is not None else DEFAULT_STEPS
    for concept in concepts:
        # With epochs the length depends on the pictures; what depends on it is checked later.
        activation_steps(config, concept.num_vectors, config.max_train_steps or by_default)
    most = max(concept.num_vectors for concept in concepts)
    entries = len(config.progressive_steps.replace(",", " ").split())
    if entries > most - 1:
        raise ConfigError(
            f"progressive_steps is {config.progressive_steps!r}: {entries} entries, but the longest word has {most} "
            f"vector(s). Set --num_vectors {entries + 1}, or leave the rest of the list out."
        )


class Activation:
    """Which rows of a run are active, by the steps that its concepts have done.

    Args:
        starts: for each concept the step at which each of its vectors becomes active, from ``activation_steps``.
        rows: for each concept the positions of its vectors' rows.
        num_rows: N, all rows of the run; rows that belong to no vector (those of single pictures) are always active.
        device: the training device.

    Attributes:
        levels: for each concept the numbers of active vectors that occur, rising.
    """

    def __init__(
        self, starts: Sequence[Sequence[int]], rows: Sequence[range], num_rows: int, device: torch.device | str
    ) -> None:
        self.starts = tuple(tuple(own) for own in starts)
        self.levels = tuple(tuple(sorted({self._count(own, start) for start in own})) for own in self.starts)
        self._rows = tuple(rows)
        self._num_rows = num_rows
        self._device = device
        self._cached: tuple[tuple[int, ...], Tensor] | None = None

    def count(self, concept: int, step: int) -> int:
        """Active vectors of a concept.

        Args:
            concept: position of the concept.
            step: steps that it has done.

        Returns:
            From 1 to its number of vectors.
        """
        return self._count(self.starts[concept], step)

    def level(self, concept: int, step: int) -> int:
        """Position in ``levels`` of the number of active vectors.

        Args:
            concept: position of the concept.
            step: steps that it has done.

        Returns:
            From 0 on.
        """
        return self.levels[concept].index(self.count(concept, step))

    def trained(self, concept: int, done: int) -> int:
        """Vectors that have taken part so far: what is worth saving.

        Args:
            concept: position of the concept.
            done: steps that it has done.

        Returns:
            From 1 to its number of vectors.
        """
        return self.count(concept, max(0, done - 1))

    def mask(self, done: Sequence[int]) -> Tensor:
        """Rows that may move in the next step.

        Args:
            done: steps that each concept has done.

        Returns:
            (N,) bool on the training device; copied there only when a vector has joined, because a copy waits for it.
        """
        counts = tuple(self.count(concept, step) for concept, step in enumerate(done))
        if self._cached is None or self._cached[0] != counts:
            active = torch.ones(self._num_rows, dtype=torch.bool)
            for owned, count in zip(self._rows, counts, strict=True):
                active[owned.start + count : owned.stop] = False
            self._cached = (counts, active.to(self._device))
        return self._cached[1]

    @staticmethod
    def _count(starts: Sequence[int], step: int) -> int:
        return sum(step >= start for start in starts)


def _step(entry: str, total_steps: int, text: str) -> int:
    """One entry of ``progressive_steps`` as a step.

    Args:
        entry: a whole number of steps, or a share of the run below 1.
        total_steps: steps of the run.
        text: the whole setting, for the message.

    Returns:
        The step.

    Raises:
        ConfigError: it is neither.
    """
    try:
        if entry.isdecimal():
            return int(entry)
        share = float(entry)
    except ValueError:
        share = math.nan
    if 0 <= share < 1:
        return round(share * total_steps)
    raise ConfigError(
        f"progressive_steps is {text!r}; allowed are whole numbers of steps ('2000 4000') or shares of the run below 1 "
        f"('0.33 0.66'), not {entry!r}."
    )
