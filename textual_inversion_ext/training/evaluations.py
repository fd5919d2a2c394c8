"""Judging concepts while they train: losses on a fixed batch, when a concept stops, and which of its rows are best."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import fields
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.records import Draws
from textual_inversion_ext.training.kept import KeptRows
from textual_inversion_ext.training.setup import Workshop
from textual_inversion_ext.training.state import Progress, load_tensors
from textual_inversion_ext.training.stopping import mention_traps, stopping_rule

logger = logging.getLogger(__name__)

_PREFIX = "evaluation."


class Evaluations:
    """The evaluations of a run; every concept is judged by itself, on its own clock.

    A concept is evaluated whenever it has done a multiple of ``eval_steps`` steps, and after its last one, on a batch
    that is always the same (``DrawSource.fixed``), with the step's own prediction and loss (regularizers left out).
    Evaluating draws from no generator that training uses and changes no row, bit for bit. Reading the losses makes the
    host wait for the device, as the log does. An evaluation is a forward pass without a backward pass: half of a
    step of as many samples, on the built-in model and a CPU.

    With ``progressive_steps`` a word of fewer vectors is another word: the best rows are sought, and the rules look at
    losses, since the latest vector joined, and no concept stops before all its vectors have.

    The rules have no state, so the progress and ``state_dict`` are all that a resumed run needs. Processes that share a
    step decide alike: each judges the same batch, and the step averages the losses over them.

    Args:
        config: The run's settings.
        tokens: Placeholder tokens, in the order of the concepts.
        workshop: Everything the loop works with.
        progress: How far the run is; receives the losses.

    Attributes:
        totals: Steps each concept is to do; shortened where a concept stops early.
        kept: The rows worth keeping.

    Raises:
        ConfigError: There is no such stopping rule, or the settings do not fit together.
    """

    def __init__(
        self, config: TextualInversionConfig, tokens: Sequence[str], workshop: Workshop, progress: Progress
    ) -> None:
        self.rule = stopping_rule(config)
        self.interval, self.batch_size = config.eval_steps, config.eval_batch_size
        self.tokens, self.workshop, self.progress = tuple(tokens), workshop, progress
        self.totals = list(workshop.totals)
        self.kept = KeptRows(workshop.step.rows(), workshop.owned)
        # What one micro-batch of a full step holds; evaluating needs less memory for as many samples.
        self._most_samples = min(config.max_concurrent_concepts, len(tokens)) * config.train_batch_size
        mention_traps(self.rule, config, workshop.totals)

    def __call__(self, active: Sequence[int]) -> bool:
        """Evaluate the concepts for which it is time. Call it after every step, inside ``adapter.attached()``.

        Args:
            active: Positions of the concepts that were in the step.

        Returns:
            Whether a concept stopped before its last step.
        """
        done = self.progress.done
        due = [place for place in active if self._is_due(done[place], self.totals[place])]
        if not due:
            return False
        losses, rows, stopped = self._evaluate(due), self.workshop.step.exported(), False
        diverged = self.workshop.step.diverged()
        for place, loss in zip(due, losses, strict=True):
            if place in diverged:  # its rows are those of an earlier step, and it is to leave
                continue
            self.progress.evaluated[place].append((done[place], loss))
            count = len(self.progress.evaluated[place])
            if self._has_grown(place):
                self.kept.reopen(place)
            self.kept.offer(place, done[place], loss, rows, put_aside=count & (count - 1) == 0)
            reason = self.stop_reason(place)
            if reason is not None and done[place] < self.totals[place]:
                self.totals[place], stopped = done[place], True
                logger.info("%s stops at step %d (%s).", self.tokens[place], done[place], reason)
        return stopped

    def _is_due(self, done: int, total: int) -> bool:
        return self.interval > 0 and (done % self.interval == 0 or done == total)

    def _has_grown(self, place: int) -> bool:
        """Whether a concept has more vectors than when it had its best rows."""
        trained, best = self.workshop.activation.trained, int(self.kept.steps[place, 0])
        return best >= 0 and trained(place, self.progress.done[place]) > trained(place, best)

    def _evaluate(self, due: Sequence[int]) -> list[float]:
        """Losses of concepts on their fixed batches, in as few forward passes as a step's memory allows."""
        step, draws, done = self.workshop.step, self.workshop.draws, self.progress.done
        rows = step.results()  # what files would hold, averages where there are any
        batches = [draws.fixed(place, self.batch_size, done[place]) for place in due]
        together = max(1, self._most_samples // self.batch_size)
        losses = []
        for _, group in groupby(batches, key=lambda batch: batch.bucket):
            alike = list(group)
            for first in range(0, len(alike), together):
                losses.append(step.evaluate(joined(alike[first : first + together]), rows))
        return torch.cat(losses).tolist()

    def stop_reason(self, place: int) -> str | None:
        """Why a concept stopped before its last step.

        Args:
            place: Position of the concept.

        Returns:
            The rule and what it saw, or None if the rule lets the concept go on.
        """
        # The loss after the last step may be out of turn; the rules count on equal distances.
        whole = self.history(place, after=self.workshop.activation.starts[place][-1])
        words = self.rule.verdict([loss for step, loss in whole if step % (self.interval or 1) == 0])
        return None if words is None else f"{self.rule.name}: {words}"

    def mention_best(self, place: int, held: str) -> None:
        """Tell the user which step a concept's best rows are from.

        Args:
            place: Position of the concept.
            held: Step of the rows in its final files.
        """
        step, loss = int(self.kept.steps[place, 0]), float(self.kept.losses[place, 0])
        if step >= 0:
            text = "%s: the lowest evaluation loss was %.4g at step %d; the final files hold the rows of step %s."
            logger.info(text, self.tokens[place], loss, step, held)

    def history(self, place: int, after: int = 0) -> tuple[tuple[int, float], ...]:
        """A concept's evaluations.

        Args:
            place: Position of the concept.
            after: Leave out those up to this step of the concept.

        Returns:
            Step of the concept and loss of each, oldest first.
        """
        return tuple((step, loss) for step, loss in self.progress.evaluated[place] if step > after)

    def loss_at(self, place: int, step: int) -> float | None:
        """Loss of a concept's evaluation at a step.

        Args:
            place: Position of the concept.
            step: Steps that it had done.

        Returns:
            The loss, or None if there was no evaluation then.
        """
        return next((loss for found, loss in reversed(self.progress.evaluated[place]) if found == step), None)

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint must hold beside the progress.

        Returns:
            Tensors on the CPU.
        """
        return {_PREFIX + name: tensor for name, tensor in self.kept.state_dict().items()}

    def resume(self, tensors: dict[str, Tensor], progress: Progress, checkpoint: Path) -> None:
        """Go on where a checkpoint was written; concepts that had stopped are stopped again.

        Args:
            tensors: The checkpoint's; those of the evaluations are taken out.
            progress: The checkpoint's.
            checkpoint: Its folder, for messages.

        Raises:
            CheckpointError: Names or shapes do not fit.
        """
        names = [name for name in tensors if name.startswith(_PREFIX)]
        load_tensors(self.kept, {name.removeprefix(_PREFIX): tensors.pop(name) for name in names}, checkpoint)
        self.progress = progress
        for place, done in enumerate(progress.done):
            if self.stop_reason(place) is not None:
                self.totals[place] = min(self.totals[place], done)


def joined(batches: Sequence[Draws]) -> Draws:
    """Batches of several concepts as one.

    Args:
        batches: Draws of as many samples each, all from one bucket.

    Returns:
        Their samples in the same order.
    """
    if len(batches) == 1:
        return batches[0]
    names = [part.name for part in fields(Draws) if part.name not in ("concepts", "bucket")]
    tensors = {name: torch.cat([getattr(batch, name) for batch in batches]) for name in names}
    concepts = tuple(concept for batch in batches for concept in batch.concepts)
    return Draws(**tensors, concepts=concepts, bucket=batches[0].bucket)
