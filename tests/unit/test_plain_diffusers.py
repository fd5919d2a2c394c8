"""What was trained is what plain diffusers shows: equal text encodings, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import CLIPTokenizer

from tests.tiny import tiny_images, tiny_pipeline, tiny_run
from textual_inversion_ext.concept import ConceptSpec, LearnedConcept

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


def encode(run: object, prompts: list[str]) -> torch.Tensor:
    from textual_inversion_ext.tokens import prompt_encoders

    return prompt_encoders(run.adapter.slots, run.specs)["clip_l"].encode(prompts)  # type: ignore[attr-defined]


@pytest.mark.parametrize("count", [1, 2, 8])
def test_encodings_are_equal(count: int, tmp_path: Path) -> None:
    assert_plain_diffusers_agrees(ConceptSpec("<corgi>", tiny_images(2), "dog", num_vectors=count), tmp_path)


@pytest.mark.parametrize(("token", "count"), [("<corgi>", 8), ("mytok", 2), ("<Corgi>", 1), ("<catcat>", 1)])
def test_encodings_are_equal_with_the_real_vocabulary(
    token: str, count: int, tmp_path: Path, clip_tokenizer: CLIPTokenizer
) -> None:
    spec = ConceptSpec(token, tiny_images(2), "dog", num_vectors=count)
    assert_plain_diffusers_agrees(spec, tmp_path, clip_tokenizer)
