"""The editability-versus-reconstruction plot: text score against image score, a mark for each run and baseline.

Source: Gal et al., An Image is Worth One Word, 2022, figure 10.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from textual_inversion_ext.evaluation.comparison.bootstrap import Interval
from textual_inversion_ext.evaluation.comparison.drawing import Drawing, Line, Mark, Part, Shape, Text, text_width
from textual_inversion_ext.evaluation.comparison.labels import LABEL_SIZE, box_of, cut, place_labels

__all__ = ["Point", "plot"]

WIDTH, HEIGHT = 960, 680
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 24, 48, 62
_INK, _GRID, _BASELINE = "#202124", "#e4e6ea", "#70757d"
# Okabe and Ito's colours, told apart by people of any colour vision; the pale yellow is left out.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_RADIUS = 6.0
_AXIS_SIZE, _TITLE_SIZE = 15.0, 17.0


@dataclass(frozen=True, slots=True)
class Point:
    """What one mark of the plot shows.

    Attributes:
        label: Written beside it.
        x: Reconstruction, or None: it has only the other score, and becomes a line across the plot.
        y: Editability, or None likewise.
        baseline: Whether it is no run but something to judge runs by.
    """

    label: str
    x: Interval | None
    y: Interval | None
    baseline: bool = False


@dataclass(frozen=True, slots=True)
class _Axis:
    """Maps values to places on the page."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """Round values between the ends, four to eight, and how they are written."""
        rough = (self.high - self.low) / 8
        power = 10 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
        decimals = max(0, -math.floor(math.log10(step)))
        first = math.ceil(self.low / step)
        count = math.floor(self.high / step) - first + 1
        return [((first + n) * step, f"{(first + n) * step:.{decimals}f}") for n in range(count)]


def plot(points: Sequence[Point], *, x_label: str, y_label: str, title: str = "") -> Drawing:
    """Draw the plot.

    Args:
        points: Runs and baselines; at least one of them with a score.
        x_label: What the horizontal axis is: reconstruction.
        y_label: What the vertical axis is: editability.
        title: Above everything.

    Returns:
        The drawing; intervals are bars, baselines hollow diamonds. A baseline is a dashed line where it has one score
        only, or where the other one is so far from the runs' that it would press them into a corner.

    Raises:
        ValueError: No point has a score.
    """
    points = _within_reach(points)
    across = _axis([point.x for point in points], _LEFT, WIDTH - _RIGHT)
    upwards = _axis([point.y for point in points], HEIGHT - _BOTTOM, _TOP)
    parts: list[Part] = _frame(across, upwards, x_label, y_label, title)
    bars: list[Line] = []
    marks: list[Mark] = []
    labels: list[tuple[str, tuple[float, float]]] = []
    runs = 0
    for point in points:
        colour = _BASELINE if point.baseline else _COLOURS[runs % len(_COLOURS)]
        runs += not point.baseline
        if point.x is not None and point.y is not None:
            place = (across(point.x.mean), upwards(point.y.mean))
            bars += _bars(point.x, point.y, across, upwards, colour)
            shape: Shape = "diamond" if point.baseline else "disc"
            marks.append(Mark(place, _RADIUS, colour, shape, _told(point)))
            labels.append((point.label, place))
        elif point.x is not None or point.y is not None:
            parts += _crossing_line(point, across, upwards)
    drawn: list[Part] = [*(part for part in parts if isinstance(part, Text)), *bars, *marks]
    inside = (_LEFT + 2.0, _TOP - 8.0, WIDTH - 4.0, HEIGHT - _BOTTOM - 2.0)
    parts += [*bars, *marks, *place_labels(labels, [box_of(part) for part in drawn], inside)]
    return Drawing(WIDTH, HEIGHT, parts, title or f"{y_label} against {x_label}")


def _within_reach(points: Sequence[Point]) -> list[Point]:
    """Keep of a baseline only the score that lies near the runs, if just one of its scores does."""
    runs = [point for point in points if not point.baseline]
    far_x = _far([point.x for point in runs if point.x])
    far_y = _far([point.y for point in runs if point.y])
    kept = []
    for point in points:
        far = (far_x(point.x), far_y(point.y)) if point.baseline and point.x and point.y else (False, False)
        kept.append(replace(point, x=None) if far == (True, False) else point)
        if far == (False, True):
            kept[-1] = replace(point, y=None)
    return kept


def _far(runs: Sequence[Interval]) -> Callable[[Interval | None], bool]:
    """Tell what lies farther from the runs than one and a half times their range."""
    ends = [end for interval in runs for end in interval.ends]
    if not ends:
        return lambda value: False
    reach = 1.5 * max(max(ends) - min(ends), 0.15)
    return lambda value: value is not None and not min(ends) - reach <= value.mean <= max(ends) + reach


def _axis(values: Sequence[Interval | None], start: float, end: float) -> _Axis:
    ends = [value for interval in values if interval is not None for value in interval.ends]
    if not ends:
        raise ValueError("A plot needs a score for each of its axes.")
    low, high = min(ends), max(ends)
    # A tenth of room on either side; one value alone, or equal ones, get a hundredth of the scale.
    room = max((high - low) / 10, 0.01)
    return _Axis(low - room, high + room, start, end)


def _frame(across: _Axis, upwards: _Axis, x_label: str, y_label: str, title: str) -> list[Part]:
    parts: list[Part] = [Text((_LEFT, _TOP - 20), title, _TITLE_SIZE, _INK)] if title else []
    for value, text in across.ticks():
        x = across(value)
        parts.append(Line((x, upwards.start), (x, upwards.end), _GRID))
        parts.append(Text((x, upwards.start + 20), text, LABEL_SIZE, _INK, "middle"))
    for value, text in upwards.ticks():
        y = upwards(value)
        parts.append(Line((across.start, y), (across.end, y), _GRID))
        parts.append(Text((across.start - 8, y + 5), text, LABEL_SIZE, _INK, "end"))
    parts.append(Line((across.start, upwards.start), (across.end, upwards.start), _INK))
    parts.append(Line((across.start, upwards.start), (across.start, upwards.end), _INK))
    parts.append(Text(((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 14), x_label, _AXIS_SIZE, _INK, "middle"))
    parts.append(Text((20, (_TOP + HEIGHT - _BOTTOM) / 2), y_label, _AXIS_SIZE, _INK, "middle", upwards=True))
    return parts


def _bars(x: Interval, y: Interval, across: _Axis, upwards: _Axis, colour: str) -> list[Line]:
    middle = (across(x.mean), upwards(y.mean))
    bars: list[Line] = []
    if x.low is not None:
        bars.append(Line((across(x.ends[0]), middle[1]), (across(x.ends[1]), middle[1]), colour, 1.5))
    if y.low is not None:
        bars.append(Line((middle[0], upwards(y.ends[0])), (middle[0], upwards(y.ends[1])), colour, 1.5))
    return bars


def _crossing_line(point: Point, across: _Axis, upwards: _Axis) -> list[Part]:
    label = cut(point.label)
    if point.x is not None:
        x = across(point.x.mean)
        line = Line((x, upwards.start), (x, upwards.end), _BASELINE, 1.5, dashed=True)
        # Beside its line, on the side that has room.
        left = x + 6 + text_width(label, LABEL_SIZE) > across.end
        place = (x - 6, upwards.end + 14) if left else (x + 6, upwards.end + 14)
        return [line, Text(place, label, LABEL_SIZE, _BASELINE, "end" if left else "start")]
    if point.y is None:
        return []
    y = upwards(point.y.mean)
    line = Line((across.start, y), (across.end, y), _BASELINE, 1.5, dashed=True)
    return [line, Text((across.end - 4, y - 5), label, LABEL_SIZE, _BASELINE, "end")]


def _told(point: Point) -> str:
    told = [f"{value.mean:.3f} [{value.ends[0]:.3f}, {value.ends[1]:.3f}]" for value in (point.x, point.y) if value]
    return f"{point.label}: {' / '.join(told)}"
