"""What an evaluation found: records, and the file ``report.json`` that holds them.

The file's form is stable: whoever reads version 1 today reads it tomorrow. A change of it raises ``SCHEMA_VERSION``.
Version 2 says whether the references are the run's own pictures, version 3 whether a metric's scores are independent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from textual_inversion_ext.atomic import atomic_write
from textual_inversion_ext.errors import ReportError
from textual_inversion_ext.evaluation.codec import decode, encode
from textual_inversion_ext.evaluation.facts import ConceptFacts, EncoderRows, PictureSet, ProtocolFacts, PublishedScore
from textual_inversion_ext.evaluation.markdown import bulleted, score_table
from textual_inversion_ext.evaluation.score import (
    CAPTION,
    CLASS_WORD,
    INITIAL_ROWS,
    REAL_PICTURES,
    SUBJECTS,
    WORD,
    Score,
    find,
    metrics_of,
    prompts_of,
    subjects_of,
)
from textual_inversion_ext.run_file import full_path

__all__ = [
    "CAPTION",
    "CLASS_WORD",
    "INITIAL_ROWS",
    "REAL_PICTURES",
    "REPORT_FILE",
    "SCHEMA",
    "SCHEMA_VERSION",
    "SUBJECTS",
    "WORD",
    "ConceptFacts",
    "EncoderRows",
    "EvaluationReport",
    "PictureSet",
    "ProtocolFacts",
    "PublishedScore",
    "Score",
]

SCHEMA = "textual-inversion evaluation report"
"""What the file says it is."""
SCHEMA_VERSION = 3
"""Version of the file's form; older ones are read too."""
REPORT_FILE = "report.json"
"""Name of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReport:
    """What an evaluation found out about one concept.

    Attributes:
        concept: What was evaluated.
        protocol: By which rules.
        scores: Every score; the one over all prompts of a metric and subject has ``prompt`` None.
        phrases: Subject -> what stood in the prompts in its place ("<bruno>", "dog", a caption).
        settings: How the pictures were made: num_inference_steps, guidance_scale, dtype, ...
        versions: Package -> version.
        rows: Norms and nearest words, per text encoder.
        losses: Logged steps and losses of the training, if its log was there.
        pictures: Where the pictures lie.
        published: Other people's numbers for the same protocol.
        notes: What a reader has to know (fewer samples than the paper's, ...), one sentence each.
        seconds: Wall seconds that the evaluation took.
    """

    concept: ConceptFacts
    protocol: ProtocolFacts
    scores: tuple[Score, ...]
    phrases: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    rows: tuple[EncoderRows, ...] = ()
    losses: tuple[tuple[int, float], ...] = ()
    pictures: tuple[PictureSet, ...] = ()
    published: tuple[PublishedScore, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, in the order of the scores."""
        return metrics_of(self.scores)

    @property
    def subjects(self) -> tuple[str, ...]:
        """Names of the subjects, in the order of tables."""
        return subjects_of(self.scores)

    def score(self, metric: str, subject: str = WORD, prompt: str | None = None) -> Score | None:
        """Look a score up.

        Args:
            metric: The metric's name.
            subject: Whose pictures.
            prompt: The prompt with ``{}``, or None for the score over all.

        Returns:
            The score, or None if there is none.
        """
        return find(self.scores, metric, subject, prompt)

    def phrase(self, subject: str) -> str:
        """What stood in the prompts of a subject; for the initial rows what they were made from.

        Args:
            subject: Whose pictures.

        Returns:
            The phrase, or "".
        """
        if subject == INITIAL_ROWS and self.concept.initializer:
            return f"from {self.concept.initializer}"
        return self.phrases.get(subject, "")

    def to_json(self) -> str:
        """The report as JSON with a line end: keys in a fixed order, texts as they are."""
        content = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, **encode(self)}
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, place: str = "the report") -> EvaluationReport:
        """Read what ``to_json`` wrote.

        Args:
            text: The JSON.
            place: What errors call it, such as the file's name.

        Returns:
            The report.

        Raises:
            ReportError: It is no report, one of another schema version, or a damaged one.
        """
        try:
            content = json.loads(text)
        except ValueError as error:
            raise ReportError(f"{place} is no JSON: {error}. Give the report.json of an evaluation.") from error
        if not isinstance(content, dict) or content.pop("schema", None) != SCHEMA:
            raise ReportError(f"{place} is no evaluation report; give the report.json of `textual-inversion evaluate`.")
        version = content.pop("schema_version", None)
        if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
            raise ReportError(
                f"{place} has schema version {version!r}; this version of textual-inversion-ext reads versions"
                f" 1 to {SCHEMA_VERSION}. Evaluate again (pictures that exist are reused), or install the version that"
                f" wrote it ({_library_version(content)})."
            )
        return decode(cls, content, place)

    def save(self, file: str | Path) -> None:
        """Write the report.

        Args:
            file: The file, usually ``evaluation/report.json`` in the folder of the run.

        Raises:
            StorageError: It cannot be written.
        """
        atomic_write(file, self.to_json())

    @classmethod
    def load(cls, path: str | Path, *, model: str | None = None) -> EvaluationReport:
        """Read a report's file.

        Args:
            path: The file, the folder it lies in, or the folder of an evaluated run.
            model: The model that the report has to be about, or None for any.

        Returns:
            The report.

        Raises:
            ReportError: There is no report, or it is damaged, of another schema version or of another model.
        """
        path = Path(path)
        places = [path, path / REPORT_FILE, path / "evaluation" / REPORT_FILE]
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            raise ReportError(f"There is no report at {path}; make one: textual-inversion evaluate --concept {path}")
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ReportError(f"Cannot read the report {file}: {error}") from error
        report = cls.from_json(text, str(file))
        if model is not None:
            report.require_model(model, str(file))
        return report

    def require_model(self, model: str, place: str = "the report") -> None:
        """Refuse a report about another model: scores of two models say nothing about each other.

        Args:
            model: The model that is wanted.
            place: What the error calls the report.

        Raises:
            ReportError: The report is about another model.
        """
        if full_path(self.concept.base_model) != full_path(model):
            raise ReportError(
                f"{place} is about {self.concept.token} on the model {self.concept.base_model!r}, not {model!r}."
                f" Evaluate the concept with --pretrained_model_name_or_path {model}."
            )

    def to_markdown(self) -> str:
        """Tables for a model card: every subject, then the word prompt by prompt."""
        parts = [score_table(("", *self.metrics), self._subject_rows())]
        prompts = prompts_of(self.scores)
        if len(prompts) > 1:
            parts.append(score_table(("prompt", *self.metrics), self._prompt_rows(prompts)))
        if self.published:
            lines = [f"{other.method}: {other.metric} {other.mean:.3f} ({other.source})" for other in self.published]
            parts.append("Published for this protocol by others:\n\n" + bulleted(lines))
        rules, omitted = self.protocol, self.protocol.text_mode == "omit"
        facts = (
            f"Protocol: {rules.name}" + (f" ({rules.source})" if rules.source else ""),
            f"{len(rules.prompts)} prompts, {len(rules.seeds)} pictures each; text scores with the word "
            + ("left out" if omitted else "replaced by its class"),
            "Means with their standard errors; cosines as they are, not times 100",
            *self.notes,
        )
        return "\n\n".join([*parts, bulleted(facts)]) + "\n"

    def _subject_rows(self) -> list[tuple[str, ...]]:
        rows = []
        for subject in self.subjects:
            phrase = self.phrase(subject)
            rows.append((f"{subject}: {phrase}" if phrase else subject, *self._cells(subject, None)))
        return rows

    def _prompt_rows(self, prompts: tuple[str, ...]) -> list[tuple[str, ...]]:
        return [(prompt.replace("{}", "*"), *self._cells(WORD, prompt)) for prompt in prompts]

    def _cells(self, subject: str, prompt: str | None) -> list[str]:
        found = [self.score(metric, subject, prompt) for metric in self.metrics]
        return ["" if score is None else score.shown() for score in found]


def _library_version(content: dict[str, object]) -> str:
    versions = content.get("versions")
    name = "textual-inversion-ext"
    return str(versions.get(name, "unknown")) if isinstance(versions, dict) else "unknown"
