"""What a page's drawings need: places of bars, points and ticks, computed here so that the template only writes them.

All drawings share one coordinate system, ``WIDTH`` units wide; the page scales them to its column.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from textual_inversion_ext.evaluation.facts import EncoderRows
from textual_inversion_ext.evaluation.report import EvaluationReport
from textual_inversion_ext.evaluation.score import WORD, Score

WIDTH = 720
"""Width of a drawing."""
_LEFT, _RIGHT = 56, WIDTH - 12
_TOP, _BOTTOM = 14, 206
_SMOOTHED = 9  # losses on either side of a running mean's middle


@dataclass(frozen=True, slots=True)
class Bar:
    """A subject's line in a metric's table.

    Attributes:
        score: The score.
        subject: Whose pictures.
        phrase: What stood in the prompts.
        start: Where the bar begins, percent of the column.
        length: How long it is, percent of the column.
        whisker: Begin and length of the standard error around the end, percent of the column; or None.
        ours: Whether it is the learned word's.
    """

    score: Score
    subject: str
    phrase: str
    start: float
    length: float
    whisker: tuple[float, float] | None
    ours: bool


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis.

    Attributes:
        place: Where, in units of the drawing.
        label: What it says.
    """

    place: float
    label: str


@dataclass(frozen=True, slots=True)
class Curve:
    """A curve of losses.

    Attributes:
        points: Its points as ``polyline`` has them.
        smooth: The running mean's.
        across: Ticks of the steps.
        upwards: Ticks of the losses.
        first: First step.
        last: Last step.
    """

    points: str
    smooth: str
    across: tuple[Tick, ...]
    upwards: tuple[Tick, ...]
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Norms:
    """Row norms beside the vocabulary's, on a logarithmic axis.

    Attributes:
        band: Begin and length of the middle nine tenths of the vocabulary.
        median: Place of its median.
        dots: Place of each row.
        ticks: Ticks of the axis.
    """

    band: tuple[float, float]
    median: float
    dots: tuple[float, ...]
    ticks: tuple[Tick, ...]


def bars_of(report: EvaluationReport, metric: str) -> list[Bar]:
    """A metric's bars: from zero, so that their lengths may be compared; the longest fills the column.

    Args:
        report: The report.
        metric: One of its metrics.

    Returns:
        A bar per subject that has a score over all prompts.
    """
    found = [(subject, report.score(metric, subject)) for subject in report.subjects]
    scores = [(subject, score) for subject, score in found if score is not None]
    ends = [score.mean + sign * (score.standard_error or 0.0) for _, score in scores for sign in (-1, 1)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    span = (high - low) or 1.0

    def percent(value: float) -> float:
        return round(100 * (value - low) / span, 2)

    bars = []
    for subject, score in scores:
        start, end = sorted((percent(0.0), percent(score.mean)))
        error, whisker = score.standard_error, None
        if error is not None:
            first, last = percent(score.mean - error), percent(score.mean + error)
            whisker = (first, round(last - first, 2))
        phrase = report.phrase(subject)
        bars.append(Bar(score, subject, phrase, start, round(end - start, 2), whisker, subject == WORD))
    return bars


def loss_curve(losses: Sequence[tuple[int, float]]) -> Curve | None:
    """Place the losses of a training.

    Args:
        losses: Steps and losses.

    Returns:
        The curve, or None for fewer than two.
    """
    if len(losses) < 2:
        return None
    values = [loss for _, loss in losses]
    smooth = []
    for place in range(len(values)):
        reach = min(_SMOOTHED, place, len(values) - 1 - place)  # symmetric, or it would bend at the ends
        smooth.append(_mean(values[place - reach : place + reach + 1]))
    low, high = min(values), max(values)
    first, last = losses[0][0], losses[-1][0]

    def x(step: float) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * (step - first) / max(last - first, 1), 1)

    def y(loss: float) -> float:
        return round(_BOTTOM - (_BOTTOM - _TOP) * (loss - low) / max(high - low, 1e-12), 1)

    def line(heights: Sequence[float]) -> str:
        return " ".join(f"{x(step)},{y(height)}" for (step, _), height in zip(losses, heights, strict=True))

    return Curve(
        points=line(values),
        smooth=line(smooth),
        across=tuple(Tick(x(step), f"{step:g}") for step in round_values(first, last)),
        upwards=tuple(Tick(y(loss), f"{loss:g}") for loss in round_values(low, high)),
        first=first,
        last=last,
    )


def norm_strip(rows: EncoderRows) -> Norms | None:
    """Place the norms of rows and vocabulary.

    Args:
        rows: The rows of a text encoder.

    Returns:
        The places, or None where a norm is 0 and has none on a logarithmic axis.
    """
    low, middle, high = rows.vocabulary_norms
    everything = [low, middle, high, *rows.norms]
    if min(everything) <= 0 or not all(map(math.isfinite, everything)):
        return None
    first, last = math.log(min(everything)) - 0.25, math.log(max(everything)) + 0.25

    def x(norm: float) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * (math.log(norm) - first) / (last - first), 1)

    return Norms(
        band=(x(low), round(x(high) - x(low), 1)),
        median=x(middle),
        dots=tuple(x(norm) for norm in rows.norms),
        ticks=tuple(Tick(x(value), f"{value:.3g}") for value in _log_values(math.exp(first), math.exp(last))),
    )


def round_values(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers for the ticks of an axis.

    Args:
        low: Its beginning.
        high: Its end.
        count: About how many.

    Returns:
        Multiples of 1, 2 or 5 times a power of ten between the two.
    """
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    digits = max(0, -math.floor(math.log10(step)))
    return [round(n * step, digits) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_values(low: float, high: float) -> list[float]:
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [factor * 10.0**exponent for exponent in exponents for factor in (1, 2, 5)]
    inside = [value for value in found if low <= value <= high]
    return inside if len(inside) >= 2 else round_values(low, high, 3)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
