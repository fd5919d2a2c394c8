"""What ``textual-inversion evaluate`` prints: the scores of a report as tables of plain text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from textual_inversion_ext.evaluation.report import EvaluationReport
    from textual_inversion_ext.evaluation.score import Score

__all__ = ["score_lines"]

_MOST_COLUMNS = 5  # metrics beside each other; more than that stand below each other


def score_lines(report: EvaluationReport, scale: str = "raw") -> list[str]:
    """The scores over all prompts, and in another scale than the report's also prompt by prompt.

    Args:
        report: The report.
        scale: "raw" for cosines as the report has them, or a key of ``evaluation.views.VIEWS``.

    Returns:
        Lines, a headline first.
    """
    count, seeds = len(report.protocol.prompts), len(report.protocol.seeds)
    headline = f"{report.concept.token} on {report.concept.base_model}, protocol {report.protocol.name}"
    shown = {metric: _titled(metric, scale) for metric in report.metrics}
    rows = [["", *shown.values()]]
    for subject in report.subjects:
        phrase = report.phrase(subject)
        cells = [_cell(report.score(metric, subject), scale) for metric in shown]
        rows.append([f"{subject}: {phrase}" if phrase else subject, *cells])
    if len(shown) > _MOST_COLUMNS:
        rows = [list(column) for column in zip(*rows, strict=True)]
    lines = [f"{headline} ({count} prompts x {seeds} pictures)", *_table(rows)]
    if scale != "raw":
        by_prompt = [
            [prompt.replace("{}", "*"), *(_cell(report.score(metric, prompt=prompt), scale) for metric in shown)]
            for prompt in report.protocol.prompts
        ]
        lines += ["", *_table([["the word, prompt by prompt", *shown.values()], *by_prompt])]
    return [*lines, *_published(report)]


def _titled(metric: str, scale: str) -> str:
    from textual_inversion_ext.evaluation.views import is_cosine

    return f"{metric}, {scale}" if scale != "raw" and is_cosine(metric) else metric


def _cell(score: Score | None, scale: str) -> str:
    from textual_inversion_ext.evaluation.views import viewed

    return "" if score is None else viewed(score, scale)


def _published(report: EvaluationReport) -> list[str]:
    """Other people's numbers for the protocol, a line for each method."""
    methods: dict[tuple[str, str], list[str]] = {}
    for other in report.published:
        methods.setdefault((other.method, other.source), []).append(f"{other.metric} {other.mean:.3f}")
    lines = [f"  {method}: {', '.join(values)} [{source}]" for (method, source), values in methods.items()]
    return ["Published by others (not measured here; backbones and pictures may differ):", *lines] if lines else []


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """First column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for name, *cells in rows:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *padded]).rstrip())
    return lines
