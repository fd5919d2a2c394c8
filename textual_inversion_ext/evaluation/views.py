"""Other scales in which the literature and other tools give the cosines that are stored.

Each works on one cosine, so it is applied to the scores of pictures and the mean is taken afterwards. Numbers of
different scales, or of different backbones, are not comparable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from textual_inversion_ext.evaluation.score import Score

CLIPSCORE_WEIGHT = 2.5


def percent(cosine: float) -> float:
    """Times 100, as most tables print it.

    Args:
        cosine: in [-1, 1].

    Returns:
        In [-100, 100].
    """
    return 100.0 * cosine


def clipscore(cosine: float) -> float:
    """CLIPScore.

    Source: Hessel et al. 2021, "CLIPScore: A Reference-free Evaluation Metric for Image Captioning", section 3.

    Args:
        cosine: in [-1, 1].

    Returns:
        2.5 * max(cosine, 0).
    """
    return CLIPSCORE_WEIGHT * max(cosine, 0.0)


def torchmetrics_clip_score(cosine: float) -> float:
    """What torchmetrics calls CLIPScore; its default backbone is another than ours, openai/clip-vit-large-patch14.

    It takes the mean over pictures before the maximum, which differs only where cosines are below 0.

    Args:
        cosine: in [-1, 1].

    Returns:
        max(100 * cosine, 0).
    """
    return max(100.0 * cosine, 0.0)


VIEWS: dict[str, Callable[[float], float]] = {
    "percent": percent,
    "clipscore": clipscore,
    "torchmetrics": torchmetrics_clip_score,
}

RAW = "raw"
"""The scale of what is stored: the cosines themselves."""
_COSINES = ("clip_image", "clip_text", "dino", "own_similarity", "cross_similarity")
_DECIMALS = {"percent": 2, "clipscore": 3, "torchmetrics": 2}


def is_cosine(metric: str) -> bool:
    """Whether the scores of a metric are cosines, which can be shown in other scales.

    Args:
        metric: its name, the name of its backbone in it.

    Returns:
        True for CLIP's image and text score, for DINO's, and for the likeness of two words to their own and each
        other's pictures.
    """
    return metric.split(" ")[0] in _COSINES


def viewed(score: Score, scale: str) -> str:
    """Show a score in another scale.

    Args:
        score: the score.
        scale: `RAW`, or a key of `VIEWS`; it is applied to each picture's cosine. What is no cosine stays as it is.

    Returns:
        For example ``81.20 ± 1.10``.
    """
    if scale == RAW or not is_cosine(score.metric):
        return score.shown()
    values = [VIEWS[scale](cosine) for cosine in score.per_image or (score.mean,) if cosine is not None]
    found = type(score).of(score.metric, score.subject, values)
    digits = _DECIMALS[scale]
    error = "" if found.standard_error is None else f" ± {found.standard_error:.{digits}f}"
    return f"{found.mean:.{digits}f}{error}"
