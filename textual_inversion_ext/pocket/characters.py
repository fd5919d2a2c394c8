"""Named characters: invented words that each mean one complete identity, as a proper name does in a large model.

A frozen model can only learn a new word for an identity if it knows words for identities. Stable Diffusion knows
thousands of names; these are the pocket world's. Each one's colours, proportions, pattern and accessory are fixed, and
its captions say the name alone.
"""

from __future__ import annotations

import numpy as np

from textual_inversion_ext.pocket.specs import SubjectSpec
from textual_inversion_ext.pocket.vocabulary import (
    ACCESSORIES,
    CHEF_DARK_HAIR,
    COLOUR_NEIGHBOURS,
    COLOURS,
    PATTERNS,
    RGB,
    STUDIO,
    SUBJECTS,
    is_held_out,
    mix,
    nearest_colour,
)

_SEED = 7_311
_FIRST = tuple("ba de fi go ju ka ke le lo mi no pu ra se ti vo wu za".split())
_LAST = tuple(
    "bbon chun dlo ffim gnar jek kkuz lmor mbix ndop ppel quin rvel skow ttag vvun wix xol zzek bram dref fnog glup "
    "hska kvim lthy mpod nzit phob rcaw shub thex vlon wbis yorg zmut bexo dwim grix klep".split()
)
_BETWEEN = 0.7  # share of the colours that lie between two names
_WITH_ACCESSORY = 0.75


def _colour(rng: np.random.Generator) -> RGB:
    if rng.random() < _BETWEEN:
        first, second = COLOUR_NEIGHBOURS[int(rng.integers(len(COLOUR_NEIGHBOURS)))]
        return mix(first, second, float(rng.uniform(0.2, 0.8)))
    return COLOURS[str(rng.choice(list(COLOURS)))]


def _character(rng: np.random.Generator, kind: str) -> SubjectSpec:
    main = _colour(rng)
    while is_held_out(kind, nearest_colour(main), STUDIO):
        main = _colour(rng)
    return SubjectSpec(
        kind=kind,
        main=main,
        accent=_colour(rng),
        pattern=str(rng.choice(PATTERNS)),
        aspect=float(rng.uniform(-1.0, 1.0)),
        feature=float(rng.uniform(-1.0, 1.0)),
        accessory=str(rng.choice(ACCESSORIES)) if rng.random() < _WITH_ACCESSORY else None,
        accessory_colour=_colour(rng),
        dark_hair=bool(rng.random() < CHEF_DARK_HAIR),
    )


def _characters() -> dict[str, SubjectSpec]:
    rng = np.random.default_rng(_SEED)
    names = [first + last for first in _FIRST for last in _LAST]
    return {name: _character(rng, SUBJECTS[index % len(SUBJECTS)]) for index, name in enumerate(names)}


CHARACTERS: dict[str, SubjectSpec] = _characters()
"""Every name and the identity it means; as many of each subject."""
