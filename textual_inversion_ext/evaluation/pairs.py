"""Two words in one picture: is each there, and how much of one shows where the other is? For the protocol `multi`.

No detector says where a thing is, so a picture is cut into its left and its right half. Each half is given to one word,
so that the halves together are as much like their words' real pictures as they can be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor

from textual_inversion_ext.evaluation.material import Material
from textual_inversion_ext.evaluation.metrics.base import LikenessMetric
from textual_inversion_ext.evaluation.score import CLASS_WORD, REAL_PICTURES, WORD, Score

__all__ = ["halves_of", "pair_likeness", "pair_scores"]


def halves_of(picture: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Cut a picture in the middle.

    Args:
        picture: At least 2 pixels wide.

    Returns:
        Left and right half; of an odd width the column in the middle belongs to both.
    """
    middle = (picture.width + 1) // 2
    return (
        picture.crop((0, 0, middle, picture.height)),
        picture.crop((picture.width - middle, 0, picture.width, picture.height)),
    )


def pair_likeness(
    metric: LikenessMetric, pictures: Sequence[Image.Image], first: Material, second: Material
) -> tuple[Tensor, Tensor]:
    """Compare the halves of pictures with the real pictures of both things.

    Args:
        metric: Measures likeness.
        pictures: n pictures that should show both.
        first: The one thing.
        second: The other.

    Returns:
        (2, n) own-similarities: of each thing's half to its own real pictures; and (2, n) cross-similarities: of each
        thing's half to the real pictures of the other.
    """
    halves = [halves_of(picture) for picture in pictures]
    features = [metric.network.images([pair[side] for pair in halves]) for side in (0, 1)]
    real = [metric.network.images(material.references) for material in (first, second)]
    # alike[side][thing]: mean cosine of each picture's half to the thing's real pictures
    alike = [[(side @ thing.t()).mean(1) for thing in real] for side in features]
    first_is_left = alike[0][0] + alike[1][1] >= alike[0][1] + alike[1][0]
    own = torch.stack(
        [
            torch.where(first_is_left, alike[0][0], alike[1][0]),
            torch.where(first_is_left, alike[1][1], alike[0][1]),
        ]
    )
    cross = torch.stack(
        [
            torch.where(first_is_left, alike[0][1], alike[1][1]),
            torch.where(first_is_left, alike[1][0], alike[0][0]),
        ]
    )
    return own, cross


def pair_scores(
    metric: LikenessMetric,
    made: Mapping[str, Mapping[str, Sequence[Image.Image]]],
    first: Material,
    second: Material,
) -> list[Score]:
    """Score pictures of two words, prompt by prompt and over all.

    Own-similarity: a word's half and its own real pictures. Cross-similarity: a word's half and the real pictures of
    the other. Leakage: cross-similarity minus the mean cross-similarity of pictures of the same prompt with class
    words, which resemble the other thing as much as such pictures do anyway. Source: ours.

    Args:
        metric: Measures likeness.
        made: Subject -> prompt with ``{}`` -> pictures.
        first: The word in the prompts' first place.
        second: The word in their second place.

    Returns:
        The scores; leakage only of the word, and only where pictures of class words were made.
    """
    found: list[Score] = []
    alike = {
        subject: {prompt: pair_likeness(metric, pictures, first, second) for prompt, pictures in rows.items()}
        for subject, rows in made.items()
    }
    for subject, rows in alike.items():
        for place, material in enumerate((first, second)):
            own = {prompt: pair[0][place] for prompt, pair in rows.items()}
            cross = {prompt: pair[1][place] for prompt, pair in rows.items()}
            token = material.concept.token
            found += _scores(metric, f"own_similarity of {token}", subject, own, better=True)
            found += _scores(metric, f"cross_similarity of {token}", subject, cross, better=False)
            if subject == WORD and CLASS_WORD in alike:
                base = {prompt: pair[1][place].mean() for prompt, pair in alike[CLASS_WORD].items()}
                leaked = {prompt: values - base[prompt] for prompt, values in cross.items()}
                found += _scores(metric, f"leakage of {token}", subject, leaked, better=False)
    return found + _real(metric, first, second)


def _real(metric: LikenessMetric, first: Material, second: Material) -> list[Score]:
    """The same of whole real pictures: what two words that are perfect and well apart would reach."""
    found = []
    for material, other in ((first, second), (second, first)):
        own = [value for value in metric.bound(material.references).tolist() if value == value]
        cross = metric.network.images(material.references) @ metric.network.images(other.references).t()
        for what, values, better in (("own", own, True), ("cross", cross.mean(1).tolist(), False)):
            if values:
                name = f"{what}_similarity of {material.concept.token} ({metric.backbone})"
                found.append(Score.of(name, REAL_PICTURES, values, backbone=metric.backbone, higher_is_better=better))
    return found


def _scores(
    metric: LikenessMetric, name: str, subject: str, values: Mapping[str, Tensor], *, better: bool
) -> list[Score]:
    full = f"{name} ({metric.backbone})"
    everything = [value for each in values.values() for value in each.tolist()]
    pairs = [(None, everything), *((prompt, each.tolist()) for prompt, each in values.items())]
    return [
        Score.of(full, subject, each, prompt=prompt, backbone=metric.backbone, higher_is_better=better)
        for prompt, each in pairs
    ]
