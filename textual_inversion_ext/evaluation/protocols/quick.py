"""The default: few pictures, for a first answer in minutes."""

from __future__ import annotations

from textual_inversion_ext.evaluation.protocols.protocol import Protocol, ProtocolPrompt, prompts_of

_NOTES = ("4 prompts x 4 seeds are few: differences within two standard errors mean nothing; `gal` uses more.",)

_POCKET = Protocol(
    name="quick",
    source="ours, for the pocket world",
    prompts=(
        ProtocolPrompt("a photo of {}", "likeness"),
        *prompts_of(("a photo of {} on the beach", "a painting of {}", "a photo of {} next to a car"), "obedience"),
    ),
    style_prompts=(
        ProtocolPrompt("a painting in the style of {}", "likeness"),
        *prompts_of(
            ("a cat in the style of {}", "a house in the style of {}", "a car on the beach in the style of {}"),
            "obedience",
        ),
    ),
    seeds=4,
    notes=_NOTES,
)

QUICK = Protocol(
    name="quick",
    source="ours; the three changes (background, style, composition) are those of Gal et al. 2022, section 5.2",
    prompts=(
        ProtocolPrompt("A photo of {}", "likeness"),
        *prompts_of(
            ("A photo of {} on the beach", "An oil painting of {}", "A photo of {} next to a car"), "obedience"
        ),
    ),
    style_prompts=(
        ProtocolPrompt("A painting in the style of {}", "likeness"),
        *prompts_of(
            (
                "A dog in the style of {}",
                "A house by a lake in the style of {}",
                "A bowl of fruit on a table in the style of {}",
            ),
            "obedience",
        ),
    ),
    seeds=4,
    notes=_NOTES,
    pocket=_POCKET,
)
"""4 prompts, 4 pictures each; one prompt measures likeness, three obedience."""
