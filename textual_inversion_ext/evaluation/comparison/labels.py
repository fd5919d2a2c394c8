"""Labels beside marks: each finds a place where it hides nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from textual_inversion_ext.evaluation.comparison.drawing import Line, Mark, Part, Text, text_width

__all__ = ["LABEL_SIZE", "Box", "box_of", "cut", "place_labels"]

LABEL_SIZE = 13.0
"""Of the font, in units."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""

_LONGEST = 36  # letters
_INK, _LEADER = "#202124", "#70757d"
# Diagonals first: right, left, above and below lie the mark's own bars.
_DIRECTIONS = ((0.7, -0.7), (0.7, 0.7), (-0.7, -0.7), (-0.7, 0.7), (1, 0), (-1, 0), (0, -1), (0, 1))
_DISTANCES = (9.0, 16.0, 28.0, 44.0, 64.0)


def cut(label: str) -> str:
    """Shorten a label.

    Args:
        label: The label.

    Returns:
        Its beginning, with dots where it was longer.
    """
    return label if len(label) <= _LONGEST else f"{label[: _LONGEST - 3]}..."


def box_of(part: Part) -> Box:
    """The box that a part of a drawing fills.

    Args:
        part: A part; lines are level or upright.

    Returns:
        The box, with a little room around it.
    """
    if isinstance(part, Line):
        (x1, y1), (x2, y2) = part.start, part.end
        return (min(x1, x2) - 1, min(y1, y2) - 1, max(x1, x2) + 1, max(y1, y2) + 1)
    x, y = part.place
    if isinstance(part, Mark):
        room = part.radius + 2
        return (x - room, y - room, x + room, y + room)
    width = text_width(part.text, part.size)
    if part.upwards:
        return (x - part.size, y - width / 2, x + 4, y + width / 2)
    left = x - {"start": 0.0, "middle": width / 2, "end": width}[part.anchor]
    return (left, y - part.size, left + width, y + 4)


def place_labels(
    labels: Sequence[tuple[str, tuple[float, float]]], drawn: Sequence[Box], inside: Box
) -> list[Line | Text]:
    """Find for each label the nearest place where it covers nothing.

    The labels of the most crowded marks choose first. Where every place is taken, the least bad one is used.

    Args:
        labels: Labels and the places of their marks.
        drawn: Boxes of everything that should stay readable.
        inside: The box that labels should not leave.

    Returns:
        The labels, and a thin line to its mark from each that lies far from it.
    """
    order = sorted(range(len(labels)), key=lambda one: _crowd(labels[one][1], [place for _, place in labels]))
    taken: list[Box] = []
    parts: list[Line | Text] = []
    for one in order:
        text, place = cut(labels[one][0]), labels[one][1]
        boxes = [_label_box(place, text_width(text, LABEL_SIZE), far, way) for far in _DISTANCES for way in _DIRECTIONS]
        # Overlaps count before distance: the boxes are sorted by distance already, and min() keeps the first of equals.
        best = min(boxes, key=lambda box: round(_covered(box, [*drawn, *taken]) + _outside(box, inside)))
        taken.append(best)
        nearest = (min(max(place[0], best[0]), best[2]), min(max(place[1], best[1]), best[3]))
        if math.dist(place, nearest) > _DISTANCES[1]:
            parts.append(Line(place, nearest, _LEADER, 0.75))
        parts.append(Text((best[0], best[3] - 4), text, LABEL_SIZE, _INK, halo=True))
    return parts


def _label_box(place: tuple[float, float], width: float, far: float, way: tuple[float, float]) -> Box:
    """The box of a label that touches a circle around its mark: its nearest side or corner lies on the circle."""
    height = LABEL_SIZE + 4
    x, y = place[0] + far * way[0], place[1] + far * way[1]
    left = x - width * (1 - math.copysign(1, way[0]) if way[0] else 1) / 2
    top = y - height * (1 - math.copysign(1, way[1]) if way[1] else 1) / 2
    return (left, top, left + width, top + height)


def _covered(box: Box, others: Sequence[Box]) -> float:
    """Area of a box that others cover."""
    widths = [max(0.0, min(box[2], other[2]) - max(box[0], other[0])) for other in others]
    heights = [max(0.0, min(box[3], other[3]) - max(box[1], other[1])) for other in others]
    return sum(width * height for width, height in zip(widths, heights, strict=True))


def _outside(box: Box, inside: Box) -> float:
    """Area of a box that lies outside of another; it weighs double, because cut text is worse than crossed text."""
    return 2 * ((box[2] - box[0]) * (box[3] - box[1]) - _covered(box, [inside]))


def _crowd(place: tuple[float, float], places: Sequence[tuple[float, float]]) -> float:
    """How far the third nearest mark is: small in a crowd."""
    distances = sorted(math.dist(place, other) for other in places)
    return distances[min(3, len(distances) - 1)]
