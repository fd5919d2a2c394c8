"""Which sentences each picture is shown with: a list for every picture, from which a step draws evenly.

Where two kinds of sentences are to be drawn unequally often, they are repeated in the list.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.data.prompts.caption_prompts import caption_prompts
from textual_inversion_ext.data.prompts.templates import DUAL_TEMPLATES, TEMPLATES
from textual_inversion_ext.data.seeds import seed_for
from textual_inversion_ext.data.sources.collect import Sample
from textual_inversion_ext.errors import ConceptError, DataError
from textual_inversion_ext.row_layout import image_token
from textual_inversion_ext.tokens import PromptEncoder

__all__ = ["ConceptPrompts", "concept_prompts", "encode_prompts", "in_shares", "own_encoders"]

logger = logging.getLogger(__name__)

_MOST = 4096  # prompts of a picture: odd shares of many sentences would take millions, each on the training device
_Parts = list[tuple[Sequence[str], Fraction]]


@dataclass(frozen=True, slots=True)
class ConceptPrompts:
    """The prompts of one concept, and which of them belong to which of its pictures.

    Attributes:
        prompts: P texts; pictures with the same list share it.
        start: position of each picture's first prompt.
        count: how many prompts each picture has.
        words: the placeholders that are learned in them: the concept's own, and those of its pictures.
    """

    prompts: tuple[str, ...]
    start: tuple[int, ...]
    count: tuple[int, ...]
    words: frozenset[str]


def concept_prompts(spec: ConceptSpec, samples: Sequence[Sample], config: TextualInversionConfig) -> ConceptPrompts:
    """Lay out the prompts of a concept.

    Args:
        spec: the concept.
        samples: its pictures, in order; picture 1 is the first.
        config: ``captions`` and the settings about captions, ``per_image_tokens``, ``per_image_share`` and ``seed``.

    Returns:
        The prompts.

    Raises:
        DataError: captions are asked for and no picture has one.
    """
    if config.captions != "templates":
        _check_captions(spec, samples)
    prompts: list[str] = []
    start_of: dict[tuple[str, ...], int] = {}
    start, count = [], []
    for number, sample in enumerate(samples, start=1):
        own = tuple(in_shares(_parts(spec, sample, number, config)))
        if own not in start_of:
            start_of[own] = len(prompts)
            prompts += own
        start.append(start_of[own])
        count.append(len(own))
    token = spec.placeholder_token
    of_pictures = [image_token(token, place + 1) for place in range(len(samples) if config.per_image_tokens else 0)]
    return ConceptPrompts(tuple(prompts), tuple(start), tuple(count), frozenset([token, *of_pictures]))


def in_shares(parts: Sequence[tuple[Sequence[str], Fraction]]) -> list[str]:
    """Repeat lists until each has its share of the whole: exactly, unless that takes more than ``_MOST`` entries.

    Args:
        parts: lists, and the share of each; the shares add up to 1.

    Returns:
        The shortest list in which that holds and the entries of each part are equally frequent; of about ``_MOST``
        entries where it would be longer, with shares that are right to half a list in so many.
    """
    parts = [(texts, share) for texts, share in parts if share]
    length = min(_MOST, math.lcm(*((share / len(texts)).denominator for texts, share in parts)))
    times = [max(1, round(share * length / len(texts))) for texts, share in parts]
    return [text for (texts, _), count in zip(parts, times, strict=True) for _ in range(count) for text in texts]


def own_encoders(
    own: ConceptPrompts, spec: ConceptSpec, encoders: Mapping[str, PromptEncoder]
) -> dict[str, PromptEncoder]:
    """Encoders to which only the concept's own words are words.

    A caption may name another concept of the run. Its rows would learn from a picture that is not theirs, and more or
    less of it depending on who else is in the run.

    Args:
        own: the concept's prompts.
        spec: the concept.
        encoders: encoder key -> encoder that knows all placeholders of the run.

    Returns:
        Encoder key -> encoder; a warning names a prompt that says another concept's word.
    """
    said = {
        text for encoder in encoders.values() for prompt in set(own.prompts) for text in encoder.placeholders_in(prompt)
    }
    known = {word.casefold() for word in own.words}
    if strangers := sorted(text for text in said if text.casefold() not in known):
        logger.warning(
            "%s: its captions name %s, which other pictures teach; here that is read as plain text.",
            spec.placeholder_token,
            ", ".join(strangers),
        )
    return {key: encoder.only(own.words) for key, encoder in encoders.items()}


def encode_prompts(
    prompts: Sequence[str], spec: ConceptSpec, levels: Sequence[int], encoders: Mapping[str, PromptEncoder]
) -> dict[str, Tensor]:
    """Token ids of a concept's prompts, once for each number of active vectors.

    A prompt in which a vector has no room becomes the words that are learned, without the sentence around them: a
    vector that is cut off would learn nothing.

    Args:
        prompts: P texts.
        spec: the concept.
        levels: numbers of active vectors.
        encoders: encoder key -> encoder that knows the concept's words.

    Returns:
        Encoder key -> (len(levels) * P, L) int64 on the CPU.

    Raises:
        ConceptError: the vectors alone are more than fit.
    """
    encoded: dict[str, list[Tensor]] = {key: [] for key in encoders}
    texts = list(dict.fromkeys(prompts))
    place = {text: position for position, text in enumerate(texts)}
    index = torch.tensor([place[prompt] for prompt in prompts])
    for level in levels:
        shown = {key: encoder.with_vectors({spec.placeholder_token: level}) for key, encoder in encoders.items()}
        fitted = _fitted(texts, spec, level, shown)
        if level == max(levels):
            _mention_cut(fitted, spec, shown)
        for key, encoder in shown.items():
            encoded[key].append(encoder.encode(fitted, quiet=True)[index])
    return {key: torch.cat(tensors) for key, tensors in encoded.items()}


def _check_captions(spec: ConceptSpec, samples: Sequence[Sample]) -> None:
    """Say which pictures have no caption.

    Args:
        spec: the concept.
        samples: its pictures.

    Raises:
        DataError: none has one.
    """
    bare = [sample.name for sample in samples if not sample.captions]
    if len(bare) == len(samples):
        raise DataError(
            f"{spec.placeholder_token}: captions are asked for, but no picture has one. Put a text file beside each "
            "picture (dog.jpg, dog.txt) or a metadata.jsonl into the folder, or leave --captions out for the templates."
        )
    if bare:
        listed = ", ".join(bare[:4]) + (", ..." if len(bare) > 4 else "")
        logger.warning(
            "%s: %d picture(s) have no caption and use the templates: %s", spec.placeholder_token, len(bare), listed
        )


def _parts(spec: ConceptSpec, sample: Sample, number: int, config: TextualInversionConfig) -> _Parts:
    """The kinds of sentences of one picture.

    Args:
        spec: the concept.
        sample: the picture.
        number: its number, from 1.
        config: the run's settings.

    Returns:
        Texts and their share, for each kind.
    """
    token, rest = spec.placeholder_token, Fraction(1)
    parts: _Parts = []
    if config.per_image_tokens:
        share = _hundredths(config.per_image_share)
        duals = DUAL_TEMPLATES[spec.learnable_property]
        parts.append(([template.format(token, image_token(token, number)) for template in duals], share))
        rest -= share
    templates = [template.format(token) for template in TEMPLATES[spec.learnable_property]]
    if config.captions == "templates" or not sample.captions:
        return [(templates, rest), *parts]
    if config.captions == "both":
        rest /= 2
        parts.insert(0, (templates, rest))
    variants = caption_prompts(
        sample.captions,
        spec,
        len(templates),
        shuffle=config.shuffle_caption,
        tag_dropout=config.caption_tag_dropout_rate,
        chance=random.Random(seed_for(config.seed, token, "captions", number)),
    )
    dropped = _hundredths(config.caption_dropout_rate)
    return [*parts, (variants, rest * (1 - dropped)), ([token], rest * dropped)]


def _fitted(prompts: Sequence[str], spec: ConceptSpec, level: int, encoders: Mapping[str, PromptEncoder]) -> list[str]:
    """Shorten the prompts in which a learned row has no room.

    Args:
        prompts: texts.
        spec: the concept.
        level: vectors of it that are active.
        encoders: encoder key -> encoder for just these vectors.

    Returns:
        As many texts, each with room for its rows.

    Raises:
        ConceptError: not even the rows alone fit.
    """
    fitted, longest = list(prompts), min(encoder.max_length for encoder in encoders.values())
    shortened = []
    for place, prompt in enumerate(prompts):
        if not any(encoder.rows_cut(prompt) for encoder in encoders.values()):
            continue
        fitted[place] = " ".join(next(iter(encoders.values())).placeholders_in(prompt))
        shortened.append(prompt)
        if any(encoder.rows_cut(fitted[place]) for encoder in encoders.values()):
            raise ConceptError(
                f"{spec.placeholder_token}: {fitted[place]!r} alone, with {level} vector(s), is longer than the "
                f"{longest} tokens that the text encoder reads (two of them are its marks of start and end). Set a "
                "smaller num_vectors."
            )
    if shortened:
        logger.warning(
            "%s: %d of %d sentences have no room for %d vectors in the text encoder's %d tokens and are cut to the "
            "learned words alone, for example %r. A smaller num_vectors keeps them.",
            spec.placeholder_token,
            len(shortened),
            len(prompts),
            level,
            longest,
            shortened[0],
        )
    return fitted


def _mention_cut(prompts: Sequence[str], spec: ConceptSpec, encoders: Mapping[str, PromptEncoder]) -> None:
    """Say what the ends of long prompts lose; once, for captions may be many.

    Args:
        prompts: texts.
        spec: the concept.
        encoders: encoder key -> prompt encoder.
    """
    for key, encoder in encoders.items():
        lost = {prompt: words for prompt in prompts if (words := encoder.words_cut(prompt))}
        if lost:
            prompt = next(iter(lost))
            logger.warning(
                "%s: %d of %d sentences are longer than the %d tokens that %s reads; the end of %r is cut off: %r",
                spec.placeholder_token,
                len(lost),
                len(prompts),
                encoder.max_length,
                key,
                prompt,
                lost[prompt],
            )


def _hundredths(share: float) -> Fraction:
    return Fraction(round(share * 100), 100)
