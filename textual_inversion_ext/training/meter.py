"""What is measured between two logs: mean losses, learning rates, norms, time and speed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from textual_inversion_ext.training.callbacks import LogEntry
from textual_inversion_ext.training.setup import Workshop
from textual_inversion_ext.training.state import Progress


class Meter:
    """Adds up the losses on the device, and turns them into a line of the step log.

    Args:
        tokens: Placeholder tokens, in the order of the concepts.
        workshop: Everything the loop works with.

    Attributes:
        loss_sum: (C,) float32 on the training device, sum of losses since the last log; part of a checkpoint.
    """

    def __init__(self, tokens: Sequence[str], workshop: Workshop) -> None:
        self.tokens, self.workshop = tuple(tokens), workshop
        self.loss_sum = torch.zeros(len(self.tokens), device=workshop.step.resident.device)
        self._index: dict[tuple[int, ...], Tensor] = {}

    def start(self, progress: Progress) -> None:
        """Start the clock of this session.

        Args:
            progress: How far the run is.
        """
        self._clock = time.perf_counter() - progress.seconds
        self._last, self._visits = progress.seconds, 0

    def tick(self, progress: Progress) -> None:
        """Write the seconds of training so far into the progress.

        Args:
            progress: How far the run is.
        """
        progress.seconds = time.perf_counter() - self._clock

    def count(self, progress: Progress, active: tuple[int, ...], loss: Tensor) -> None:
        """Count one step; nothing waits for the device.

        Args:
            progress: How far the run is.
            active: Positions of the concepts that were in the step.
            loss: (S,) float32, their losses.
        """
        if active not in self._index:
            self._index = {active: torch.tensor(active, device=self.loss_sum.device)}
        self.loss_sum.index_add_(0, self._index[active], loss)
        progress.step += 1
        self._visits += len(active)
        for place in active:
            progress.done[place] += 1
            progress.counts[place] += 1

    def entry(self, progress: Progress, eval_loss: Mapping[str, Sequence[tuple[int, float]]]) -> LogEntry | None:
        """Make the log's entry and begin the next interval. The host waits for the device here.

        Args:
            progress: How far the run is.
            eval_loss: Token -> evaluations since the last log.

        Returns:
            The entry, or None if no step was done since the last one.
        """
        if not any(progress.counts):
            return None
        workshop, tokens = self.workshop, self.tokens
        means = self.loss_sum.tolist()
        rates = workshop.rates(workshop.step.age).tolist()
        if workshop.step.networks is not None:
            rates = [rate * workshop.step.networks.phases.row_rate(progress.step + 1) for rate in rates]
        norms = next(iter(workshop.step.rows().values())).norm(dim=1).tolist()
        self.tick(progress)
        pictures = self._visits * workshop.draws.global_batch
        diverged = workshop.step.diverged()
        seen = [place for place, count in enumerate(progress.counts) if count and place not in diverged]
        entry = LogEntry(
            step=progress.step,
            loss={tokens[place]: means[place] / progress.counts[place] for place in seen},
            eval_loss=eval_loss,
            lr={tokens[place]: rates[workshop.rows[place].start] for place in seen},
            row_norms={tokens[place]: [norms[row] for row in workshop.rows[place]] for place in seen},
            seconds=progress.seconds,
            samples_per_second=pictures / max(progress.seconds - self._last, 1e-9),
        )
        self._last, self._visits = progress.seconds, 0
        progress.counts[:] = [0] * len(progress.counts)
        self.loss_sum.zero_()
        return entry
