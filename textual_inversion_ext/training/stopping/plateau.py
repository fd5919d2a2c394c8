"""Plateau: stop when the evaluation loss has not fallen for a while."""

from __future__ import annotations

import math
from collections.abc import Sequence

from textual_inversion_ext.training.stopping.base import StoppingRule


class Plateau(StoppingRule):
    """Stops when no loss of the last ``plateau_patience`` steps improved on the best one before.

    An improvement is a loss below ``best * (1 - plateau_threshold)``, where the best is that of the last improvement:
    the "rel" mode of ``torch.optim.lr_scheduler.ReduceLROnPlateau``, which would lower the learning rate where this
    rule stops. Slow progress below the threshold counts as none.

    Args:
        config: The run's settings.
    """

    name = "plateau"

    @property
    def patience(self) -> int:
        """The patience; see the base class."""
        return self.config.plateau_patience

    def verdict(self, losses: Sequence[float]) -> str | None:
        """Count the evaluations since the last improvement; see the base class.

        Args:
            losses: The concept's losses.

        Returns:
            None, or for how long nothing improved.
        """
        best, since = math.inf, 0
        for loss in losses:
            if loss < best * (1 - self.config.plateau_threshold):
                best, since = loss, 0
            else:
                since += 1
        patience, threshold = self.config.plateau_patience, self.config.plateau_threshold
        if since < self.evaluations(patience):
            return None
        return f"the loss fell less than {threshold:.2%} below {best:.4g} in {patience} steps"
