"""What every initializer promises, in every family whose encoders it is for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from tests.contracts.test_adding import code_block
from tests.tiny import tiny_images, tiny_pipeline
from tests.tiny_clip import tiny_twin
from tests.tiny_families import tiny_sdxl
from textual_inversion_ext import initializers
from textual_inversion_ext.concept import ConceptSpec, LearnedConcept
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.data.sources.collect import collect_samples
from textual_inversion_ext.errors import ConceptError
from textual_inversion_ext.families import FAMILIES, EncoderSlot, adapter_for
from textual_inversion_ext.initializers import INITIALIZERS, InitializerContext, first_rows, initial_rows, resolve

PIPELINES: dict[str, Callable[[], DiffusionPipeline]] = {
    "stable-diffusion": tiny_pipeline,
    "stable-diffusion-xl": tiny_sdxl,
}


@cache
def slots_of(family: str) -> tuple[EncoderSlot, ...]:
    return adapter_for(PIPELINES[family]()).slots


@dataclass
class Start:
    """One initializer, ready to be asked for rows."""

    name: str
    slots: tuple[EncoderSlot, ...]
    folder: Path

    def concept(self, token: str = "<x>", num_vectors: int = 1) -> ConceptSpec:
        words = "red dog" if num_vectors > 1 else "dog"
        if self.name != "file":
            return ConceptSpec(token, tiny_images(2, seed=len(token)), words, num_vectors=num_vectors)
        vectors = {slot.key: torch.full((num_vectors, slot.dim), 0.5) for slot in self.slots}
        path = self.folder / f"{num_vectors}.safetensors"
        LearnedConcept("<old>", vectors).save(path, "webui")
        return ConceptSpec(token, tiny_images(2), str(path), num_vectors=num_vectors)

    def context(self, concept: ConceptSpec, slot: EncoderSlot, **settings: Any) -> InitializerContext:
        config = TextualInversionConfig(initialization=self.name, clip_init_steps=3, **settings)
        return InitializerContext(config, collect_samples(concept)[0], lambda name: tiny_twin(slot))

    def rows(self, slot: EncoderSlot, num_vectors: int = 1, token: str = "<x>", **settings: Any) -> torch.Tensor:
        concept = self.concept(token, num_vectors)
        return initial_rows(concept, slot, self.context(concept, slot, **settings))


def added() -> type[initializers.Initializer]:
    """The class of the recipe in ADDING.md."""
    namespace: dict[str, Any] = {"__name__": "recipe"}
    exec(code_block(Path(initializers.__file__).parent), namespace)  # noqa: S102 - our own text
    return namespace["BlendInitializer"]


@pytest.fixture(params=[*INITIALIZERS, "blend"])
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(INITIALIZERS, "blend", added())
    return request.param


@pytest.fixture(params=PIPELINES)
def start(request: pytest.FixtureRequest, name: str, tmp_path: Path) -> Start:
    return Start(name, slots_of(request.param), tmp_path)


def test_every_family_is_here() -> None:
    assert set(PIPELINES) == set(FAMILIES), "give the new family a tiny pipeline above"


def test_name(name: str) -> None:
    assert INITIALIZERS[name].name == name
    assert type(resolve(ConceptSpec("<x>", None, "dog"), name)) is INITIALIZERS[name]


@pytest.mark.parametrize("num_vectors", [1, 3])
def test_rows(start: Start, num_vectors: int) -> None:
    for slot in start.slots:
        rows = start.rows(slot, num_vectors)
        assert rows.shape == (num_vectors, slot.dim)
        assert rows.dtype == torch.float32 and rows.device.type == "cpu" and not rows.requires_grad
        assert rows.isfinite().all() and (rows.norm(dim=-1) > 0).all()


def test_the_same_rows_again(start: Start) -> None:
    for slot in start.slots:
        assert torch.equal(start.rows(slot, 3), start.rows(slot, 3))


def test_the_text_encoder_is_only_read(start: Start) -> None:
    for slot in start.slots:
        embedding = slot.text_encoder.get_input_embeddings()
        before = {key: weight.clone() for key, weight in slot.text_encoder.state_dict().items()}
        start.rows(slot, 2).zero_()
        assert slot.text_encoder.get_input_embeddings() is embedding
        after = slot.text_encoder.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(weight, after[key]) for key, weight in before.items())
        assert all(weight.grad is None for weight in slot.text_encoder.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_encoders(start: Start, dtype: torch.dtype) -> None:
    for slot in start.slots:
        full = start.rows(slot, 2)
        half = EncoderSlot(slot.key, slot.tokenizer, copy.deepcopy(slot.text_encoder).to(dtype))
        rows = start.rows(half, 2)
        assert rows.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(rows, full).min() > 0.98


def test_noise_tells_the_rows_apart_and_is_small(start: Start) -> None:
    for slot in start.slots:
        plain, noisy = start.rows(slot, 3, initializer_noise=0.0), start.rows(slot, 3, initializer_noise=0.1)
        difference = noisy - plain
        assert len({tuple(row.tolist()) for row in difference}) == 3
        spread = slot.text_encoder.get_input_embeddings().weight.detach().float().std(0)
        assert torch.allclose((difference / spread).std(), torch.tensor(0.1), rtol=0.3)
        assert not torch.equal(noisy, start.rows(slot, 3, initializer_noise=0.1, seed=1))


def test_a_concept_starts_as_it_would_alone(name: str, tmp_path: Path) -> None:
    slots = slots_of("stable-diffusion")
    start = Start(name, slots, tmp_path)
    model, processor = tiny_twin(slots[0])
    model.save_pretrained(tmp_path / "clip")
    processor.save_pretrained(tmp_path / "clip")
    config = TextualInversionConfig(
        initialization=name, initializer_noise=0.1, clip_model=str(tmp_path / "clip"), clip_init_steps=3
    )
    pair = [start.concept("<x>", 2), start.concept("<longer>")]

    def rows(concepts: list[ConceptSpec]) -> torch.Tensor:
        samples = [sample for place, spec in enumerate(concepts) for sample in collect_samples(spec, concept=place)[0]]
        return first_rows(config, concepts, slots, samples)["clip_l"]

    together = rows(pair)
    assert torch.equal(together[:2], rows(pair[:1])) and torch.equal(together[2:], rows(pair[1:]))
    assert torch.equal(together, torch.cat([rows(pair[::-1])[1:], rows(pair[::-1])[:1]]))


def test_a_concept_without_words(start: Start) -> None:
    """Either rows all the same, or an error that names the concept and says what to give."""
    slot = start.slots[0]
    concept = replace(start.concept(), initializer="", class_name=None)
    context = start.context(concept, slot)
    if start.name in ("mean", "images"):
        assert initial_rows(concept, slot, context).shape == (1, slot.dim)
    else:
        with pytest.raises(ConceptError, match=r"<x>.*initializer"):
            initial_rows(concept, slot, context)
