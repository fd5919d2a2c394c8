"""From a config, concepts and a pipeline to everything the loop needs. Cheap checks come first, slow work last."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from textual_inversion_ext import __version__
from textual_inversion_ext.concept import ConceptSpec, LearnedConcept
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.data.pictures.masks import check_mask_settings
from textual_inversion_ext.data.resident import ResidentSet, build_resident_set
from textual_inversion_ext.data.sources.collect import (
    Sample,
    SkippedImage,
    collect_samples,
    make_segmenter,
    training_data_digest,
)
from textual_inversion_ext.embedding_table import table_of
from textual_inversion_ext.errors import ConfigError, ModelError
from textual_inversion_ext.families import adapter_for
from textual_inversion_ext.families.base import FamilyAdapter
from textual_inversion_ext.files import lay_out
from textual_inversion_ext.initializers import first_rows
from textual_inversion_ext.pipelines.loading import load_pipeline
from textual_inversion_ext.row_layout import prompt_encoders
from textual_inversion_ext.run_file import located, located_concept
from textual_inversion_ext.tokens import PromptEncoder
from textual_inversion_ext.training.activation import Activation
from textual_inversion_ext.training.draws import DrawSource, make_draws
from textual_inversion_ext.training.image_words import with_image_rows
from textual_inversion_ext.training.methods import make_parametrizations
from textual_inversion_ext.training.penalties import make_penalties
from textual_inversion_ext.training.pivotal.settings import make_networks
from textual_inversion_ext.training.plan import Plan, make_plan
from textual_inversion_ext.training.processes.group import Processes
from textual_inversion_ext.training.rates import RowRates, make_rates
from textual_inversion_ext.training.state import recipe
from textual_inversion_ext.training.step import TrainingStep
from textual_inversion_ext.training.writing import written_for
from textual_inversion_ext.versions import versions

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
        rows: Positions of the rows of each concept's vectors.
        image_rows: Positions of the rows of its single pictures' words, right behind those; mostly none.
        image_names: Names of its pictures, in their order.
        activation: When each vector becomes active.
        digests: Fingerprint of each concept's pictures.
    """

    adapter: FamilyAdapter
    draws: DrawSource
    step: TrainingStep
    rates: RowRates
    totals: tuple[int, ...]
    rows: tuple[range, ...]
    image_rows: tuple[range, ...]
    image_names: tuple[tuple[str, ...], ...]
    activation: Activation
    digests: tuple[str, ...]

    @property
    def owned(self) -> tuple[range, ...]:
        """Positions of all rows of each concept."""
        pairs = zip(self.rows, self.image_rows, strict=True)
        return tuple(range(own.start, images.stop) for own, images in pairs)


def collect_all(
    config: TextualInversionConfig, concepts: Sequence[ConceptSpec]
) -> tuple[list[Sample], list[SkippedImage]]:
    """Find and check the pictures of all concepts.

    Args:
        config: The settings about pictures, captions and masks are used.
        concepts: What the run learns.

    Returns:
        The pictures, and those that were left out.
    """
    samples: list[Sample] = []
    skipped: list[SkippedImage] = []
    check_mask_settings(config)
    segmenter = make_segmenter(config)  # once for all concepts, and gone before training starts
    for place, concept in enumerate(concepts):
        found, bad = collect_samples(concept, config, concept=place, segmenter=segmenter)
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
        ModelError: A tokenizer has more entries than its text encoder has rows.
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
    _check_tokenizers(adapter)
    adapter.learn_in(config.encoders)
    adapter.pooling = config.pooling
    adapter.objective = adapter.objective.weighted(config.snr_gamma)
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


def _check_tokenizers(adapter: FamilyAdapter) -> None:
    """Refuse a tokenizer of another model, which ``tokenizer_name`` may have brought."""
    for slot in adapter.slots:
        height = len(table_of(slot.text_encoder))
        if len(slot.tokenizer) > height:
            raise ModelError(
                f"{slot.key}: the tokenizer has {len(slot.tokenizer)} entries and the text encoder only {height} rows;"
                " they do not belong together. Leave --tokenizer_name out, or give the model's own."
            )


def build_workshop(
    config: TextualInversionConfig,
    concepts: Sequence[ConceptSpec],
    samples: Sequence[Sample],
    adapter: FamilyAdapter,
    processes: Processes,
    continued: Collection[str] = (),
) -> Workshop:
    """Encode pictures and prompts, make the first rows, and put the step together.

    Args:
        config: The run's settings.
        concepts: What this process trains.
        samples: Their pictures.
        adapter: Calls the model.
        processes: The processes that share a step.
        continued: Tokens of concepts whose rows a checkpoint will replace.

    Returns:
        The workshop.
    """
    global_batch = config.train_batch_size * config.gradient_accumulation_steps * processes.world_size
    plan = make_plan(config, concepts, samples, global_batch, adapter.device)
    encoders = {**prompt_encoders(adapter.slots, concepts, plan.image_counts), **adapter.plain_encoders()}
    initial = first_rows(config, concepts, adapter.slots, samples, continued)
    if processes.world_size > 1:  # GPUs may round a search differently, and all processes must start alike
        initial = processes.gather(initial)[0]
    initial = with_image_rows(initial, adapter.slots, concepts, plan.image_counts)
    _rehearse_saving(concepts, initial, plan.rows)
    resident = build_resident_set(adapter, concepts, samples, encoders, config, plan.activation.levels)
    adapter.release_vae()
    step = _make_step(config, concepts, adapter, resident, encoders, initial, plan, processes)
    own = [[sample for sample in samples if sample.concept == place] for place in range(len(concepts))]
    return Workshop(
        adapter=adapter,
        draws=make_draws(config, resident, plan.activation, processes.world_size, processes.rank),
        step=step,
        rates=make_rates(config, plan.row_steps, resident.device, processes.world_size),
        totals=plan.totals,
        rows=plan.rows,
        image_rows=plan.image_rows,
        image_names=plan.image_names,
        activation=plan.activation,
        digests=tuple(map(training_data_digest, own)),
    )


def describe(
    config: TextualInversionConfig,
    concept: ConceptSpec,
    adapter: FamilyAdapter,
    steps: int,
    digest: str,
    eval_loss: float | None = None,
) -> dict[str, str]:
    """What an embedding file says about its training.

    Args:
        config: The run's settings.
        concept: What was asked for.
        adapter: Calls the model.
        steps: Optimizer steps done when the rows were as they are in the file.
        digest: Fingerprint of the concept's pictures.
        eval_loss: Their evaluation loss, if there was an evaluation at that step.

    Returns:
        Metadata, all text.
    """
    config, concept = located(config), located_concept(concept)
    model = config.pretrained_model_name_or_path
    facts = {
        "base_model": "" if model == IN_MEMORY else model,
        "base_model_revision": config.revision or "",
        "family": adapter.name,
        "steps": str(steps),
        "eval_loss": "" if eval_loss is None else f"{eval_loss:.6g}",
        "initializer": concept.initializer or concept.class_name or "",
        "learnable_property": concept.learnable_property,
        "class_name": concept.class_name or "",
        "recipe": json.dumps({**recipe(config), "initialization": concept.initialization or config.initialization}),
        "training_data_digest": digest,
        "hardware": _hardware(adapter.device),
        "versions": json.dumps(versions()),
        "library_version": __version__,
    }
    return {name: value for name, value in facts.items() if value}


def _hardware(device: torch.device) -> str:
    """What a card says the word was trained on; nothing that tells one machine of a kind from another."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.machine()}), threads: {torch.get_num_threads()}" if device.type == "cpu" else device.type


def _make_step(
    config: TextualInversionConfig,
    concepts: Sequence[ConceptSpec],
    adapter: FamilyAdapter,
    resident: ResidentSet,
    encoders: Mapping[str, PromptEncoder],
    initial: Mapping[str, Tensor],
    plan: Plan,
    processes: Processes,
) -> TrainingStep:
    return TrainingStep(
        adapter,
        resident,
        make_parametrizations(config, adapter, initial, resident.device),
        plan.row_concept,
        loss_scaling=config.mixed_precision == "fp16",
        reduce=processes.sum if processes.world_size > 1 else None,
        world_size=processes.world_size,
        penalties=make_penalties(config, concepts, adapter, encoders, initial, plan.rows, plan.row_concept),
        max_grad_norm=config.max_grad_norm,
        ema_decay=config.ema_decay,
        networks=make_networks(config, adapter, plan.totals, processes.world_size),
    )


def _rehearse_saving(concepts: Sequence[ConceptSpec], initial: Mapping[str, Tensor], rows: Sequence[range]) -> None:
    """Lay the first rows out as they will be saved: a name that no file can hold is refused before training."""
    for concept, owned in zip(concepts, rows, strict=True):
        first = {key: tensor[owned.start : owned.stop] for key, tensor in initial.items()}
        learned = LearnedConcept(concept.placeholder_token, first)
        for target in written_for(learned):
            lay_out(learned, target)
