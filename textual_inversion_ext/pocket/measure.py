"""What the demo and the benchmarks of the pocket world need to know: how pictures are made, and the best caption."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from diffusers import DiffusionPipeline
from PIL import Image

from textual_inversion_ext.pipelines.sampling import SampleSettings, sample
from textual_inversion_ext.pocket import GUIDANCE_SCALE, NUM_INFERENCE_STEPS
from textual_inversion_ext.pocket.captions import describe, with_article
from textual_inversion_ext.pocket.specs import SubjectSpec
from textual_inversion_ext.pocket.vocabulary import COLOURS

SETTINGS = SampleSettings(num_inference_steps=NUM_INFERENCE_STEPS, guidance_scale=GUIDANCE_SCALE, batch_size=8)


@dataclass(frozen=True, slots=True)
class BestCaption:
    """The caption, without the word, that comes nearest to a concept.

    Attributes:
        phrase: Noun phrase with its article.
        similarity: CLIP image similarity of its pictures to the references.
    """

    phrase: str
    similarity: float


def caption_candidates(subject: SubjectSpec) -> list[str]:
    """List the captions that a careful person might try, each with its article.

    The colours lie between two words, so both neighbours of each are tried, with everything else named.

    Args:
        subject: The subject's true attributes.

    Returns:
        Distinct noun phrases, the fullest descriptions first, the bare class word last.
    """
    phrases = [
        describe(replace(subject, main=COLOURS[main], accent=COLOURS[accent]))
        for main in _two_nearest(subject.main)
        for accent in _two_nearest(subject.accent)
    ]
    phrases.append(describe(replace(subject, accessory=None)))
    phrases.append(subject.kind)
    return [with_article(phrase) for phrase in dict.fromkeys(phrases)]


def best_caption(
    pipeline: DiffusionPipeline,
    likeness: Callable[[Sequence[Image.Image]], float],
    subject: SubjectSpec,
    seeds: Sequence[int],
) -> BestCaption:
    """Find the best caption without the word, by making pictures of each candidate.

    Args:
        pipeline: The pocket pipeline.
        likeness: CLIP image similarity of pictures to the references.
        subject: The subject's true attributes.
        seeds: One picture per candidate and seed.

    Returns:
        The winner.
    """
    phrases = caption_candidates(subject)
    made = sample(pipeline, (), [f"a photo of {phrase}" for phrase in phrases], seeds, SETTINGS)
    scored = [BestCaption(phrase, likeness(pictures)) for phrase, pictures in zip(phrases, made, strict=True)]
    return max(scored, key=lambda caption: caption.similarity)


def _two_nearest(rgb: tuple[int, int, int]) -> list[str]:
    return sorted(COLOURS, key=lambda name: sum((a - b) ** 2 for a, b in zip(rgb, COLOURS[name], strict=True)))[:2]
