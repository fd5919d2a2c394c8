"""From a run's settings to the LoRA that it trains beside the word."""

from __future__ import annotations

from collections.abc import Sequence

from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.data.seeds import seed_for
from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.families.base import FamilyAdapter
from textual_inversion_ext.parametrizations import UpdateSettings
from textual_inversion_ext.pipelines.lora import lora_components
from textual_inversion_ext.training.pivotal.lora import NetworkLora
from textual_inversion_ext.training.pivotal.networks import Phases, PivotalNetworks
from textual_inversion_ext.training.schedule import RowSchedule, effective_learning_rate


def wants_lora(config: TextualInversionConfig) -> bool:
    """Whether a run trains a LoRA beside the rows.

    Args:
        config: The run's settings.

    Returns:
        True if one of the two ranks is above 0.
    """
    return config.lora_rank > 0 or config.lora_text_encoder_rank > 0


def check_pivotal(config: TextualInversionConfig, concepts: Sequence[ConceptSpec]) -> None:
    """Refuse what cannot be trained together, before anything is loaded.

    Args:
        config: The run's settings.
        concepts: What the run learns.

    Raises:
        ConfigError: A LoRA, and several concepts or settings by which the word would not be the one it trained with.
    """
    if not wants_lora(config):
        return
    if config.keep == "best":
        raise ConfigError(
            "keep is best, which takes the word from an earlier step; the LoRA is that of the last step, and the two"
            " would not fit. Leave --keep at last."
        )
    if config.ema_decay > 0:
        raise ConfigError(
            f"ema_decay is {config.ema_decay}, which averages the word over steps; the LoRA is that of the last step,"
            " and the two would not fit. Leave --ema_decay at 0."
        )
    if config.stopping != "none" and config.lora_start > 0:
        raise ConfigError(
            f"stopping is {config.stopping}, which may end the run before the LoRA starts (lora_start is"
            f" {config.lora_start:g}). Set --lora_start 0, or train for fixed steps."
        )
    if len(concepts) > 1:
        raise ConfigError(
            f"lora_rank is {config.lora_rank} and there are {len(concepts)} concepts, which share one frozen network: a"
            " LoRA on it would be of all of them at once. Train one concept per run, or set --lora_rank 0."
        )


def make_networks(
    config: TextualInversionConfig, adapter: FamilyAdapter, totals: Sequence[int], world_size: int = 1
) -> PivotalNetworks | None:
    """The LoRA of a run.

    Args:
        config: The run's settings.
        adapter: Calls the model.
        totals: Optimizer steps of each concept.
        world_size: Number of processes, for ``scale_lr``.

    Returns:
        The LoRA, or None if the run has none.

    Raises:
        ConfigError: The LoRA would never move, or a layer's name is none of the network's.
        ModelError: diffusers can load no LoRA into such a pipeline, or it carries one already.
    """
    if not wants_lora(config):
        return None
    phases = _make_phases(config, totals[0])
    steps = totals[0] - phases.first_lora_step + 1
    loras = _make_loras(adapter, config)
    schedules = {name: _make_schedule(config, name, steps, world_size).to(adapter.device) for name in loras}
    return PivotalNetworks(adapter.pipeline, loras, schedules, phases, max_grad_norm=config.max_grad_norm)


def _make_phases(config: TextualInversionConfig, total_steps: int) -> Phases:
    waits = round(config.lora_start * total_steps) if config.lora_start < 1 else round(config.lora_start)
    if waits >= total_steps:
        raise ConfigError(
            f"lora_start is {config.lora_start:g}, and the run has {total_steps} steps: the LoRA would never train."
            " Below 1 it is a share of the run, from 1 on a number of steps."
        )
    last_row_step = max(1, round(config.train_text_encoder_ti_frac * total_steps))
    if waits > last_row_step:
        raise ConfigError(
            f"the word stops at step {last_row_step} (train_text_encoder_ti_frac {config.train_text_encoder_ti_frac:g})"
            f" and the LoRA starts after step {waits} (lora_start {config.lora_start:g}): nothing would train in"
            " between. Raise the first or lower the second."
        )
    later = config.continue_inversion_lr
    return Phases(
        first_lora_step=waits + 1,
        last_row_step=last_row_step,
        later_row_rate=1.0 if later is None else later / config.learning_rate,
    )


def _make_loras(adapter: FamilyAdapter, config: TextualInversionConfig) -> dict[str, NetworkLora]:
    """The change of each network that has a rank above 0 and that diffusers can load a LoRA into."""
    settings = UpdateSettings(
        beta1=config.adam_beta1,
        beta2=config.adam_beta2,
        epsilon=config.adam_epsilon,
        weight_decay=config.lora_weight_decay,
    )
    chosen = tuple(end.strip() for end in config.lora_layers.split(",")) if config.lora_layers else adapter.lora_layers
    encoders = [slot.text_encoder for slot in adapter.slots]
    loras = {}
    for name in lora_components(adapter.pipeline):
        network = getattr(adapter.pipeline, name)
        if network is adapter.denoiser:
            rank, layers = config.lora_rank, chosen
        elif any(network is encoder for encoder in encoders):
            rank, layers = config.lora_text_encoder_rank, adapter.encoder_lora_layers
        else:
            continue
        if rank:
            alpha = rank if config.lora_alpha is None else config.lora_alpha
            seed = seed_for(config.seed, name, "lora", 0)
            loras[name] = NetworkLora(network, layers, rank=rank, alpha=alpha, settings=settings, seed=seed, what=name)
    return loras


def _make_schedule(config: TextualInversionConfig, name: str, steps: int, world_size: int) -> RowSchedule:
    """Learning rates over the LoRA's own clock, which starts when it does."""
    base = effective_learning_rate(
        config.text_encoder_lr if name.startswith("text_encoder") else config.lora_learning_rate,
        scale_lr=config.scale_lr,
        batch_size=config.train_batch_size,
        accumulation=config.gradient_accumulation_steps,
        world_size=world_size,
    )
    return RowSchedule.of(config, base, steps)
