"""The folder of a finished run, as publishing reads it: files and what they say, none of the code that wrote them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.errors import ConfigError, PublishError, ReportError
from textual_inversion_ext.evaluation.findings import STEP_LOG, rows_hash
from textual_inversion_ext.evaluation.report import REPORT_FILE, EvaluationReport
from textual_inversion_ext.files import load_concept
from textual_inversion_ext.run_file import load_run

__all__ = ["EMBEDDING", "LORA", "FinishedRun", "concept_folders", "read_run"]

EMBEDDING = "learned_embeds.safetensors"
"""diffusers' file of a word, in a run folder and in a repository."""
LORA = "pytorch_lora_weights.safetensors"
"""diffusers' file of a LoRA, in a run folder and in a repository."""
_REPORT = Path("evaluation", REPORT_FILE)


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """What a run left behind about one concept.

    Attributes:
        folder: Where.
        concept: The learned word.
        config: The run's settings; None where the folder has no ``config.json``.
        fields: The concept's fields of ``config.json``.
        report: ``evaluation/report.json``, a sound report's JSON, or None.
        seconds: Wall seconds that the training took by its step log; None where that does not say.
    """

    folder: Path
    concept: LearnedConcept
    config: TextualInversionConfig | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] | None = None
    seconds: float | None = None


def concept_folders(folder: Path) -> list[Path]:
    """The folders of single concepts in a folder: of a run with several, or of several runs.

    Args:
        folder: The folder.

    Returns:
        Those directly in it that hold an embedding file, by name.
    """
    return sorted(file.parent for file in folder.glob(f"*/{EMBEDDING}"))


def read_run(folder: Path) -> FinishedRun:
    """Read a run's folder.

    Args:
        folder: The folder of a run with one concept, or of one concept of a run with several.

    Returns:
        What is there.

    Raises:
        PublishError: It holds no finished concept, or several.
    """
    if not (folder / EMBEDDING).is_file():
        inside = [place.name for place in concept_folders(folder)] if folder.is_dir() else []
        if inside:
            raise PublishError(
                f"{folder} holds {len(inside)} concepts ({', '.join(inside[:5])}{', ...' if inside[5:] else ''}); "
                f"publish one of them ({folder / inside[0]}), or all, each in a repository of its own: --collection "
                f"{folder}."
            )
        raise PublishError(f"{folder} holds no finished run: there is no {EMBEDDING} in it. Give a run's output_dir.")
    concept = load_concept(folder / EMBEDDING)
    config, fields = _settings(folder, concept)
    return FinishedRun(folder, concept, config, fields, _report(folder, concept), _seconds(folder, concept.token))


def _settings(folder: Path, concept: LearnedConcept) -> tuple[TextualInversionConfig | None, Mapping[str, Any]]:
    if not (folder / "config.json").is_file():
        return None, {}
    try:
        config, concepts = load_run(folder / "config.json")
    except ConfigError as error:
        raise PublishError(f"the run's settings cannot be read: {error}") from error
    own = (entry for entry in concepts if entry.get("placeholder_token") == concept.token)
    return config, next(own, concepts[0] if len(concepts) == 1 else {})


def _report(folder: Path, concept: LearnedConcept) -> Mapping[str, Any] | None:
    """The run's report; that of a run with several concepts lies with the concept."""
    file = folder / _REPORT
    if not file.is_file():
        return None
    try:
        measured = EvaluationReport.load(file).concept.rows_hash
    except ReportError as error:
        raise PublishError(f"{error} To publish the run, evaluate again, or remove that file.") from error
    # Trained again, or of a snapshot: its scores are another word's.
    if measured and measured != rows_hash(concept.vectors):
        raise PublishError(
            f"{file} was measured on other rows than those in {folder / EMBEDDING}; evaluate again, or remove it."
        )
    return json.loads(file.read_text(encoding="utf-8"))


def _seconds(folder: Path, token: str) -> float | None:
    """What the last line of the step log about a word says; of a run with several concepts it lies one folder up."""
    for file in (folder / STEP_LOG, folder.parent / STEP_LOG):
        try:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        for line in reversed(lines):
            try:
                entry = json.loads(line)
                seconds = float(entry["seconds"]) if token in entry["loss"] else math.nan
            except (ValueError, TypeError, KeyError, OverflowError):  # half a line of a process that was killed
                continue
            if math.isfinite(seconds):
                return seconds
    return None
