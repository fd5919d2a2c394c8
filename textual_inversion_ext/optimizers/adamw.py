"""AdamW with one clock for each row."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from textual_inversion_ext.parametrizations.base import UpdateSettings


class RowAdamW(nn.Module):
    r"""AdamW in which every row has its own learning rate, age and bias correction.

    For a row of age :math:`k` (this update included) it does what ``torch.optim.AdamW`` does at its step :math:`k`.

    Args:
        shape: (N, dim) of the rows.
        settings: hyper-parameters.
        device: where the rows are.

    Attributes:
        exp_avg: (N, dim) float32, first moment.
        exp_avg_sq: (N, dim) float32, second moment.

    Source:
        Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2.
    """

    exp_avg: Tensor
    exp_avg_sq: Tensor

    def __init__(self, shape: torch.Size, settings: UpdateSettings, device: torch.device) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("exp_avg", torch.zeros(shape, device=device))
        self.register_buffer("exp_avg_sq", torch.zeros(shape, device=device))

    @torch.no_grad()
    def update(self, rows: Tensor, grad: Tensor, lr: Tensor, active: Tensor, age: Tensor) -> None:
        """Move the active rows in place; the others keep every bit.

        Args:
            rows: (N, dim) float32.
            grad: (N, dim) float32; may be non-finite where not active.
            lr: (N,) float32.
            active: (N,) bool.
            age: (N,) int64, updates of each row, this one included.
        """
        settings, on, lr, age = self.settings, active.unsqueeze(1), lr.unsqueeze(1), age.unsqueeze(1).float()
        exp_avg = torch.lerp(self.exp_avg, grad, 1 - settings.beta1)
        exp_avg_sq = (self.exp_avg_sq * settings.beta2).addcmul(grad, grad, value=1 - settings.beta2)
        # An inactive row may be of age 0, whose correction is 0: its quotient is thrown away below.
        denominator = (exp_avg_sq / bias_correction(settings.beta2, age)).sqrt_().add_(settings.epsilon)
        shrunk = rows * (1 - lr * settings.weight_decay) if settings.weight_decay else rows
        scaled = exp_avg * (lr / bias_correction(settings.beta1, age))
        moved = torch.addcdiv(shrunk, scaled, denominator, value=-1)
        for state, value in ((self.exp_avg, exp_avg), (self.exp_avg_sq, exp_avg_sq), (rows, moved)):
            torch.where(on, value, state, out=state)


def bias_correction(beta: float, age: Tensor) -> Tensor:
    r"""Bias correction :math:`1 - \beta^k` of each row.

    Written with ``expm1``: in float32, ``1 - beta ** k`` loses four digits at beta 0.999 and age 1.

    Args:
        beta: decay of the moment.
        age: float32, updates of each row.

    Returns:
        float32 of the same shape.
    """
    return torch.expm1(age * math.log(beta)).neg_() if beta else torch.ones_like(age)
