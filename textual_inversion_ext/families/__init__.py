"""How to call a pipeline's parts: one file per family, and this table is the only list."""

from __future__ import annotations

from diffusers import DiffusionPipeline

from textual_inversion_ext.errors import ModelError
from textual_inversion_ext.families.base import FamilyAdapter
from textual_inversion_ext.families.stable_diffusion import StableDiffusionAdapter
from textual_inversion_ext.families.stable_diffusion_xl import StableDiffusionXLAdapter
from textual_inversion_ext.records import EncoderSlot

__all__ = [
    "FAMILIES",
    "EncoderSlot",
    "FamilyAdapter",
    "StableDiffusionAdapter",
    "StableDiffusionXLAdapter",
    "adapter_for",
]

FAMILIES: dict[str, type[FamilyAdapter]] = {
    StableDiffusionAdapter.name: StableDiffusionAdapter,
    StableDiffusionXLAdapter.name: StableDiffusionXLAdapter,
}


def adapter_for(pipeline: DiffusionPipeline) -> FamilyAdapter:
    """The adapter of a pipeline's family.

    Args:
        pipeline: a loaded pipeline.

    Returns:
        A new adapter around it.

    Raises:
        ModelError: no family knows the pipeline's class.
    """
    for family in FAMILIES.values():
        if family.accepts(pipeline):
            return family(pipeline)
    known = ", ".join(name for family in FAMILIES.values() for name in family.pipeline_classes)
    raise ModelError(f"{type(pipeline).__name__} is of no family that can be trained; supported pipelines: {known}")
