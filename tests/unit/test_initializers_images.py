"""Rows from the pictures, on the pocket world: the real CLIP model, real pictures, a real search."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.tiny import tiny_images, tiny_pipeline
from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.data.sources.collect import collect_samples
from textual_inversion_ext.errors import ConceptError
from textual_inversion_ext.families import EncoderSlot, adapter_for
from textual_inversion_ext.initializers import InitializerContext, first_rows, initial_rows
from textual_inversion_ext.initializers.images import Search, spherical_distance
from textual_inversion_ext.pipelines.loading import load_clip
from textual_inversion_ext.pipelines.twins import clip_twin
from textual_inversion_ext.pocket import OBJECTS, load_pipeline, render_concept

CONCEPT = OBJECTS[0]


@pytest.fixture(scope="module")
def pocket() -> EncoderSlot:
    return adapter_for(load_pipeline()).slots[0]


def spec(word: str = CONCEPT.class_name, **fields: Any) -> ConceptSpec:
    return ConceptSpec("<x>", render_concept(CONCEPT.name), word, **fields)


def rows_of(slot: EncoderSlot, concept: ConceptSpec, **settings: Any) -> torch.Tensor:
    config = TextualInversionConfig(initialization="images", **settings)
    return first_rows(config, [concept], [slot], collect_samples(concept)[0])["clip_l"]


def likeness(slot: EncoderSlot, text: str, rows: torch.Tensor) -> float:
    """Mean cosine of a text to fresh pictures of the concept, by plain transformers with the rows in its own table."""
    model, processor = load_clip("pocket")
    tokenizer = processor.tokenizer
    tokens = ["<x>", *(f"<x>_{number}" for number in range(1, len(rows)))]
    tokenizer.add_tokens(tokens)
    model.text_model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.text_model.get_input_embeddings().weight.data[-len(rows) :] = rows
    inputs = tokenizer([text.replace("<x>", " ".join(tokens))], return_tensors="pt")
    words = F.normalize(model.get_text_features(**inputs).pooler_output, dim=-1)
    pixels = processor.image_processor(render_concept(CONCEPT.name, 16, seed=77), return_tensors="pt")
    return float((words @ F.normalize(model.get_image_features(**pixels).pooler_output, dim=-1).t()).mean())


def test_found_rows_are_nearer_to_the_pictures_than_the_word(
    pocket: EncoderSlot, caplog: pytest.LogCaptureFixture
) -> None:
    started = time.process_time()
    with caplog.at_level(logging.INFO):
        rows = rows_of(pocket, spec())
    assert time.process_time() - started < 20, "the search through the pocket CLIP should take seconds"
    word = initial_rows(spec(), pocket, InitializerContext())
    # On a template of training and on a sentence that the search never saw.
    for text in ("a photo of a <x>", "my <x> in the snow"):
        assert likeness(pocket, text, rows) > likeness(pocket, text, word) + 0.1
    assert torch.allclose(rows.norm(dim=-1), word.norm(dim=-1), rtol=1e-4)
    assert "<x>: the rows of clip_l start from the pictures" in caplog.text
    assert "100 steps" in caplog.text


def test_several_vectors_come_nearer_still_and_do_not_stay_alike(pocket: EncoderSlot) -> None:
    one, three = rows_of(pocket, spec()), rows_of(pocket, spec(num_vectors=3))
    assert likeness(pocket, "a photo of a <x>", three) > likeness(pocket, "a photo of a <x>", one)
    assert F.cosine_similarity(three[0], three[2], dim=0) < 0.99


def test_no_word_is_needed(pocket: EncoderSlot) -> None:
    rows = rows_of(pocket, spec(""))
    word = initial_rows(spec(), pocket, InitializerContext())
    assert likeness(pocket, "a photo of a <x>", rows) > likeness(pocket, "a photo of a <x>", word) + 0.1


def test_the_same_rows_again_whatever_was_drawn_before(pocket: EncoderSlot) -> None:
    torch.manual_seed(1)
    first = rows_of(pocket, spec(), clip_init_steps=5)
    torch.manual_seed(2)
    assert torch.equal(rows_of(pocket, spec(), clip_init_steps=5), first)
    assert not torch.equal(rows_of(pocket, spec(), clip_init_steps=6), first)
    assert not torch.equal(rows_of(pocket, spec(), clip_init_steps=5, clip_init_learning_rate=0.1), first)


def test_styles_are_searched_in_the_templates_of_styles(pocket: EncoderSlot) -> None:
    twin = clip_twin(pocket, load_clip)
    search = Search(twin, spec(learnable_property="style"), render_concept(CONCEPT.name))
    texts = pocket.tokenizer.batch_decode(search.prompts.clamp(max=pocket.first_id - 1), skip_special_tokens=True)
    assert all("style of" in text for text in texts) and len(texts) == 17  # of 19, two stand twice


def test_spherical_distance_is_half_the_squared_angle() -> None:
    angles = torch.tensor([0.0, 0.5, 2.0, 3.14159])
    texts = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert torch.allclose(spherical_distance(texts, torch.tensor([1.0, 0.0])), angles.square() / 2, atol=1e-3)


# ---- where there is no twin


def fallback(concept: ConceptSpec, caplog: pytest.LogCaptureFixture, **settings: Any) -> str:
    slot = adapter_for(tiny_pipeline()).slots[0]
    rows = rows_of(slot, concept, **settings)
    word = initial_rows(ConceptSpec("<x>", None, "dog"), slot, InitializerContext())
    assert torch.equal(rows, word)
    return caplog.text


def test_another_encoder_starts_from_the_word(caplog: pytest.LogCaptureFixture) -> None:
    told = fallback(ConceptSpec("<x>", tiny_images(), "dog"), caplog)
    assert "start from the word 'dog', not from the pictures: the text tower of 'pocket' is not the clip_l" in told
    assert "clip_model" in told


def test_a_model_that_cannot_be_loaded(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    told = fallback(ConceptSpec("<x>", tiny_images(), "dog"), caplog, clip_model=str(tmp_path / "none"))
    assert "Cannot load the CLIP model" in told


def test_neither_twin_nor_word() -> None:
    slot = adapter_for(tiny_pipeline()).slots[0]
    with pytest.raises(ConceptError, match=r"no word to start from instead: the text tower of 'pocket'.*give a word"):
        rows_of(slot, ConceptSpec("<x>", tiny_images()))


def test_no_pictures(pocket: EncoderSlot) -> None:
    context = InitializerContext(TextualInversionConfig(initialization="images"))
    with pytest.raises(ConceptError, match="needs the concept's pictures"):
        initial_rows(spec(), pocket, context)


def test_one_clip_serves_all_concepts_of_a_run(pocket: EncoderSlot, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    def load(name: str) -> tuple[Any, Any]:
        loaded.append(name)
        return load_clip(name)

    monkeypatch.setattr("textual_inversion_ext.initializers.load_clip", load)
    concepts = [ConceptSpec(f"<{name}>", render_concept(CONCEPT.name, 1), "dog") for name in "abc"]
    samples = [sample for place, one in enumerate(concepts) for sample in collect_samples(one, concept=place)[0]]
    config = TextualInversionConfig(initialization="images", clip_init_steps=1)
    first_rows(config, concepts, [pocket], samples)
    assert loaded == ["pocket"]
