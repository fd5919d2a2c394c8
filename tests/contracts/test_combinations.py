"""Every kind of row, from every start, in every family: a short run that ends with files that hold it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import tiny_images, tiny_pipeline
from tests.tiny_clip import tiny_twin
from tests.tiny_families import tiny_sdxl
from textual_inversion_ext.concept import ConceptSpec, LearnedConcept
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.embedding_table import mean_norm
from textual_inversion_ext.families import FAMILIES, adapter_for
from textual_inversion_ext.files import load_concept
from textual_inversion_ext.initializers import INITIALIZERS
from textual_inversion_ext.parametrizations import PARAMETRIZATIONS
from textual_inversion_ext.run_file import load_run
from textual_inversion_ext.training.trainer import TextualInversionTrainer

PIPELINES: dict[str, Callable[[], Any]] = {"stable-diffusion": tiny_pipeline, "stable-diffusion-xl": tiny_sdxl}


def test_every_family_is_here() -> None:
    assert set(PIPELINES) == set(FAMILIES), "give the new family a tiny pipeline above"


def starting_point(name: str, pipeline: Any, folder: Path) -> tuple[str, dict[str, Any]]:
    """What the initializer needs: the concept's ``initializer``, and settings."""
    slots = adapter_for(pipeline).slots
    if name == "file":
        vectors = {slot.key: torch.full((2, slot.dim), 0.5) for slot in slots}
        LearnedConcept("<old>", vectors).save(folder / "old.safetensors", "webui")
        return str(folder / "old.safetensors"), {}
    if name == "images":  # a twin of the first encoder; the other one says so and starts from the word
        for part in tiny_twin(slots[0]):
            part.save_pretrained(folder / "clip")
        return "dog", {"clip_model": str(folder / "clip"), "clip_init_steps": 2}
    return "red dog", {}


@pytest.mark.parametrize("rows", PARAMETRIZATIONS)
@pytest.mark.parametrize("start", INITIALIZERS)
@pytest.mark.parametrize("family", PIPELINES)
def test_it_trains_and_is_read_again(family: str, start: str, rows: str, tmp_path: Path) -> None:
    pipeline = PIPELINES[family]()
    initializer, settings = starting_point(start, pipeline, tmp_path)
    config = TextualInversionConfig(
        output_dir=str(tmp_path / "out"),
        parametrization=rows,
        initialization=start,
        train_batch_size=2,
        max_train_steps=2,
        eval_steps=0,
        **settings,
    )
    spec = ConceptSpec("<tok>", tiny_images(2), initializer, num_vectors=2)
    result = TextualInversionTrainer(config, [spec], pipeline=pipeline).train()
    assert result.steps == {"<tok>": 2} and not result.diverged
    learned = load_concept(tmp_path / "out")
    slots = {slot.key: slot for slot in adapter_for(pipeline).slots}
    assert set(learned.vectors) == set(slots)
    for key, slot in slots.items():
        vectors = learned.vectors[key]
        assert vectors.shape == (2, slot.dim) and vectors.dtype == torch.float32 and vectors.isfinite().all()
        if rows == "directional":
            expected = mean_norm(slot.text_encoder, slot.first_id)
            assert (vectors.double().norm(dim=1) - expected).abs().max() < 1e-6
    assert load_run(tmp_path / "out" / "config.json")[0].parametrization == rows
