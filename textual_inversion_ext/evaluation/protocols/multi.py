"""Two learned words in one picture: is each there, and does one leak into the other?"""

from __future__ import annotations

from textual_inversion_ext.evaluation.protocols.protocol import Protocol, PublishedRow, prompts_of

_NOTES = (
    "A picture is cut into a left and a right half, and each half is given to one word so that the halves resemble"
    " their words' real pictures most. Own-similarity: a half and its own word's pictures. Cross-similarity: a half and"
    " the other word's pictures. Leakage: cross-similarity minus that of the same prompt with class words, cut alike.",
    "Halves instead of detected boxes are ours: no detector is needed, and pictures that show only one of the two, or"
    " one across the middle, count against the words.",
    "16 pictures per prompt are ours.",
)
_SOURCE = "Kumari et al. 2023, CustomConcept101, pairs of concepts (200 DDPM steps), README of custom-diffusion"
_NAMES = ("CLIP-T", "CLIP-I", "DINO")
_WEIGHT = 2.5  # the source prints CLIPScore, 2.5 x cosine


def _row(method: str, clipscore: float, clip_i: float, dino: float) -> PublishedRow:
    values = (round(clipscore / _WEIGHT, 4), clip_i, dino)
    return PublishedRow(method, tuple(zip(_NAMES, values, strict=True)), _SOURCE, "code")


MULTI = Protocol(
    name="multi",
    source="prompt 'A * next to a #': ours after Kumari et al. 2023 (Custom Diffusion); no textual inversion is"
    " published for it",
    prompts=prompts_of(("A {} next to a {}", "A painting of a {} next to a {}")),
    seeds=16,
    places=2,
    text_mode="class",
    published=(
        _row("DreamBooth (other prompts and pairs)", 0.7383, 0.6625, 0.3816),
        _row("Custom Diffusion, merged (other prompts and pairs)", 0.7627, 0.6577, 0.3650),
        _row("Custom Diffusion, trained jointly (other prompts and pairs)", 0.7567, 0.6680, 0.3760),
    ),
    notes=_NOTES,
    pocket=Protocol(
        name="multi",
        source="ours, for the pocket world",
        prompts=prompts_of(("a photo of a {} next to a {}", "a painting of a {} next to a {}")),
        seeds=16,
        places=2,
        text_mode="class",
        notes=_NOTES,
    ),
)
"""2 prompts with two words each, 16 pictures each."""
