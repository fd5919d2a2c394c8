"""DVAR: stop when the evaluation loss has stopped to vary (Voronov et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.training.stopping.base import StoppingRule


class VarianceRatio(StoppingRule):
    r"""Stops when the variance of the latest losses is small beside that of all losses.

    With the losses :math:`h` and :math:`W` evaluations in a window of ``dvar_window`` steps, it stops as soon as

    .. math:: |h| \ge W \quad\text{and}\quad \mathrm{var}(h_{-W:}) / \mathrm{var}(h) < \text{dvar\_threshold}

    with population variances. The ratio is 1 when the first window is full, so no concept stops before it has done more
    than ``dvar_window`` steps. The paper evaluates at every step (``--eval_steps 1``: about twice the time); fewer
    evaluations over the same window of steps are the cheap equivalent. A learning rate that decays flattens the loss
    whatever was learned, and the rule then follows the schedule: use a constant one.

    Args:
        config: The run's settings.

    Raises:
        ConfigError: The window holds a single evaluation, whose variance is 0.

    Source:
        Voronov et al. 2023, "Is This Loss Informative? Faster Text-to-Image Customization by Tracking Objective
        Dynamics", section 4, and ``VarEarlyStopper`` of the released code.
    """

    name = "dvar"
    citation = """@inproceedings{voronov2023loss,
  title     = {Is This Loss Informative? {F}aster Text-to-Image Customization by Tracking Objective Dynamics},
  author    = {Voronov, Anton and Khoroshikh, Mikhail and Babenko, Artem and Ryabinin, Max},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2023}
}"""

    def __init__(self, config: TextualInversionConfig) -> None:
        super().__init__(config)
        self.window = self.evaluations(config.dvar_window)
        if self.window < 2:
            raise ConfigError(
                f"dvar_window is {config.dvar_window} steps and holds only one evaluation of eval_steps"
                f" {config.eval_steps}; give at least {2 * config.eval_steps}, or evaluate more often."
            )

    @property
    def patience(self) -> int:
        """The window; see the base class."""
        return self.config.dvar_window

    def verdict(self, losses: Sequence[float]) -> str | None:
        """Compare the variances; see the base class.

        Args:
            losses: The concept's losses.

        Returns:
            None, or the ratio.
        """
        if len(losses) < self.window:
            return None
        history = np.asarray(losses)
        whole = history.var()
        if not whole > 0:  # all alike, or one is NaN: no ratio
            return None
        ratio = history[-self.window :].var() / whole
        if not ratio < self.config.dvar_threshold:
            return None
        return f"variance ratio {ratio:.3f} is below {self.config.dvar_threshold:g}"
