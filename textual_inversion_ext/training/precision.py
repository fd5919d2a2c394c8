"""Loss scaling for float16 networks, on the device and for each concept apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LossScale(nn.Module):
    """A dynamic loss scale for every concept, without a host synchronisation.

    float16 gradients underflow below 6e-8; multiplying the loss keeps them in range. ``torch.amp.GradScaler`` has one
    scale for everything and reads it back on the host; here a concept that overflows slows no other, so that together
    == alone holds, and the decision stays on the device.

    Args:
        num_concepts: C.
        enabled: False for float32 and bfloat16 networks: the scale is 1 and never moves.
        initial: first scale.
        growth_interval: steps without overflow after which the scale doubles.

    Attributes:
        scale: (C,) float32.
        streak: (C,) int32, steps since the scale last changed.

    Source:
        Micikevicius et al. 2018, "Mixed Precision Training", section 3.2.
    """

    scale: Tensor
    streak: Tensor

    def __init__(
        self, num_concepts: int, *, enabled: bool, initial: float = 2.0**12, growth_interval: int = 200
    ) -> None:
        super().__init__()
        self.enabled = enabled
        self.growth_interval = growth_interval
        # Another precision has no scale to hand on: a run that goes on in float16 starts with one of its own.
        self.register_buffer("scale", torch.full((num_concepts,), initial if enabled else 1.0), persistent=enabled)
        self.register_buffer("streak", torch.zeros(num_concepts, dtype=torch.int32), persistent=enabled)

    def scaled(self, losses: Tensor, concepts: Tensor) -> Tensor:
        """Losses before the backward pass.

        Args:
            losses: (S,) float32.
            concepts: (S,) int64, whose they are.

        Returns:
            (S,) float32.
        """
        return losses * self.scale[concepts] if self.enabled else losses

    def unscaled(self, grad: Tensor, row_concept: Tensor) -> Tensor:
        """Gradients after the backward pass.

        Args:
            grad: (N, dim) float32.
            row_concept: (N,) int64, the concept of each row.

        Returns:
            (N, dim) float32.
        """
        return grad / self.scale[row_concept].unsqueeze(1) if self.enabled else grad

    def update(self, present: Tensor, overflow: Tensor) -> Tensor:
        """Halve the scale of concepts whose gradients overflowed, double it after a long streak without.

        Args:
            present: (C,) bool, concepts that were in the step.
            overflow: (C,) bool, concepts with a non-finite gradient and a finite loss.

        Returns:
            (C,) bool, overflows that no smaller scale can cure: they count as divergence.
        """
        if not self.enabled:
            return overflow
        hopeless = overflow & (self.scale <= 1.0)
        streak = torch.where(present, self.streak + 1, self.streak)
        grow = present & (streak >= self.growth_interval)
        scale = torch.where(overflow, (self.scale * 0.5).clamp(min=1.0), self.scale)
        scale = torch.where(grow & ~overflow, (scale * 2.0).clamp(max=2.0**24), scale)
        self.scale.copy_(scale)
        self.streak.copy_(torch.where(overflow | grow, torch.zeros_like(streak), streak))
        return hopeless
