"""Baselines of several runs: each once, and several times where the runs made its pictures in different ways."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from textual_inversion_ext.evaluation.comparison.runs import EvaluatedRun, distinct_facts, facts_of, picture_facts
from textual_inversion_ext.evaluation.report import INITIAL_ROWS, REAL_PICTURES, WORD, EvaluationReport

__all__ = ["Baseline", "baselines_of", "is_real"]


@dataclass(frozen=True, slots=True)
class Baseline:
    """Something to judge runs by.

    Attributes:
        subject: Whose pictures.
        name: The subject, with what tells it from others of that subject.
        reports: The reports that hold its scores, one per concept.
    """

    subject: str
    name: str
    reports: tuple[EvaluationReport, ...]


@dataclass(frozen=True, slots=True)
class _Variant:
    """How the pictures of a subject were made, and by token the reports that tell of them."""

    made: Mapping[str, str]
    reports: dict[str, EvaluationReport]

    def agrees_with(self, other: _Variant, subject: str) -> bool:
        shared = [token for token in self.reports if token in other.reports]
        alike = all(_words(self.reports[token], subject) == _words(other.reports[token], subject) for token in shared)
        return alike and self.made == other.made

    def facts(self, subject: str) -> dict[str, str]:
        words = dict.fromkeys(_words(report, subject) for report in self.reports.values())
        return {**self.made, "initializer" if subject == INITIAL_ROWS else "phrase": ", ".join(words)}


def baselines_of(runs: Sequence[EvaluatedRun], concepts: Sequence[str]) -> list[Baseline]:
    """Collect every subject but the word.

    Args:
        runs: Runs that can be compared.
        concepts: Tokens of the concepts that count.

    Returns:
        The baselines, those of one subject together.
    """
    every: dict[str, list[_Variant]] = {}
    for run in runs:
        for subject, own in _variants_of(run, concepts):
            variants = every.setdefault(subject, [])
            same = next((known for known in variants if known.agrees_with(own, subject)), None)
            if same is None:
                variants.append(own)
            else:
                same.reports.update({token: own.reports[token] for token in own.reports if token not in same.reports})
    found = []
    for subject, variants in every.items():
        told = distinct_facts([variant.facts(subject) for variant in variants])
        for variant, facts in zip(variants, told, strict=True):
            rest = ", ".join(f"{name} {value}" for name, value in facts.items())
            name = f"{subject} ({rest})" if rest else subject
            found.append(Baseline(subject, name, tuple(variant.reports.values())))
    return found


def is_real(subject: str) -> bool:
    """Whether a subject's pictures were not made: no prompt, no seed, no setting belongs to them.

    Args:
        subject: Whose pictures.

    Returns:
        True for the real pictures, however they are counted.
    """
    return subject.startswith(REAL_PICTURES)


def _variants_of(run: EvaluatedRun, concepts: Sequence[str]) -> Iterator[tuple[str, _Variant]]:
    """The subjects of a run; one comes several times where the run's concepts were evaluated in different ways."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], dict[str, EvaluationReport]] = {}
    vectors = facts_of(run)["vectors"]
    for report in run.reports:
        for subject in report.subjects:
            if subject != WORD and report.concept.token in concepts:
                made = {} if is_real(subject) else dict(picture_facts(report))
                made |= {"vectors": vectors} if subject == INITIAL_ROWS else {}
                found.setdefault((subject, tuple(sorted(made.items()))), {})[report.concept.token] = report
    for (subject, items), reports in found.items():
        yield subject, _Variant(dict(items), reports)


def _words(report: EvaluationReport, subject: str) -> str:
    """What the pictures of a subject were made from."""
    return report.concept.initializer or "" if subject == INITIAL_ROWS else report.phrase(subject)
