"""Words between words: the mathematics of blending embeddings, without any pipeline."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.errors import ConceptError, ConfigError

BlendMethod: TypeAlias = Literal["slerp", "lerp"]


def blend_concepts(
    first: LearnedConcept, second: LearnedConcept, t: float, token: str, method: BlendMethod = "slerp"
) -> LearnedConcept:
    """A concept between two others; see `blend_vectors` for the rules.

    Args:
        first: What t = 0 gives.
        second: What t = 1 gives.
        t: Place between them, 0 to 1.
        token: Name of the result.
        method: "slerp" or "lerp".

    Returns:
        The new concept. Of the metadata it keeps what both agree on, and says how it was made.
    """
    vectors = blend_vectors(first.vectors, second.vectors, t, method)
    shared = {key: value for key, value in first.metadata.items() if second.metadata.get(key) == value}
    return LearnedConcept(token, vectors, {**shared, "blend": f"{method} {first.token} {second.token} {t:g}"})


def blend_vectors(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], t: float, method: BlendMethod = "slerp"
) -> dict[str, Tensor]:
    """Blend row by row, in every text encoder that both sides have rows for.

    The side with fewer rows is continued by repeating its last row, so the result has as many rows as the longer side.

    Args:
        first: Encoder key -> rows, (n, D).
        second: Encoder key -> rows, (m, D).
        t: Place between them, 0 to 1; the ends are reproduced exactly.
        method: "slerp" turns the direction at constant speed and interpolates the length; "lerp" takes the straight
            line, on which vectors in the middle are shorter than either end.

    Returns:
        Encoder key -> rows, (max(n, m), D) float32; the same number for every encoder.

    Raises:
        ConfigError: If t or the method is not allowed.
        ConceptError: If the sides share no text encoder, are of different models, or cannot be slerped.
    """
    if not (isinstance(t, int | float) and 0 <= t <= 1):
        raise ConfigError(f"t is {t!r}; it must be a number from 0 (the first word) to 1 (the second).")
    if method not in get_args(BlendMethod):
        raise ConfigError(f"method is {method!r}; allowed: {', '.join(get_args(BlendMethod))}.")
    keys = [key for key in first if key in second]
    if not keys:
        raise ConceptError(
            f"one side has rows for {', '.join(first)}, the other for {', '.join(second)}; "
            "blend words of the same kind of model."
        )
    count = max(len(side[key]) for side in (first, second) for key in keys)
    blend = slerp if method == "slerp" else lerp
    blended = {}
    for key in keys:
        a, b = (_of_length(side[key].float(), count) for side in (first, second))
        if a.shape != b.shape:
            raise ConceptError(
                f"rows for {key} are {a.shape[1]} wide on one side and {b.shape[1]} on the other; "
                "blend words of the same kind of model."
            )
        blended[key] = blend(a, b, t)
    return blended


def lerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """The straight line between rows.

    Args:
        a: (n, D), at t = 0.
        b: (n, D), at t = 1.
        t: 0 to 1.

    Returns:
        (n, D) in the dtype of `a`.
    """
    if t in (0, 1):
        return (b if t else a).clone()
    return ((1 - t) * a.double() + t * b.double()).to(a.dtype)


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """The arc between rows: the direction turns at constant speed, the length goes straight from one to the other.

    Args:
        a: (n, D), at t = 0.
        b: (n, D), at t = 1.
        t: 0 to 1.

    Returns:
        (n, D) in the dtype of `a`.

    Raises:
        ConceptError: If a row is zero, or two rows point in opposite directions: there is no one arc between them.

    Source: Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985, section 3.3 (slerp of directions).
    """
    if t in (0, 1):
        return (b if t else a).clone()
    x, y = a.double(), b.double()
    x_length, y_length = x.norm(dim=-1, keepdim=True), y.norm(dim=-1, keepdim=True)
    if not bool((x_length > 0).all() and (y_length > 0).all()):
        raise ConceptError("a row is zero and has no direction; use method='lerp'.")
    x, y = x / x_length, y / y_length
    # atan2 of the chords, not acos of the dot product: that one is blind to angles below 1e-8.
    angle = 2 * torch.atan2((x - y).norm(dim=-1, keepdim=True), (x + y).norm(dim=-1, keepdim=True))
    if bool((angle > math.pi - 1e-6).any()):
        raise ConceptError("two rows point in opposite directions, with no one way between them; use method='lerp'.")
    sine = angle.sin().clamp(min=1e-300)
    parallel = angle < 1e-7
    x_share = torch.where(parallel, 1 - t, ((1 - t) * angle).sin() / sine)
    y_share = torch.where(parallel, t, (t * angle).sin() / sine)
    return ((x_share * x + y_share * y) * ((1 - t) * x_length + t * y_length)).to(a.dtype)


def _of_length(rows: Tensor, count: int) -> Tensor:
    return torch.cat([rows, rows[-1:].expand(count - len(rows), -1)])
