"""What a learned word is measured against: the class word, the best caption, its first rows, real pictures."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import count, islice

import torch
from diffusers import DiffusionPipeline
from PIL import Image

from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.data.sources.collect import collect_samples
from textual_inversion_ext.errors import TextualInversionError
from textual_inversion_ext.evaluation.material import Material
from textual_inversion_ext.evaluation.metrics.base import LikenessMetric, Metric, Scored
from textual_inversion_ext.evaluation.protocols.protocol import ProtocolPrompt
from textual_inversion_ext.evaluation.score import CAPTION, CLASS_WORD, INITIAL_ROWS, REAL_PICTURES, WORD, Score
from textual_inversion_ext.families import adapter_for
from textual_inversion_ext.initializers import first_rows
from textual_inversion_ext.pocket.measure import caption_candidates

__all__ = [
    "BASELINES",
    "SELF_PAIRS",
    "Subject",
    "caption_seeds",
    "caption_subjects",
    "choose_caption",
    "class_subject",
    "initial_subject",
    "real_picture_scores",
    "word_subject",
]

BASELINES = (CLASS_WORD, CAPTION, INITIAL_ROWS, REAL_PICTURES)
"""Everything that a word can be measured against."""

SELF_PAIRS = f"{REAL_PICTURES}, self-pairs"
"""Subject: the training pictures among themselves, each counting as a reference for itself too."""

_CAPTION_SEEDS, _FIRST_CAPTION_SEED = 4, 100

# A description stands where the word stands, mostly in "a photo of {}" already.
_OPENING = re.compile(r"^((an?|the|this) )?((close-up|cropped) )?(photo|photograph|picture|image) of ", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose pictures are made: what stands in the prompts, and the words that have to be loaded for it.

    Attributes:
        name: One of ``evaluation.score.SUBJECTS``.
        phrases: What stands in the place of each ``{}``.
        concepts: Learned words among the phrases.
    """

    name: str
    phrases: tuple[str, ...]
    concepts: tuple[LearnedConcept, ...] = ()

    @property
    def phrase(self) -> str:
        """What reports show."""
        return " + ".join(self.phrases)

    def text(self, prompt: ProtocolPrompt) -> str:
        """Fill a prompt: learned words as they are, descriptions with the article that English wants.

        Args:
            prompt: A prompt with as many places as there are phrases.

        Returns:
            What the model gets.
        """
        return prompt.filled(*self.phrases) if self.concepts else prompt.described(*self.phrases)


def word_subject(*materials: Material) -> Subject:
    """The learned words.

    Args:
        *materials: One for each place of a prompt.

    Returns:
        The subject.
    """
    concepts = tuple(material.concept for material in materials)
    return Subject(WORD, tuple(concept.token for concept in concepts), concepts)


def class_subject(*materials: Material) -> Subject | None:
    """The class words.

    Args:
        *materials: One for each place of a prompt.

    Returns:
        The subject, or None where one of them has no class word.
    """
    words = tuple(material.class_word for material in materials)
    return Subject(CLASS_WORD, tuple(word for word in words if word)) if all(words) else None


def initial_subject(pipeline: DiffusionPipeline, material: Material) -> Subject | None:
    """The rows from which training started, made again as the run made them.

    Args:
        pipeline: The model.
        material: A concept with its run.

    Returns:
        The subject, or None where they cannot be made again: no run is known, or what it started from is gone.
    """
    trained, concept = material.trained, material.concept
    if trained is None:
        return None
    slots = [slot for slot in adapter_for(pipeline).slots if slot.key in concept.vectors]
    try:
        samples = collect_samples(trained.spec, trained.config)[0]
    except TextualInversionError:
        samples = []  # few initializers look at the pictures
    try:
        rows = first_rows(trained.config, [trained.spec], slots, samples)
        initial = LearnedConcept(concept.token, rows, concept.metadata)  # which tell how its prompts are pooled
    except TextualInversionError:  # pictures, a file or a CLIP model that it started from are not there any more
        return None
    return Subject(INITIAL_ROWS, (concept.token,), (initial,))


def caption_subjects(material: Material) -> tuple[Subject, ...]:
    """Descriptions that could be the best caption.

    Args:
        material: A concept; its captions are taken where it has some.

    Returns:
        Distinct descriptions; for a shipped concept of the pocket world those that a careful person might try.
    """
    known = material.captions
    if not known and material.truth is not None:
        known = tuple(caption_candidates(material.truth))
    phrases = dict.fromkeys(_OPENING.sub("", caption.strip()).rstrip(".") for caption in known)
    return tuple(Subject(CAPTION, (phrase,)) for phrase in phrases if phrase)


def caption_seeds(scored: Collection[int]) -> tuple[int, ...]:
    """Choose the seeds of the pictures by which a caption is chosen.

    Args:
        scored: Seeds of the pictures that are scored; none of them is taken, lest the choice flatters the caption.

    Returns:
        Four seeds, 100 to 103 where these are free.
    """
    return tuple(islice((seed for seed in count(_FIRST_CAPTION_SEED) if seed not in scored), _CAPTION_SEEDS))


def choose_caption(
    candidates: Sequence[Subject],
    made: Sequence[Sequence[Image.Image]],
    metric: LikenessMetric,
    references: Sequence[Image.Image],
) -> Subject:
    """Choose the caption whose pictures are most like the real ones.

    Args:
        candidates: Descriptions, at least one.
        made: Pictures of each of them.
        metric: Measures the likeness.
        references: The real pictures.

    Returns:
        The winner.
    """
    real = tuple(references)
    likeness = [metric(Scored(images=tuple(pictures), references=real)).mean().item() for pictures in made]
    return candidates[likeness.index(max(likeness))]


def real_picture_scores(metrics: Sequence[Metric], material: Material) -> list[Score]:
    """Score the real pictures as if they had been made: what a perfect word would reach.

    Source: "Image Only" of Gal et al. 2022, section 5.2; with and without the pairs of a picture and itself.

    Args:
        metrics: Those that need prompts are left out: nobody wrote a prompt for the real pictures.
        material: The concept.

    Returns:
        Scores of the subjects "real pictures" and, where each could count as its own reference, `SELF_PAIRS`.
    """
    found = []
    for metric in metrics:
        for subject, values in _bounds(metric, material):
            kept = [value for value in values.tolist() if value == value]  # a single picture has no other
            if kept:
                score = Score.of(
                    metric.name,
                    subject,
                    kept,
                    backbone=metric.backbone,
                    higher_is_better=metric.higher_is_better,
                    independent=not metric.samples_matter,
                )
                found.append(score)
    return found


def _bounds(metric: Metric, material: Material) -> list[tuple[str, torch.Tensor]]:
    pictures = material.references
    if isinstance(metric, LikenessMetric):
        return [
            (REAL_PICTURES, metric.bound(pictures)),
            (SELF_PAIRS, metric.bound(pictures, self_pairs=True)),
        ]
    alone = Scored(images=pictures, truth=material.truth)
    if "prompts" in metric.needs:
        return []
    if not metric.lacks(alone):
        return [(REAL_PICTURES, metric(alone))]
    if metric.lacks(alone) != ("references",) or len(pictures) < 2:
        return []
    others = [
        metric(Scored((picture,), references=(*pictures[:place], *pictures[place + 1 :]), truth=material.truth))
        for place, picture in enumerate(pictures)
    ]
    return [(REAL_PICTURES, torch.cat(others))]
