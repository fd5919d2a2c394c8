"""A pen that draws materials, not colours, into a label map."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from PIL import ImageDraw

Point = tuple[float, float]


class Material(IntEnum):
    """What a pixel of a subject is made of; the renderer gives each a colour."""

    NONE = 0
    MAIN = 1
    MAIN_SHADE = 2
    ACCENT = 3
    INK = 4
    WHITE = 5
    GLASS = 6
    SKIN = 7
    HAIR = 8
    ACCESSORY = 9
    BEAK = 10


class Pen:
    """Draws in a subject's own coordinates: x to the right, y down, the body within [-1, 1], the feet at y = 1.

    Args:
        draw: Drawing surface of the label map, mode "L".
        origin: Pixel of the subject's (0, 0).
        unit: Pixels per unit along x and y; a negative x mirrors the subject.
    """

    def __init__(self, draw: ImageDraw.ImageDraw, origin: Point, unit: Point) -> None:
        self._draw = draw
        self._origin = origin
        self._unit = unit

    def _pixel(self, point: Point) -> Point:
        return self._origin[0] + point[0] * self._unit[0], self._origin[1] + point[1] * self._unit[1]

    def _box(self, x0: float, y0: float, x1: float, y1: float) -> tuple[float, float, float, float]:
        (left, top), (right, bottom) = self._pixel((x0, y0)), self._pixel((x1, y1))
        return min(left, right), min(top, bottom), max(left, right), max(top, bottom)

    def ellipse(self, x: float, y: float, rx: float, ry: float, material: Material) -> None:
        """Fill an ellipse around (x, y)."""
        self._draw.ellipse(self._box(x - rx, y - ry, x + rx, y + ry), fill=int(material))

    def rectangle(self, x0: float, y0: float, x1: float, y1: float, material: Material, round_by: float = 0.0) -> None:
        """Fill a rectangle; `round_by` is the corner radius in units."""
        radius = round_by * abs(self._unit[1])
        self._draw.rounded_rectangle(self._box(x0, y0, x1, y1), radius=radius, fill=int(material))

    def polygon(self, points: Sequence[Point], material: Material) -> None:
        """Fill a polygon."""
        self._draw.polygon([self._pixel(point) for point in points], fill=int(material))

    def stroke(self, points: Sequence[Point], width: float, material: Material) -> None:
        """Draw a thick line with round joints; `width` in units."""
        pixels = [self._pixel(point) for point in points]
        thickness = max(1, round(width * abs(self._unit[1])))
        self._draw.line(pixels, fill=int(material), width=thickness, joint="curve")
        radius = thickness / 2
        for x, y in (pixels[0], pixels[-1]):
            self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=int(material))

    def ring(self, x: float, y: float, radius: Point, width: float, material: Material) -> None:
        """Draw an ellipse's outline, as a handle is."""
        thickness = max(1, round(width * abs(self._unit[1])))
        box = self._box(x - radius[0], y - radius[1], x + radius[0], y + radius[1])
        self._draw.ellipse(box, outline=int(material), width=thickness)
