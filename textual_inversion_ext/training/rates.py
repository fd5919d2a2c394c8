"""Learning rates of all rows of a run, which may train for different numbers of steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.training.schedule import RowSchedule, effective_learning_rate


class RowRates(nn.Module):
    """Learning rate of every row, where rows may have schedules of different length.

    Args:
        schedules: One per distinct length.
        choice: (N,) int64, which schedule a row follows.
    """

    choice: Tensor

    def __init__(self, schedules: Sequence[RowSchedule], choice: Tensor) -> None:
        super().__init__()
        self.schedules = nn.ModuleList(schedules)
        self.register_buffer("choice", choice)

    def forward(self, age: Tensor) -> Tensor:
        """Look up learning rates.

        Args:
            age: (N,) int64, updates each row has received.

        Returns:
            (N,) float32.
        """
        rates = self.schedules[0](age)
        for number, schedule in enumerate(self.schedules[1:], start=1):
            rates = torch.where(self.choice == number, schedule(age), rates)
        return rates


def make_rates(
    config: TextualInversionConfig, row_steps: Sequence[int], device: torch.device, world_size: int
) -> RowRates:
    """Learning rates of a run.

    Args:
        config: Learning rate and scheduler.
        row_steps: Optimizer steps of each row: the schedule of a vector that joins late ends with the run as well.
        device: The training device.
        world_size: Number of processes, for ``scale_lr``.

    Returns:
        The rates.
    """
    base = effective_learning_rate(
        config.learning_rate,
        scale_lr=config.scale_lr,
        batch_size=config.train_batch_size,
        accumulation=config.gradient_accumulation_steps,
        world_size=world_size,
    )
    lengths = sorted(set(row_steps))
    schedules = [RowSchedule.of(config, base, length) for length in lengths]
    return RowRates(schedules, torch.tensor([lengths.index(steps) for steps in row_steps])).to(device)
