"""What a card tells of a run: settings, report and log, put into the records of `hub_cards`. Nothing is guessed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hub_cards.contents import BaseModel, CardContents, License, Word
from hub_cards.escape import python_string
from hub_cards.facts import Metric, Protocol, Score
from textual_inversion_ext import __version__
from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.publishing.citations import citations
from textual_inversion_ext.publishing.cleaning import clean_text, is_local
from textual_inversion_ext.publishing.files import RepositoryFiles
from textual_inversion_ext.publishing.run import FinishedRun
from textual_inversion_ext.publishing.training import training_of

__all__ = ["base_model_of", "card_contents"]

_HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
_POCKET = "pocket"


def base_model_of(concept: LearnedConcept, config: TextualInversionConfig | None = None) -> BaseModel:
    """Say which model a word belongs to.

    Args:
        concept: The word; its metadata name the model.
        config: The run's settings, where they are known.

    Returns:
        The model; without a repository when it was a folder, a pipeline in memory, or the built-in one.
    """
    name = concept.metadata.get("base_model") or (config.pretrained_model_name_or_path if config else "")
    family = concept.metadata.get("family") or None
    if name == _POCKET:
        lines = (
            "from textual_inversion_ext import load_pipeline",
            "",
            'pipe = load_pipeline("pocket")  # pip install textual-inversion-ext',
        )
        return BaseModel("the pocket world (built into textual-inversion-ext)", family=family, load_lines=lines)
    if is_local(name) or not _HUB_ID.fullmatch(name):
        return BaseModel(clean_text(name) or "a model that has no name", family=family)
    revision = concept.metadata.get("base_model_revision") or (config.revision if config else None)
    return BaseModel(name, hub_id=name, revision=revision or None, family=family)


def card_contents(
    run: FinishedRun,
    files: RepositoryFiles,
    *,
    repo_id: str | None = None,
    license: License | None = None,
    description: str = "",
    dataset: str | None = None,
    tags: tuple[str, ...] = (),
) -> CardContents:
    """Collect what the card of a run tells.

    Args:
        run: The run, or a word without one.
        files: What is published of it.
        repo_id: Where.
        license: The licence, if one is known.
        description: What the word means, in the publisher's own words.
        dataset: The data set that the training pictures are published as.
        tags: More tags.

    Returns:
        The contents.
    """
    concept, config, report = run.concept, run.config, files.report
    datasets = _datasets(run, dataset)
    word = Word(
        concept.token,
        files=files.embeddings,
        ui_file=files.ui_file,
        num_vectors=concept.num_vectors,
        learnable_property=concept.metadata.get("learnable_property", "object"),
        class_name=concept.metadata.get("class_name"),
        initializer=clean_text(concept.metadata.get("initializer", "")) or None,
        load_lines=None if files.embeddings else _own_load_lines(concept, repo_id),
    )
    return CardContents(
        words=(word,),
        base_model=base_model_of(concept, config),
        repo_id=repo_id,
        description=description,
        license=license,
        pictures=files.pictures,
        lora_file=files.lora,
        scores=_scores(report, concept.token),
        metrics=_metrics(report),
        protocol=_protocol(report, datasets),
        datasets=datasets,
        training=training_of(run),
        limits=tuple(str(note) for note in (report or {}).get("notes", [])),
        citations=citations(config, run.fields, report),
        library=f"textual-inversion-ext {concept.metadata.get('library_version', __version__)}",
        tags=tags,
    )


def _own_load_lines(concept: LearnedConcept, repo_id: str | None) -> tuple[str, ...]:
    """How this library loads a word that plain diffusers has no place for."""
    return (
        "",
        f"# Plain diffusers cannot load these rows ({', '.join(concept.vectors)}); pip install textual-inversion-ext",
        "from textual_inversion_ext import add_concept_loading",
        "",
        f"add_concept_loading(pipe).load_textual_inversion({python_string(repo_id or '.')})",
    )


def _scores(report: Mapping[str, Any] | None, token: str) -> tuple[Score, ...]:
    """The scores, each prompt as it was typed: by that, a card puts them beside the prompt's pictures."""
    typed = {group.get("prompt"): group.get("text") for group in (report or {}).get("pictures", []) if _of_word(group)}
    return tuple(
        Score(
            metric=str(entry["metric"]),
            subject=str(entry["subject"]),
            mean=float(entry["mean"]),
            standard_error=entry.get("standard_error"),
            n=entry.get("n"),
            prompt=typed.get(prompt) or (None if prompt is None else str(prompt).replace("{}", token)),
        )
        for entry in (report or {}).get("scores", [])
        for prompt in (entry.get("prompt"),)
    )


def _of_word(group: Mapping[str, Any]) -> bool:
    return group.get("subject") == "word"


def _metrics(report: Mapping[str, Any] | None) -> tuple[Metric, ...]:
    if report is None:
        return ()
    from textual_inversion_ext.evaluation.metrics import METRICS

    found: dict[str, Metric] = {}
    for entry in report.get("scores", []):
        name = str(entry["metric"])
        key, _, backbone = name.partition(" (")
        title = f"{METRICS[key].title} ({backbone}" if key in METRICS and backbone else name
        found.setdefault(name, Metric(name, title, bool(entry.get("higher_is_better", True))))
    return tuple(found.values())


def _protocol(report: Mapping[str, Any] | None, datasets: tuple[str, ...]) -> Protocol | None:
    rules = (report or {}).get("protocol")
    if report is None or not isinstance(rules, Mapping):
        return None
    settings = report.get("settings", {})
    left_out = rules.get("text_mode", "omit") == "omit"
    return Protocol(
        name=str(rules.get("name", "")),
        source=str(rules.get("source", "")),
        prompts=len(rules.get("prompts", [])) or None,
        seeds=len(rules.get("seeds", [])) or None,
        steps=settings.get("num_inference_steps"),
        guidance_scale=settings.get("guidance_scale"),
        text="nothing (it was left out)" if left_out else "the class word",
        versions={str(name): str(text) for name, text in report.get("versions", {}).items()},
        # An evaluation may have compared with other pictures than those that were learned from.
        dataset=datasets[0] if datasets and report.get("concept", {}).get("own_references") else None,
    )


def _datasets(run: FinishedRun, dataset: str | None) -> tuple[str, ...]:
    images = run.fields.get("images")
    name = str(images.get("dataset_name", "")) if isinstance(images, Mapping) else ""
    used = [name] if _HUB_ID.fullmatch(name) and not Path(name).exists() else []
    return tuple(dict.fromkeys([*used, *([dataset] if dataset else [])]))
