"""Free rows: every coordinate is learned, by an optimizer with one clock per row (Gal et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from textual_inversion_ext.optimizers import make_optimizer
from textual_inversion_ext.papers import GAL_2022
from textual_inversion_ext.parametrizations.base import Parametrization, UpdateSettings


class FreeRows(Parametrization):
    """Rows whose every coordinate is free.

    Args:
        initial: (N, dim) start of every row.
        settings: hyper-parameters.

    Attributes:
        rows: (N, dim) float32.
    """

    name = "free"
    citation = GAL_2022

    rows: Tensor

    def __init__(self, initial: Tensor, settings: UpdateSettings | None = None) -> None:
        super().__init__(initial, settings)
        self.register_buffer("rows", initial.detach().to(torch.float32, copy=True))
        self.optimizer = make_optimizer(self.rows, self.settings)

    def forward(self) -> Tensor:
        """The rows themselves; see the base class."""
        return self.rows

    @torch.no_grad()
    def update(self, grad: Tensor, lr: Tensor, active: Tensor) -> None:
        """One update of the active rows by the optimizer; see the base class.

        Args:
            grad: (N, dim) float32.
            lr: (N,) float32.
            active: (N,) bool.
        """
        self.age.add_(active)
        self.optimizer.update(self.rows, grad, lr, active, self.age)
