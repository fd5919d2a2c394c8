"""What tests of evaluations share: words with known rows, metrics with known features, the pocket pipeline."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from tests.metric_parts import mean_colour_backbone
from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.evaluation.metrics import ClipImageMetric, DiversityMetric, Metric
from textual_inversion_ext.evaluation.protocols import Protocol, ProtocolPrompt
from textual_inversion_ext.pipelines.loading import load_pipeline
from textual_inversion_ext.pipelines.sampling import SampleSettings

FEW = SampleSettings(num_inference_steps=2, guidance_scale=2.0)
FASTEST = SampleSettings(num_inference_steps=2, guidance_scale=1.0, batch_size=8)  # no guidance: half the work

RED = Protocol(
    name="red",
    source="ours",
    prompts=(ProtocolPrompt("a red {}", "likeness"), ProtocolPrompt("a red {} on green", "both")),
    seeds=3,
)


def concept(token: str = "<tok>", seed: int = 0, **metadata: str) -> LearnedConcept:
    """A word for the tiny pipeline."""
    rows = torch.randn(2, 16, generator=torch.Generator().manual_seed(seed))
    return LearnedConcept(token, {"clip_l": rows}, metadata)


def colour_metrics() -> list[Metric]:
    backbone = mean_colour_backbone()
    return [ClipImageMetric(backbone), DiversityMetric(backbone)]


@cache
def pocket_pipeline() -> Any:
    return load_pipeline("pocket")


def pocket_word(word: str, token: str) -> LearnedConcept:
    """A word that means exactly what a word of the vocabulary means."""
    pipeline = pocket_pipeline()
    table = pipeline.text_encoder.get_input_embeddings().weight
    row = table[pipeline.tokenizer(word).input_ids[1]]
    return LearnedConcept(token, {"clip_l": row[None]}, {"class_name": word, "base_model": "pocket"})
