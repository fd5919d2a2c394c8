"""How each subject is drawn: one function per word, all listed in `DRAWERS`."""

from __future__ import annotations

from collections.abc import Callable

from textual_inversion_ext.pocket.subjects import creatures, things
from textual_inversion_ext.pocket.subjects.pen import Pen

DRAWERS: dict[str, Callable[[Pen, float], None]] = {
    "cat": creatures.cat,
    "dog": creatures.dog,
    "rabbit": creatures.rabbit,
    "bear": creatures.bear,
    "bird": creatures.bird,
    "fish": creatures.fish,
    "car": things.car,
    "boat": things.boat,
    "teapot": things.teapot,
    "mug": things.mug,
    "clock": things.clock,
    "robot": things.robot,
    "mushroom": things.mushroom,
    "house": things.house,
    "chef": creatures.chef,
}

# Where a hat sits on each subject: (x, y of its brim, width), in the subject's own coordinates.
HEAD_TOPS: dict[str, tuple[float, float, float]] = {
    "cat": (0.0, -0.52, 0.5),
    "dog": (0.55, -0.62, 0.42),
    "rabbit": (0.0, -0.22, 0.5),
    "bear": (0.0, -0.66, 0.5),
    "bird": (0.3, -0.58, 0.42),
    "fish": (0.15, -0.5, 0.5),
    "car": (0.0, -0.42, 0.55),
    "boat": (0.5, 0.26, 0.45),
    "teapot": (0.0, -0.52, 0.5),
    "mug": (0.0, -0.62, 0.6),
    "clock": (0.0, -0.62, 0.5),
    "robot": (0.0, -0.62, 0.5),
    "mushroom": (0.0, -0.72, 0.5),
    "house": (0.0, -0.62, 0.5),
    "chef": (0.0, -0.68, 0.45),
}

__all__ = ["DRAWERS", "HEAD_TOPS", "Pen"]
