"""Bootstrap intervals of mean scores, over concepts or over pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Interval", "bootstrap_mean"]

ROUNDS = 2000
"""Bootstrap samples."""
LEVEL = 0.95
"""Share of them that an interval holds."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, and how far it may be off.

    Attributes:
        mean: The mean.
        low: Lower end, or None where there is nothing to tell it from (a single picture of a single concept).
        high: Upper end, or None.
        concepts: How many concepts the mean is over.
        images: How many pictures it is over.
    """

    mean: float
    low: float | None
    high: float | None
    concepts: int
    images: int

    @property
    def ends(self) -> tuple[float, float]:
        """Lower and upper end; the mean itself where there is no interval."""
        return (self.mean if self.low is None else self.low, self.mean if self.high is None else self.high)


def bootstrap_mean(
    concepts: Sequence[Sequence[Sequence[float]]],
    *,
    rounds: int = ROUNDS,
    level: float = LEVEL,
    seed: int = 0,
    independent: bool = True,
) -> Interval:
    """Take the mean over concepts, with a percentile bootstrap interval.

    A concept's score is the mean over its prompts of the mean over their pictures. Of several concepts the concepts are
    resampled: the interval says what other concepts might have given. Of one concept its pictures are resampled, within
    each prompt, because the prompts were chosen and the pictures drawn: the interval says what other seeds might have
    given. The same seed draws the same resamples, so runs on the same concepts are compared on equal terms.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (percentile interval).

    Args:
        concepts: For each concept and each of its prompts the scores of the pictures. To compare two runs, give the
            differences of their scores.
        rounds: Bootstrap samples.
        level: Share of the samples inside the interval.
        seed: Of the resampling.
        independent: Whether each picture has a score of its own. Where it depends on the other samples of the prompt,
            as diversity does, pictures cannot be resampled by their scores, and one concept has no interval.

    Returns:
        The mean and its interval.

    Raises:
        ValueError: There is no score, or a prompt without one.
    """
    groups = [[np.asarray(prompt, dtype=np.float64) for prompt in prompts] for prompts in concepts]
    if not groups or not all(groups) or any(prompt.size == 0 for prompts in groups for prompt in prompts):
        raise ValueError("A mean needs at least one concept, and each concept and prompt at least one score.")
    means = np.array([np.mean([prompt.mean() for prompt in prompts]) for prompts in groups])
    images = sum(prompt.size for prompts in groups for prompt in prompts)
    generator = np.random.default_rng(seed)
    if len(means) > 1:
        drawn = _resampled_means(means, rounds, generator)
    elif independent and images > len(groups[0]):
        drawn = np.mean([_resampled_means(prompt, rounds, generator) for prompt in groups[0]], axis=0)
    else:
        return Interval(float(means[0]), None, None, 1, images)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(means.mean()), float(low), float(high), len(means), images)


def _resampled_means(values: NDArray[np.float64], rounds: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Means of ``rounds`` samples with replacement, each as large as the original."""
    return values[generator.integers(0, len(values), (rounds, len(values)))].mean(axis=1)
