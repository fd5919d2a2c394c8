"""What every family adapter promises, on its tiny real pipeline."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
)

from tests.tiny import tiny_pipeline, tiny_unet
from tests.tiny_families import tiny_inpainting, tiny_sdxl, tiny_sdxl_inpainting
from textual_inversion_ext.errors import ConfigError, ModelError
from textual_inversion_ext.families import FAMILIES, FamilyAdapter, adapter_for
from textual_inversion_ext.records import Batch, Noised
from textual_inversion_ext.tokens import PromptEncoder

PIPELINES = {"stable-diffusion": tiny_pipeline, "stable-diffusion-xl": tiny_sdxl}  # one per row of FAMILIES
PAINTING = {"stable-diffusion": tiny_inpainting, "stable-diffusion-xl": tiny_sdxl_inpainting}  # UNets of 9 channels
PROMPTS = ["a photo of a cat", "", "red clock " * 20]


def test_every_family_has_a_tiny_pipeline() -> None:
    assert set(PIPELINES) == set(FAMILIES)
    assert all(name == family.name for name, family in FAMILIES.items())


@pytest.fixture(params=[*sorted(FAMILIES), *(f"{name} inpainting" for name in PAINTING)])
def adapter(request: pytest.FixtureRequest) -> FamilyAdapter:
    name, *painting = request.param.split(" ")
    return adapter_for((PAINTING if painting else PIPELINES)[name]()).to("cpu", torch.float32)


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
    hidden_states, _, *pooled = pipeline.encode_prompt(
        prompt=PROMPTS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    assert torch.equal(conditioning.hidden_states, hidden_states)
    assert (conditioning.pooled is None) == (not pooled)
    assert all(torch.equal(conditioning.pooled, own) for own in pooled[:1])


def test_gradients_reach_the_rows_and_nothing_else(adapter: FamilyAdapter) -> None:
    ids = {s.key: PromptEncoder(s.tokenizer, {"<x>": [s.first_id]}).encode(["a <x>", "cat"]) for s in adapter.slots}
    rows = {key: tensor.requires_grad_() for key, tensor in no_rows(adapter).items()}
    latents = torch.randn(2, *adapter.latents(moments(adapter), torch.zeros(())).shape[1:])
    noised = Noised(latents, torch.tensor([10, 900]), latents, latents)
    batch = Batch(latents, ids, torch.zeros(2, dtype=torch.int64))
    with adapter.attached():
        prediction = adapter.predict(noised, adapter.encode(ids, rows), batch)
        prediction.square().sum().backward()
    assert prediction.shape == latents.shape
    assert all(tensor.grad is not None and (tensor.grad != 0).any() for tensor in rows.values())
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


SISTERS = [
    (tiny_pipeline, StableDiffusionImg2ImgPipeline),
    (tiny_pipeline, StableDiffusionInpaintPipeline),
    (tiny_sdxl, StableDiffusionXLImg2ImgPipeline),
    (tiny_sdxl, StableDiffusionXLInpaintPipeline),
]


@pytest.mark.parametrize(("make", "kind"), SISTERS)
def test_sister_pipelines(make: Any, kind: type[Any]) -> None:
    """Others of the same parts are trained alike, and make the same pictures from text alone."""
    plain = adapter_for(make())
    parts = plain.pipeline.components
    sister = adapter_for(kind(**parts) if "tokenizer_2" in parts else kind(**parts, requires_safety_checker=False))
    assert sister.name == plain.name
    painter, arguments = sister.text_to_image(None)
    assert type(painter) is type(plain.pipeline) and arguments == {}
    assert all(painter.components[name] is part for name, part in plain.pipeline.components.items())


@pytest.mark.parametrize("name", PAINTING)
def test_inpainting_models_are_given_a_picture_of_which_all_is_masked(name: str) -> None:
    """What the denoiser gets in training is what it gets when the pipeline paints a whole picture from text."""
    adapter = adapter_for(PAINTING[name]()).to("cpu", torch.float32)
    pipeline: Any = adapter.pipeline
    given: list[torch.Tensor] = []
    pipeline.unet.register_forward_pre_hook(lambda _, arguments: given.append(arguments[0]))
    moments(adapter)
    ids = {slot.key: PromptEncoder(slot.tokenizer, {}).encode(["a cat"] * 2) for slot in adapter.slots}
    latents = torch.randn(2, 4, 8, 8)
    pipeline.vae.to("meta")  # training sends the VAE away
    with torch.no_grad(), adapter.attached():
        conditioning = adapter.encode(ids, no_rows(adapter))
        noised = Noised(latents, torch.tensor([10, 900]), latents, latents)
        adapter.predict(noised, conditioning, Batch(latents, ids, torch.zeros(2, dtype=torch.int64)))
    painter, arguments = adapter.text_to_image((16, 16))
    painter(
        prompt_embeds=conditioning.hidden_states,
        **({} if conditioning.pooled is None else {"pooled_prompt_embeds": conditioning.pooled}),
        **arguments,
        **{"width": 16, "height": 16, "num_inference_steps": 1, "guidance_scale": 1.0, "output_type": "latent"},
    )
    trained, shown = given
    assert torch.equal(trained[:, :4], latents) and torch.equal(trained[:, 4:], shown[:, 4:])
    assert (trained[:, 4] == 1).all() and (trained[:, 5:] != 0).any()


def test_attention_mask_is_rebuilt_from_ids() -> None:
    pipeline = tiny_pipeline()
    pipeline.text_encoder.config.use_attention_mask = True
    test_encode_equals_the_pipelines_own(adapter_for(pipeline))


def test_what_is_not_supported_is_said() -> None:
    with pytest.raises(ModelError, match="dict is of no family.*StableDiffusionPipeline"):
        adapter_for({})  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"takes 5 channels.*gives 4.*depth"):
        adapter_for(tiny_pipeline(unet=tiny_unet(in_channels=5)))
    with pytest.raises(ModelError, match="paints into pictures, and StableDiffusionPipeline does not"):
        adapter_for(tiny_pipeline(unet=tiny_unet(in_channels=9)))
    pipeline = tiny_pipeline()
    pipeline.vae = None
    with pytest.raises(ModelError, match="has no vae"):
        adapter_for(pipeline)


def test_relatives_of_sdxl_that_cannot_be_trained_are_named() -> None:
    with pytest.raises(ModelError, match="refiner.*Train on the base model"):
        adapter_for(tiny_sdxl(kind=StableDiffusionXLImg2ImgPipeline, text_encoder=None, tokenizer=None))
    pipeline = tiny_sdxl()
    pipeline.unet.register_to_config(projection_class_embeddings_input_dim=5 * 8 + 24)
    with pytest.raises(ModelError, match="of width 64; Stable Diffusion XL's are 'text_time' of width 72"):
        adapter_for(pipeline)


def test_sdxl_is_told_the_sizes_of_the_pictures() -> None:
    adapter = adapter_for(tiny_sdxl())
    told: list[Any] = []
    unet: Any = adapter.denoiser
    unet.register_forward_pre_hook(lambda _, __, named: told.append(named["added_cond_kwargs"]), with_kwargs=True)
    ids = {slot.key: PromptEncoder(slot.tokenizer, {}).encode(["a cat"] * 2) for slot in adapter.slots}
    latents = torch.randn(2, 4, 8, 6)
    noised = Noised(latents, torch.tensor([10, 900]), latents, latents)
    sizes = torch.tensor([[1365.0, 900, 0, 3, 16, 12], [16, 12, 0, 0, 16, 12]])
    with torch.no_grad(), adapter.attached():
        conditioning = adapter.encode(ids, no_rows(adapter))
        for given in (None, sizes):
            adapter.predict(noised, conditioning, Batch(latents, ids, torch.zeros(2, dtype=torch.int64), sizes=given))
    assert told[0]["time_ids"].tolist() == [[16, 12, 0, 0, 16, 12]] * 2
    assert torch.equal(told[1]["time_ids"], sizes) and torch.equal(told[1]["text_embeds"], conditioning.pooled)


def test_latents_of_fine_tuned_vaes_are_shifted_as_in_the_pipeline() -> None:
    pipeline = tiny_sdxl()
    adapter = adapter_for(pipeline)
    latents = torch.randn(1, 8, 8, 8)
    plain = adapter.latents(latents, torch.zeros(1, 4, 8, 8))
    pipeline.vae.register_to_config(latents_mean=[1.0, 2.0, 3.0, 4.0], latents_std=[0.5, 1.0, 2.0, 4.0])
    moved = adapter.latents(latents, torch.zeros(1, 4, 8, 8))
    mean, std = (torch.tensor(pipeline.vae.config[name]).view(1, 4, 1, 1) for name in ("latents_mean", "latents_std"))
    torch.testing.assert_close(moved, (plain - mean * pipeline.vae.config.scaling_factor) / std)
    expected = pipeline.vae.decode(latents[:, :4], return_dict=False)[0]
    torch.testing.assert_close(adapter.pixels(moved), expected.detach())


def test_a_vae_that_overflows_in_float16_decodes_in_float32() -> None:
    pipeline = tiny_sdxl()
    latents = torch.randn(1, 4, 8, 8)
    expected = adapter_for(pipeline).pixels(latents)
    pipeline.vae.half()
    assert adapter_for(pipeline).pixels(latents).dtype == torch.float32 and pipeline.vae.dtype == torch.float16
    torch.testing.assert_close(adapter_for(pipeline).pixels(latents), expected, rtol=1e-2, atol=1e-2)
    pipeline.vae.register_to_config(force_upcast=False)
    assert adapter_for(pipeline).pixels(latents).dtype == torch.float16


def test_encoders_are_chosen_by_their_keys() -> None:
    adapter = adapter_for(tiny_sdxl())
    adapter.learn_in("clip_g")
    assert [slot.key for slot in adapter.slots] == ["clip_g"] and [slot.key for slot in adapter.readers] == ["clip_l"]
    adapter.learn_in("clip_l, clip_g")
    assert len(adapter.slots) == 2 and adapter.readers == () and adapter.plain_encoders() == {}
    for wrong in ("clip_h", "", "clip_l;clip_g"):
        with pytest.raises(ConfigError, match="this model has clip_"):
            adapter.learn_in(wrong)
