"""A fixed number of steps: nothing stops a concept early."""

from __future__ import annotations

from collections.abc import Sequence

from textual_inversion_ext.training.stopping.base import StoppingRule


class FixedSteps(StoppingRule):
    """Every concept trains for ``max_train_steps`` or ``num_train_epochs``.

    Args:
        config: The run's settings.
    """

    name = "none"

    @property
    def patience(self) -> int:
        """0: it never stops a concept; see the base class."""
        return 0

    def verdict(self, losses: Sequence[float]) -> str | None:
        """Go on; see the base class.

        Args:
            losses: Not looked at.

        Returns:
            None.
        """
        return None
