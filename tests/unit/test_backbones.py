"""The networks that pictures are measured with: what they see, whatever the batch, the format and the machine."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    BertConfig,
    BertModel,
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    ViTConfig,
    ViTModel,
)

from tests.tiny import tiny_images, tiny_pipeline, tiny_tokenizer
from tests.tiny_clip import tiny_twin
from textual_inversion_ext.errors import MissingDependencyError, ModelError
from textual_inversion_ext.evaluation import embedding
from textual_inversion_ext.evaluation.backbones import (
    DEFAULT_CLIP,
    ImageBackbone,
    ImageTextBackbone,
    default_backbone,
    load_backbone,
    load_image_text_backbone,
)
from textual_inversion_ext.families import adapter_for
from textual_inversion_ext.pocket import load_clip, render_concept

SIDE = 14
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**SMALL, "image_size": SIDE, "patch_size": 7}
PROMPTS = ["a photo of a cat", "a red dog", "a painting of a blue teapot on the beach"]


def write_clip(folder: Path) -> None:
    model, processor = tiny_twin(adapter_for(tiny_pipeline()).slots[0])
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def write_siglip(folder: Path) -> None:
    tokenizer = tiny_tokenizer(12)
    text = {**SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": 12, "projection_size": 16}
    SiglipModel(SiglipConfig(text_config=text, vision_config=VISION)).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_siglip2(folder: Path) -> None:
    """The kind that keeps the shape of pictures; the others of its name are of the kind "siglip"."""
    tokenizer = tiny_tokenizer(12)
    text = {**SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": 12, "projection_size": 16}
    vision = {**SMALL, "patch_size": 7, "num_patches": 9}
    Siglip2Model(Siglip2Config(text_config=text, vision_config=vision)).save_pretrained(folder)
    Siglip2ImageProcessorPil(patch_size=7, max_num_patches=9).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_dino(folder: Path) -> None:
    # Published checkpoints have no pooler either.
    ViTModel(ViTConfig(**VISION), add_pooling_layer=False).save_pretrained(folder)


def write_dinov2(folder: Path) -> None:
    Dinov2Model(Dinov2Config(**VISION)).save_pretrained(folder)
    write_dino_processor(folder)


def write_registers(folder: Path) -> None:
    Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**VISION)).save_pretrained(folder)
    write_dino_processor(folder)


def write_dinov3(folder: Path) -> None:
    DINOv3ViTModel(DINOv3ViTConfig(**VISION)).save_pretrained(folder)
    write_dino_processor(folder)


def write_dino_processor(folder: Path) -> None:
    size, crop = {"shortest_edge": 16}, {"height": SIDE, "width": SIDE}
    # As in the published files.
    mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    BitImageProcessorPil(size=size, crop_size=crop, image_mean=mean, image_std=deviation).save_pretrained(folder)


WRITERS: dict[str, Callable[[Path], None]] = {
    "clip": write_clip,
    "siglip": write_siglip,
    "dino": write_dino,
    "dinov2": write_dinov2,
    "dinov2 with registers": write_registers,
    "dinov3": write_dinov3,
    "siglip2": write_siglip2,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for kind, write in WRITERS.items():
        found[kind] = tmp_path_factory.mktemp("models") / f"tiny-{kind}"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            write(found[kind])
    return found


@pytest.fixture(params=["pocket", *WRITERS])
def model(request: pytest.FixtureRequest, folders: dict[str, Path]) -> str:
    return "pocket" if request.param == "pocket" else str(folders[request.param])


def pictures() -> list[Image.Image]:
    """Of several sizes and shapes, one of them twice."""
    found = [Image.fromarray(noise(40, 30, seed)) for seed in range(3)] + [Image.fromarray(noise(20, 60, 3))]
    return [*found, *tiny_images(2), found[1].copy()]


def noise(height: int, width: int, seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def test_pictures_become_unit_vectors(model: str) -> None:
    features = load_backbone(model).images(pictures())
    assert features.shape[0] == len(pictures()) and features.dtype == torch.float32 and features.device.type == "cpu"
    close(features.norm(dim=1), torch.ones(len(features)))
    assert (features[0] - features[1]).abs().max() > 1e-3, "it tells pictures apart"


def test_order_and_batch_change_nothing(model: str) -> None:
    together = load_backbone(model, batch_size=32).images(pictures())
    for size in (1, 3):
        close(load_backbone(model, batch_size=size).images(pictures()), together)
    close(load_backbone(model, batch_size=3).images(pictures()[::-1]), together.flip(0))


def test_it_is_deterministic(model: str) -> None:
    assert torch.equal(load_backbone(model).images(pictures()), load_backbone(model).images(pictures()))


def test_half_precision_stays_near(model: str) -> None:
    exact = load_backbone(model).images(pictures())
    rough = load_backbone(model, dtype=torch.bfloat16)
    assert rough.model.dtype == torch.bfloat16
    found = rough.images(pictures())
    assert found.dtype == torch.float32 and not torch.equal(found, exact)
    assert (found * exact).sum(1).min() > 0.98
    close(found.norm(dim=1), torch.ones(len(found)))


def test_a_picture_is_computed_once_and_what_changes_is_seen(model: str) -> None:
    backbone = load_backbone(model)
    picture, seen = pictures()[0], []
    part = getattr(backbone.model, "vision_model", backbone.model)
    part.register_forward_pre_hook(lambda _, __, inputs: seen.append(len(inputs["pixel_values"])), with_kwargs=True)
    first = backbone.images([picture, picture.copy()])
    again = backbone.images([picture])
    assert seen == [1] and torch.equal(first[0], first[1]) and torch.equal(first[0], again[0])
    picture.paste((255, 0, 0), (0, 0, 15, 20))
    assert not torch.allclose(backbone.images([picture]), again)
    assert seen == [1, 1]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path]) -> None:
    monkeypatch.setattr(embedding, "_REMEMBERED_PICTURES", 3)
    backbone = load_backbone(folders["dino"], batch_size=2)
    expected = load_backbone(folders["dino"]).images(pictures())
    for index, picture in enumerate(pictures()):
        close(backbone.images([picture]), expected[index : index + 1])
        assert len(backbone._remembered) <= 3
    close(backbone.images(pictures()), expected)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_other_modes_are_seen_as_rgb(mode: str, folders: dict[str, Path]) -> None:
    backbone = load_backbone(folders["clip"])
    picture = pictures()[0].convert(mode)
    close(backbone.images([picture]), backbone.images([picture.convert("RGB")]))


def test_palettes_are_told_apart(folders: dict[str, Path]) -> None:
    """Two pictures whose bytes are the same and whose palettes differ."""
    backbone = load_backbone(folders["clip"])
    dark, light = (Image.new("P", (20, 20), 0) for _ in range(2))
    dark.putpalette([0, 0, 0])
    light.putpalette([250, 240, 200])
    features = backbone.images([dark, light])
    assert not torch.allclose(features[0], features[1])


def test_nothing_in_nothing_out(folders: dict[str, Path]) -> None:
    backbone = load_image_text_backbone(folders["clip"])
    assert backbone.images([]).shape[0] == 0 and backbone.texts([]).shape[0] == 0


@pytest.mark.parametrize("kind", ["pocket", "clip", "siglip", "siglip2"])
def test_texts_become_unit_vectors_whatever_stands_beside_them(kind: str, folders: dict[str, Path]) -> None:
    name = folders.get(kind, kind)
    together = load_image_text_backbone(name, batch_size=32).texts(PROMPTS)
    assert together.dtype == torch.float32 and together.shape[1] == load_backbone(name).images(pictures()).shape[1]
    close(together.norm(dim=1), torch.ones(3))
    assert (together[0] - together[1]).abs().max() > 1e-3
    alone = load_image_text_backbone(name, batch_size=1)
    close(torch.cat([alone.texts([prompt]) for prompt in PROMPTS]), together)
    close(alone.texts(PROMPTS[::-1]), together.flip(0))


@pytest.mark.parametrize("kind", ["pocket", "clip", "siglip", "siglip2"])
def test_long_texts_are_cut(kind: str, folders: dict[str, Path]) -> None:
    backbone = load_image_text_backbone(folders.get(kind, kind))
    long = "a red cat " * 40
    close(backbone.texts([long]), backbone.texts([long + "and a dog"]))


def test_clip_is_what_transformers_says(folders: dict[str, Path]) -> None:
    backbone = load_image_text_backbone(folders["clip"])
    model = CLIPModel.from_pretrained(folders["clip"]).eval()
    images = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    tokens = tiny_tokenizer()(PROMPTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        output = model(pixel_values=images(pictures(), return_tensors="pt")["pixel_values"], **tokens)
    close(backbone.images(pictures()), output.image_embeds)
    close(backbone.texts(PROMPTS), output.text_embeds)


def test_siglip_is_what_transformers_says(folders: dict[str, Path]) -> None:
    backbone = load_image_text_backbone(folders["siglip"])
    model = SiglipModel.from_pretrained(folders["siglip"]).eval()
    images = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})(pictures(), return_tensors="pt")
    # As its model card says: padding="max_length", no mask.
    tokens = tiny_tokenizer(12)(PROMPTS, padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad():
        output = model(pixel_values=images["pixel_values"], input_ids=tokens["input_ids"])
    close(backbone.images(pictures()), output.image_embeds)
    close(backbone.texts(PROMPTS), output.text_embeds)


def test_pocket_is_what_transformers_says() -> None:
    backbone, (model, processor) = load_image_text_backbone("pocket"), load_clip()
    shown = render_concept("mochi", 3)
    inputs = processor(text=PROMPTS, images=shown, padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs)
    close(backbone.images(shown), output.image_embeds)
    close(backbone.texts(PROMPTS), output.text_embeds)
    assert backbone.name == "pocket"


@pytest.mark.parametrize("kind", ["dino", "dinov2"])
def test_dino_sees_the_middle_of_the_picture_and_gives_its_cls_token(kind: str, folders: dict[str, Path]) -> None:
    """Resize the short side to 256 / 224 of the network's, crop the middle, ImageNet's mean and deviation."""
    backbone = load_backbone(folders[kind])
    assert isinstance(backbone, ImageBackbone) and not isinstance(backbone, ImageTextBackbone)
    picture = Image.fromarray(noise(64, 32, 9))  # 32 wide, 64 high
    resized = picture.resize((16, 32), Image.Resampling.BICUBIC)
    cropped = np.asarray(resized.crop((1, 9, 15, 23)), dtype=np.float32) / 255
    pixels = torch.from_numpy((cropped - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).float().permute(2, 0, 1)
    with torch.no_grad():
        expected = backbone.model(pixel_values=pixels[None]).last_hidden_state[:, 0]
    close(backbone.images([picture]), torch.nn.functional.normalize(expected, dim=-1))
    changed = picture.copy()
    changed.paste((255, 255, 255), (0, 0, 32, 8))  # outside the crop
    assert (backbone.images([changed]) * backbone.images([picture])).sum() > 0.999
    squashed = load_backbone(folders[kind]).images([picture.resize((32, 32))])
    assert not torch.allclose(squashed, backbone.images([picture]), atol=1e-3)


def test_a_folder_is_called_by_its_last_part(folders: dict[str, Path]) -> None:
    assert load_backbone(folders["clip"]).name == "tiny-clip"
    assert load_backbone(str(folders["clip"]) + "/").name == "tiny-clip"


def test_which_clip_measures_which_model() -> None:
    assert default_backbone("pocket") == "pocket"
    assert default_backbone("stable-diffusion-v1-5/stable-diffusion-v1-5") == DEFAULT_CLIP


@pytest.mark.parametrize("load", [load_backbone, load_image_text_backbone])
def test_one_that_cannot_be_fetched_says_how_to_get_it(load: Callable[[str], ImageBackbone]) -> None:
    with pytest.raises(ModelError, match=r"Cannot load the backbone 'openai/clip-vit-base-patch32'") as caught:
        load(DEFAULT_CLIP)
    message = str(caught.value)
    assert "hf download openai/clip-vit-base-patch32" in message and "folder" in message and "'pocket'" in message
    assert "\n" not in message and len(message) < 800
    assert isinstance(caught.value, OSError)


@pytest.mark.parametrize("name", ["/no/such/folder", "./folder", "~/clip", "models/clip/base"])
def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(ModelError, match=f"There is no folder {name}. Give a folder that .*'pocket'") as caught:
        load_backbone(name)
    assert "hf download" not in str(caught.value)


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"Cannot load the backbone .* Give a folder that .* or measure with 'pocket'"):
        load_backbone(tmp_path)


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=9)
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"is a bert model.*clip, siglip.*vit.*'pocket'"):
        load_backbone(tmp_path)


def test_missing_weights_are_not_made_up(tmp_path: Path) -> None:
    write_clip(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks weights of a clip model: visual_projection\.weight"):
        load_backbone(tmp_path)


def test_damaged_weights_are_an_error_of_ours(tmp_path: Path) -> None:
    write_dino(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="Cannot load the backbone"):
        load_backbone(tmp_path)


def test_a_missing_processor_is_an_error_of_ours(tmp_path: Path) -> None:
    write_dinov2(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match="Cannot load the backbone"):
        load_backbone(tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("sentencepiece") is not None, reason="sentencepiece is installed")
def test_a_tokenizer_that_needs_a_package_says_which(tmp_path: Path) -> None:
    """As the published SigLIP models are, which hold the model of their tokenizer in sentencepiece's format."""
    write_siglip(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "spiece.model").write_bytes(b"")
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "SiglipTokenizer"}))
    with pytest.raises(MissingDependencyError, match=r"(?i)sentencepiece.*textual-inversion-ext\[siglip\]"):
        load_backbone(tmp_path)


def test_dino_reads_no_texts(folders: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=r"'tiny-dino' reads no texts; a CLIP or SigLIP model"):
        load_image_text_backbone(folders["dino"])
