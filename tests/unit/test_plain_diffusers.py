"""What was trained is what plain diffusers shows: equal text encodings, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPTokenizer

from tests.tiny import TinyRun, tiny_images, tiny_pipeline, tiny_run
from tests.tiny_families import like, tiny_sdxl, tiny_sdxl_parts
from textual_inversion_ext.concept import ConceptSpec, LearnedConcept
from textual_inversion_ext.files import load_concept, save_concept
from textual_inversion_ext.pipelines.words.loader import add_concept_loading
from textual_inversion_ext.records import Conditioning
from textual_inversion_ext.row_layout import prompt_encoders

PROMPTS = ["a photo of a {}", "{}", "two {}, on the beach", "a red {} and a blue {}", "a photo of a cat"]


def assert_plain_diffusers_agrees(spec: ConceptSpec, folder: Path, tokenizer: CLIPTokenizer | None = None) -> None:
    run = tiny_run([spec], pipeline=tiny_pipeline(tokenizer=tokenizer))
    run.steps(2)
    (slot,) = run.adapter.slots
    concept = LearnedConcept(spec.placeholder_token, {slot.key: run.step.parametrizations[slot.key].export()})
    file = concept.save(folder / "learned_embeds.safetensors")
    prompts = [prompt.replace("{}", spec.placeholder_token) for prompt in PROMPTS]

    with torch.no_grad(), run.adapter.attached():
        conditioning = run.adapter.encode({slot.key: encode(run, prompts)}, run.step.rows())
    plain = tiny_pipeline(tokenizer=tokenizer)  # the same seed: the same weights
    plain.load_textual_inversion(str(file))
    expected, _ = plain.encode_prompt(prompts, "cpu", 1, False)
    assert torch.equal(conditioning.hidden_states, expected)


def encode(run: TinyRun, prompts: list[str]) -> torch.Tensor:
    return prompt_encoders(run.adapter.slots, run.specs)["clip_l"].encode(prompts)


@pytest.mark.parametrize("count", [1, 2, 8])
def test_encodings_are_equal(count: int, tmp_path: Path) -> None:
    assert_plain_diffusers_agrees(ConceptSpec("<corgi>", tiny_images(2), "dog", num_vectors=count), tmp_path)


@pytest.mark.parametrize(("token", "count"), [("<corgi>", 8), ("mytok", 2), ("<Corgi>", 1), ("<catcat>", 1)])
def test_encodings_are_equal_with_the_real_vocabulary(
    token: str, count: int, tmp_path: Path, clip_tokenizer: CLIPTokenizer
) -> None:
    spec = ConceptSpec(token, tiny_images(2), "dog", num_vectors=count)
    assert_plain_diffusers_agrees(spec, tmp_path, clip_tokenizer)


def trained_sdxl(
    count: int, tokenizer: CLIPTokenizer | None = None, **settings: Any
) -> tuple[LearnedConcept, Conditioning, list[str]]:
    """A word learned by Stable Diffusion XL, prompts with it, and how training encodes them."""
    spec = ConceptSpec("<corgi>", tiny_images(2), "dog", num_vectors=count)
    run = tiny_run([spec], pipeline=tiny_sdxl(**tiny_sdxl_parts(tokenizer=tokenizer)), **settings)
    run.steps(1)
    prompts = [prompt.replace("{}", "<corgi>") for prompt in PROMPTS]
    readers = {**prompt_encoders(run.adapter.slots, run.specs), **run.adapter.plain_encoders()}
    with torch.no_grad(), run.adapter.attached():
        ids = {key: reader.encode(prompts) for key, reader in readers.items()}
        conditioning = run.adapter.encode(ids, run.step.rows())
    vectors = {key: rows.export() for key, rows in run.step.parametrizations.items()}  # type: ignore[operator]
    return LearnedConcept("<corgi>", vectors), conditioning, prompts


def encoded(pipeline: Any, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        hidden_states, _, pooled, _ = pipeline.encode_prompt(prompts, device="cpu", do_classifier_free_guidance=False)
    return hidden_states, pooled


def load_plainly(pipeline: Any, files: Sequence[Path]) -> None:
    """As diffusers' documentation does: one call for each text encoder and its file."""
    parts = [(pipeline.tokenizer, pipeline.text_encoder), (pipeline.tokenizer_2, pipeline.text_encoder_2)]
    for file, (tokenizer, text_encoder) in zip(files, parts, strict=True):
        pipeline.load_textual_inversion(str(file), tokenizer=tokenizer, text_encoder=text_encoder)


@pytest.mark.parametrize("count", [1, 2, 8])
def test_encodings_of_sdxl_are_those_of_plain_diffusers(count: int, tmp_path: Path) -> None:
    """With the two files that training writes; pooled where plain diffusers pools if the training did so, too."""
    concept, conditioning, prompts = trained_sdxl(count, pooling="diffusers")
    files = save_concept(concept, tmp_path)
    assert [file.name for file in files] == ["learned_embeds.safetensors", "learned_embeds_2.safetensors"]
    plain = tiny_sdxl()
    load_plainly(plain, files)
    hidden_states, pooled = encoded(plain, prompts)
    assert torch.equal(conditioning.hidden_states, hidden_states) and torch.equal(conditioning.pooled, pooled)


@pytest.mark.parametrize("count", [1, 2, 8])
def test_encodings_of_sdxl_are_those_of_our_loader(count: int, tmp_path: Path) -> None:
    """Pooled at the end of the prompt; plain diffusers has the same hidden states, and pools elsewhere."""
    concept, conditioning, prompts = trained_sdxl(count)
    files = save_concept(concept, tmp_path)
    ours, plain = add_concept_loading(tiny_sdxl()), tiny_sdxl()
    ours.load_textual_inversion(tmp_path)
    hidden_states, pooled = encoded(ours, prompts)
    assert torch.equal(conditioning.hidden_states, hidden_states) and torch.equal(conditioning.pooled, pooled)
    load_plainly(plain, files)
    hidden_states, pooled = encoded(plain, prompts)
    assert torch.equal(conditioning.hidden_states, hidden_states) and not torch.equal(conditioning.pooled, pooled)
    assert torch.equal(conditioning.pooled[-1], pooled[-1])  # the prompt without the word


@pytest.mark.parametrize("pooling", ["end", "diffusers"])
def test_encodings_of_sdxl_are_equal_with_the_real_vocabulary(
    pooling: str, tmp_path: Path, clip_tokenizer: CLIPTokenizer
) -> None:
    concept, conditioning, prompts = trained_sdxl(2, clip_tokenizer, pooling=pooling)
    pipeline = tiny_sdxl(**tiny_sdxl_parts(tokenizer=like(clip_tokenizer)))
    if pooling == "end":
        add_concept_loading(pipeline).load_textual_inversion(concept)
    else:
        load_plainly(pipeline, save_concept(concept, tmp_path))
    hidden_states, pooled = encoded(pipeline, prompts)
    assert torch.equal(conditioning.hidden_states, hidden_states) and torch.equal(conditioning.pooled, pooled)


@pytest.mark.parametrize("key", ["clip_l", "clip_g"])
def test_a_word_that_one_encoder_learned_is_plain_text_in_the_other(key: str, tmp_path: Path) -> None:
    concept, conditioning, prompts = trained_sdxl(2, encoders=key)
    (file,) = save_concept(concept, tmp_path)
    assert list(load_concept(file).vectors) == [key]
    ours, plain = add_concept_loading(tiny_sdxl()), tiny_sdxl()
    ours.load_textual_inversion(file)
    hidden_states, pooled = encoded(ours, prompts)
    assert torch.equal(conditioning.hidden_states, hidden_states) and torch.equal(conditioning.pooled, pooled)
    part = "" if key == "clip_l" else "_2"
    plain.load_textual_inversion(
        str(file), tokenizer=getattr(plain, f"tokenizer{part}"), text_encoder=getattr(plain, f"text_encoder{part}")
    )
    assert torch.equal(conditioning.hidden_states, encoded(plain, prompts)[0])
