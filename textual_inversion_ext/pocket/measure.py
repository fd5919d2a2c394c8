"""What the demo and the benchmarks of the pocket world need to know: how alike pictures are, and the best caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from textual_inversion_ext.pipelines.sampling import SampleSettings, sample
from textual_inversion_ext.pocket import GUIDANCE_SCALE, NUM_INFERENCE_STEPS, load_clip
from textual_inversion_ext.pocket.captions import describe, with_article
from textual_inversion_ext.pocket.specs import SubjectSpec
from textual_inversion_ext.pocket.vocabulary import COLOURS

SETTINGS = SampleSettings(num_inference_steps=NUM_INFERENCE_STEPS, guidance_scale=GUIDANCE_SCALE, batch_size=8)


class ClipRuler:
    """Measures pictures with the pocket CLIP."""

    def __init__(self) -> None:
        self._model, self._processor = load_clip()

    @torch.no_grad()
    def images(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Embed pictures.

        Args:
            pictures: RGB pictures.

        Returns:
            Unit vectors, float32 (n, 128).
        """
        inputs = self._processor.image_processor(list(pictures), return_tensors="pt")
        states = self._model.vision_model(pixel_values=inputs["pixel_values"]).pooler_output
        return torch.nn.functional.normalize(self._model.visual_projection(states), dim=-1)

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Embed prompts.

        Args:
            prompts: Texts.

        Returns:
            Unit vectors, float32 (n, 128).
        """
        tokens = self._processor.tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt")
        states = self._model.text_model(input_ids=tokens["input_ids"]).pooler_output
        return torch.nn.functional.normalize(self._model.text_projection(states), dim=-1)

    def image_similarity(self, pictures: Sequence[Image.Image], references: Sequence[Image.Image]) -> float:
        """Return the mean cosine over all pairs of a picture and a reference (Gal et al. 2022, section 5.2)."""
        return (self.images(pictures) @ self.images(references).t()).mean().item()

    def self_similarity(self, references: Sequence[Image.Image]) -> float:
        """Return the mean cosine between different references: what a perfect word could reach."""
        features = self.images(references)
        count = len(references)
        return ((features @ features.t()).sum() - count).item() / (count * (count - 1))


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
    ruler: ClipRuler,
    subject: SubjectSpec,
    references: Sequence[Image.Image],
    seeds: Sequence[int],
) -> BestCaption:
    """Find the best caption without the word, by making pictures of each candidate.

    Args:
        pipeline: The pocket pipeline.
        ruler: Measures the pictures.
        subject: The subject's true attributes.
        references: Pictures of the concept.
        seeds: One picture per candidate and seed.

    Returns:
        The winner.
    """
    phrases = caption_candidates(subject)
    made = sample(pipeline, (), [f"a photo of {phrase}" for phrase in phrases], seeds, SETTINGS)
    scored = [
        BestCaption(phrase, ruler.image_similarity(pictures, references))
        for phrase, pictures in zip(phrases, made, strict=True)
    ]
    return max(scored, key=lambda caption: caption.similarity)


def _two_nearest(rgb: tuple[int, int, int]) -> list[str]:
    return sorted(COLOURS, key=lambda name: sum((a - b) ** 2 for a, b in zip(rgb, COLOURS[name], strict=True)))[:2]
