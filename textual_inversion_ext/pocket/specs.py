"""What a pocket picture shows: the records between the sampler, the renderer and the caption writer."""

from __future__ import annotations

from dataclasses import dataclass

from textual_inversion_ext.pocket.vocabulary import RGB


@dataclass(frozen=True, slots=True)
class SubjectSpec:
    """One subject, the ground truth of its identity.

    Attributes:
        kind: A word of `vocabulary.SUBJECTS`.
        main: Colour of the body, 0..255.
        accent: Colour of the second parts (ears, roof, handle, ...) and of the pattern.
        pattern: A word of `vocabulary.PATTERNS`.
        aspect: Proportion, -1 (tall and narrow) to 1 (low and wide).
        feature: Size of the part that `vocabulary.FEATURES` names, -1 (small) to 1 (big).
        accessory: A word of `vocabulary.ACCESSORIES`, or None.
        accessory_colour: Colour of the accessory.
        dark_hair: Hair of a person; no caption names it.
    """

    kind: str
    main: RGB
    accent: RGB
    pattern: str = "plain"
    aspect: float = 0.0
    feature: float = 0.0
    accessory: str | None = None
    accessory_colour: RGB = (208, 38, 38)
    dark_hair: bool = True


@dataclass(frozen=True, slots=True)
class Naming:
    """What captions may say of a subject.

    Attributes:
        colours: Whether its colours lie near enough to words to be named.
        name: The name it goes by, or None; see `characters.CHARACTERS`.
        changed_colour: The colour word that its name needs here, because the picture shows it in another main colour.
    """

    colours: bool = True
    name: str | None = None
    changed_colour: str | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a subject stands.

    Attributes:
        x: Its middle, in [0, 1] of the picture's width.
        ground: Its feet, in [0, 1] of the picture's height.
        scale: Its height as a share of the picture's.
        mirrored: Whether it faces left.
    """

    x: float
    ground: float
    scale: float
    mirrored: bool


@dataclass(frozen=True, slots=True)
class PictureSpec:
    """A whole picture.

    Attributes:
        subjects: One subject, or two that stand next to each other (left to right).
        placements: One per subject.
        scene: A key of `vocabulary.SCENES` or `vocabulary.STUDIO`.
        style: A word of `vocabulary.STYLES` or a held-out style of `styles.HELD_OUT_STYLES`.
        size: A word of `vocabulary.SIZES`.
        brightness: Gain of the exposure, about 0.6 to 1.4.
        seed: Seed of everything unnamed (clouds, trees, light, noise).
    """

    subjects: tuple[SubjectSpec, ...]
    placements: tuple[Placement, ...]
    scene: str
    style: str
    size: str
    brightness: float
    seed: int
