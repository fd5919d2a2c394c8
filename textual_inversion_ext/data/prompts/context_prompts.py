"""Varied sentences around a word, for regularizers that compare a prompt with the new word and with its class word.

The lists are this library's own: no picture shows them, so they are freer than the training templates. They cover what
people ask of a new word: places, seasons, light, colours, materials, company, actions, styles.
"""

from __future__ import annotations

from textual_inversion_ext.concept import LearnableProperty

__all__ = ["CONTEXT_PROMPTS"]

_OF_AN_OBJECT: tuple[str, ...] = (
    "a photo of a {} on the beach",
    "a red {}",
    "an oil painting of a {}",
    "a {} in the snow",
    "a {} next to a tree",
    "a {} in a city at night",
    "a {} made of glass",
    "a small blue {} on a table",
    "a drawing of a {} and a cat",
    "a {} in the forest",
    "a {} under water",
    "a {} wearing a hat",
    "a watercolor of a {} in a garden",
    "two people looking at a {}",
    "a green {} on a white background",
    "a {} on the moon",
    "a {} in front of a mountain",
    "a wooden {}",
    "a black and white photo of a {}",
    "a {} in the rain",
    "a {} inside a box",
    "a dog next to a {}",
    "a {} in the desert at sunset",
    "a statue of a {}",
    "a yellow {} with stripes",
    "a {} flying over a river",
    "a pencil sketch of a {} in a room",
    "a {} on fire",
    "a {} in a kitchen",
    "a golden {} in the grass",
)
_IN_A_STYLE: tuple[str, ...] = (
    "a dog in the style of {}",
    "a city at night in the style of {}",
    "a red house in the style of {}",
    "a cat on the beach, in the style of {}",
    "a forest in the snow, in the style of {}",
    "a portrait of a woman in the style of {}",
    "a blue car in the style of {}",
    "flowers on a table, in the style of {}",
    "a mountain and a river in the style of {}",
    "a ship on the sea, in the style of {}",
    "a horse in a field, in the style of {}",
    "a street in the rain, in the style of {}",
    "a bird in a tree, in the style of {}",
    "a clock in the style of {}",
    "two children playing, in the style of {}",
    "a robot in the style of {}",
)

CONTEXT_PROMPTS: dict[LearnableProperty, tuple[str, ...]] = {"object": _OF_AN_OBJECT, "style": _IN_A_STYLE}
"""Sentences by learnable property; ``{}`` is the place of the word."""
