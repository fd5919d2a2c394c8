"""Evaluates a learned word: makes the pictures of a protocol, for the word and for what it is measured against."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from PIL import Image

from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.errors import ConfigError, DataError
from textual_inversion_ext.evaluation.backbones import default_backbone
from textual_inversion_ext.evaluation.baselines import BASELINES, word_subject
from textual_inversion_ext.evaluation.findings import losses_of, rows_beside_vocabulary, rows_hash
from textual_inversion_ext.evaluation.material import Material
from textual_inversion_ext.evaluation.metric_parts import MetricParts
from textual_inversion_ext.evaluation.metrics import DEFAULT_METRICS, METRICS, Metric, build_metrics
from textual_inversion_ext.evaluation.protocols import Protocol, protocol_named
from textual_inversion_ext.evaluation.report import (
    ConceptFacts,
    EvaluationReport,
    ProtocolFacts,
    PublishedScore,
)
from textual_inversion_ext.evaluation.rules import Rules, with_class_word
from textual_inversion_ext.evaluation.sampling import model_name, sampled_with, sampling_facts
from textual_inversion_ext.evaluation.session import Session
from textual_inversion_ext.evaluation.texts import TextMode
from textual_inversion_ext.families import adapter_for
from textual_inversion_ext.pipelines.loading import documented_sampling
from textual_inversion_ext.pipelines.sampling import SampleSettings, stack_rows, word_encoders
from textual_inversion_ext.versions import versions

__all__ = ["Evaluator"]

_LAST_FIRST_SEED = 2**63  # torch takes seeds below 2**64, and others follow the first


class Evaluator:
    """Makes pictures by the rules of a protocol and scores them.

    Two ways to call it::

        evaluator = Evaluator("quick", folder="out/evaluation")
        report = evaluator(pipeline, load_concept("out"), references)
        report = evaluator.evaluate(pipeline, load_material("out"))  # with all baselines that the run allows

    The same concept, pictures, settings, metrics and model give the same scores on the same machine.

    Args:
        protocol: A key of ``PROTOCOLS``, a file of prompts, or a protocol.
        metrics: Keys of ``METRICS``, or metrics; None for those of the protocol.
        folder: Where pictures are kept and found again; None keeps none.
        baselines: What the word is measured against, of ``BASELINES``; what is not known of a concept is left out.
        settings: How pictures are made; None for the protocol's rules.
        seeds: Pictures per prompt; None for the protocol's number.
        first_seed: Seed of the first picture of each prompt; the others follow it.
        text_mode: What a text score reads where the word stood; None for the protocol's.
        parts: What metrics are built of; None for the backbone that suits the model, on the model's device.
        batch_size: Pictures made at a time, where `settings` does not say.

    Raises:
        ConfigError: There is no such protocol, metric or baseline, or a number is not allowed.
    """

    def __init__(
        self,
        protocol: str | Path | Protocol = "quick",
        metrics: Sequence[str | Metric] | None = None,
        *,
        folder: str | Path | None = None,
        baselines: Sequence[str] = BASELINES,
        settings: SampleSettings | None = None,
        seeds: int | None = None,
        first_seed: int = 0,
        text_mode: TextMode | None = None,
        parts: MetricParts | None = None,
        batch_size: int = 4,
    ) -> None:
        unknown = [name for name in baselines if name not in BASELINES]
        if unknown:
            raise ConfigError(f"there is no baseline {unknown[0]!r}; the baselines are: {', '.join(BASELINES)}.")
        if seeds is not None and seeds < 1:
            raise ConfigError(f"seeds is {seeds}; it is the number of pictures per prompt, at least 1.")
        if not 0 <= first_seed <= _LAST_FIRST_SEED:
            raise ConfigError(f"first_seed is {first_seed}; it must be 0 to {_LAST_FIRST_SEED}.")
        self.protocol = protocol if isinstance(protocol, Protocol) else protocol_named(protocol)
        self.metrics = None if metrics is None else tuple(metrics)
        wrong = [key for key in self.metrics or () if isinstance(key, str) and key not in METRICS]
        if wrong:
            raise ConfigError(f"there is no metric {wrong[0]!r}; the metrics are: {', '.join(METRICS)}.")
        self.folder = None if folder is None else Path(folder)
        self.baselines = tuple(baselines)
        self.settings, self.batch_size = settings, batch_size
        self.seeds, self.first_seed = seeds, first_seed
        self.text_mode = text_mode
        self.parts = parts
        self._default_parts: dict[tuple[str, str], MetricParts] = {}

    def __call__(
        self,
        pipeline: DiffusionPipeline,
        concept: LearnedConcept,
        references: Sequence[Image.Image],
        *,
        class_word: str | None = None,
        **facts: Any,
    ) -> EvaluationReport:
        """Evaluate a concept with what is in memory.

        Args:
            pipeline: A loaded pipeline of a supported family, on its device.
            concept: The learned word.
            references: Real pictures of the thing.
            class_word: Coarse word for it; None for the one that the concept's metadata name, if they do.
            **facts: Further fields of a ``Material``, such as ``captions``.

        Returns:
            The report.

        Raises:
            DataError: There are no references.
            EmbeddingFileError: The concept was learned for another kind of model.
            ConfigError: The protocol needs something that was not given.
        """
        return self.evaluate(pipeline, Material.of(concept, references, class_word, **facts))

    def evaluate(
        self, pipeline: DiffusionPipeline, material: Material, others: Sequence[Material] = ()
    ) -> EvaluationReport:
        """Evaluate a concept.

        Args:
            pipeline: A loaded pipeline of a supported family, on its device.
            material: The concept and what is known of it.
            others: Further concepts, for protocols with several words in a prompt.

        Returns:
            The report; written nowhere.

        Raises:
            EmbeddingFileError: A concept was learned for another kind of model.
            ConceptError: Two concepts have the same token.
            ConfigError: The protocol needs something that was not given.
            DataError: No metric can be measured on this concept.
            OutputFolderError: Files of somebody's own lie where copies of the real pictures go.
            StorageError: A picture cannot be written.
        """
        start = time.perf_counter()
        model = model_name(pipeline)
        material, *others = (with_class_word(each, self.protocol) for each in (material, *others))
        rules = self._rules(pipeline, material, others, model)
        with ExitStack() as stack:
            folder = self.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            fits = stack.enter_context(sampled_with(pipeline, rules.scheduler))
            session = Session(pipeline, rules, folder, (material, *others))
            scores = session.scores()
            pictures = () if self.folder is None else session.picture_sets()
            sampling = sampling_facts(pipeline, rules.settings)
        notes = (*rules.protocol.notes, *session.notes, *rules.notes(material, model))
        if not fits:
            notes += (f"This model cannot be sampled with {rules.scheduler}; its own sampler was used.",)
        if self.settings is not None:
            notes += ("Steps, guidance and sampler are the caller's, not the protocol's.",)
        return EvaluationReport(
            concept=_concept_facts(material, model),
            protocol=ProtocolFacts(
                name=rules.protocol.name,
                prompts=tuple(prompt.text for prompt in rules.prompts),
                seeds=rules.seeds,
                source=rules.protocol.source,
                text_mode=rules.text_mode,
            ),
            scores=scores,
            phrases={subject.name: subject.phrase for subject in session.subjects},
            settings=sampling,
            versions=versions(),
            rows=rows_beside_vocabulary(pipeline, material.concept),
            losses=losses_of(None if material.trained is None else material.trained.folder, material.concept.token),
            pictures=pictures,
            published=_published(rules.protocol),
            notes=notes,
            seconds=round(time.perf_counter() - start, 1),
        )

    def _rules(self, pipeline: DiffusionPipeline, material: Material, others: Sequence[Material], model: str) -> Rules:
        """Decide what the protocol leaves open, and refuse early what cannot work."""
        protocol = self.protocol.on(model)
        if len(others) != protocol.places - 1:
            raise ConfigError(
                f"protocol {protocol.name!r} has {protocol.places} words in each prompt and {1 + len(others)} were"
                f" given; give {protocol.places} concepts."
            )
        adapter = adapter_for(pipeline)
        concepts = word_subject(material, *others).concepts
        stack_rows(adapter, concepts)
        word_encoders(adapter, concepts)
        count = protocol.seeds if self.seeds is None else self.seeds
        settings = self.settings or protocol.settings(documented_sampling(model, pipeline), self.batch_size)
        mode = self.text_mode or protocol.text_mode
        if mode == "class" and not all(each.class_word for each in (material, *others)):
            if self.text_mode == "class" or protocol.places > 1:
                raise ConfigError("text mode 'class' needs the class word of the concept, such as 'dog'; give it.")
            mode = "omit"
        metrics = self._build_metrics(pipeline, protocol, model)
        if material.truth is None and metrics and all("truth" in metric.needs for metric in metrics):
            raise DataError(
                f"{material.concept.token}: {metrics[0].name} needs to know what the thing really looks like, and that"
                " is known of the shipped objects of the pocket world with their own pictures only; use other metrics."
            )
        return Rules(
            protocol=protocol,
            prompts=protocol.prompts_for(material.learnable_property, material.class_word),
            seeds=tuple(range(self.first_seed, self.first_seed + count)),
            settings=settings,
            text_mode=mode,
            scheduler=None if self.settings is not None else protocol.scheduler,
            baselines=self.baselines,
            metrics=metrics,
            parts=self._parts(pipeline, model),
        )

    def _parts(self, pipeline: DiffusionPipeline, model: str) -> MetricParts:
        if self.parts is not None:
            return self.parts
        # Kept, so that networks are loaded once for all words of a model.
        clip, device = default_backbone(model), pipeline.device
        return self._default_parts.setdefault((clip, str(device)), MetricParts(clip=clip, device=device))

    def _build_metrics(self, pipeline: DiffusionPipeline, protocol: Protocol, model: str) -> tuple[Metric, ...]:
        asked = self.metrics if self.metrics is not None else protocol.metrics or DEFAULT_METRICS
        parts = self._parts(pipeline, model)
        return tuple(
            metric
            for each in asked
            for metric in ([each] if isinstance(each, Metric) else build_metrics([each], parts))
        )


def _published(protocol: Protocol) -> tuple[PublishedScore, ...]:
    return tuple(
        PublishedScore(method=row.method, metric=metric, mean=value, source=row.told)
        for row in protocol.published
        for metric, value in row.values
    )


def _concept_facts(material: Material, model: str) -> ConceptFacts:
    concept, told = material.concept, material.concept.metadata
    steps = told.get("steps", "")
    return ConceptFacts(
        token=concept.token,
        base_model=model or told.get("base_model") or "in memory",
        num_vectors={key: len(rows) for key, rows in concept.vectors.items()},
        class_word=material.class_word,
        initializer=told.get("initializer"),
        learnable_property=material.learnable_property,
        train_steps=int(steps) if steps.isdecimal() else None,
        references=len(material.references),
        own_references=material.own_references,
        rows_hash=rows_hash(concept.vectors),
    )
