"""diffusers' pipelines with our loader of learned words, ready to use."""

from __future__ import annotations

from diffusers import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)

from textual_inversion_ext.pipelines.words.loader import ConceptLoaderMixin


class ConceptStableDiffusionPipeline(ConceptLoaderMixin, StableDiffusionPipeline):
    """`diffusers.StableDiffusionPipeline` that loads concepts."""


class ConceptStableDiffusionImg2ImgPipeline(ConceptLoaderMixin, StableDiffusionImg2ImgPipeline):
    """`diffusers.StableDiffusionImg2ImgPipeline` that loads concepts."""


class ConceptStableDiffusionInpaintPipeline(ConceptLoaderMixin, StableDiffusionInpaintPipeline):
    """`diffusers.StableDiffusionInpaintPipeline` that loads concepts."""


class ConceptStableDiffusionXLPipeline(ConceptLoaderMixin, StableDiffusionXLPipeline):
    """`diffusers.StableDiffusionXLPipeline` that loads concepts."""


class ConceptStableDiffusionXLImg2ImgPipeline(ConceptLoaderMixin, StableDiffusionXLImg2ImgPipeline):
    """`diffusers.StableDiffusionXLImg2ImgPipeline` that loads concepts."""


class ConceptStableDiffusionXLInpaintPipeline(ConceptLoaderMixin, StableDiffusionXLInpaintPipeline):
    """`diffusers.StableDiffusionXLInpaintPipeline` that loads concepts."""
