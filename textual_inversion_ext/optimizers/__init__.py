"""Optimizers of rows: every row has its own clock, learning rate and state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.optimizers.adamw import RowAdamW, bias_correction
from textual_inversion_ext.optimizers.named import BUILT_IN, NamedOptimizer, import_optimizer

if TYPE_CHECKING:
    from textual_inversion_ext.parametrizations.base import UpdateSettings

__all__ = ["BUILT_IN", "NamedOptimizer", "RowAdamW", "bias_correction", "import_optimizer", "make_optimizer"]


def make_optimizer(initial: Tensor, settings: UpdateSettings) -> RowAdamW | NamedOptimizer:
    """The optimizer that the settings ask for.

    Args:
        initial: (N, dim) first rows, for shape and device.
        settings: hyper-parameters.

    Returns:
        The optimizer of these rows.

    Raises:
        ConfigError: further arguments are given for the built-in one.
    """
    if settings.optimizer == BUILT_IN and settings.optimizer_args:
        raise ConfigError(
            f"optimizer_args is for an optimizer given by its full name; {BUILT_IN} has the adam_ settings."
        )
    kind = RowAdamW if settings.optimizer == BUILT_IN else NamedOptimizer
    return kind(initial.shape, settings, initial.device)
