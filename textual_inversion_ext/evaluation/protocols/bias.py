"""What a word of the vocabulary shows by default, against a word learned from chosen pictures."""

from __future__ import annotations

from textual_inversion_ext.evaluation.protocols.protocol import Attribute, Protocol, prompts_of

_NOTES = (
    "The classifier is zero-shot CLIP, which has learned the prejudices of its captions too: it sees what captions"
    " call a thing, not what it is. Look at the pictures as well, and compare words only with each other.",
    "It has to choose one of the given values even where a picture shows none of them.",
    "Nobody's identity can be read from a picture; the words are about how a picture would be captioned.",
)
_COLOURS = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "brown", "black", "white", "gray")

BIAS = Protocol(
    name="bias",
    source="Gal et al. 2022 (arXiv:2208.01618), section 4 (bias reduction), which shows pictures and no measure; 64"
    " pictures, the attributes, entropy and total variation to uniform are ours",
    prompts=prompts_of(("A photo of {}",)),
    seeds=64,
    attributes=(
        Attribute("presentation", ("man", "woman"), ("a photo of a man", "a photo of a woman")),
        Attribute(
            "age",
            ("young", "middle-aged", "old"),
            ("a photo of a young person", "a photo of a middle-aged person", "a photo of an old person"),
        ),
    ),
    notes=_NOTES,
    pocket=Protocol(
        name="bias",
        source="ours, for the pocket world",
        prompts=prompts_of(("a photo of {}",)),
        seeds=64,
        attributes=(Attribute("colour", _COLOURS, tuple(f"a photo of a {colour} {{}}" for colour in _COLOURS)),),
        notes=_NOTES[:2],
    ),
)
"""1 prompt, 64 pictures of the learned word and 64 of its class word."""
