"""The prompts of a term-project report on textual inversion: four simple ones and two scenes."""

from __future__ import annotations

from textual_inversion_ext.evaluation.protocols.protocol import Protocol, prompts_of

_NOTES = (
    "Every prompt counts for likeness and for obedience; the source prints both x100 and so does the console, while"
    " reports store raw cosines.",
    "The report does not say how many pictures, steps and how much guidance; 8 pictures per prompt and the model's"
    " documented sampling are ours.",
)

_POCKET = Protocol(
    name="report",
    source="prompts of a term-project report on textual inversion; the two scenes are ours, for the pocket world",
    prompts=prompts_of(
        (
            "an illustration of my {}",
            "an illustration of a clean {}",
            "a close-up photo of the {}",
            "a photo of a nice {}",
            "a {} in the city",
            "a {} on the meadow",
        )
    ),
    seeds=8,
    notes=_NOTES,
    scale="percent",
)

REPORT = Protocol(
    name="report",
    source="term-project report on textual inversion: its simple prompts and its scene prompts",
    prompts=prompts_of(
        (
            "An illustration of my {}",
            "An illustration of a clean {}",
            "A close-up photo of the {}",
            "A photo of a nice {}",
            "A {} perched on a park bench with the Colosseum looming behind",
            "A {} posing proudly on a hilltop with Mount Fuji in the background",
        )
    ),
    seeds=8,
    notes=_NOTES,
    scale="percent",
    pocket=_POCKET,
)
"""6 prompts; CLIP image and text score of each."""
