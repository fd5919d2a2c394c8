"""The CLIP model that a text encoder was cut out of: found by name, proved by its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import tiny_images, tiny_pipeline, tiny_text_encoder, tiny_tokenizer
from tests.tiny_clip import tiny_twin
from tests.tiny_families import tiny_sdxl, tiny_t5, tiny_t5_tokenizer
from textual_inversion_ext.errors import ModelError
from textual_inversion_ext.families import EncoderSlot
from textual_inversion_ext.pipelines.loading import load_clip
from textual_inversion_ext.pipelines.twins import CLIP_OF_WIDTH, ClipTwin, clip_twin
from textual_inversion_ext.tokens import PromptEncoder


@pytest.fixture
def slot() -> EncoderSlot:
    pipeline = tiny_pipeline()
    return EncoderSlot("clip_l", pipeline.tokenizer, pipeline.text_encoder)


def prompts(slot: EncoderSlot, texts: list[str], vectors: int = 1) -> torch.Tensor:
    return PromptEncoder(slot.tokenizer, {"<x>": range(slot.first_id, slot.first_id + vectors)}).encode(texts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("encoder", ["text_encoder", "text_encoder_2"])
def test_a_twin_is_recognised_in_any_precision(encoder: str, dtype: torch.dtype) -> None:
    pipeline = tiny_sdxl()
    slot = EncoderSlot("clip_l", pipeline.tokenizer, getattr(pipeline, encoder))
    parts = tiny_twin(slot)
    slot.text_encoder.to(dtype)
    assert ClipTwin(*parts, slot, "it").model.dtype == torch.float32


def test_the_tower_may_go_on_behind_the_encoder(slot: EncoderSlot) -> None:
    """Stable Diffusion 2 uses all layers of its tower but the last."""
    twin = ClipTwin(*tiny_twin(slot, more_layers=1), slot, "it")
    assert twin.text_features(prompts(slot, ["a <x>"]), torch.ones(1, slot.dim)).shape == (1, slot.dim)


def test_words_loaded_into_the_pipeline_do_not_matter(slot: EncoderSlot) -> None:
    parts = tiny_twin(slot)
    slot.tokenizer.add_tokens(["<other>"])
    slot.text_encoder.resize_token_embeddings(len(slot.tokenizer), mean_resizing=False)
    ClipTwin(*parts, slot, "it")


def changed(slot: EncoderSlot, name: str) -> None:
    with torch.no_grad():
        weight = dict(slot.text_encoder.named_parameters())[name]
        weight.copy_(torch.randn_like(weight) * weight.std() * 0.05 + weight)


@pytest.mark.parametrize(
    "name",
    ["embeddings.token_embedding.weight", "encoder.layers.1.mlp.fc1.weight", "embeddings.position_embedding.weight"],
)
def test_other_weights_are_no_twin(slot: EncoderSlot, name: str) -> None:
    parts = tiny_twin(slot)
    changed(slot, name)
    with pytest.raises(ModelError, match=rf"'it' is not the clip_l encoder.*{name}.*clip_model"):
        ClipTwin(*parts, slot, "it")


def test_another_projection_is_no_twin() -> None:
    pipeline = tiny_sdxl()
    slot = EncoderSlot("clip_g", pipeline.tokenizer_2, pipeline.text_encoder_2)
    parts = tiny_twin(slot)
    changed(slot, "text_projection.weight")
    with pytest.raises(ModelError, match="text_projection"):
        ClipTwin(*parts, slot, "it")


def test_other_shapes_are_no_twin(slot: EncoderSlot) -> None:
    parts = tiny_twin(slot)
    small = EncoderSlot("clip_l", slot.tokenizer, tiny_text_encoder(slot.tokenizer, width=8))
    with pytest.raises(ModelError, match=r"\(\d+, 8\) against \(\d+, 16\)"):
        ClipTwin(*parts, small, "it")
    deep = EncoderSlot("clip_l", slot.tokenizer, tiny_text_encoder(slot.tokenizer, layers=3))
    deep.text_encoder.load_state_dict(slot.text_encoder.state_dict(), strict=False)
    with pytest.raises(ModelError, match=r"encoder.layers.2.*missing there"):
        ClipTwin(*parts, deep, "it")


def test_a_t5_has_none() -> None:
    tokenizer = tiny_t5_tokenizer()
    with pytest.raises(ModelError, match="t5, no CLIP text tower"):
        clip_twin(EncoderSlot("t5", tokenizer, tiny_t5(tokenizer)), load_clip)


def test_which_model_is_asked_for(slot: EncoderSlot) -> None:
    asked = []

    def load(name: str) -> tuple[Any, Any]:
        asked.append(name)
        raise ModelError("none here")

    for wide, name in ((16, None), (16, "mine"), (768, None), (1024, None), (1280, None)):
        encoder = tiny_text_encoder(slot.tokenizer, width=wide, layers=0)
        with pytest.raises(ModelError, match="none here"):
            clip_twin(EncoderSlot("clip_l", slot.tokenizer, encoder), load, name)
    assert asked == ["pocket", "mine", *CLIP_OF_WIDTH.values()]


def test_features_are_those_of_plain_transformers(slot: EncoderSlot) -> None:
    """The oracle has the rows in its own table, and a tokenizer that knows the word."""
    model, processor = tiny_twin(slot)
    twin = ClipTwin(model, processor, slot, "it")
    rows = torch.randn(2, slot.dim, generator=torch.Generator().manual_seed(0))
    texts = ["a photo of a <x> on the beach", "<x>"]
    found = twin.text_features(prompts(slot, texts, vectors=2), rows)
    pictures = tiny_images(11, size=24)

    oracle, _ = tiny_twin(slot, eos_token_id=slot.tokenizer.eos_token_id)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<x>", "<x>_1"])
    oracle.text_model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    oracle.text_model.get_input_embeddings().weight.data[-2:] = rows
    inputs = tokenizer([text.replace("<x>", "<x> <x>_1") for text in texts], padding=True, return_tensors="pt")
    expected = oracle.get_text_features(**inputs).pooler_output
    assert torch.allclose(found, torch.nn.functional.normalize(expected, dim=-1), atol=1e-5)
    pixels = processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
    images = torch.nn.functional.normalize(oracle.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
    assert torch.allclose(twin.image_features(pictures), images, atol=1e-5)


def test_pooling_ignores_the_old_configuration(slot: EncoderSlot) -> None:
    ids, rows = prompts(slot, ["a <x> on the beach"]), torch.ones(1, slot.dim)
    features = [
        ClipTwin(*tiny_twin(slot, eos_token_id=end), slot, "it").text_features(ids, rows)
        for end in (2, slot.tokenizer.eos_token_id)
    ]
    assert torch.equal(*features)


def test_gradients_reach_the_rows_and_nothing_else(slot: EncoderSlot) -> None:
    twin = ClipTwin(*tiny_twin(slot), slot, "it")
    rows = torch.ones(1, slot.dim, requires_grad=True)
    twin.text_features(prompts(slot, ["a <x>"]), rows)[0, 0].backward()
    assert rows.grad is not None and rows.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in twin.model.parameters())


# ---- loading


def test_load_clip_from_a_folder(slot: EncoderSlot, tmp_path: Path) -> None:
    model, processor = tiny_twin(slot)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, reader = load_clip(tmp_path)
    assert not loaded.training and not any(weight.requires_grad for weight in loaded.parameters())
    picture = tiny_images(1)
    ours, theirs = (
        ClipTwin(*parts, slot, "it").image_features(picture) for parts in ((loaded, reader), (model, processor))
    )
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_load_clip_of_the_pocket_world() -> None:
    model, _ = load_clip("pocket")
    assert not any(weight.requires_grad for weight in model.parameters())


def test_what_is_no_clip(slot: EncoderSlot, tmp_path: Path) -> None:
    slot.text_encoder.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is a clip_text_model model; a CLIP model is needed"):
        load_clip(tmp_path)
    model, processor = tiny_twin(slot)
    model.save_pretrained(tmp_path / "half", state_dict=model.text_model.state_dict(prefix="text_model."))
    processor.save_pretrained(tmp_path / "half")
    with pytest.raises(ModelError, match="half' lacks weights of a CLIP model: .*"):
        load_clip(tmp_path / "half")
    model.save_pretrained(tmp_path / "torn")
    weights = tmp_path / "torn" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"Cannot load the CLIP model .*torn"):
        load_clip(tmp_path / "torn")
    with pytest.raises(ModelError, match=r"Cannot load the CLIP model .*nowhere"):
        load_clip(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="Cannot load the CLIP model 'openai/clip-vit-large-patch14'"):
        load_clip("openai/clip-vit-large-patch14")  # the tests are offline
