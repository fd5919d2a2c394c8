"""What is compared: the reports of a run, and what was done in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from textual_inversion_ext.errors import ReportError
from textual_inversion_ext.evaluation.report import CLASS_WORD, REAL_PICTURES, REPORT_FILE, EvaluationReport
from textual_inversion_ext.run_file import full_path

__all__ = [
    "EvaluatedRun",
    "difference_of",
    "distinct_facts",
    "facts_of",
    "metric_named",
    "notices_of",
    "picture_facts",
    "read_run",
]

# What has to agree between two reports that are compared, in the order of `_rules`.
_RULES = ("model", "protocol", "text mode", "reconstruction metric", "editability metric")
# Settings that say how fast or where pictures were made, not which pictures come out.
_WITHOUT_EFFECT = frozenset({"batch_size", "device"})
_ROUNDING = 1e-3  # another device or precision gives the same pictures other scores, by less than this


@dataclass(frozen=True, slots=True)
class EvaluatedRun:
    """A run and the reports of its concepts.

    Attributes:
        name: What tables and the plot call it.
        reports: One per concept.
    """

    name: str
    reports: tuple[EvaluationReport, ...]


def read_run(path: str | Path, name: str | None = None) -> EvaluatedRun:
    """Read the reports of a run.

    Args:
        path: The run's folder (with a sub-folder for each of several concepts, or not), or a report's file.
        name: What to call it; default: the name of the folder.

    Returns:
        The run.

    Raises:
        ReportError: It has no report, or one that cannot be read, or it is a folder of several runs.
    """
    path = Path(path)
    own = [path, path / REPORT_FILE, path / "evaluation" / REPORT_FILE]
    inside = sorted(path.glob(f"*/evaluation/{REPORT_FILE}"))
    files = [file for file in own if file.is_file()][:1] or inside or [path]
    reports = tuple(EvaluationReport.load(file) for file in files)
    tokens = [report.concept.token for report in reports]
    if len(set(tokens)) < len(tokens):
        folders = " ".join(str(file.parent.parent) for file in files)
        raise ReportError(f"{path} is no run: several folders in it are about the same word. Give them: {folders}")
    return EvaluatedRun(name or path.resolve().name, reports)


def difference_of(one: EvaluatedRun, other: EvaluatedRun, axes: tuple[str, str]) -> str:
    """Say why two runs cannot be compared.

    Prompts have to agree concept by concept: some protocols ask other things of pets than of backpacks. So have class
    words where they stand in the texts that pictures are scored with.

    Args:
        one: A run.
        other: Another one, or the same to see whether its reports agree with each other.
        axes: Keys or names of the metrics of the plot.

    Returns:
        What differs, or "" if they can be compared.
    """
    for mine in one.reports:
        for theirs in other.reports:
            pairs = zip(_RULES, _rules(mine, axes), _rules(theirs, axes), strict=True)
            found = [f"{name}: {left} and {right}" for name, left, right in pairs if left != right]
            if mine.concept.token == theirs.concept.token:
                found += _other_texts(mine, theirs)
            if found:
                return "; ".join(found)
    return ""


def _other_texts(mine: EvaluationReport, theirs: EvaluationReport) -> list[str]:
    """What differs in the texts that two reports of one concept score with."""
    found = [] if mine.protocol.prompts == theirs.protocol.prompts else ["other prompts"]
    if mine.protocol.text_mode == theirs.protocol.text_mode == "class":
        # Of several words in a prompt only the phrase, which a report without that baseline lacks, tells them all.
        phrases = [report.phrase(CLASS_WORD) for report in (mine, theirs)]
        left, right = phrases if all(phrases) else [report.concept.class_word for report in (mine, theirs)]
        if left != right:
            found.append(f"class word of {mine.concept.token}: {left} and {right}")
    return found


def _rules(report: EvaluationReport, axes: tuple[str, str]) -> tuple[str, ...]:
    measured = [metric_named(report.metrics, axis) or "none" for axis in axes]
    model = full_path(report.concept.base_model)
    return (model, report.protocol.name, report.protocol.text_mode, *measured)


def metric_named(names: Sequence[str], asked: str) -> str | None:
    """Find a metric by its key or its name.

    Args:
        names: Names of metrics, the backbone in each: ``clip_image (pocket)``.
        asked: Such a name, or only its key: ``clip_image``.

    Returns:
        The first name that fits, or None.
    """
    return next((name for name in names if name == asked or name.startswith(f"{asked} (")), None)


def picture_facts(report: EvaluationReport) -> dict[str, str]:
    """How the pictures of a report were made.

    Args:
        report: The report.

    Returns:
        Names and values of the settings that change pictures.
    """
    return {name: str(value) for name, value in report.settings.items() if name not in _WITHOUT_EFFECT}


def facts_of(run: EvaluatedRun) -> dict[str, str]:
    """What was done in a run, as far as its reports know.

    Args:
        run: The run.

    Returns:
        Names and values; "various" where its concepts differ.
    """
    found: dict[str, dict[str, None]] = {}
    for report in run.reports:
        concept = report.concept
        told = {"vectors": "/".join(str(count) for count in sorted(set(concept.num_vectors.values())))}
        told |= {"steps": str(concept.train_steps)} if concept.train_steps is not None else {}
        told |= {"initializer": concept.initializer} if concept.initializer else {}
        told |= {**picture_facts(report), "pictures a prompt": str(len(report.protocol.seeds))}
        for name, value in told.items():
            found.setdefault(name, {})[value] = None
    return {name: next(iter(values)) if len(values) == 1 else "various" for name, values in found.items()}


def distinct_facts(records: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Leave out what is the same everywhere.

    Args:
        records: Facts of several runs.

    Returns:
        Of each record the facts that not all of them share.
    """
    names = dict.fromkeys(name for record in records for name in record)
    differing = [name for name in names if len({record.get(name) for record in records}) > 1]
    return [{name: record[name] for name in differing if name in record} for record in records]


def notices_of(runs: Sequence[EvaluatedRun], concepts: Sequence[str]) -> tuple[str, ...]:
    """Say what a reader of a table has to know.

    Args:
        runs: Its runs.
        concepts: Tokens that all of them have.

    Returns:
        One sentence each.
    """
    tokens = dict.fromkeys(report.concept.token for run in runs for report in run.reports)
    notices = []
    left_out = [token for token in tokens if token not in concepts]
    if not concepts:
        notices.append("The runs have no concept in common: their means are over different things.")
    elif left_out:
        notices.append(f"Means are over {', '.join(concepts)}; not every run has {', '.join(left_out)}.")
    if (count := len(concepts or tokens)) > 1:
        notices.append(
            f"Intervals of means: 95 % bootstrap over the {count} concepts; of one concept, over its pictures."
        )
    else:
        notices.append("Intervals: 95 % bootstrap over the pictures; they say nothing about other concepts.")
    counts: dict[str, set[int]] = {}
    for run in runs:
        for report in run.reports:
            counts.setdefault(report.concept.token, set()).add(report.concept.references)
    notices += [
        f"{token} was compared with different numbers of real pictures ({', '.join(map(str, sorted(found)))})."
        for token, found in counts.items()
        if len(found) > 1
    ]
    notices += [
        f"{token} was compared with different real pictures: among themselves they are unlike in the runs."
        for token in _of_other_pictures(runs)
        if len(counts[token]) == 1
    ]
    # What one report says about itself (fewer samples than the paper's) holds for the table it is in.
    notices += dict.fromkeys(note for run in runs for report in run.reports for note in report.notes)
    return tuple(notices)


def _of_other_pictures(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Find concepts whose real pictures, where they were scored, are not the same ones in all runs."""
    found: dict[tuple[str, str], list[float]] = {}
    for report in (report for run in runs for report in run.reports):
        for metric in report.metrics:
            if (score := report.score(metric, REAL_PICTURES)) is not None:
                found.setdefault((report.concept.token, metric), []).append(score.mean)
    return list(dict.fromkeys(token for (token, _), means in found.items() if max(means) - min(means) > _ROUNDING))
