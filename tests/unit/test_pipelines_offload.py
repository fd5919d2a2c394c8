"""Offloading by accelerate and diffusers: hooks stay, and what they bring back is right. All of it on the CPU."""

from __future__ import annotations

from typing import Any

import accelerate
import pytest
import torch
from diffusers.hooks import apply_group_offloading

from tests.tiny import tiny_pipeline
from tests.tiny_families import WIDTH_L, WIDTH_T5, rows, tiny_flux
from textual_inversion_ext.errors import ModelError
from textual_inversion_ext.pipelines.words.loader import add_concept_loading

CONCEPT = {"clip_l": rows(2), "t5": rows(2, WIDTH_T5)}


def hooks(model: torch.nn.Module) -> list[Any]:
    return [getattr(module, "_hf_hook", None) for module in model.modules()]


def encoded(pipe: Any) -> list[torch.Tensor]:
    with torch.no_grad():
        return list(pipe.encode_prompt("a photo of <A>", None, device="cpu"))[:2]


def test_sequential_offloading() -> None:
    """Weights lie on the meta device between calls; a T5 has two modules with the same table."""
    reference, pipe = add_concept_loading(tiny_flux()), add_concept_loading(tiny_flux())
    plain_text = encoded(reference)
    for encoder in (pipe.text_encoder, pipe.text_encoder_2):
        accelerate.cpu_offload(encoder, torch.device("cpu"))
    before = [hooks(encoder) for encoder in (pipe.text_encoder, pipe.text_encoder_2)]
    for pipeline in (reference, pipe):
        pipeline.load_textual_inversion(CONCEPT, token="<a>")
    for encoder in (pipe.text_encoder, pipe.text_encoder_2):
        assert encoder.get_input_embeddings().weight.device.type == "meta"
    assert [hooks(encoder) for encoder in (pipe.text_encoder, pipe.text_encoder_2)] == before
    assert torch.equal(pipe.concepts["<a>"].vectors["t5"], CONCEPT["t5"])
    assert all(torch.equal(*pair) for pair in zip(encoded(pipe), encoded(reference), strict=True))
    pipe.unload_textual_inversion()
    assert all(torch.equal(*pair) for pair in zip(encoded(pipe), plain_text, strict=True))
    assert pipe.text_encoder_2.get_input_embeddings().weight.device.type == "meta"
    assert [hooks(encoder) for encoder in (pipe.text_encoder, pipe.text_encoder_2)] == before


def test_model_offloading() -> None:
    reference, pipe = add_concept_loading(tiny_flux()), add_concept_loading(tiny_flux())
    for encoder in (pipe.text_encoder, pipe.text_encoder_2):
        accelerate.cpu_offload_with_hook(encoder, torch.device("cpu"))
    before = [hooks(encoder) for encoder in (pipe.text_encoder, pipe.text_encoder_2)]
    for pipeline in (reference, pipe):
        pipeline.load_textual_inversion(CONCEPT, token="<a>")
    assert [hooks(encoder) for encoder in (pipe.text_encoder, pipe.text_encoder_2)] == before
    assert all(torch.equal(*pair) for pair in zip(encoded(pipe), encoded(reference), strict=True))


def test_group_offloading_is_refused() -> None:
    pipe = add_concept_loading(tiny_pipeline())
    apply_group_offloading(
        pipe.text_encoder,
        onload_device=torch.device("cpu"),
        offload_device=torch.device("cpu"),
        offload_type="leaf_level",
    )
    with pytest.raises(ModelError, match="Load and unload concepts before enable_group_offload"):
        pipe.load_textual_inversion({"<a>": rows(2)})
    assert len(pipe.tokenizer) == pipe.tokenizer.vocab_size


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_and_device_stay(dtype: torch.dtype) -> None:
    pipe = add_concept_loading(tiny_pipeline())
    pipe.text_encoder.to(dtype)
    table = pipe.text_encoder.get_input_embeddings().weight
    for _ in range(2):
        pipe.load_textual_inversion({"<a>": rows(2)})
        assert pipe.text_encoder.get_input_embeddings().weight is table and table.dtype == dtype
        pipe.unload_textual_inversion()
    assert table.dtype == dtype and len(table) == pipe.text_encoder.config.vocab_size
    assert table.shape[1] == WIDTH_L
