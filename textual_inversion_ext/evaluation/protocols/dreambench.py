"""DreamBench: 25 prompts for things, 25 for living ones, 4 pictures each; 30 subjects with published scores."""

from __future__ import annotations

from textual_inversion_ext.evaluation.protocols.protocol import Protocol, PublishedRow, prompts_of

SUBJECTS: dict[str, str] = {
    "backpack": "backpack",
    "backpack_dog": "backpack",
    "bear_plushie": "stuffed animal",
    "berry_bowl": "bowl",
    "can": "can",
    "candle": "candle",
    "cat": "cat",
    "cat2": "cat",
    "clock": "clock",
    "colorful_sneaker": "sneaker",
    "dog": "dog",
    "dog2": "dog",
    "dog3": "dog",
    "dog5": "dog",
    "dog6": "dog",
    "dog7": "dog",
    "dog8": "dog",
    "duck_toy": "toy",
    "fancy_boot": "boot",
    "grey_sloth_plushie": "stuffed animal",
    "monster_toy": "toy",
    "pink_sunglasses": "glasses",
    "poop_emoji": "toy",
    "rc_car": "toy",
    "red_cartoon": "cartoon",
    "robot_toy": "toy",
    "shiny_sneaker": "sneaker",
    "teapot": "teapot",
    "vase": "vase",
    "wolf_plushie": "stuffed animal",
}
"""Folder of each of the 30 subjects in google/dreambooth (``dataset/``), and its class."""

_PLACES = (
    "a {} in the jungle",
    "a {} in the snow",
    "a {} on the beach",
    "a {} on a cobblestone street",
    "a {} on top of pink fabric",
    "a {} on top of a wooden floor",
    "a {} with a city in the background",
    "a {} with a mountain in the background",
    "a {} with a blue house in the background",
    "a {} on top of a purple rug in a forest",
)
_THINGS = (
    "a {} with a wheat field in the background",
    "a {} with a tree and autumn leaves in the background",
    "a {} with the Eiffel Tower in the background",
    "a {} floating on top of water",
    "a {} floating in an ocean of milk",
    "a {} on top of green grass with sunflowers around it",
    "a {} on top of a mirror",
    "a {} on top of the sidewalk in a crowded street",
    "a {} on top of a dirt road",
    "a {} on top of a white rug",
)
_LIVE = (
    "a {} wearing a red hat",
    "a {} wearing a santa hat",
    "a {} wearing a rainbow scarf",
    "a {} wearing a black top hat and a monocle",
    "a {} in a chef outfit",
    "a {} in a firefighter outfit",
    "a {} in a police outfit",
    "a {} wearing pink glasses",
    "a {} wearing a yellow shirt",
    "a {} in a purple wizard outfit",
)
_CHANGES = ("a red {}", "a purple {}", "a shiny {}", "a wet {}", "a cube shaped {}")
_POCKET_PROMPTS = (
    "a {} on the beach",
    "a {} in the snow",
    "a {} in the forest",
    "a {} in the city",
    "a {} at night",
    "a {} in the desert",
    "a {} in the kitchen",
    "a {} on the meadow",
    "a painting of a {}",
    "a sketch of a {}",
    "a cartoon of a {}",
    "a painting of a {} on the beach",
    "a sketch of a {} in the forest",
    "a cartoon of a {} at night",
    "a painting of a {} in the desert",
    "a small {}",
    "a large {}",
    "a {} with a hat",
    "a {} with a crown",
    "a {} with a bow",
    "a {} with a balloon",
    "a red {}",
    "a purple {}",
    "a {} next to a car",
    "a {} next to a cat",
)

_PAPER = "Ruiz et al. 2023 (arXiv:2208.12242), table 1: 30 subjects x 25 prompts x 4 pictures"
_NAMES = ("DINO (ViT-S/16)", "CLIP-I (ViT-B/32)", "CLIP-T (ViT-B/32)")


def _row(method: str, *values: float) -> PublishedRow:
    return PublishedRow(method, tuple(zip(_NAMES, values, strict=True)), _PAPER, "2nd")


DREAMBENCH = Protocol(
    name="dreambench",
    source="Ruiz et al. 2023 (arXiv:2208.12242), section 4; prompts: google/dreambooth,"
    " dataset/prompts_and_classes.txt",
    prompts=prompts_of((*_PLACES, *_THINGS, *_CHANGES)),
    live_prompts=prompts_of((*_PLACES, *_LIVE, *_CHANGES)),
    seeds=4,
    text_mode="class",
    metrics=("dino", "clip_image", "clip_text"),
    classes=tuple(SUBJECTS.items()),
    published=(
        _row("Textual Inversion (Stable Diffusion)", 0.569, 0.780, 0.255),
        _row("DreamBooth (Stable Diffusion)", 0.668, 0.803, 0.305),
        _row("DreamBooth (Imagen)", 0.696, 0.812, 0.306),
    ),
    notes=(
        "The published means are over 30 subjects; one subject alone says little beside them.",
        "In the source the words are 'a {unique token} {class}'; here the learned word stands for both. Steps and"
        " guidance are not published: the model's documented ones are ours.",
    ),
    pocket=Protocol(
        name="dreambench",
        source="25 prompts x 4 pictures as in Ruiz et al. 2023 (arXiv:2208.12242); the prompts are ours, for the pocket"
        " world",
        prompts=prompts_of(_POCKET_PROMPTS),
        seeds=4,
        text_mode="class",
        notes=("Published scores are of other pictures and another CLIP, so none are shown.",),
    ),
)
"""25 prompts (of two lists), 4 pictures each; DINO, CLIP-I and CLIP-T over all of them."""
