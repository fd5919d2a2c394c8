"""The words of the pocket world and what each of them means in pixels."""

from __future__ import annotations

RGB = tuple[int, int, int]

CREATURES: tuple[str, ...] = ("cat", "dog", "rabbit", "bear", "bird", "fish")
THINGS: tuple[str, ...] = ("car", "boat", "teapot", "mug", "clock", "robot", "mushroom", "house")
PROFESSIONS: tuple[str, ...] = ("chef",)
SUBJECTS: tuple[str, ...] = CREATURES + THINGS + PROFESSIONS

COLOURS: dict[str, RGB] = {
    "red": (208, 38, 38),
    "orange": (242, 134, 28),
    "yellow": (246, 216, 48),
    "green": (52, 150, 58),
    "teal": (28, 164, 164),
    "blue": (38, 84, 206),
    "purple": (124, 58, 184),
    "pink": (246, 140, 184),
    "brown": (122, 76, 40),
    "black": (36, 36, 42),
    "white": (242, 242, 240),
    "gray": (138, 140, 146),
}

# Pairs whose mixtures look like colours of their own; a mixture of, say, red and teal is only mud.
COLOUR_NEIGHBOURS: tuple[tuple[str, str], ...] = (
    ("red", "orange"),
    ("orange", "yellow"),
    ("yellow", "green"),
    ("green", "teal"),
    ("teal", "blue"),
    ("blue", "purple"),
    ("purple", "pink"),
    ("pink", "red"),
    ("pink", "orange"),
    ("brown", "orange"),
    ("brown", "red"),
    ("black", "brown"),
    ("black", "blue"),
    ("black", "purple"),
    ("white", "pink"),
    ("white", "yellow"),
    ("white", "teal"),
    ("gray", "blue"),
    ("gray", "green"),
    ("gray", "purple"),
)

PATTERNS: tuple[str, ...] = ("plain", "striped", "spotted", "checkered")

SCENES: dict[str, str] = {
    "beach": "on the beach",
    "snow": "in the snow",
    "forest": "in the forest",
    "city": "in the city",
    "night": "at night",
    "desert": "in the desert",
    "kitchen": "in the kitchen",
    "meadow": "on the meadow",
}
STUDIO = "studio"  # the plain backdrop of a picture whose caption names no place

STYLES: tuple[str, ...] = ("photo", "painting", "sketch", "cartoon")
SIZES: tuple[str, ...] = ("small", "medium", "large")
ACCESSORIES: tuple[str, ...] = ("hat", "crown", "bow", "balloon")

# The part of a subject whose size varies, and the word for it.
FEATURES: dict[str, str] = {
    "cat": "ears",
    "dog": "tail",
    "rabbit": "ears",
    "bear": "ears",
    "bird": "beak",
    "fish": "tail",
    "car": "wheels",
    "boat": "sail",
    "teapot": "spout",
    "mug": "handle",
    "clock": "bells",
    "robot": "antenna",
    "mushroom": "cap",
    "house": "roof",
    "chef": "hat",
}

# The known bias of the profession-like noun: captions never name the hair, and most pictures show it dark.
CHEF_DARK_HAIR = 0.85


def nearest_colour(rgb: tuple[float, float, float]) -> str:
    """Name the vocabulary colour nearest to `rgb` (0..255 per channel, Euclidean)."""
    return min(COLOURS, key=lambda name: sum((a - b) ** 2 for a, b in zip(rgb, COLOURS[name], strict=True)))


def mix(first: str, second: str, share: float) -> RGB:
    """Mix two named colours; `share` in [0, 1] is the second one's part."""
    a, b = COLOURS[first], COLOURS[second]
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def is_held_out(subject: str, colour: str, scene: str) -> bool:
    """Tell whether a subject-colour or subject-scene pair never occurs in the training pictures.

    Generation is measured on these pairs too: a model that only memorised pairs would fail there.
    """
    row = SUBJECTS.index(subject)
    if (3 * row + 5 * list(COLOURS).index(colour)) % 11 == 0:
        return True
    return scene in SCENES and (5 * row + 3 * list(SCENES).index(scene)) % 13 == 0
