"""Learning rates by the age of a row, in the words of diffusers' schedulers."""

from __future__ import annotations

from typing import get_args

import torch
from diffusers.optimization import get_scheduler
from torch import Tensor, nn

from textual_inversion_ext.config import SchedulerName, TextualInversionConfig
from textual_inversion_ext.errors import ConfigError

SCHEDULERS = get_args(SchedulerName)


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
        power: of ``polynomial``.
        step_rules: of ``piecewise_constant``, for example ``"1:200,0.1:400,0.01"``: the base rate until step 200, a
            tenth of it until step 400, then a hundredth.

    Raises:
        ConfigError: unknown name, no steps, or settings that the scheduler cannot use.
    """

    table: Tensor

    def __init__(
        self,
        name: str,
        base_lr: float,
        total_steps: int,
        warmup_steps: int = 0,
        num_cycles: int = 1,
        power: float = 1.0,
        step_rules: str | None = None,
    ) -> None:
        super().__init__()
        if name not in SCHEDULERS:
            raise ConfigError(f"lr_scheduler is {name!r}; choose one of: {', '.join(SCHEDULERS)}")
        if total_steps < 1:
            raise ConfigError(f"a schedule over {total_steps} steps; it needs at least 1")
        if name == "piecewise_constant":
            check_step_rules(step_rules)
        table = _tabulate(name, base_lr, total_steps, warmup_steps, num_cycles, power, step_rules)
        self.register_buffer("table", table, persistent=False)

    @classmethod
    def of(cls, config: TextualInversionConfig, base_lr: float, total_steps: int) -> RowSchedule:
        """Make the schedule that a run's settings ask for.

        Args:
            config: the run's settings.
            base_lr: learning rate that the schedule multiplies.
            total_steps: steps of one concept.

        Returns:
            The schedule.

        Raises:
            ConfigError: as for the class.
        """
        return cls(
            config.schedule,
            base_lr,
            total_steps,
            config.lr_warmup_steps,
            config.lr_num_cycles,
            config.lr_power,
            config.lr_step_rules,
        )

    def forward(self, age: Tensor) -> Tensor:
        """Look up learning rates.

        Args:
            age: (N,) int64, updates each row has received.

        Returns:
            (N,) float32 learning rate of each row's next update.
        """
        return self.table[age.clamp(max=self.table.shape[0] - 1)]


def check_step_rules(rules: str | None) -> None:
    """Refuse rules of ``piecewise_constant`` that diffusers would stumble over or read otherwise than written.

    Args:
        rules: ``factor:step`` pairs with rising steps, then the last factor, all separated by commas.

    Raises:
        ConfigError: they are not of this form.
    """
    *pairs, last = (rules or "").split(",")
    try:
        factors, steps = [float(last)], []
        for pair in pairs:
            factor, step = pair.split(":")
            factors.append(float(factor))
            steps.append(int(step))
        fits = all(0 <= factor < float("inf") for factor in factors) and steps == sorted({*steps} - {0})
    except ValueError:
        fits = False
    if not fits:
        raise ConfigError(
            f"lr_step_rules is {rules!r}; piecewise_constant needs factor:step pairs with rising steps and a last "
            "factor, for example '1:200,0.1:400,0.01'."
        )


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


def _tabulate(
    name: str,
    base_lr: float,
    total_steps: int,
    warmup_steps: int,
    num_cycles: int,
    power: float,
    step_rules: str | None,
) -> Tensor:
    """Values of a diffusers schedule at every step.

    Args:
        name: diffusers' name.
        base_lr: learning rate at factor 1.
        total_steps: number of values.
        warmup_steps: steps of linear warm-up.
        num_cycles: restarts.
        power: of the polynomial.
        step_rules: of the piecewise constant.

    Returns:
        (total_steps,) float32 learning rates.

    Raises:
        ConfigError: diffusers refuses the numbers.
    """
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=base_lr)
    try:
        scheduler = get_scheduler(
            name,
            optimizer,
            step_rules=step_rules,
            num_warmup_steps=warmup_steps,
            num_training_steps=total_steps,
            num_cycles=num_cycles,
            power=power,
        )
    except ValueError as error:
        raise ConfigError(f"lr_scheduler {name} with learning rate {base_lr}: {error}") from error
    factor = scheduler.lr_lambdas[0]
    return torch.tensor([base_lr * factor(step) for step in range(total_steps)], dtype=torch.float32)
