"""Creatures and people, in their own coordinates (see `Pen`); `size` scales the part that `FEATURES` names."""

from __future__ import annotations

from textual_inversion_ext.pocket.subjects.pen import Material as M
from textual_inversion_ext.pocket.subjects.pen import Pen


def _eyes(pen: Pen, y: float, apart: float, x: float = 0.0) -> None:
    for side in (-1, 1):
        pen.ellipse(x + side * apart, y, 0.075, 0.085, M.WHITE)
        pen.ellipse(x + side * apart, y, 0.05, 0.065, M.INK)


def cat(pen: Pen, size: float) -> None:
    """Sitting cat with pointed ears and a raised tail."""
    pen.stroke([(0.4, 0.8), (0.8, 0.65), (0.85, 0.2), (0.7, 0.0)], 0.17, M.ACCENT)
    pen.ellipse(0.0, 0.55, 0.5, 0.47, M.MAIN_SHADE)
    ear = 0.42 * size
    for side in (-1, 1):
        pen.polygon([(side * 0.46, -0.3), (side * 0.06, -0.5), (side * 0.42, -0.45 - ear)], M.MAIN_SHADE)
        pen.polygon([(side * 0.4, -0.34), (side * 0.16, -0.45), (side * 0.38, -0.42 - ear * 0.75)], M.ACCENT)
    pen.ellipse(0.0, -0.18, 0.5, 0.42, M.MAIN)
    _eyes(pen, -0.24, 0.2)
    pen.polygon([(-0.07, -0.1), (0.07, -0.1), (0.0, -0.02)], M.INK)
    for side in (-1, 1):
        pen.stroke([(side * 0.16, -0.02), (side * 0.44, 0.03)], 0.03, M.INK)
        pen.ellipse(side * 0.22, 0.92, 0.17, 0.1, M.ACCENT)


def dog(pen: Pen, size: float) -> None:
    """Standing dog seen from the side, with a floppy ear."""
    pen.stroke([(-0.62, 0.12), (-0.62 - 0.22 * size, -0.05 - 0.42 * size)], 0.14, M.ACCENT)
    for x in (-0.55, -0.28, 0.22, 0.46):
        pen.rectangle(x - 0.1, 0.3, x + 0.1, 1.0, M.MAIN_SHADE, 0.08)
        pen.ellipse(x, 0.95, 0.13, 0.07, M.ACCENT)
    pen.rectangle(-0.75, -0.05, 0.6, 0.55, M.MAIN, 0.28)
    pen.ellipse(0.55, -0.28, 0.36, 0.36, M.MAIN)
    pen.ellipse(0.86, -0.18, 0.22, 0.16, M.MAIN_SHADE)
    pen.ellipse(1.02, -0.24, 0.09, 0.08, M.INK)
    pen.ellipse(0.33, -0.2, 0.15, 0.36, M.ACCENT)
    pen.ellipse(0.62, -0.36, 0.08, 0.09, M.WHITE)
    pen.ellipse(0.64, -0.36, 0.055, 0.065, M.INK)


def rabbit(pen: Pen, size: float) -> None:
    """Sitting rabbit with upright ears and two teeth."""
    for side in (-1, 1):
        length = 0.5 * size
        pen.ellipse(side * 0.2, -0.3 - length * 0.75, 0.14, length, M.MAIN_SHADE)
        pen.ellipse(side * 0.2, -0.3 - length * 0.7, 0.07, length * 0.78, M.ACCENT)
    pen.ellipse(0.52, 0.72, 0.17, 0.17, M.ACCENT)
    pen.ellipse(0.0, 0.6, 0.46, 0.42, M.MAIN_SHADE)
    pen.ellipse(0.0, 0.05, 0.4, 0.36, M.MAIN)
    _eyes(pen, 0.0, 0.19)
    pen.ellipse(0.0, 0.13, 0.06, 0.045, M.INK)
    pen.rectangle(-0.07, 0.2, 0.07, 0.32, M.WHITE)
    for side in (-1, 1):
        pen.ellipse(side * 0.25, 0.93, 0.22, 0.1, M.ACCENT)


def bear(pen: Pen, size: float) -> None:
    """Bear facing us, round ears, pale muzzle and belly."""
    for side in (-1, 1):
        radius = 0.19 * size
        pen.ellipse(side * 0.38, -0.6, radius, radius, M.MAIN_SHADE)
        pen.ellipse(side * 0.38, -0.6, radius * 0.6, radius * 0.6, M.ACCENT)
        pen.ellipse(side * 0.58, 0.35, 0.2, 0.34, M.MAIN_SHADE)
        pen.ellipse(side * 0.34, 0.88, 0.24, 0.14, M.MAIN_SHADE)
    pen.ellipse(0.0, 0.45, 0.58, 0.52, M.MAIN)
    pen.ellipse(0.0, 0.5, 0.33, 0.34, M.ACCENT)
    pen.ellipse(0.0, -0.3, 0.48, 0.42, M.MAIN)
    pen.ellipse(0.0, -0.16, 0.23, 0.18, M.WHITE)
    pen.ellipse(0.0, -0.22, 0.09, 0.06, M.INK)
    _eyes(pen, -0.4, 0.2)


def bird(pen: Pen, size: float) -> None:
    """Round bird seen from the side, with a wing, a beak and thin legs."""
    for x in (-0.1, 0.15):
        pen.stroke([(x, 0.5), (x, 0.95)], 0.06, M.INK)
        pen.stroke([(x - 0.08, 0.97), (x + 0.14, 0.97)], 0.06, M.INK)
    pen.polygon([(-0.5, 0.15), (-1.05, -0.12), (-1.0, 0.3)], M.ACCENT)
    pen.ellipse(0.0, 0.2, 0.62, 0.46, M.MAIN)
    pen.ellipse(0.35, -0.25, 0.36, 0.36, M.MAIN)
    pen.polygon([(0.62, -0.34), (0.62, -0.06), (0.66 + 0.36 * size, -0.18)], M.BEAK)
    pen.ellipse(-0.12, 0.2, 0.36, 0.24, M.ACCENT)
    pen.ellipse(0.44, -0.32, 0.09, 0.09, M.WHITE)
    pen.ellipse(0.46, -0.32, 0.06, 0.065, M.INK)


def fish(pen: Pen, size: float) -> None:
    """Fish seen from the side, with tail and fins."""
    tail = 0.42 * size
    pen.polygon([(-0.45, 0.25), (-0.62 - tail * 0.6, 0.25 - tail), (-0.62 - tail * 0.6, 0.25 + tail)], M.ACCENT)
    pen.polygon([(-0.2, -0.1), (0.2, -0.45), (0.35, -0.1)], M.ACCENT)
    pen.polygon([(-0.1, 0.6), (0.1, 0.9), (0.3, 0.58)], M.ACCENT)
    pen.ellipse(0.1, 0.25, 0.75, 0.47, M.MAIN)
    pen.stroke([(0.38, -0.05), (0.3, 0.25), (0.38, 0.52)], 0.05, M.MAIN_SHADE)
    pen.ellipse(0.56, 0.12, 0.11, 0.11, M.WHITE)
    pen.ellipse(0.58, 0.12, 0.07, 0.075, M.INK)
    pen.stroke([(0.68, 0.4), (0.82, 0.36)], 0.05, M.INK)


def chef(pen: Pen, size: float) -> None:
    """Person with a tall white hat, a coloured coat and a neckerchief."""
    for side in (-1, 1):
        pen.rectangle(side * 0.2 - 0.13, 0.75, side * 0.2 + 0.13, 1.0, M.INK, 0.05)
        pen.stroke([(side * 0.4, 0.2), (side * 0.62, 0.55)], 0.2, M.MAIN_SHADE)
        pen.ellipse(side * 0.63, 0.6, 0.1, 0.1, M.SKIN)
    pen.rectangle(-0.45, 0.05, 0.45, 0.85, M.MAIN, 0.16)
    pen.ellipse(0.0, -0.25, 0.36, 0.36, M.HAIR)
    pen.ellipse(0.0, -0.18, 0.28, 0.32, M.SKIN)
    height = 0.42 * size
    pen.ellipse(0.0, -0.5 - height, 0.36, 0.2, M.WHITE)
    pen.rectangle(-0.29, -0.5 - height, 0.29, -0.42, M.WHITE)
    _eyes(pen, -0.2, 0.12)
    pen.polygon([(-0.26, 0.07), (0.26, 0.07), (0.0, 0.36)], M.ACCENT)
