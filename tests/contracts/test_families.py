"""What every family adapter promises, on its tiny real pipeline."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline

from tests.tiny import tiny_pipeline, tiny_unet
from textual_inversion_ext.errors import ModelError
from textual_inversion_ext.families import FAMILIES, FamilyAdapter, adapter_for
from textual_inversion_ext.tokens import PromptEncoder

PIPELINES = {"stable-diffusion": tiny_pipeline}  # one tiny pipeline per row of FAMILIES
PROMPTS = ["a photo of a cat", "", "red clock " * 20]


def test_every_family_has_a_tiny_pipeline() -> None:
    assert set(PIPELINES) == set(FAMILIES)
    assert all(name == family.name for name, family in FAMILIES.items())


@pytest.fixture(params=sorted(FAMILIES))
def adapter(request: pytest.FixtureRequest) -> FamilyAdapter:
    return adapter_for(PIPELINES[request.param]()).to("cpu", torch.float32)


def no_rows(adapter: FamilyAdapter) -> dict[str, torch.Tensor]:
    return {slot.key: torch.zeros(1, slot.dim) for slot in adapter.slots}


def test_the_right_family_is_found(adapter: FamilyAdapter) -> None:
    assert isinstance(adapter, FAMILIES[adapter.name])
    assert adapter.slots and adapter.native_resolution > 0


def test_encode_equals_the_pipelines_own(adapter: FamilyAdapter) -> None:
    ids = {slot.key: PromptEncoder(slot.tokenizer, {}).encode(PROMPTS) for slot in adapter.slots}
    with torch.no_grad(), adapter.attached():
        conditioning = adapter.encode(ids, no_rows(adapter))
    pipeline: Any = adapter.pipeline
    expected, _ = pipeline.encode_prompt(PROMPTS, "cpu", 1, False)
    assert torch.equal(conditioning.hidden_states, expected)


def test_gradients_reach_the_rows_and_nothing_else(adapter: FamilyAdapter) -> None:
    slot = adapter.slots[0]
    ids = {s.key: PromptEncoder(s.tokenizer, {"<x>": [s.first_id]}).encode(["a <x>", "cat"]) for s in adapter.slots}
    rows = {key: tensor.requires_grad_() for key, tensor in no_rows(adapter).items()}
    latents = torch.randn(2, *adapter.latents(moments(adapter), torch.zeros(())).shape[1:])
    with adapter.attached():
        prediction = adapter.predict(latents, torch.tensor([10, 900]), adapter.encode(ids, rows))
        prediction.square().sum().backward()
    assert prediction.shape == latents.shape
    assert rows[slot.key].grad is not None and (rows[slot.key].grad != 0).any()
    assert all(p.grad is None and not p.requires_grad for net in adapter.networks() for p in net.parameters())
    assert not any(module.training for net in adapter.networks() for module in net.modules())


def moments(adapter: FamilyAdapter) -> torch.Tensor:
    side = adapter.native_resolution
    return adapter.moments(torch.zeros(1, 3, side, side))


def test_moments_and_latents(adapter: FamilyAdapter) -> None:
    both = moments(adapter)
    assert both.dtype == torch.float32 and not both.requires_grad
    noise = torch.randn(1, both.shape[1] // 2, *both.shape[2:])
    mean = adapter.latents(both, torch.zeros_like(noise))
    assert mean.shape == noise.shape
    torch.testing.assert_close(
        adapter.latents(both, noise) - mean, mean - adapter.latents(both, -noise), rtol=1e-4, atol=1e-5
    )


def test_vae_keeps_its_own_dtype_after_caching() -> None:
    pipeline = tiny_pipeline()
    pipeline.vae.to(torch.float16)
    adapter = adapter_for(pipeline).to("cpu", torch.bfloat16)
    assert pipeline.vae.dtype == torch.float32 and adapter.dtype == torch.bfloat16
    adapter.release_vae()
    assert pipeline.vae.dtype == torch.float16


@pytest.mark.parametrize("kind", [StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline])
def test_sister_pipelines(kind: type) -> None:
    assert adapter_for(kind(**tiny_pipeline().components, requires_safety_checker=False)).name == "stable-diffusion"


def test_attention_mask_is_rebuilt_from_ids() -> None:
    pipeline = tiny_pipeline()
    pipeline.text_encoder.config.use_attention_mask = True
    test_encode_equals_the_pipelines_own(adapter_for(pipeline))


def test_what_is_not_supported_is_said() -> None:
    with pytest.raises(ModelError, match="dict is of no family.*StableDiffusionPipeline"):
        adapter_for({})  # type: ignore[arg-type]
    config = {**tiny_unet().config, "in_channels": 9}
    with pytest.raises(ModelError, match=r"takes 9 channels.*gives 4"):
        adapter_for(tiny_pipeline(unet=type(tiny_unet()).from_config(config)))
    pipeline = tiny_pipeline()
    pipeline.vae = None
    with pytest.raises(ModelError, match="has no vae"):
        adapter_for(pipeline)
