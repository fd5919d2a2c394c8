"""Learning rates by the age of a row, in the words of diffusers' schedulers."""

from __future__ import annotations

import torch
from diffusers.optimization import get_scheduler
from torch import Tensor, nn

from textual_inversion_ext.errors import ConfigError

SCHEDULERS = ("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup")


class RowSchedule(nn.Module):
    """Learning rate of every row from its own age, looked up on the device.

    The schedule is tabulated once by diffusers' own function, so values are identical to a diffusers training script,
    and a step needs neither Python arithmetic nor a host synchronisation.

    Args:
        name: one of ``SCHEDULERS``.
        base_lr: learning rate that the schedule multiplies.
        total_steps: steps of one concept; older rows keep the last value.
        warmup_steps: steps of linear warm-up, for the schedulers that have one.
        num_cycles: restarts of ``cosine_with_restarts``.

    Raises:
        ConfigError: unknown name or no steps.
    """

    table: Tensor

    def __init__(self, name: str, base_lr: float, total_steps: int, warmup_steps: int = 0, num_cycles: int = 1) -> None:
        super().__init__()
        if name not in SCHEDULERS:
            raise ConfigError(f"lr_scheduler is {name!r}; choose one of: {', '.join(SCHEDULERS)}")
        if total_steps < 1:
            raise ConfigError(f"a schedule over {total_steps} steps; it needs at least 1")
        self.register_buffer("table", _tabulate(name, base_lr, total_steps, warmup_steps, num_cycles), persistent=False)

    def forward(self, age: Tensor) -> Tensor:
        """Look up learning rates.

        Args:
            age: (N,) int64, updates each row has received.

        Returns:
            (N,) float32 learning rate of each row's next update.
        """
        return self.table[age.clamp(max=self.table.shape[0] - 1)]


def effective_learning_rate(
    learning_rate: float, *, scale_lr: bool, batch_size: int, accumulation: int = 1, world_size: int = 1
) -> float:
    """Learning rate after ``--scale_lr``.

    Args:
        learning_rate: as configured.
        scale_lr: whether to multiply it by the samples of an optimizer step.
        batch_size: samples of one concept in a micro-batch of one process.
        accumulation: micro-batches in a step.
        world_size: processes.

    Returns:
        The base learning rate of the schedule.

    Source:
        Gal et al. 2022, released code, ``main.py`` (``scale_lr``).
    """
    return learning_rate * batch_size * accumulation * world_size if scale_lr else learning_rate


def _tabulate(name: str, base_lr: float, total_steps: int, warmup_steps: int, num_cycles: int) -> Tensor:
    """Values of a diffusers schedule at every step.

    Args:
        name: diffusers' name.
        base_lr: learning rate at factor 1.
        total_steps: number of values.
        warmup_steps: steps of linear warm-up.
        num_cycles: restarts.

    Returns:
        (total_steps,) float32 learning rates.
    """
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=base_lr)
    scheduler = get_scheduler(
        name, optimizer, num_warmup_steps=warmup_steps, num_training_steps=total_steps, num_cycles=num_cycles
    )
    factor = scheduler.lr_lambdas[0]
    return torch.tensor([base_lr * factor(step) for step in range(total_steps)], dtype=torch.float32)
