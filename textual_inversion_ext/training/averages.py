"""Moving averages of rows, and clipping of their gradients: each row by itself."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class RowAverages(nn.Module):
    r"""Exponential moving average of every row, on the row's own clock.

    At a row's update number :math:`k` it decays by :math:`\min(\text{decay}, k / (9 + k))`, and at the first by 0:
    young averages forget quickly where rows started. This is what diffusers' ``EMAModel`` does by default.

    Args:
        rows: encoder key -> (N, dim) float32, first rows, on the training device.
        decay: limit of the decay, in (0, 1).
    """

    def __init__(self, rows: Mapping[str, Tensor], decay: float) -> None:
        super().__init__()
        self.decay = decay
        self._keys = tuple(rows)
        for key, tensor in rows.items():
            self.register_buffer(key, tensor.detach().clone())

    def forward(self) -> dict[str, Tensor]:
        """The averages.

        Returns:
            Encoder key -> (N, dim) float32, not copies.
        """
        return {key: self.get_buffer(key) for key in self._keys}

    def restart(self, rows: Mapping[str, Tensor]) -> None:
        """Forget the past.

        Args:
            rows: encoder key -> (N, dim) float32, new averages.
        """
        for key in self._keys:
            self.get_buffer(key).copy_(rows[key])

    @torch.no_grad()
    def update(self, rows: Mapping[str, Tensor], age: Tensor, moved: Tensor) -> None:
        """Take new rows into account.

        Args:
            rows: encoder key -> (N, dim) float32, after their update.
            age: (N,) int64, updates of each row, this one included.
            moved: (N,) bool, rows that took this update; averages of the others keep every bit.
        """
        past = (age - 1).clamp(min=0).float()
        decay = torch.where(past > 0, ((1 + past) / (10 + past)).clamp(max=self.decay), 0.0).unsqueeze(1)
        for key in self._keys:
            average = self.get_buffer(key)
            mixed = torch.lerp(rows[key], average, decay)
            average.copy_(torch.where(moved.unsqueeze(1), mixed, average))


def clip_rows(grad: Tensor, max_norm: float) -> Tensor:
    """Shorten gradients that are too long, each row's by itself, so that concepts stay apart.

    Args:
        grad: (N, dim) float32.
        max_norm: greatest norm.

    Returns:
        (N, dim) float32, in the same directions; a row that is not finite stays so.
    """
    norms = torch.linalg.vector_norm(grad, dim=1, keepdim=True)
    return grad * (max_norm / (norms + 1e-6)).clamp(max=1)  # 1e-6: as torch.nn.utils.clip_grad_norm_ does
