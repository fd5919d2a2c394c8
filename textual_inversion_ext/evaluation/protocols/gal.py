"""The quantitative evaluation of the paper on textual inversion: reconstruction and editability."""

from __future__ import annotations

from textual_inversion_ext.evaluation.protocols.protocol import Protocol, ProtocolPrompt, prompts_of

_SOURCE = (
    "Gal et al. 2022 (arXiv:2208.01618), section 5.2: 64 pictures per prompt, 50 DDIM steps; guidance 5.0 and the word"
    " left out of the text as in evaluation/clip_eval.py of rinongal/textual_inversion"
)
_NOTES = (
    "The paper gives three examples of its editability prompts ('on the moon', 'An oil painting of', 'Elmo holding a')"
    " and one more in its user study ('on the beach'), not the list; that these four are the set is ours.",
    "The paper prints no table of its scores, only a figure (10a), so there is no published number to compare with.",
)

_POCKET = Protocol(
    name="gal",
    source="Gal et al. 2022 (arXiv:2208.01618), section 5.2: 64 pictures per prompt; editability prompts ours, for the"
    " pocket world, sampled as it documents",
    prompts=(
        ProtocolPrompt("a photo of {}", "likeness"),
        *prompts_of(
            ("a photo of {} at night", "a photo of {} on the beach", "a painting of {}", "a bear next to a {}"),
            "obedience",
        ),
    ),
    seeds=64,
    notes=_NOTES[1:],
)

GAL = Protocol(
    name="gal",
    source=_SOURCE,
    prompts=(
        ProtocolPrompt("A photo of {}", "likeness"),
        *prompts_of(
            (
                "A photo of {} on the moon",
                "A photo of {} on the beach",
                "An oil painting of {}",
                "Elmo holding a {}",
            ),
            "obedience",
        ),
    ),
    seeds=64,
    num_inference_steps=50,
    guidance_scale=5.0,
    scheduler="ddim",
    notes=_NOTES,
    pocket=_POCKET,
)
"""64 pictures of each prompt: one for reconstruction, four for editability."""
