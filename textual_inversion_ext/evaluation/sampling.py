"""How the pictures of an evaluation are sampled: the protocol's sampler in place of the model's own, and its name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers import DDIMScheduler, DiffusionPipeline

from textual_inversion_ext.evaluation.protocols.protocol import Scheduler
from textual_inversion_ext.pipelines.sampling import SampleSettings
from textual_inversion_ext.pocket import NAME as POCKET
from textual_inversion_ext.pocket import WEIGHTS
from textual_inversion_ext.run_file import full_path

__all__ = ["model_name", "sampled_with", "sampling_facts"]


def model_name(pipeline: DiffusionPipeline) -> str:
    """What a pipeline was loaded from.

    Args:
        pipeline: A loaded pipeline.

    Returns:
        Hub id, full path of a folder, or "pocket"; "" for one that was put together in memory.
    """
    name = str(pipeline.config.get("_name_or_path") or "")
    return POCKET if name and Path(name).resolve().is_relative_to(WEIGHTS) else full_path(name)


@contextmanager
def sampled_with(pipeline: DiffusionPipeline, scheduler: Scheduler | None) -> Iterator[bool]:
    """Put the sampler that a protocol names in place of the model's own for a while.

    Args:
        pipeline: A loaded pipeline; it is left as it was.
        scheduler: The sampler, or None for the model's own.

    Yields:
        Whether the wish was granted: a model of flow matching cannot be sampled with DDIM.
    """
    part: Any = pipeline
    own = part.scheduler
    fits = getattr(own, "alphas_cumprod", None) is not None
    if scheduler == "ddim" and fits:
        # Latents are not confined to [-1, 1]; configurations of other samplers do not say so, and DDIM's default clips.
        part.scheduler = DDIMScheduler.from_config(own.config, clip_sample=False, set_alpha_to_one=False)
    try:
        yield scheduler is None or fits
    finally:
        part.scheduler = own


def sampling_facts(pipeline: DiffusionPipeline, settings: SampleSettings) -> dict[str, str | int | float | bool | None]:
    """What a report says of how its pictures were made.

    Args:
        pipeline: The pipeline with the sampler that is used.
        settings: Steps, guidance, ...

    Returns:
        Names and values.
    """
    part: Any = pipeline
    return {
        "num_inference_steps": settings.num_inference_steps,
        "guidance_scale": settings.guidance_scale,
        "negative_prompt": settings.negative_prompt,
        "size": None if settings.size is None else f"{settings.size[0]}x{settings.size[1]}",
        "scheduler": type(part.scheduler).__name__,
        "pipeline": type(part).__name__,
        "dtype": str(part.dtype).removeprefix("torch."),
    }
