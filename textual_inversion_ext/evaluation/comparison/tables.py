"""Runs beside each other: which can be compared, their means, and how sure those are."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from textual_inversion_ext.errors import ReportError
from textual_inversion_ext.evaluation.comparison.baselines import baselines_of, is_real
from textual_inversion_ext.evaluation.comparison.bootstrap import Interval, bootstrap_mean
from textual_inversion_ext.evaluation.comparison.runs import (
    EvaluatedRun,
    difference_of,
    distinct_facts,
    facts_of,
    metric_named,
    notices_of,
)
from textual_inversion_ext.evaluation.report import WORD, EvaluationReport

__all__ = ["AXES", "Comparison", "Row", "Table", "compare"]

AXES = ("clip_image", "clip_text")
"""Keys of the metrics of the plot: reconstruction and editability."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one run, or something to judge runs by, reached.

    Attributes:
        name: The run's name, or the baseline's subject.
        baseline: Whether it is no run.
        means: Metric -> mean over the concepts of the table that all runs have.
        by_concept: Token -> metric -> mean of that concept.
        differences: Metric -> how far the run lies above the first one, concept by concept or picture by picture.
        facts: What distinguishes it from the other runs: settings of its pictures, steps, vectors.
    """

    name: str
    baseline: bool
    means: Mapping[str, Interval]
    by_concept: Mapping[str, Mapping[str, Interval]]
    differences: Mapping[str, Interval] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Table:
    """Runs that can be compared: same model, same protocol, same backbones.

    Attributes:
        rules: What they have in common, in words.
        axes: Names of the metrics of the plot; None where no report has one.
        metrics: Names of all metrics.
        concepts: Tokens that all runs have; what the means are over.
        rows: The runs in the order they were given, then the baselines.
        notices: What a reader has to know, one sentence each.
    """

    rules: str
    axes: tuple[str | None, str | None]
    metrics: tuple[str, ...]
    concepts: tuple[str, ...]
    rows: tuple[Row, ...]
    notices: tuple[str, ...]

    @property
    def tokens(self) -> tuple[str, ...]:
        """Tokens that any run has, in the order of the runs."""
        return tuple(dict.fromkeys(token for row in self.rows for token in row.by_concept))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that was compared.

    Attributes:
        tables: One for all runs that can be compared with each other; the largest first.
        notices: Why there are several, if there are.
    """

    tables: tuple[Table, ...]
    notices: tuple[str, ...] = ()


def compare(runs: Sequence[EvaluatedRun], axes: tuple[str, str] = AXES) -> Comparison:
    """Lay runs beside each other.

    Args:
        runs: The runs; differences are taken from the first one of each table.
        axes: Keys or names of the metrics of the plot.

    Returns:
        One table for all runs that can be compared with each other.

    Raises:
        ReportError: There is no run, two have the same name, or a run mixes reports that cannot be compared.
    """
    names = [run.name for run in runs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not runs or twice:
        raise ReportError(f"Two runs are called {twice[0]!r}; rename one." if twice else "There is no run to compare.")
    groups: list[list[EvaluatedRun]] = []
    for run in runs:
        if mixed := difference_of(run, run, axes):
            raise ReportError(f"The reports of {run.name} differ ({mixed}); evaluate all of its concepts alike.")
        for group in groups:
            if not any(difference_of(member, run, axes) for member in group):
                group.append(run)
                break
        else:
            groups.append([run])
    groups.sort(key=lambda group: -len(group))
    first = groups[0][0]
    notices = [
        f"Not comparable with {first.name}: {', '.join(run.name for run in group)}"
        f" ({difference_of(first, group[0], axes) or 'other prompts'})."
        for group in groups[1:]
    ]
    return Comparison(tuple(_table(group, axes) for group in groups), tuple(notices))


def _table(runs: Sequence[EvaluatedRun], axes: tuple[str, str]) -> Table:
    everywhere = [{report.concept.token for report in run.reports} for run in runs]
    shared = set.intersection(*everywhere)
    tokens = dict.fromkeys(report.concept.token for run in runs for report in run.reports)
    concepts = tuple(token for token in tokens if token in shared)
    metrics = tuple(dict.fromkeys(name for run in runs for report in run.reports for name in report.metrics))
    notices = notices_of(runs, concepts)
    over = concepts or tuple(tokens)
    facts = distinct_facts([facts_of(run) for run in runs])
    first = _scores(runs[0].reports, WORD, over, metrics)
    rows = []
    for run, told in zip(runs, facts, strict=True):
        scores = _scores(run.reports, WORD, tuple(tokens), metrics)
        inside = {metric: found.only(over) for metric, found in scores.items()}
        differences = {} if run is runs[0] else {m: d for m in metrics if (d := _above(inside[m], first[m]))}
        rows.append(_row(run.name, False, inside, scores, differences, told))
    for baseline in baselines_of(runs, over):
        scores = _scores(baseline.reports, baseline.subject, over, metrics)
        rows.append(_row(baseline.name, True, scores, scores, {}, {}))
    first_report = runs[0].reports[0]
    return Table(
        rules=f"model {first_report.concept.base_model}, protocol {first_report.protocol.name}",
        axes=(metric_named(metrics, axes[0]), metric_named(metrics, axes[1])),
        metrics=metrics,
        concepts=concepts,
        rows=tuple(rows),
        notices=notices,
    )


@dataclass(frozen=True, slots=True)
class _Scored:
    """The scores of one metric: by token, prompt by prompt, those of the pictures; and whether each is its own."""

    by_token: Mapping[str, list[list[float]]]
    independent: bool

    def only(self, tokens: Collection[str]) -> _Scored:
        return _Scored({token: found for token, found in self.by_token.items() if token in tokens}, self.independent)

    def mean(self) -> Interval:
        return bootstrap_mean(list(self.by_token.values()), independent=self.independent)


def _scores(
    reports: Sequence[EvaluationReport], subject: str, concepts: Sequence[str], metrics: Sequence[str]
) -> dict[str, _Scored]:
    wanted = [report for report in reports if report.concept.token in concepts]
    return {
        metric: _Scored(
            {report.concept.token: found for report in wanted if (found := _by_prompt(report, metric, subject))},
            all(score.independent for report in wanted for score in report.scores if score.metric == metric),
        )
        for metric in metrics
    }


def _by_prompt(report: EvaluationReport, metric: str, subject: str) -> list[list[float]]:
    """Scores of the pictures that the score over all prompts is the mean of, prompt by prompt."""
    score = report.score(metric, subject)
    if score is None:
        return []
    each: list[float | None] = [*score.per_image] or [score.mean]
    seeds = len(report.protocol.seeds)
    if is_real(subject) or not seeds or len(each) % seeds:
        prompts = [each]
    else:
        prompts = [each[first : first + seeds] for first in range(0, len(each), seeds)]
    # A picture without a score (a prompt's only sample has no diversity) counts nowhere.
    known = [[value for value in prompt if value is not None] for prompt in prompts]
    return [prompt for prompt in known if prompt]


def _row(
    name: str,
    baseline: bool,
    inside: Mapping[str, _Scored],
    scores: Mapping[str, _Scored],
    differences: Mapping[str, Interval],
    facts: Mapping[str, str],
) -> Row:
    tokens = dict.fromkeys(token for found in scores.values() for token in found.by_token)
    return Row(
        name=name,
        baseline=baseline,
        means={metric: found.mean() for metric, found in inside.items() if found.by_token},
        by_concept={
            token: {m: found.only((token,)).mean() for m, found in scores.items() if token in found.by_token}
            for token in tokens
        },
        differences=differences,
        facts=facts,
    )


def _above(run: _Scored, first: _Scored) -> Interval | None:
    """How far a run lies above the first: picture by picture of one concept, else concept by concept."""
    pairs = [(found, first.by_token[token]) for token, found in run.by_token.items() if token in first.by_token]
    if not pairs:
        return None
    if len(pairs) == 1 and [len(prompt) for prompt in pairs[0][0]] == [len(prompt) for prompt in pairs[0][1]]:
        mine, theirs = pairs[0]
        apart = [[a - b for a, b in zip(*two, strict=True)] for two in zip(mine, theirs, strict=True)]
        return bootstrap_mean([apart], independent=run.independent)
    return bootstrap_mean([[[bootstrap_mean([a]).mean - bootstrap_mean([b]).mean]] for a, b in pairs])
