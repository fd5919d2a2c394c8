"""One number of an evaluation, with what is needed to judge it; and scores laid out as a table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from textual_inversion_ext.errors import ReportError

WORD = "word"
"""Subject: pictures made with the learned word."""
CLASS_WORD = "class word"
"""Subject: pictures made with the coarse word in its place ("dog")."""
CAPTION = "caption"
"""Subject: pictures made with the best description in words that is known."""
INITIAL_ROWS = "initial rows"
"""Subject: pictures made with the rows from which training started."""
REAL_PICTURES = "real pictures"
"""Subject: the training pictures among themselves; what a perfect word would reach."""

SUBJECTS = (WORD, CLASS_WORD, CAPTION, INITIAL_ROWS, REAL_PICTURES)
"""The subjects that every protocol may have, in the order of tables."""

_DECIMALS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What one metric says about the pictures of one subject.

    Attributes:
        metric: The metric's name, the name of its backbone in it. Cosines are stored raw, never times 100.
        subject: Whose pictures: one of ``SUBJECTS``, or a name of the protocol's own.
        prompt: Prompt with ``{}`` where the word goes, or None for all pictures of the metric's prompts.
        mean: Mean over the pictures that have a score.
        standard_error: Of the mean: sample standard deviation / sqrt(n); None for fewer than two pictures. Of a metric
            whose pictures' scores depend on each other it is that of the prompts' means, None for a single prompt.
        n: Number of pictures that have a score.
        per_image: The score of each picture, in the order of the subject's ``PictureSet``, None for a picture that has
            none; empty where the metric has one number for all pictures.
        backbone: The model that measured, or "" for a metric without one.
        higher_is_better: Direction of the metric.
        independent: Whether each picture's score is its own. The distance to the other samples of a prompt is not: of
            two pictures both have the same one, which does not make it certain.
    """

    metric: str
    subject: str
    prompt: str | None = None
    mean: float
    standard_error: float | None = None
    n: int
    per_image: tuple[float | None, ...] = ()
    backbone: str = ""
    higher_is_better: bool = True
    independent: bool = True

    def __post_init__(self) -> None:
        each = [value for value in self.per_image if value is not None]
        error = 0.0 if self.standard_error is None else self.standard_error
        if not all(math.isfinite(value) for value in (self.mean, error, *each)):
            raise ReportError(f"{self.metric} of {self.subject!r} is not finite; the metric or its backbone is broken.")
        if self.n < 1 or (self.per_image and len(each) != self.n):
            raise ReportError(
                f"{self.metric} of {self.subject!r} has n {self.n} and {len(each)} scores of pictures;"
                " n is at least 1, and there are n scores or none."
            )

    @classmethod
    def of(
        cls,
        metric: str,
        subject: str,
        values: Sequence[float],
        *,
        prompt: str | None = None,
        backbone: str = "",
        higher_is_better: bool = True,
        independent: bool = True,
    ) -> Score:
        """Sum up scores of pictures.

        Args:
            metric: The metric's name.
            subject: Whose pictures.
            values: One score per picture, NaN for a picture that has none; at least one that is no NaN.
            prompt: The prompt with ``{}``, or None for all.
            backbone: The model that measured.
            higher_is_better: Direction of the metric.
            independent: Whether each picture's score is its own.

        Returns:
            The score, its numbers rounded to six decimals.

        Raises:
            ReportError: There is no value, or one is infinite.
        """
        each = [None if math.isnan(value) else round(float(value), _DECIMALS) for value in values]
        found = [value for value in each if value is not None]
        if not found or not all(map(math.isfinite, found)):
            raise ReportError(
                f"{metric} of {subject!r}: of {len(each)} pictures {len(found)} have a score, not all of them finite;"
                " there must be one at least, and an infinite one comes of a broken backbone."
            )
        error = statistics.stdev(found) / math.sqrt(len(found)) if len(found) > 1 and independent else None
        return cls(
            metric=metric,
            subject=subject,
            prompt=prompt,
            mean=round(statistics.fmean(found), _DECIMALS),
            standard_error=None if error is None else round(error, _DECIMALS),
            n=len(found),
            per_image=tuple(each),
            backbone=backbone,
            higher_is_better=higher_is_better,
            independent=independent,
        )

    def shown(self) -> str:
        """The score as a table has it: ``0.812 ± 0.011``."""
        return f"{self.mean:.3f}" + ("" if self.standard_error is None else f" ± {self.standard_error:.3f}")


def metrics_of(scores: Sequence[Score]) -> tuple[str, ...]:
    """Names of the metrics.

    Args:
        scores: Any scores.

    Returns:
        Each name once, in the order of the scores.
    """
    return tuple(dict.fromkeys(score.metric for score in scores))


def subjects_of(scores: Sequence[Score]) -> tuple[str, ...]:
    """Names of the subjects.

    Args:
        scores: Any scores.

    Returns:
        Each name once: those of ``SUBJECTS`` in their order, then the protocol's own.
    """
    found = dict.fromkeys(score.subject for score in scores)
    return (*(subject for subject in SUBJECTS if subject in found), *(name for name in found if name not in SUBJECTS))


def prompts_of(scores: Sequence[Score]) -> tuple[str, ...]:
    """Prompts that have scores of their own.

    Args:
        scores: Any scores.

    Returns:
        Each prompt once, in the order of the scores.
    """
    return tuple(dict.fromkeys(score.prompt for score in scores if score.prompt is not None))


def find(scores: Sequence[Score], metric: str, subject: str = WORD, prompt: str | None = None) -> Score | None:
    """Look a score up.

    Args:
        scores: Where to look.
        metric: The metric's name.
        subject: Whose pictures.
        prompt: The prompt with ``{}``, or None for the score over all.

    Returns:
        The score, or None if there is none.
    """
    wanted = (metric, subject, prompt)
    return next((score for score in scores if (score.metric, score.subject, score.prompt) == wanted), None)
