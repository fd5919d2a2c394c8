"""Random pictures of the pocket world: the distribution the pocket models are trained on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from textual_inversion_ext.pocket.captions import caption
from textual_inversion_ext.pocket.characters import CHARACTERS
from textual_inversion_ext.pocket.specs import Naming, PictureSpec, Placement, SubjectSpec
from textual_inversion_ext.pocket.vocabulary import (
    ACCESSORIES,
    CHEF_DARK_HAIR,
    COLOUR_NEIGHBOURS,
    COLOURS,
    PATTERNS,
    RGB,
    SCENES,
    SIZES,
    STUDIO,
    STYLES,
    SUBJECTS,
    is_held_out,
    mix,
    nearest_colour,
)

_JITTER = 8.0  # standard deviation of a named colour, per channel
_BETWEEN = 0.25  # share of the subjects whose colours lie between two names
_TWO_SUBJECTS = 0.15
_CHARACTERS = 0.35  # share of the subjects that are named characters
_CHANGED_COLOUR = 0.1  # share of those that are shown in another colour, so that a name can be combined with a word
_NAMES = tuple(CHARACTERS)
_SCALES = {"small": (0.42, 0.5), "medium": (0.56, 0.66), "large": (0.72, 0.8)}


def _jittered(colour: RGB, rng: np.random.Generator) -> RGB:
    red, green, blue = (int(np.clip(c + d, 0, 255)) for c, d in zip(colour, rng.normal(0.0, _JITTER, 3), strict=True))
    return red, green, blue


def _colour(rng: np.random.Generator, between: bool) -> RGB:
    if between:
        first, second = COLOUR_NEIGHBOURS[int(rng.integers(len(COLOUR_NEIGHBOURS)))]
        return _jittered(mix(first, second, float(rng.uniform(0.2, 0.8))), rng)
    return _jittered(COLOURS[str(rng.choice(list(COLOURS)))], rng)


def random_subject(rng: np.random.Generator) -> tuple[SubjectSpec, bool]:
    """Draw a subject.

    Args:
        rng: Source of randomness.

    Returns:
        The subject, and whether a caption may name its colours (not when they lie between the named ones).
    """
    between = bool(rng.random() < _BETWEEN)
    subject = SubjectSpec(
        kind=str(rng.choice(SUBJECTS)),
        main=_colour(rng, between),
        accent=_colour(rng, between),
        pattern=PATTERNS[0] if rng.random() < 0.5 else str(rng.choice(PATTERNS[1:])),
        aspect=float(rng.uniform(-1.0, 1.0)),
        feature=float(rng.uniform(-1.0, 1.0)),
        accessory=str(rng.choice(ACCESSORIES)) if rng.random() < 0.3 else None,
        accessory_colour=_colour(rng, False),
        dark_hair=bool(rng.random() < CHEF_DARK_HAIR),
    )
    return subject, not between


def random_character(rng: np.random.Generator) -> tuple[SubjectSpec, Naming]:
    """Draw a named character, now and then in another colour.

    Args:
        rng: Source of randomness.

    Returns:
        The subject as it is shown, and what captions may say of it.
    """
    name = _NAMES[int(rng.integers(len(_NAMES)))]
    subject = CHARACTERS[name]
    if rng.random() < _CHANGED_COLOUR:
        colour = str(rng.choice(list(COLOURS)))
        return replace(subject, main=COLOURS[colour]), Naming(False, name, colour)
    return subject, Naming(False, name)


def place(size: str, count: int, rng: np.random.Generator) -> tuple[Placement, ...]:
    """Choose where one or two subjects stand.

    Args:
        size: A word of `vocabulary.SIZES`.
        count: 1 or 2.
        rng: Source of randomness.

    Returns:
        One placement per subject, left to right.
    """
    if count == 2:
        scale = float(rng.uniform(0.42, 0.5))
        xs = (float(rng.uniform(0.22, 0.28)), float(rng.uniform(0.72, 0.78)))
        return tuple(Placement(x, float(rng.uniform(0.78, 0.86)), scale, bool(rng.random() < 0.5)) for x in xs)
    low, high = _SCALES[size]
    scale = float(rng.uniform(low, high))
    margin = 0.5 - 0.42 * scale
    x = 0.5 + float(rng.uniform(-0.6, 0.6)) * margin
    ground = float(rng.uniform(0.8, 0.88)) + (0.06 if size == "large" else 0.0)
    return (Placement(x, ground, scale, bool(rng.random() < 0.5)),)


def random_picture(rng: np.random.Generator, *, held_out: bool = False) -> tuple[PictureSpec, str, tuple[Naming, ...]]:
    """Draw a picture of the training distribution and its caption.

    Args:
        rng: Source of randomness.
        held_out: Draw from the combinations kept out of training instead.

    Returns:
        The picture, one caption, and for each subject what captions may say of it.
    """
    while True:
        count = 2 if rng.random() < _TWO_SUBJECTS else 1
        drawn = [_random_subject_or_character(rng) for _ in range(count)]
        scene = STUDIO if rng.random() < 0.12 else str(rng.choice(list(SCENES)))
        if any(is_held_out(s.kind, nearest_colour(s.main), scene) for s, _ in drawn) == held_out:
            break
    size = "medium" if count == 2 else str(rng.choice(SIZES, p=(0.2, 0.5, 0.3)))
    brightness = 1.0 if rng.random() < 0.8 else float(rng.choice((rng.uniform(0.6, 0.78), rng.uniform(1.22, 1.4))))
    picture = PictureSpec(
        subjects=tuple(s for s, _ in drawn),
        placements=place(size, count, rng),
        scene=scene,
        style=str(rng.choice(STYLES, p=(0.58, 0.14, 0.14, 0.14))),
        size=size,
        brightness=brightness,
        seed=int(rng.integers(2**31)),
    )
    naming = tuple(said for _, said in drawn)
    return picture, caption(picture, rng, naming=naming), naming


def _random_subject_or_character(rng: np.random.Generator) -> tuple[SubjectSpec, Naming]:
    if rng.random() < _CHARACTERS:
        return random_character(rng)
    subject, name_colours = random_subject(rng)
    return subject, Naming(name_colours)
