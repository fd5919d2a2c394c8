"""From settings to the parts of a step that a method chooses: rows and how they move."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.embedding_table import mean_norm
from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.families.base import FamilyAdapter
from textual_inversion_ext.parametrizations import PARAMETRIZATIONS, Parametrization, UpdateSettings
from textual_inversion_ext.training.schedule import check_step_rules
from textual_inversion_ext.training.stopping import stopping_rule


def check_methods(config: TextualInversionConfig) -> None:
    """Refuse settings that cannot work together, before anything slow has begun.

    Args:
        config: the run's settings.

    Raises:
        ConfigError: the parametrization, the optimizer, the learning rate's or the stopping rules are not possible.
    """
    if config.parametrization not in PARAMETRIZATIONS:
        raise ConfigError(f"parametrization is {config.parametrization!r}; allowed: {', '.join(PARAMETRIZATIONS)}.")
    rows = PARAMETRIZATIONS[config.parametrization](torch.zeros(1, 1), update_settings(config))
    try:
        rows.update(torch.zeros(1, 1), torch.ones(1), torch.ones(1, dtype=torch.bool))
        rows.state_dict()  # The first checkpoint would be too late to learn that it cannot be packed.
    except ConfigError:
        raise
    except Exception as error:  # of an optimizer that somebody else wrote
        raise ConfigError(
            f"optimizer {config.optimizer} cannot move a row (tried on the CPU): {type(error).__name__}: {error}."
            " Choose another one, or other optimizer_args."
        ) from error
    if config.schedule == "piecewise_constant":
        check_step_rules(config.lr_step_rules)
    stopping_rule(config)


def update_settings(config: TextualInversionConfig) -> UpdateSettings:
    """The settings of how rows move.

    Args:
        config: the run's settings.

    Returns:
        Hyper-parameters; the magnitude, which depends on the model, is left open.
    """
    return UpdateSettings(
        beta1=config.adam_beta1,
        beta2=config.adam_beta2,
        epsilon=config.adam_epsilon,
        weight_decay=config.adam_weight_decay,
        optimizer=config.optimizer,
        optimizer_args=config.optimizer_args,
        kappa=config.vmf_kappa,
        direction_beta=config.direction_beta,
    )


def make_parametrizations(
    config: TextualInversionConfig, adapter: FamilyAdapter, initial: Mapping[str, Tensor], device: torch.device
) -> dict[str, Parametrization]:
    """The rows of every text encoder.

    Args:
        config: the run's settings.
        adapter: its text encoders tell how long a vector of their vocabulary is.
        initial: encoder key -> (N, dim) float32 first rows, on any device.
        device: the training device.

    Returns:
        Encoder key -> its rows.
    """
    settings, kind = update_settings(config), PARAMETRIZATIONS[config.parametrization]
    return {
        slot.key: kind(
            initial[slot.key].to(device),
            dataclasses.replace(settings, magnitude=mean_norm(slot.text_encoder, slot.first_id)),
        )
        for slot in adapter.slots
        if slot.key in initial
    }
