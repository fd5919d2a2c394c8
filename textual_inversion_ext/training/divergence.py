"""Concepts whose numbers stop being finite: among several, such a concept stops alone and the others go on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.errors import TrainingDiverged
from textual_inversion_ext.training.state import Progress
from textual_inversion_ext.training.step import TrainingStep

logger = logging.getLogger(__name__)

LOOK_STEPS = 10
"""Steps between two looks at who has diverged, in a run of several concepts; each makes the host wait for the device.

No setting, and no other event makes the run look: who shares a batch decides the last bits of the rows of all in it, so
a resumed run must let a concept go at the same step as an uninterrupted one.
"""


def good_steps(step: TrainingStep, done: Sequence[int]) -> list[int]:
    """Steps of each concept after which its rows were what they are now.

    Args:
        step: The training step, which holds the rows of a concept from the moment when it diverges.
        done: Steps that each concept has been in.

    Returns:
        The same, less for concepts that have diverged.
    """
    diverged = step.diverged()
    return [min(have, diverged.get(place, have + 1) - 1) for place, have in enumerate(done)]


def let_go(step: TrainingStep, tokens: Sequence[str], progress: Progress, totals: list[int]) -> bool:
    """Let concepts that have diverged leave their slots to the next in line.

    From then on a concept counts only the steps that its rows are from, fewer than the step at which it diverged. That
    is how a resumed run knows who has left (``stay_away``).

    Args:
        step: The training step.
        tokens: Placeholder tokens, in the order of the concepts.
        progress: How far the run is; changed.
        totals: Steps each concept is to do; changed.

    Returns:
        Whether a concept left.
    """
    good = good_steps(step, progress.done)
    leaving = [place for place, (have, kept) in enumerate(zip(progress.done, good, strict=True)) if kept < have]
    for place in leaving:
        lost = progress.done[place] - good[place]
        progress.done[place] = totals[place] = good[place]
        progress.counts[place] = max(0, progress.counts[place] - lost)
        logger.warning(
            "%s stops: its numbers were not finite at step %d. Its rows stay those of step %d; the others go on.",
            tokens[place],
            good[place] + 1,
            good[place],
        )
    return bool(leaving)


def stay_away(step: TrainingStep, done: Sequence[int], totals: list[int]) -> None:
    """Keep concepts that had left out of a resumed run.

    Args:
        step: The training step, with the checkpoint's state.
        done: Steps done by each concept, from the checkpoint.
        totals: Steps each concept is to do; changed.
    """
    for place, bad in step.diverged().items():
        if done[place] < bad:
            totals[place] = done[place]


def divergence_error(
    config: TextualInversionConfig, folder: Path, diverged: Mapping[str, int], num_concepts: int
) -> TrainingDiverged:
    """What to raise when a run has ended, or its others have finished.

    Args:
        config: The run's settings.
        folder: Its output folder.
        diverged: Token -> step of its own at which the concept diverged.
        num_concepts: Concepts of the run.

    Returns:
        The error, saying which, when, and what to try.
    """
    where = ", ".join(f"{token} at step {step}" for token, step in diverged.items())
    precision = config.mixed_precision
    cure = "--mixed_precision no" if precision != "no" else "check that the model makes good pictures as it is"
    others = num_concepts - len(diverged)
    rest = f" The other {others} concept(s) were learned to the end." if others else ""
    again = " To learn one again by itself, give the config.json of its folder to --config." if num_concepts > 1 else ""
    return TrainingDiverged(
        f"The loss, its gradient or the rows became NaN or infinite: {where}. The last good rows are saved in {folder}."
        f"{rest}{again} Try a lower --learning_rate (it is {config.learning_rate}), or {cure}."
    )
