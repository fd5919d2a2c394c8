"""What a card tells of a run's training: only what the run recorded, and what can be checked against it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hub_cards.facts import Training
from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.errors import TextualInversionError
from textual_inversion_ext.publishing.cleaning import clean_text
from textual_inversion_ext.publishing.run import FinishedRun
from textual_inversion_ext.recipes import RECIPES

__all__ = ["training_of"]

# Settings that a reader of the card may want to see; all of them are in config.json.
_TOLD = (
    ("parametrization", "optimizer", "learning_rate", "scale_lr", "lr_scheduler", "train_batch_size")
    + ("gradient_accumulation_steps", "resolution", "crop", "flip_p", "captions", "snr_gamma", "timestep_sampling")
    + ("timestep_bias", "initialization", "stopping", "keep", "lora_rank", "mixed_precision", "seed")
)
# Settings that belong to the model and the machine: a recipe stays what it is with any of them.
_NO_RECIPE_S = ("seed", "resolution", "mixed_precision", "allow_tf32", "gradient_checkpointing")


def training_of(run: FinishedRun) -> Training:
    """Collect what a card tells of a run's training.

    Args:
        run: The run, or a word without one.

    Returns:
        What is known of it.
    """
    told, config = run.concept.metadata, run.config
    plain = TextualInversionConfig()
    settings = {
        name: str(value)
        for name in _TOLD
        if config is not None and ((value := getattr(config, name)) != getattr(plain, name) or name == "learning_rate")
    }
    steps = told.get("steps", "")
    return Training(
        images=_images(run),
        recipe=_recipe(run),
        steps=int(steps) if steps.isdigit() else None,
        seconds=run.seconds,
        stopped=clean_text(told["stopped"]) if "stopped" in told else None,
        hardware=told.get("hardware"),
        versions=_versions(told),
        settings={name: clean_text(text) for name, text in settings.items()},
        digest=told.get("training_data_digest"),
    )


def _versions(told: Mapping[str, str]) -> dict[str, str]:
    try:
        found = json.loads(told.get("versions", ""))
    except ValueError:
        found = None
    if isinstance(found, dict):
        return {clean_text(str(name)): clean_text(str(text)) for name, text in found.items()}
    return {"textual-inversion-ext": told["library_version"]} if "library_version" in told else {}


def _recipe(run: FinishedRun) -> str | None:
    """The named recipe whose settings the run had, all of them; None for any other settings."""
    try:
        used = json.loads(run.concept.metadata.get("recipe", ""))
    except ValueError:
        return None
    if not isinstance(used, dict):
        return None
    own = _without_machine(used)
    for name, recipe in RECIPES.items():
        meant = TextualInversionConfig.from_dict(dict(recipe.settings)).to_dict()
        wanted = {key: value for key, value in json.loads(json.dumps(meant)).items() if key in own}
        if own == wanted and run.concept.num_vectors == recipe.concept.get("num_vectors", 1):
            return name
    return None


def _without_machine(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in _NO_RECIPE_S}


def _images(run: FinishedRun) -> int | None:
    """How many pictures were learned from, if they are still here and are still the same.

    An evaluation may have had other pictures, so its report does not tell.
    """
    place, config = run.fields.get("images"), run.config
    if config is None or not isinstance(place, str) or not Path(place).is_dir():
        return None
    from textual_inversion_ext.data.sources.collect import learned_samples

    try:
        digest = run.concept.metadata.get("training_data_digest")
        samples = learned_samples(ConceptSpec.from_dict(dict(run.fields)), config, digest)
    except TextualInversionError:
        return None
    return len(samples) if samples else None
