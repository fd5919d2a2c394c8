"""Settings that have no effect without another one are mentioned, and no others."""

from __future__ import annotations

from typing import Any

import pytest

from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.recipes import RECIPES
from textual_inversion_ext.training.unused_settings import mention_unused


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({"shuffle_caption": True, "caption_dropout_rate": 0.1}, {"captions": "both"}),
        ({"mask_outside_weight": 0.5}, {"masks": "alpha"}),
        ({"per_image_share": 0.5}, {"per_image_tokens": True}),
        ({"vmf_kappa": 1e-3}, {"parametrization": "directional"}),
        ({"adam_weight_decay": 0.1, "parametrization": "directional"}, {"parametrization": "free"}),
        ({"lora_alpha": 2.0}, {"lora_rank": 2}),
        ({"plateau_patience": 50}, {"stopping": "plateau"}),
        ({"lr_step_rules": "1:2,0.5"}, {"lr_scheduler": "piecewise_constant"}),
        ({"lr_power": 2.0}, {"lr_scheduler": "polynomial"}),
        ({"lr_num_cycles": 2}, {"lr_scheduler": "cosine_with_restarts"}),
        ({"text_encoder_lr": 1e-4}, {"lora_text_encoder_rank": 2}),
        ({"text_encoder_lr": 1e-4, "lora_rank": 2}, {"lora_text_encoder_rank": 2, "lora_rank": 2}),
        ({"lora_layers": "to_q", "lora_learning_rate": 1e-3}, {"lora_rank": 2}),
        (
            {"lora_layers": "to_q", "lora_learning_rate": 1e-3, "lora_text_encoder_rank": 2},
            {"lora_rank": 2, "lora_text_encoder_rank": 2},
        ),
        ({"adam_beta1": 0.5, "adam_beta2": 0.9, "parametrization": "directional"}, {"parametrization": "free"}),
        ({"validation_steps": 5, "num_validation_images": 1}, {"validation_prompt": "a <tok>"}),
    ],
)
def test_they_are_mentioned(settings: dict[str, Any], needed: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    mention_unused(TextualInversionConfig(**settings))
    (message,) = caplog.messages
    assert all(name in message for name in settings if name not in needed)
    assert f"--{next(iter(needed))}" in message
    caplog.clear()
    mention_unused(TextualInversionConfig(**{**settings, **needed}))
    assert not caplog.messages


def test_a_lora_uses_what_directional_rows_do_not(caplog: pytest.LogCaptureFixture) -> None:
    mention_unused(TextualInversionConfig(parametrization="directional", adam_beta1=0.5, adam_beta2=0.9, lora_rank=2))
    assert not caplog.messages


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_use_what_they_set(recipe: str, caplog: pytest.LogCaptureFixture) -> None:
    mention_unused(TextualInversionConfig(**RECIPES[recipe].settings))
    assert not caplog.messages
