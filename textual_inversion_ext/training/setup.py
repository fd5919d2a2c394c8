"""From a config, concepts and a pipeline to everything the loop needs. Cheap checks come first, slow work last."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline
from torch import Tensor

from textual_inversion_ext import __version__
from textual_inversion_ext.concept import ConceptSpec, LearnedConcept
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.data.resident import ResidentSet, build_resident_set
from textual_inversion_ext.data.sources import Sample, SkippedImage, collect_samples, training_data_digest
from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.families import adapter_for
from textual_inversion_ext.families.base import FamilyAdapter
from textual_inversion_ext.files import lay_out
from textual_inversion_ext.initializers import resolve
from textual_inversion_ext.parametrizations import PARAMETRIZATIONS, UpdateSettings
from textual_inversion_ext.pipelines.loading import load_pipeline
from textual_inversion_ext.tokens import prompt_encoders, row_ranges
from textual_inversion_ext.training.draws import DrawSource
from textual_inversion_ext.training.queue import concept_steps
from textual_inversion_ext.training.rates import RowRates, make_rates
from textual_inversion_ext.training.state import recipe
from textual_inversion_ext.training.step import TrainingStep

logger = logging.getLogger(__name__)

IN_MEMORY = "(a pipeline in memory)"
"""Recorded as the model's name when a pipeline was handed over that was not loaded from anywhere."""

_DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Workshop:
    """Everything the loop works with.

    Attributes:
        adapter: Calls the model.
        draws: The randomness of a step.
        step: The step; its state is the checkpoint.
        rates: Learning rates of all rows.
        totals: Optimizer steps each concept is to do.
        rows: Positions of each concept's rows.
        digests: Fingerprint of each concept's pictures.
    """

    adapter: FamilyAdapter
    draws: DrawSource
    step: TrainingStep
    rates: RowRates
    totals: tuple[int, ...]
    rows: tuple[range, ...]
    digests: tuple[str, ...]


def collect_all(
    config: TextualInversionConfig, concepts: Sequence[ConceptSpec]
) -> tuple[list[Sample], list[SkippedImage]]:
    """Find and check the pictures of all concepts.

    Args:
        config: ``skip_bad_images`` is used.
        concepts: What the run learns.

    Returns:
        The pictures, and those that were left out.
    """
    samples: list[Sample] = []
    skipped: list[SkippedImage] = []
    for place, concept in enumerate(concepts):
        found, bad = collect_samples(concept, skip_bad_images=config.skip_bad_images, concept=place)
        samples += found
        skipped += bad
    return samples, skipped


def open_model(
    config: TextualInversionConfig, pipeline: DiffusionPipeline | None, device: torch.device
) -> FamilyAdapter:
    """Load the model if none was given and put it where it trains.

    Args:
        config: Model, precision and resolution are used.
        pipeline: A loaded pipeline to use in place, or None.
        device: The training device.

    Returns:
        Its adapter.

    Raises:
        ConfigError: The resolution does not suit the model.
    """
    if pipeline is None:
        pipeline = load_pipeline(
            config.pretrained_model_name_or_path,
            revision=config.revision,
            variant=config.variant,
            tokenizer_name=config.tokenizer_name,
            safety_checker=False,
        )
    adapter = adapter_for(pipeline)
    factor = getattr(pipeline, "vae_scale_factor", 1)
    if config.resolution is not None and config.resolution % factor:
        nearest = max(1, round(config.resolution / factor)) * factor
        raise ConfigError(
            f"resolution is {config.resolution}; this model needs a multiple of {factor}, for example {nearest}."
        )
    if config.allow_tf32:
        torch.backends.cuda.matmul.allow_tf32 = True
    adapter.to(device, _DTYPES[config.mixed_precision])
    if config.gradient_checkpointing:
        adapter.enable_gradient_checkpointing()
    return adapter


def build_workshop(
    config: TextualInversionConfig,
    concepts: Sequence[ConceptSpec],
    samples: Sequence[Sample],
    adapter: FamilyAdapter,
    accelerator: Accelerator,
) -> Workshop:
    """Encode pictures and prompts, make the first rows, and put the step together.

    Args:
        config: The run's settings.
        concepts: What the run learns.
        samples: Their pictures.
        adapter: Calls the model.
        accelerator: Device and processes.

    Returns:
        The workshop.

    Raises:
        ConfigError: The parametrization is unknown.
    """
    if config.parametrization not in PARAMETRIZATIONS:
        raise ConfigError(f"parametrization is {config.parametrization!r}; allowed: {', '.join(PARAMETRIZATIONS)}.")
    encoders = prompt_encoders(adapter.slots, concepts)
    initial = {slot.key: torch.cat([resolve(concept)(concept, slot) for concept in concepts]) for slot in adapter.slots}
    rows = row_ranges(concepts)
    _rehearse_saving(concepts, initial, rows)
    resident = build_resident_set(adapter, concepts, samples, encoders, config)
    adapter.release_vae()
    row_concept = torch.tensor([place for place, owned in enumerate(rows) for _ in owned], device=resident.device)
    draws = DrawSource(
        resident,
        seed=config.seed,
        batch_size=config.train_batch_size,
        accumulation=config.gradient_accumulation_steps,
        world_size=accelerator.num_processes,
        rank=accelerator.process_index,
        flip_p=config.flip_p,
    )
    totals = tuple(concept_steps(config, count, draws.global_batch) for count in resident.image_count)
    step = _make_step(config, adapter, resident, initial, row_concept, accelerator)
    rates = make_rates(config, totals, row_concept, accelerator.num_processes).to(resident.device)
    digests = tuple(
        training_data_digest(sample for sample in samples if sample.concept == place) for place in range(len(concepts))
    )
    return Workshop(adapter, draws, step, rates, totals, rows, digests)


def describe(
    config: TextualInversionConfig, concept: ConceptSpec, adapter: FamilyAdapter, steps: int, digest: str
) -> dict[str, str]:
    """What an embedding file says about its training.

    Args:
        config: The run's settings.
        concept: What was asked for.
        adapter: Calls the model.
        steps: Optimizer steps done.
        digest: Fingerprint of the concept's pictures.

    Returns:
        Metadata, all text.
    """
    model = config.pretrained_model_name_or_path
    facts = {
        "base_model": "" if model == IN_MEMORY else model,
        "base_model_revision": config.revision or "",
        "family": adapter.name,
        "steps": str(steps),
        "initializer": concept.initializer or concept.class_name or "",
        "learnable_property": concept.learnable_property,
        "class_name": concept.class_name or "",
        "recipe": json.dumps(recipe(config)),
        "training_data_digest": digest,
        "library_version": __version__,
    }
    return {name: value for name, value in facts.items() if value}


def _make_step(
    config: TextualInversionConfig,
    adapter: FamilyAdapter,
    resident: ResidentSet,
    initial: Mapping[str, Tensor],
    row_concept: Tensor,
    accelerator: Accelerator,
) -> TrainingStep:
    settings = UpdateSettings(
        beta1=config.adam_beta1,
        beta2=config.adam_beta2,
        epsilon=config.adam_epsilon,
        weight_decay=config.adam_weight_decay,
    )
    kind = PARAMETRIZATIONS[config.parametrization]
    several = accelerator.num_processes > 1
    return TrainingStep(
        adapter,
        resident,
        {key: kind(rows.to(resident.device), settings) for key, rows in initial.items()},
        row_concept,
        loss_scaling=config.mixed_precision == "fp16",
        reduce=partial(accelerator.reduce, reduction="sum") if several else None,
        world_size=accelerator.num_processes,
    )


def _rehearse_saving(concepts: Sequence[ConceptSpec], initial: Mapping[str, Tensor], rows: Sequence[range]) -> None:
    """Lay the first rows out as they will be saved: a name that no file can hold is refused before training."""
    for concept, owned in zip(concepts, rows, strict=True):
        first = {key: tensor[owned.start : owned.stop] for key, tensor in initial.items()}
        for target in ("diffusers", "webui"):  # what `RunFolder.write_concept` writes
            lay_out(LearnedConcept(concept.placeholder_token, first), target)
