"""How often pictures of a word show each value of an attribute, in the eyes of zero-shot CLIP; for the protocol `bias`.

The classifier is CLIP itself, with the prejudices of the captions it was trained on: the numbers say how pictures would
be captioned, not what they show, and compare words with each other only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.evaluation.embedding import ImageTextBackbone
from textual_inversion_ext.evaluation.protocols.protocol import PLACEHOLDER, Attribute
from textual_inversion_ext.evaluation.score import Score

__all__ = ["EVEN", "attribute_scores", "even_scores", "shares_of", "spread_of"]

EVEN = "even draws"
"""Subject: what as many pictures would show on average if all values were equally likely."""

_ROUNDS = 2000
_DECIMALS = 6


def attribute_scores(
    attribute: Attribute,
    backbone: ImageTextBackbone,
    subject: str,
    pictures: Sequence[Image.Image],
    class_word: str | None = None,
) -> list[Score]:
    """Classify pictures and sum up.

    Each picture counts for the value whose text has the largest cosine to it.

    Source: Radford et al. 2021 (CLIP), section 3.1 (zero-shot classification); the sums are ours.

    Args:
        attribute: What is looked for.
        backbone: Embeds pictures and texts.
        subject: Whose pictures.
        pictures: At least one.
        class_word: Goes into texts with ``{}``.

    Returns:
        The share of each value (a 1 or 0 per picture), the entropy of the shares as a part of the largest possible one,
        and their total variation distance to even shares.

    Raises:
        ConfigError: A text needs a class word and there is none.
    """
    texts = [_text(text, class_word) for text in attribute.texts]
    chosen = (backbone.images(pictures) @ backbone.texts(texts).t()).argmax(1).numpy()
    scores = []
    for place, value in enumerate(attribute.values):
        name = f"{attribute.name}: {value} ({backbone.name})"
        scores.append(Score.of(name, subject, (chosen == place).astype(float).tolist(), backbone=backbone.name))
    counts = np.bincount(chosen, minlength=len(attribute.values))
    return scores + _sums(attribute, backbone.name, subject, *spread_of(shares_of(counts)), len(pictures))


def even_scores(attribute: Attribute, backbone_name: str, count: int) -> list[Score]:
    """What pictures would show if all values were equally likely: of few pictures, never quite even shares.

    Args:
        attribute: What is looked for.
        backbone_name: As in the scores that it stands beside.
        count: Number of pictures.

    Returns:
        Mean entropy and mean total variation of 2000 simulated sets of pictures; the same at every call.
    """
    values = len(attribute.values)
    counts = np.random.default_rng(0).multinomial(count, np.full(values, 1 / values), _ROUNDS)
    entropy, variation = np.mean([spread_of(shares_of(row)) for row in counts], axis=0)
    return _sums(attribute, backbone_name, EVEN, float(entropy), float(variation), count)


def shares_of(counts: np.ndarray) -> np.ndarray:
    """Turn counts into shares.

    Args:
        counts: (k,) numbers of pictures, not all 0.

    Returns:
        (k,) float64 that sum to 1.
    """
    return counts / counts.sum()


def spread_of(shares: np.ndarray) -> tuple[float, float]:
    """How even shares are.

    Args:
        shares: (k,) float64 that sum to 1, k at least 2.

    Returns:
        Entropy divided by log k (1: all even, 0: all the same value), and the total variation distance to even shares,
        half the sum of absolute differences (0: all even, 1 - 1/k: all the same value).
    """
    present = shares[shares > 0]
    entropy = float(-(present * np.log(present)).sum() / np.log(len(shares)))
    return abs(entropy), float(np.abs(shares - 1 / len(shares)).sum() / 2)


def _sums(
    attribute: Attribute, backbone: str, subject: str, entropy: float, variation: float, count: int
) -> list[Score]:
    return [
        Score(
            metric=f"{attribute.name}: {what} ({backbone})",
            subject=subject,
            mean=round(value, _DECIMALS),
            n=count,
            backbone=backbone,
            higher_is_better=better,
        )
        for what, value, better in (("entropy", entropy, True), ("distance to even", variation, False))
    ]


def _text(text: str, class_word: str | None) -> str:
    if PLACEHOLDER in text and not class_word:
        raise ConfigError(
            f"the attribute's text {text!r} needs the class word of the concept, such as 'chef'; give a class word."
        )
    return text.replace(PLACEHOLDER, class_word or "")
