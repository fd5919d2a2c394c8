"""Settings that have no effect without another one: mentioned, not refused.

`--config run.json --lora_rank 0` repeats a run without its LoRA, and the LoRA's other settings are still in the file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.training.pivotal.settings import wants_lora

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Need:
    """What some settings need.

    Attributes:
        settings: Their names.
        is_met: Whether a run has it.
        what: What it is called.
        flag: How to ask for it.
    """

    settings: tuple[str, ...]
    is_met: Callable[[TextualInversionConfig], bool]
    what: str
    flag: str


_LORA = ("lora_alpha", "lora_weight_decay", "lora_start", "continue_inversion_lr", "train_text_encoder_ti_frac")
_CAPTIONS = ("caption_column", "shuffle_caption", "caption_tag_dropout_rate", "caption_dropout_rate")
_NEEDS = (
    _Need(_LORA, wants_lora, "a LoRA", "--lora_rank 4"),
    _Need(
        ("lora_layers", "lora_learning_rate"),
        lambda config: config.lora_rank > 0,
        "a LoRA on the denoiser",
        "--lora_rank 4",
    ),
    _Need(
        ("text_encoder_lr",),
        lambda config: config.lora_text_encoder_rank > 0,
        "a LoRA on the text encoders",
        "--lora_text_encoder_rank 4",
    ),
    _Need(_CAPTIONS, lambda config: config.captions != "templates", "captions", "--captions captions"),
    _Need(("mask_outside_weight",), lambda config: config.masks != "none", "masks", "--masks auto"),
    _Need(("random_crops",), lambda config: config.crop == "random", "random crops", "--crop random"),
    _Need(
        ("per_image_share", "keep_per_image_tokens"),
        lambda config: config.per_image_tokens,
        "words of single pictures",
        "--per_image_tokens",
    ),
    _Need(
        ("vmf_kappa", "direction_beta"),
        lambda config: config.parametrization == "directional",
        "directional rows",
        "--parametrization directional",
    ),
    _Need(
        ("adam_weight_decay",),
        lambda config: config.parametrization != "directional",
        "rows that are free",
        "--parametrization free",
    ),
    _Need(
        ("adam_beta1", "adam_beta2"),
        lambda config: config.parametrization != "directional" or wants_lora(config),  # a LoRA is moved by Adam
        "rows that are free",
        "--parametrization free",
    ),
    _Need(
        ("lr_step_rules",),
        lambda config: config.schedule == "piecewise_constant",
        "that schedule",
        "--lr_scheduler piecewise_constant",
    ),
    _Need(("lr_power",), lambda config: config.schedule == "polynomial", "that schedule", "--lr_scheduler polynomial"),
    _Need(
        ("lr_num_cycles",),
        lambda config: config.schedule == "cosine_with_restarts",
        "that schedule",
        "--lr_scheduler cosine_with_restarts",
    ),
    _Need(
        ("validation_steps", "num_validation_images"),
        lambda config: bool(config.validation_prompt),
        "a prompt for previews",
        "--validation_prompt 'a photo of <corgi>'",
    ),
    _Need(("eval_batch_size",), lambda config: config.eval_steps > 0, "evaluations", "--eval_steps 10"),
    _Need(("dvar_window", "dvar_threshold"), lambda config: config.stopping == "dvar", "that rule", "--stopping dvar"),
    _Need(
        ("plateau_patience", "plateau_threshold"),
        lambda config: config.stopping == "plateau",
        "that rule",
        "--stopping plateau",
    ),
)


def mention_unused(config: TextualInversionConfig) -> None:
    """Say which settings a run has no use for.

    Args:
        config: Its settings.
    """
    default = TextualInversionConfig()
    for need in _NEEDS:
        unused = [name for name in need.settings if getattr(config, name) != getattr(default, name)]
        if unused and not need.is_met(config):
            logger.warning(
                "notice: without %s there is no effect of %s; say %s.", need.what, ", ".join(unused), need.flag
            )
