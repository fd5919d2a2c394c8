"""Backgrounds: one function per scene, drawn in full colour; every unnamed detail comes from the generator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from textual_inversion_ext.pocket.vocabulary import RGB, STUDIO


class Backdrop:
    """A canvas with the few shapes that scenes are made of; coordinates in [0, 1] of the picture.

    Args:
        side: Pixels of the square canvas.
        rng: Source of everything unnamed.
    """

    def __init__(self, side: int, rng: np.random.Generator) -> None:
        self.side = side
        self.rng = rng
        self.image = Image.new("RGB", (side, side))
        self.draw = ImageDraw.Draw(self.image)

    def vary(self, colour: RGB, by: float = 9.0) -> RGB:
        """Shift a colour a little: a whole one by brightness, each channel by tint."""
        shift = self.rng.normal(0.0, by) + self.rng.normal(0.0, by * 0.5, 3)
        red, green, blue = (int(np.clip(c + s, 0, 255)) for c, s in zip(colour, shift, strict=True))
        return red, green, blue

    def gradient(self, top: RGB, bottom: RGB, y0: float = 0.0, y1: float = 1.0) -> None:
        """Fill the band y0..y1 with a vertical gradient."""
        first, last = int(y0 * self.side), max(int(y0 * self.side) + 1, int(y1 * self.side))
        share = np.linspace(0.0, 1.0, last - first)[:, None]
        column = np.array(top) * (1 - share) + np.array(bottom) * share
        band = np.broadcast_to(column[:, None, :], (last - first, self.side, 3)).astype(np.uint8)
        self.image.paste(Image.fromarray(np.ascontiguousarray(band)), (0, first))

    def rectangle(self, x0: float, y0: float, x1: float, y1: float, colour: RGB) -> None:
        """Fill a rectangle."""
        s = self.side
        self.draw.rectangle((x0 * s, y0 * s, x1 * s, y1 * s), fill=colour)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: RGB) -> None:
        """Fill an ellipse around (x, y)."""
        s = self.side
        self.draw.ellipse(((x - rx) * s, (y - ry) * s, (x + rx) * s, (y + ry) * s), fill=colour)

    def polygon(self, points: Sequence[tuple[float, float]], colour: RGB) -> None:
        """Fill a polygon."""
        self.draw.polygon([(x * self.side, y * self.side) for x, y in points], fill=colour)


def _beach(b: Backdrop, horizon: float) -> None:
    b.gradient(b.vary((118, 190, 240)), b.vary((196, 228, 248)), 0.0, horizon)
    b.gradient(b.vary((24, 120, 190)), b.vary((70, 176, 206)), horizon - 0.12, horizon + 0.04)
    b.gradient(b.vary((240, 218, 160)), b.vary((222, 192, 128)), horizon + 0.04, 1.0)
    b.ellipse(b.rng.uniform(0.1, 0.9), b.rng.uniform(0.08, 0.2), 0.08, 0.08, (255, 240, 150))
    b.rectangle(0.0, horizon + 0.03, 1.0, horizon + 0.05, (246, 250, 250))


def _snow(b: Backdrop, horizon: float) -> None:
    b.gradient(b.vary((176, 196, 220)), b.vary((214, 226, 238)), 0.0, horizon)
    for _ in range(3):
        x, height = b.rng.uniform(0.0, 1.0), b.rng.uniform(0.2, 0.34)
        b.polygon([(x - 0.35, horizon), (x, horizon - height), (x + 0.35, horizon)], b.vary((152, 172, 202)))
        b.polygon(
            [(x - 0.12, horizon - height * 0.66), (x, horizon - height), (x + 0.12, horizon - height * 0.66)],
            (244, 248, 252),
        )
    b.gradient(b.vary((236, 242, 250), 4), b.vary((216, 226, 242), 4), horizon, 1.0)
    for x, y in b.rng.uniform(0.0, 1.0, (16, 2)):
        b.ellipse(x, y, 0.014, 0.014, (255, 255, 255))


def _forest(b: Backdrop, horizon: float) -> None:
    b.gradient(b.vary((52, 96, 60)), b.vary((96, 140, 78)), 0.0, horizon)
    for x in np.linspace(0.04, 0.96, 6) + b.rng.normal(0.0, 0.04, 6):
        width = b.rng.uniform(0.025, 0.045)
        b.rectangle(x - width, 0.0, x + width, horizon + b.rng.uniform(0.0, 0.06), b.vary((82, 56, 36)))
    for x in b.rng.uniform(0.0, 1.0, 9):
        b.ellipse(x, b.rng.uniform(-0.02, 0.16), 0.16, 0.11, b.vary((34, 88, 44)))
    b.gradient(b.vary((62, 92, 44)), b.vary((48, 70, 36)), horizon, 1.0)


def _city(b: Backdrop, horizon: float) -> None:
    b.gradient(b.vary((170, 186, 204)), b.vary((214, 216, 214)), 0.0, horizon)
    edges = np.linspace(-0.05, 1.05, 6) + b.rng.normal(0.0, 0.02, 6)
    for left, right in zip(edges[:-1], edges[1:], strict=True):
        top = b.rng.uniform(0.06, horizon - 0.2)
        b.rectangle(left, top, right - 0.012, horizon, b.vary((118, 112, 118), 16))
        light = b.vary((214, 214, 176))
        for y in np.arange(top + 0.04, horizon - 0.05, 0.1):
            for x in (0.28, 0.7):
                middle = left + (right - left) * x
                b.rectangle(middle - 0.025, y, middle + 0.025, y + 0.045, light)
    b.gradient(b.vary((92, 92, 98)), b.vary((74, 74, 80)), horizon, 1.0)
    for x in np.arange(0.05, 1.0, 0.3):
        b.rectangle(x, horizon + 0.2, x + 0.14, horizon + 0.225, (232, 226, 200))


def _night(b: Backdrop, horizon: float) -> None:
    b.gradient(b.vary((8, 10, 34), 4), b.vary((30, 36, 82), 6), 0.0, horizon)
    for x, y in b.rng.uniform(0.0, 1.0, (22, 2)):
        b.ellipse(x, y * horizon, 0.008, 0.008, (240, 240, 214))
    x, y = b.rng.uniform(0.12, 0.88), b.rng.uniform(0.1, 0.22)
    b.ellipse(x, y, 0.085, 0.085, (246, 240, 200))
    b.ellipse(x + 0.04, y - 0.015, 0.07, 0.07, (14, 17, 46))
    b.gradient(b.vary((26, 30, 52), 4), b.vary((16, 18, 34), 4), horizon, 1.0)


def _desert(b: Backdrop, horizon: float) -> None:
    b.gradient(b.vary((246, 190, 122)), b.vary((252, 222, 168)), 0.0, horizon)
    b.ellipse(b.rng.uniform(0.15, 0.85), b.rng.uniform(0.12, 0.26), 0.1, 0.1, (255, 246, 206))
    b.gradient(b.vary((216, 142, 76)), b.vary((190, 116, 58)), horizon, 1.0)
    b.ellipse(b.rng.uniform(0.0, 1.0), horizon + 0.05, 0.4, 0.13, b.vary((206, 130, 66)))
    for x in (b.rng.uniform(0.05, 0.25), b.rng.uniform(0.75, 0.95)):
        green, top = b.vary((70, 120, 62)), horizon - b.rng.uniform(0.18, 0.3)
        b.rectangle(x - 0.026, top, x + 0.026, horizon + 0.05, green)
        b.rectangle(x - 0.09, top + 0.08, x, top + 0.12, green)
        b.rectangle(x - 0.09, top + 0.02, x - 0.055, top + 0.12, green)


def _kitchen(b: Backdrop, horizon: float) -> None:
    tile = b.vary((232, 226, 208))
    b.rectangle(0.0, 0.0, 1.0, horizon, tile)
    for step in np.arange(0.0, 1.0, 0.14):
        b.rectangle(step, 0.0, step + 0.014, horizon, (186, 178, 160))
        b.rectangle(0.0, step * horizon, 1.0, step * horizon + 0.014, (186, 178, 160))
    x = b.rng.uniform(0.05, 0.6)
    b.rectangle(x, 0.0, x + 0.36, 0.16, b.vary((150, 98, 58)))
    b.rectangle(x + 0.17, 0.0, x + 0.185, 0.16, (96, 62, 38))
    b.gradient(b.vary((168, 112, 68)), b.vary((142, 92, 54)), horizon, 1.0)
    b.rectangle(0.0, horizon, 1.0, horizon + 0.03, b.vary((206, 198, 188)))


def _meadow(b: Backdrop, horizon: float) -> None:
    b.gradient(b.vary((96, 176, 238)), b.vary((186, 222, 246)), 0.0, horizon)
    for _ in range(3):
        x, y = b.rng.uniform(0.0, 1.0), b.rng.uniform(0.06, 0.26)
        b.ellipse(x, y, 0.13, 0.05, (250, 252, 255))
        b.ellipse(x + 0.06, y - 0.03, 0.08, 0.05, (250, 252, 255))
    b.gradient(b.vary((110, 186, 72)), b.vary((72, 148, 54)), horizon, 1.0)
    for x, y in b.rng.uniform(0.0, 1.0, (14, 2)):
        colour = ((250, 240, 110), (250, 250, 250), (244, 150, 190))[int(b.rng.integers(3))]
        b.ellipse(x, horizon + 0.04 + y * (0.96 - horizon), 0.017, 0.017, colour)


def _studio(b: Backdrop, horizon: float) -> None:
    base = b.rng.uniform(165, 235) + b.rng.normal(0.0, 12.0, 3)
    red, green, blue = (int(np.clip(c, 0, 255)) for c in base)
    wall = (red, green, blue)
    b.gradient(wall, b.vary(wall, 5), 0.0, horizon)
    floor = (int(red * 0.86), int(green * 0.86), int(blue * 0.86))
    b.gradient(floor, b.vary(floor, 5), horizon, 1.0)


SCENE_PAINTERS: dict[str, Callable[[Backdrop, float], None]] = {
    "beach": _beach,
    "snow": _snow,
    "forest": _forest,
    "city": _city,
    "night": _night,
    "desert": _desert,
    "kitchen": _kitchen,
    "meadow": _meadow,
    STUDIO: _studio,
}


def paint_scene(scene: str, side: int, rng: np.random.Generator) -> Image.Image:
    """Paint a background.

    Args:
        scene: A key of `SCENE_PAINTERS`.
        side: Pixels of the square canvas.
        rng: Source of everything unnamed.

    Returns:
        RGB picture of side x side pixels.
    """
    backdrop = Backdrop(side, rng)
    SCENE_PAINTERS[scene](backdrop, float(rng.uniform(0.52, 0.66)))
    return backdrop.image
