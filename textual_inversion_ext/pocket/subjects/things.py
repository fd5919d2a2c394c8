"""Things, in their own coordinates (see `Pen`); `size` scales the part that `FEATURES` names."""

from __future__ import annotations

from textual_inversion_ext.pocket.subjects.pen import Material as M
from textual_inversion_ext.pocket.subjects.pen import Pen


def car(pen: Pen, size: float) -> None:
    """Car seen from the side."""
    pen.polygon([(-0.6, 0.2), (-0.4, -0.4), (0.35, -0.4), (0.65, 0.2)], M.ACCENT)
    pen.polygon([(-0.42, 0.14), (-0.29, -0.26), (-0.06, -0.26), (-0.06, 0.14)], M.GLASS)
    pen.polygon([(0.06, 0.14), (0.06, -0.26), (0.28, -0.26), (0.46, 0.14)], M.GLASS)
    pen.rectangle(-1.0, 0.14, 1.0, 0.72, M.MAIN, 0.16)
    pen.ellipse(0.93, 0.36, 0.08, 0.09, M.WHITE)
    radius = 0.27 * size
    for x in (-0.55, 0.55):
        pen.ellipse(x, 1.0 - radius, radius, radius, M.INK)
        pen.ellipse(x, 1.0 - radius, radius * 0.45, radius * 0.45, M.WHITE)


def boat(pen: Pen, size: float) -> None:
    """Sailing boat."""
    pen.rectangle(-0.09, -1.0, 0.01, 0.5, M.INK)
    height = 0.95 * size
    pen.polygon([(0.06, 0.3), (0.06, 0.3 - height), (0.12 + 0.6 * size, 0.3)], M.ACCENT)
    pen.polygon([(-0.15, 0.3), (-0.15, 0.4 - height * 0.85), (-0.2 - 0.42 * size, 0.3)], M.ACCENT)
    pen.polygon([(-1.0, 0.42), (1.0, 0.42), (0.65, 1.0), (-0.65, 1.0)], M.MAIN)
    for x in (-0.4, 0.0, 0.4):
        pen.ellipse(x, 0.64, 0.08, 0.08, M.WHITE)


def teapot(pen: Pen, size: float) -> None:
    """Teapot with a spout to the right and a round handle to the left."""
    pen.ring(-0.68, 0.28, (0.3, 0.34), 0.13, M.ACCENT)
    reach = 0.42 * size
    pen.polygon(
        [(0.4, 0.62), (0.4, 0.2), (0.6 + reach * 0.6, -0.12 - reach * 0.5), (0.78 + reach, -0.02 - reach * 0.5)],
        M.MAIN_SHADE,
    )
    pen.ellipse(0.0, 0.35, 0.64, 0.58, M.MAIN)
    pen.rectangle(-0.35, 0.86, 0.35, 1.0, M.ACCENT, 0.06)
    pen.ellipse(0.0, -0.18, 0.36, 0.16, M.ACCENT)
    pen.ellipse(0.0, -0.4, 0.12, 0.12, M.ACCENT)


def mug(pen: Pen, size: float) -> None:
    """Mug with a handle and an open top."""
    radius = 0.34 * size
    pen.ring(0.5 + radius * 0.5, 0.25, (radius, radius * 1.15), 0.15, M.ACCENT)
    pen.rectangle(-0.6, -0.45, 0.6, 1.0, M.MAIN, 0.12)
    pen.ellipse(0.0, -0.45, 0.6, 0.19, M.ACCENT)
    pen.ellipse(0.0, -0.45, 0.48, 0.13, M.INK)


def clock(pen: Pen, size: float) -> None:
    """Alarm clock with two bells and two feet."""
    radius = 0.25 * size
    for side in (-1, 1):
        pen.stroke([(side * 0.35, 0.8), (side * 0.55, 0.97)], 0.14, M.ACCENT)
        pen.ellipse(side * 0.5, -0.5, radius, radius, M.ACCENT)
    pen.ellipse(0.0, 0.2, 0.76, 0.76, M.MAIN)
    pen.ellipse(0.0, 0.2, 0.54, 0.54, M.WHITE)
    for x, y in ((0.0, -0.4), (0.4, 0.0), (0.0, 0.4), (-0.4, 0.0)):
        pen.ellipse(x, 0.2 + y, 0.05, 0.05, M.INK)
    pen.stroke([(0.0, 0.2), (0.0, -0.12)], 0.08, M.INK)
    pen.stroke([(0.0, 0.2), (0.24, 0.34)], 0.08, M.INK)


def robot(pen: Pen, size: float) -> None:
    """Robot with a square head, an antenna, arms and a panel."""
    top = -0.6 - 0.42 * size
    pen.stroke([(0.0, -0.5), (0.0, top)], 0.07, M.INK)
    pen.ellipse(0.0, top, 0.12 * size, 0.12 * size, M.ACCENT)
    for side in (-1, 1):
        pen.rectangle(side * 0.62 - 0.11, 0.12, side * 0.62 + 0.11, 0.68, M.ACCENT, 0.08)
        pen.rectangle(side * 0.25 - 0.13, 0.7, side * 0.25 + 0.13, 1.0, M.ACCENT, 0.04)
    pen.rectangle(-0.5, 0.08, 0.5, 0.78, M.MAIN_SHADE, 0.06)
    pen.rectangle(-0.24, 0.24, 0.24, 0.52, M.WHITE)
    pen.rectangle(-0.45, -0.58, 0.45, 0.02, M.MAIN, 0.08)
    for side in (-1, 1):
        pen.ellipse(side * 0.2, -0.32, 0.11, 0.11, M.WHITE)
        pen.ellipse(side * 0.2, -0.32, 0.055, 0.055, M.INK)
    pen.rectangle(-0.22, -0.16, 0.22, -0.07, M.INK)


def mushroom(pen: Pen, size: float) -> None:
    """Mushroom: a cap on a stem."""
    pen.polygon([(-0.24, 0.0), (0.24, 0.0), (0.34, 1.0), (-0.34, 1.0)], M.ACCENT)
    width = 0.72 + 0.34 * (size - 1.0)
    height = 0.82 + 0.3 * (size - 1.0)
    points = [(-1.0, 0.0), (-0.93, -0.38), (-0.7, -0.74), (-0.36, -0.94), (0.0, -1.0)]
    points += [(-x, y) for x, y in reversed(points[:-1])]
    pen.polygon([(x * width, 0.16 + y * height) for x, y in points], M.MAIN)
    pen.ellipse(0.0, 0.16, width, 0.13, M.MAIN_SHADE)
    pen.ellipse(0.0, 0.17, 0.26, 0.08, M.ACCENT)


def house(pen: Pen, size: float) -> None:
    """House with a roof, a door and two windows."""
    peak = -0.05 - 0.72 * size
    pen.rectangle(0.36, -0.75, 0.56, -0.1, M.MAIN_SHADE)
    pen.rectangle(-0.72, -0.1, 0.72, 1.0, M.MAIN)
    pen.polygon([(-0.95, -0.02), (0.95, -0.02), (0.0, peak)], M.ACCENT)
    pen.rectangle(-0.16, 0.42, 0.16, 1.0, M.INK)
    for side in (-1, 1):
        pen.rectangle(side * 0.44 - 0.15, 0.2, side * 0.44 + 0.15, 0.52, M.GLASS)
