"""The rows worth keeping: those of the lowest evaluation loss, now and at earlier times of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

LEVELS = 4
"""The best rows so far, and what was best at three earlier times."""


class KeptRows(nn.Module):
    """For every concept its best rows, and the best ones of about the first half, quarter and eighth of its steps.

    The loss of the fixed batch says how well a word fits its own pictures, not how well it does in other sentences:
    rows of fewer steps may serve better there. So the last rows stay the final files unless ``keep`` is "best", and the
    earlier ones are saved beside them. Nobody knows beforehand when a concept stops: what is best is put aside whenever
    the number of evaluations is a power of two, and the latest three such times are kept.

    Everything is in buffers on the CPU, so ``state_dict()`` is what a checkpoint must hold: four copies of the rows.
    Their first dimension counts concepts or rows, so that checkpoints can be divided by concepts.

    Args:
        rows: Encoder key -> (N, dim) float32, for the shapes.
        owned: Positions of each concept's rows.

    Attributes:
        steps: (C, LEVELS) int64, step of the concept that the rows are from; -1 for none.
        until: (C, LEVELS) int64, steps of the concept among which they were the best.
        losses: (C, LEVELS) float32, their evaluation loss; infinite for none.
    """

    steps: Tensor
    until: Tensor
    losses: Tensor

    def __init__(self, rows: Mapping[str, Tensor], owned: Sequence[range]) -> None:
        super().__init__()
        self.owned = tuple(owned)
        self._names = {key: f"rows_{key}" for key in rows}
        self.register_buffer("steps", torch.full((len(owned), LEVELS), -1, dtype=torch.int64))
        self.register_buffer("until", torch.zeros(len(owned), LEVELS, dtype=torch.int64))
        self.register_buffer("losses", torch.full((len(owned), LEVELS), torch.inf))
        for key, tensor in rows.items():
            self.register_buffer(self._names[key], torch.zeros(tensor.shape[0], LEVELS, tensor.shape[1]))

    def rows(self, level: int) -> dict[str, Tensor]:
        """Rows of one level.

        Args:
            level: 0 for the best ones, 1 to LEVELS - 1 for what was best earlier, the latest first.

        Returns:
            Encoder key -> (N, dim) float32; zeros for a concept that has none.
        """
        return {key: self.get_buffer(name)[:, level] for key, name in self._names.items()}

    def reopen(self, place: int) -> None:
        """Let the next rows be the best ones whatever their loss is, as when the first were offered.

        Args:
            place: Position of the concept.
        """
        self.losses[place, 0] = torch.inf

    def offer(self, place: int, step: int, loss: float, rows: Mapping[str, Tensor], *, put_aside: bool) -> None:
        """Keep a concept's rows if they are better than the best so far.

        Args:
            place: Position of the concept.
            step: Steps it has done.
            loss: Its evaluation loss; one that is not finite is never the best.
            rows: Encoder key -> (N, dim) float32 on the CPU, rows of all concepts.
            put_aside: Whether to put the best rows aside for later.
        """
        own = self.owned[place]
        self.until[place, 0] = step
        if loss < self.losses[place, 0]:
            self.steps[place, 0], self.losses[place, 0] = step, loss
            for key, tensor in self.rows(0).items():
                tensor[own.start : own.stop] = rows[key][own.start : own.stop]
        if put_aside:
            for table in (self.steps, self.until, self.losses):
                table[place, 1:] = table[place, :-1].clone()
            for name in self._names.values():
                levels = self.get_buffer(name)[own.start : own.stop]
                levels[:, 1:] = levels[:, :-1].clone()
