"""Named recipes: a paper's or a script's settings, as presets that expand into ordinary flags.

A recipe sets nothing that a flag could not set, and every flag wins over it. Importing this module imports no torch.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from textual_inversion_ext.errors import ConfigError

__all__ = ["RECIPES", "Recipe", "recipe_named"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A named set of settings.

    Attributes:
        text: What it is and where it is from, in a line or two.
        settings: Fields of ``TextualInversionConfig``.
        concept: Fields of ``ConceptSpec``.
    """

    text: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    concept: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))
        object.__setattr__(self, "concept", MappingProxyType(dict(self.concept)))

    def flags(self) -> str:
        """Write the recipe as the flags that it stands for.

        Returns:
            For example ``--learning_rate 0.005 --scale_lr --num_vectors 2``.
        """
        words = []
        for name, value in {**self.settings, **self.concept}.items():
            words.append(f"--{name}" if value is True else f"--{name} {shlex.quote(str(value))}")
        return " ".join(words)


# What our own defaults do otherwise.
_STEADY = {"lr_scheduler": "constant", "timestep_sampling": "uniform", "timestep_bias": 0.0}
# Gal et al. 2022, appendix C and the released code: 2 GPUs x 4 pictures, 0.005 x 8 = 0.04, torch's AdamW with its own
# weight decay, pictures squashed to the square and mirrored half of the time.
_GAL = {
    **_STEADY,
    "learning_rate": 5e-3,
    "scale_lr": True,
    "train_batch_size": 8,
    "max_train_steps": 5000,
    "adam_weight_decay": 1e-2,
    "crop": "none",
    "flip_p": 0.5,
}

RECIPES: dict[str, Recipe] = {
    "gal-1-word": Recipe("Gal et al. 2022, section 5.2: one vector.", _GAL),
    "gal-2-words": Recipe("Gal et al. 2022, section 5.2: two vectors.", _GAL, {"num_vectors": 2}),
    "gal-3-words": Recipe("Gal et al. 2022, section 5.2: three vectors.", _GAL, {"num_vectors": 3}),
    "gal-progressive": Recipe(
        "Gal et al. 2022, section 5.2: one vector, a second after 2,000 steps, a third after 4,000 (of 5,000).",
        {**_GAL, "progressive_steps": "0.4 0.8"},
        {"num_vectors": 3},
    ),
    "gal-regularized": Recipe(
        "Gal et al. 2022, section 5.2: pulled towards the first value. The weight is not published; this one is ours.",
        {**_GAL, "initial_l2_weight": 1e-2},
    ),
    "gal-per-image": Recipe(
        "Gal et al. 2022, section 5.2: one vector for all pictures and one for each of them.",
        {**_GAL, "per_image_tokens": True},
    ),
    "gal-low-lr": Recipe(
        "Gal et al. 2022, section 5.2: low learning rate (1e-4 before scaling).", {**_GAL, "learning_rate": 1e-4}
    ),
    "gal-high-lr": Recipe(
        "Gal et al. 2022, section 5.2: high learning rate (2e-2 before scaling).", {**_GAL, "learning_rate": 2e-2}
    ),
    "diffusers": Recipe(
        "The defaults of diffusers' examples/textual_inversion/textual_inversion.py.",
        {
            **_STEADY,
            "learning_rate": 1e-4,
            "train_batch_size": 16,
            "max_train_steps": 5000,
            "lr_warmup_steps": 500,
            "adam_weight_decay": 1e-2,
            "crop": "none",
            "flip_p": 0.5,
        },
    ),
    "dti": Recipe(
        "Directional Textual Inversion (Kim et al., ICLR 2026), settings of its SDXL experiments.",
        {
            **_STEADY,
            "parametrization": "directional",
            "vmf_kappa": 1e-4,
            "direction_beta": 0.0,
            "learning_rate": 1e-2,
            "scale_lr": True,
            "train_batch_size": 4,
            "max_train_steps": 400,
            "crop": "random",
        },
    ),
    "fast": Recipe("Ours: half of the default's steps.", {"max_train_steps": 250}),
}
"""Every recipe by its name."""


def recipe_named(name: str) -> Recipe:
    """Look a recipe up.

    Args:
        name: A key of ``RECIPES``.

    Returns:
        The recipe.

    Raises:
        ConfigError: There is no such recipe.
    """
    if name not in RECIPES:
        raise ConfigError(f"recipe is {name!r}; allowed are {', '.join(RECIPES)}.")
    return RECIPES[name]
