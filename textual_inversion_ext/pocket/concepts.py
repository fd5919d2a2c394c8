"""The held-out concepts and styles: what the pocket models have never seen, with the ground truth of each.

An object belongs here if no caption describes it fully: pictures made from the best one are less like its pictures than
those are like each other (`python -m benchmarks.pocket_learning`, columns "caption" and "real"). Where they are not, a
word has no distance to close, and CLIP cannot tell a better picture from a worse one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from textual_inversion_ext.pocket.sampler import place, random_subject
from textual_inversion_ext.pocket.specs import PictureSpec, SubjectSpec
from textual_inversion_ext.pocket.vocabulary import SCENES, STUDIO, mix

PICTURES_PER_CONCEPT = 5


@dataclass(frozen=True, slots=True)
class PocketConcept:
    """A held-out concept.

    Attributes:
        name: File-name stem; the placeholder token is `<name>`.
        class_name: Coarse word for it.
        learnable_property: "object" or "style".
        subject: Exact attributes of an object; None for a style.
        style: The held-out style, or "photo" for an object.
        seed: Seed of its pictures.
    """

    name: str
    class_name: str
    learnable_property: str
    subject: SubjectSpec | None
    style: str
    seed: int

    @property
    def placeholder_token(self) -> str:
        """The token that stands for the concept in prompts."""
        return f"<{self.name}>"

    def pictures(self, count: int = PICTURES_PER_CONCEPT, *, seed: int | None = None) -> list[PictureSpec]:
        """Draw pictures of the concept in different places.

        Args:
            count: How many.
            seed: Other than the concept's own, for fresh pictures of the same concept.

        Returns:
            The pictures' specs.
        """
        rng = np.random.default_rng(self.seed if seed is None else seed)
        scenes = [STUDIO, *rng.permutation(list(SCENES))]
        return [self._picture(str(scenes[i % len(scenes)]), rng) for i in range(count)]

    def _picture(self, scene: str, rng: np.random.Generator) -> PictureSpec:
        size = str(rng.choice(("medium", "large")))
        subject = self.subject if self.subject is not None else random_subject(rng)[0]
        return PictureSpec((subject,), place(size, 1, rng), scene, self.style, size, 1.0, int(rng.integers(2**31)))


def _object(name: str, seed: int, subject: SubjectSpec) -> PocketConcept:
    return PocketConcept(name, subject.kind, "object", subject, "photo", seed)


def _style(style: str, seed: int) -> PocketConcept:
    return PocketConcept(style, "painting", "style", None, style, seed)


OBJECTS: tuple[PocketConcept, ...] = (
    _object(
        "mochi",
        101,
        SubjectSpec(
            "cat",
            mix("pink", "orange", 0.5),
            mix("blue", "purple", 0.5),
            "striped",
            0.55,
            0.8,
            "bow",
            mix("green", "teal", 0.5),
        ),
    ),
    _object(
        "rusty",
        102,
        SubjectSpec(
            "dog",
            mix("red", "orange", 0.5),
            mix("white", "yellow", 0.5),
            "spotted",
            0.6,
            0.7,
            "hat",
            mix("blue", "purple", 0.4),
        ),
    ),
    _object(
        "clover",
        103,
        SubjectSpec(
            "rabbit",
            mix("yellow", "green", 0.55),
            mix("pink", "red", 0.4),
            "plain",
            -0.6,
            0.75,
            "crown",
            mix("orange", "yellow", 0.5),
        ),
    ),
    _object(
        "bruno",
        104,
        SubjectSpec(
            "bear",
            mix("blue", "purple", 0.5),
            mix("orange", "yellow", 0.5),
            "plain",
            0.7,
            0.7,
            "bow",
            mix("pink", "red", 0.5),
        ),
    ),
    _object(
        "pico",
        105,
        SubjectSpec(
            "bird",
            mix("green", "teal", 0.5),
            mix("red", "orange", 0.5),
            "striped",
            -0.55,
            0.8,
            "hat",
            mix("purple", "pink", 0.5),
        ),
    ),
    _object(
        "bubbles",
        106,
        SubjectSpec(
            "fish",
            mix("purple", "pink", 0.5),
            mix("yellow", "green", 0.5),
            "striped",
            0.6,
            0.75,
            "crown",
            mix("teal", "blue", 0.5),
        ),
    ),
    _object(
        "dash",
        107,
        SubjectSpec(
            "car",
            mix("teal", "blue", 0.5),
            mix("pink", "orange", 0.5),
            "checkered",
            -0.6,
            0.75,
            "balloon",
            mix("red", "orange", 0.5),
        ),
    ),
    _object(
        "brewster",
        108,
        SubjectSpec(
            "teapot",
            mix("gray", "purple", 0.5),
            mix("yellow", "green", 0.5),
            "checkered",
            0.65,
            0.8,
            "bow",
            mix("blue", "purple", 0.5),
        ),
    ),
    _object(
        "latte",
        109,
        SubjectSpec(
            "mug",
            mix("brown", "orange", 0.5),
            mix("teal", "blue", 0.5),
            "striped",
            -0.65,
            0.75,
            "balloon",
            mix("yellow", "green", 0.5),
        ),
    ),
    _object(
        "ticker",
        110,
        SubjectSpec(
            "clock",
            mix("pink", "red", 0.5),
            mix("gray", "blue", 0.5),
            "plain",
            -0.6,
            0.8,
            "crown",
            mix("green", "teal", 0.5),
        ),
    ),
    _object(
        "bolt",
        111,
        SubjectSpec(
            "robot",
            mix("gray", "green", 0.5),
            mix("purple", "pink", 0.5),
            "checkered",
            0.6,
            0.8,
            "hat",
            mix("orange", "yellow", 0.5),
        ),
    ),
    _object(
        "cottage",
        112,
        SubjectSpec(
            "house",
            mix("purple", "pink", 0.5),
            mix("green", "teal", 0.5),
            "checkered",
            0.65,
            0.75,
            "crown",
            mix("orange", "yellow", 0.5),
        ),
    ),
)
STYLES: tuple[PocketConcept, ...] = (_style("duotone", 201), _style("mosaic", 202), _style("blueprint", 203))
CONCEPTS: dict[str, PocketConcept] = {concept.name: concept for concept in OBJECTS + STYLES}
