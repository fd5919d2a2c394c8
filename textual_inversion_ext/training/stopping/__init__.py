"""When a concept has been learned: one file per rule, and this table is the only list."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.training.stopping.base import StoppingRule
from textual_inversion_ext.training.stopping.dvar import VarianceRatio
from textual_inversion_ext.training.stopping.fixed import FixedSteps
from textual_inversion_ext.training.stopping.plateau import Plateau

__all__ = ["STOPPING_RULES", "FixedSteps", "Plateau", "StoppingRule", "VarianceRatio", "mention_traps", "stopping_rule"]

logger = logging.getLogger(__name__)

STOPPING_RULES: dict[str, type[StoppingRule]] = {
    FixedSteps.name: FixedSteps,
    VarianceRatio.name: VarianceRatio,
    Plateau.name: Plateau,
}

_CONSTANT = ("constant", "constant_with_warmup")


def stopping_rule(config: TextualInversionConfig) -> StoppingRule:
    """The rule that a config names.

    Args:
        config: The run's settings.

    Returns:
        The rule.

    Raises:
        ConfigError: There is no such rule, or its settings do not fit together.
    """
    if config.stopping not in STOPPING_RULES:
        raise ConfigError(f"stopping is {config.stopping!r}; allowed: {', '.join(STOPPING_RULES)}.")
    return STOPPING_RULES[config.stopping](config)


def mention_traps(rule: StoppingRule, config: TextualInversionConfig, totals: Sequence[int]) -> None:
    """Say what makes a stopping rule decide badly, or never.

    Args:
        rule: The rule.
        config: The run's settings.
        totals: Steps each concept is to do at most.
    """
    if not rule.patience:
        return
    if config.schedule not in _CONSTANT:
        logger.warning(
            "notice: --stopping %s beside --lr_scheduler %s: a decaying learning rate flattens the evaluation loss"
            " whatever was learned, so the stop follows the schedule. Use --lr_scheduler constant.",
            rule.name,
            config.schedule,
        )
    if max(totals, default=0) <= rule.patience:
        logger.warning(
            "notice: --stopping %s never stops before step %d, and no concept is to do more than %d: it has no effect."
            " Give a larger --max_train_steps, or let the rule look at fewer steps.",
            rule.name,
            rule.patience,
            max(totals, default=0),
        )
