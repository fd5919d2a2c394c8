"""Evaluation reports made of numbers, without pictures or models: what comparisons are worked out from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from textual_inversion_ext.evaluation.comparison.runs import EvaluatedRun
from textual_inversion_ext.evaluation.report import WORD, ConceptFacts, EvaluationReport, ProtocolFacts, Score

IMAGE, TEXT = "clip_image (tiny)", "clip_text (tiny)"
PROMPTS = ("a photo of {}", "{} on the beach", "a painting of {}")


def report(
    likeness: Sequence[float],
    obedience: Sequence[float],
    *,
    token: str = "<cat>",
    baselines: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    model: str = "tiny",
    protocol: str = "quick",
    prompts: tuple[str, ...] = PROMPTS,
    text_mode: str = "omit",
    metrics: tuple[str, str] = (IMAGE, TEXT),
    settings: Mapping[str, Any] | None = None,
    vectors: int = 1,
    references: int = 5,
    class_word: str | None = None,
    phrases: Mapping[str, str] | None = None,
    notes: tuple[str, ...] = (),
    dependent: tuple[str, ...] = (),
) -> EvaluationReport:
    """A report with as many seeds as there are scores of likeness, which come from one prompt."""
    told = {WORD: (likeness, obedience), **(baselines or {})}
    scores = [
        Score.of(metric, subject, values, independent=metric not in dependent)
        for subject, pair in told.items()
        for metric, values in zip(metrics, pair, strict=True)
        if len(values)
    ]
    return EvaluationReport(
        concept=ConceptFacts(
            token=token,
            base_model=model,
            num_vectors={"clip_l": vectors},
            class_word=class_word,
            references=references,
        ),
        protocol=ProtocolFacts(name=protocol, prompts=prompts, seeds=tuple(range(len(likeness))), text_mode=text_mode),
        scores=tuple(scores),
        phrases=phrases or {},
        settings=settings if settings is not None else {"guidance_scale": 4.0},
        notes=notes,
    )


def run(name: str, *reports: EvaluationReport) -> EvaluatedRun:
    """Reports under a name."""
    return EvaluatedRun(name, reports)
