"""Make pictures with learned words: the same prompt encoding as in training, then the pipeline's own sampler."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.errors import ConceptError, ConfigError, EmbeddingFileError
from textual_inversion_ext.families import adapter_for
from textual_inversion_ext.families.base import FamilyAdapter
from textual_inversion_ext.pipelines.words.pooling import recorded_pooling
from textual_inversion_ext.records import Conditioning
from textual_inversion_ext.tokens import PromptEncoder

OnPicture: TypeAlias = Callable[[int, int, Image.Image], None]
"""Is told of a picture as soon as it is made: the place of its prompt, its seed, the picture."""

_SIDES = 8  # what diffusers' pipelines of Stable Diffusion and SDXL ask of both sides, whatever their VAE


@dataclass(frozen=True, slots=True)
class SampleSettings:
    """How pictures are made.

    Attributes:
        num_inference_steps: Denoising steps.
        guidance_scale: Strength of classifier-free guidance; 1 or less turns it off.
        negative_prompt: What the pictures should not show; learned words work here too.
        size: Width and height in pixels, multiples of 8, or None for the model's own.
        batch_size: Pictures at a time. It does not change them: every picture has its own noise.
    """

    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    negative_prompt: str = ""
    size: tuple[int, int] | None = None
    batch_size: int = 4

    def __post_init__(self) -> None:
        for name in ("num_inference_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not 0 <= self.guidance_scale < float("inf"):
            raise ConfigError(f"guidance_scale is {self.guidance_scale}; it must be 0 or more.")
        if self.size is not None and any(side < 1 or side % _SIDES for side in self.size):
            width, height = self.size
            raise ConfigError(f"size is {width}x{height}; width and height must be multiples of {_SIDES}, such as 512.")


def sample(
    pipeline: DiffusionPipeline,
    concepts: Sequence[LearnedConcept],
    prompts: Sequence[str],
    seeds: Sequence[int] = (0,),
    settings: SampleSettings | None = None,
    on_picture: OnPicture | None = None,
) -> list[list[Image.Image]]:
    """Make one picture per prompt and seed.

    The pipeline is left as it was: no token is added to its tokenizer, no row to its text encoder. Words in any
    letter case and words that contain one another work (plain diffusers mishandles both). Prompts are pooled as in
    training.

    Args:
        pipeline: A loaded pipeline of a supported family, on its device.
        concepts: Learned words that the prompts may use; may be empty.
        prompts: The prompts.
        seeds: One picture of each prompt per seed; the noise of a seed is the same on every device.
        settings: Steps, guidance, ...
        on_picture: Is told of each picture as soon as it is made.

    Returns:
        A list per prompt with a picture per seed.

    Raises:
        ConceptError: Two concepts have the same token.
        ConfigError: There are more steps than the model has timesteps.
        EmbeddingFileError: A concept was learned for another kind of model.
    """
    adapter = adapter_for(pipeline)
    adapter.pooling = recorded_pooling(concepts)
    rows = stack_rows(adapter, concepts)
    encoders = word_encoders(adapter, concepts)
    with adapter.attached():
        return sample_attached(adapter, encoders, rows, prompts, seeds, settings, on_picture)


@torch.no_grad()
def sample_attached(
    adapter: FamilyAdapter,
    encoders: Mapping[str, PromptEncoder],
    rows: Mapping[str, Tensor],
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: SampleSettings | None = None,
    on_picture: OnPicture | None = None,
) -> list[list[Image.Image]]:
    """Like ``sample``, for rows that are live (previews while training). Call it inside ``adapter.attached()``.

    Args:
        adapter: Calls the pipeline's parts.
        encoders: Encoder key -> prompt encoder that knows the placeholders.
        rows: Encoder key -> (N, D) float32 learned rows.
        prompts: The prompts.
        seeds: One picture of each prompt per seed.
        settings: Steps, guidance, ...
        on_picture: Is told of each picture as soon as it is made.

    Returns:
        A list per prompt with a picture per seed.

    Raises:
        ConfigError: There are more steps than the model has timesteps.
    """
    settings = settings or SampleSettings()
    _check_steps(adapter, settings.num_inference_steps)
    jobs = [(prompt, seed) for prompt in prompts for seed in seeds]
    pictures: list[Image.Image] = []
    with _vae_on(adapter.pipeline, adapter.device):
        painter, arguments = adapter.text_to_image(settings.size)
        with _own_bar_hidden(painter), tqdm(total=len(jobs), desc="pictures", delay=2, leave=False) as bar:
            for first in range(0, len(jobs), settings.batch_size):
                part = jobs[first : first + settings.batch_size]
                arguments |= _prompt_arguments(adapter, encoders, rows, part, settings)
                pictures += _decode(adapter, _latents(painter, arguments, [seed for _, seed in part], settings))
                if on_picture is not None:
                    for place in range(first, len(pictures)):
                        on_picture(place // len(seeds), jobs[place][1], pictures[place])
                bar.update(len(part))
    return [pictures[first : first + len(seeds)] for first in range(0, len(pictures), max(1, len(seeds)))]


def stack_rows(adapter: FamilyAdapter, concepts: Sequence[LearnedConcept]) -> dict[str, Tensor]:
    """Put the rows of several concepts under one another, as the text encoders look them up.

    Args:
        adapter: Knows the text encoders.
        concepts: The concepts; one that has no rows for an encoder is plain text there.

    Returns:
        Encoder key -> (N, D) float32 on the model's device.

    Raises:
        EmbeddingFileError: A concept has rows for none of the encoders, or rows of another width.
    """
    dims = {slot.key: slot.dim for slot in adapter.slots}
    for concept in concepts:
        found = {key: rows.shape[1] for key, rows in concept.vectors.items() if key in dims}
        if not found or any(dims[key] != width for key, width in found.items()):
            made_for = ", ".join(f"{key} of width {rows.shape[1]}" for key, rows in concept.vectors.items())
            needed = ", ".join(f"{key} of width {dim}" for key, dim in dims.items())
            raise EmbeddingFileError(
                f"{concept.token} was learned for another kind of model: it has rows for {made_for}, this model"
                f" needs {needed}. Load the model it was trained on."
            )
    stacked = {}
    for key, dim in dims.items():
        parts = [concept.vectors[key] for concept in concepts if key in concept.vectors]
        # Without any concept one row that no prompt refers to: a table of no rows cannot be looked up in.
        stacked[key] = torch.cat(parts or [torch.zeros(1, dim)]).to(adapter.device)
    return stacked


def word_encoders(adapter: FamilyAdapter, concepts: Sequence[LearnedConcept]) -> dict[str, PromptEncoder]:
    """Prompt encoders that know the placeholders, as ``stack_rows`` stacks their rows.

    Args:
        adapter: Knows the tokenizers.
        concepts: The concepts; one that has no rows for an encoder is plain text there.

    Returns:
        Encoder key -> prompt encoder.

    Raises:
        ConceptError: Two tokens are the same.
    """
    tokens = [concept.token for concept in concepts]
    for token in tokens:
        if tokens.count(token) > 1:
            raise ConceptError(f"{token} was given twice; load each word once, or rename one of the two.")
    encoders = adapter.plain_encoders()
    for slot in adapter.slots:
        placeholders, next_id = {}, slot.first_id
        for concept in concepts:
            count = len(concept.vectors.get(slot.key, ()))
            if count:
                placeholders[concept.token] = tuple(range(next_id, next_id + count))
                next_id += count
        encoders[slot.key] = PromptEncoder(slot.tokenizer, placeholders)
    return encoders


def _check_steps(adapter: FamilyAdapter, steps: int) -> None:
    known = adapter.pipeline.scheduler.config.get("num_train_timesteps")
    if isinstance(known, int) and steps > known:
        raise ConfigError(f"num_inference_steps is {steps}; the model has {known} timesteps, so give 1 to {known}.")


def _prompt_arguments(
    adapter: FamilyAdapter,
    encoders: Mapping[str, PromptEncoder],
    rows: Mapping[str, Tensor],
    jobs: Sequence[tuple[str, int]],
    settings: SampleSettings,
) -> dict[str, Any]:
    """What a pipeline is told instead of the prompts of some (prompt, seed) pairs."""

    def encoded(prompts: list[str]) -> Conditioning:
        ids = {key: encoder.encode(prompts).to(adapter.device) for key, encoder in encoders.items()}
        return adapter.encode(ids, rows)

    positive = encoded([prompt for prompt, _ in jobs])
    arguments: dict[str, Any] = {"prompt_embeds": positive.hidden_states, "pooled_prompt_embeds": positive.pooled}
    # Some pipelines take zeros for a negative prompt that is not there, and make them themselves.
    if settings.guidance_scale > 1 and (settings.negative_prompt or not adapter.zero_negative):
        negative = encoded([settings.negative_prompt] * len(jobs))
        arguments["negative_prompt_embeds"] = negative.hidden_states
        arguments["negative_pooled_prompt_embeds"] = negative.pooled
    return {name: value for name, value in arguments.items() if value is not None}


def _latents(pipeline: Any, arguments: Mapping[str, Any], seeds: Sequence[int], settings: SampleSettings) -> Tensor:
    """Let the pipeline make the latents of one picture per seed."""
    size = {} if settings.size is None else dict(zip(("width", "height"), settings.size, strict=True))
    return pipeline(
        **arguments,
        **size,
        # Noise drawn on the CPU: the same picture on every device, whatever the batch size.
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=settings.guidance_scale,
        output_type="latent",
    ).images


def _decode(adapter: FamilyAdapter, latents: Tensor) -> list[Image.Image]:
    """Decode as the pipeline does, and let it check and mark the pictures as it would."""
    pipeline: Any = adapter.pipeline
    pixels = adapter.pixels(latents)
    denormalize = [True] * len(pixels)
    if getattr(pipeline, "safety_checker", None) is not None:
        pixels, flagged = pipeline.run_safety_checker(pixels, pixels.device, pipeline.vae.dtype)
        denormalize = [not hidden for hidden in flagged]
    if getattr(pipeline, "watermark", None) is not None:
        pixels = pipeline.watermark.apply_watermark(pixels)
    return pipeline.image_processor.postprocess(pixels.detach(), output_type="pil", do_denormalize=denormalize)


@contextmanager
def _vae_on(pipeline: Any, device: torch.device) -> Iterator[None]:
    """Bring the VAE back to the denoiser's device for a while; training had sent it away to save memory."""
    home = pipeline.vae.device
    pipeline.vae.to(device)
    try:
        yield
    finally:
        pipeline.vae.to(home)


@contextmanager
def _own_bar_hidden(pipeline: Any) -> Iterator[None]:
    """Silence the pipeline's bar: one bar over all pictures says more than one per picture."""
    before = dict(getattr(pipeline, "_progress_bar_config", {}))
    pipeline.set_progress_bar_config(**{**before, "disable": True})
    try:
        yield
    finally:
        pipeline.set_progress_bar_config(**before)
