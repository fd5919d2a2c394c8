"""Other scales in which the literature and other tools give the cosines that are stored.

Each works on one cosine, so it is applied to the scores of pictures and the mean is taken afterwards. Numbers of
different scales, or of different backbones, are not comparable.
"""

from __future__ import annotations

from collections.abc import Callable

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
