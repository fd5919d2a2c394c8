"""Whole runs and pictures with Stable Diffusion XL, and with models that paint into pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline, StableDiffusionXLPipeline
from PIL import Image, ImageChops

from tests.runs import save_images, train_flags
from tests.tiny import tiny_images, tiny_pipeline
from tests.tiny_families import WIDTH_G, WIDTH_L, rows, tiny_inpainting, tiny_sdxl, tiny_sdxl_inpainting
from textual_inversion_ext import (
    ConceptSpec,
    EmbeddingFileError,
    LearnedConcept,
    TextualInversionConfig,
    TextualInversionTrainer,
    load_concept,
    load_pipeline,
    sample,
)
from textual_inversion_ext.cli.main import main
from textual_inversion_ext.pipelines.loading import documented_sampling
from textual_inversion_ext.pipelines.sampling import SampleSettings
from textual_inversion_ext.pipelines.words.loader import add_concept_loading
from textual_inversion_ext.pipelines.words.pooling import recorded_pooling

FAST = SampleSettings(num_inference_steps=2)
WORD = LearnedConcept("<tok>", {"clip_l": rows(2, WIDTH_L), "clip_g": rows(2, WIDTH_G, seed=1)})


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and ImageChops.difference(one, other).getbbox() is None


def flags_for(folder: Path, pipeline: Any, **settings: object) -> list[str]:
    pipeline.save_pretrained(folder / "model")
    save_images(folder / "images")
    return [*train_flags(folder, num_vectors=2, max_train_steps=2, **settings)]


def test_a_whole_run(tmp_path: Path) -> None:
    previews = {"validation_prompt": "a <tok> photo", "num_validation_images": 1, "validation_steps": 2}
    flags = flags_for(tmp_path, tiny_sdxl(), **previews)
    assert main([*flags, "--gradient_checkpointing", "--save_as_full_pipeline"]) == 0
    out = tmp_path / "out"
    assert {"learned_embeds.safetensors", "learned_embeds_2.safetensors", "tok.safetensors"} <= {
        path.name for path in out.iterdir()
    }
    learned = load_concept(out)
    assert {key: tuple(vectors.shape) for key, vectors in learned.vectors.items()} == {
        "clip_l": (2, WIDTH_L),
        "clip_g": (2, WIDTH_G),
    }
    assert load_concept(out / "tok.safetensors").vectors.keys() == learned.vectors.keys()
    assert Image.open(out / "previews" / "step-000002.png").width > 160
    folder = tmp_path / "pictures"
    asked = ["--concept", str(out), "--prompt", "a <tok> photo", "--seed", "3", "--num_inference_steps", "2"]
    assert main(["generate", *asked, "--output_dir", str(folder)]) == 0
    generated = Image.open(folder / "prompt-00_seed-3.png")
    settings = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(3)}
    whole = StableDiffusionXLPipeline.from_pretrained(out)  # plain diffusers, the word built in, its own guidance
    assert same(generated, whole("a <tok> photo", **settings).images[0])


@pytest.mark.parametrize(
    ("name", "make", "expected"),
    [("x", tiny_pipeline, (50, 7.5)), ("x", tiny_sdxl, (50, 5.0)), ("pocket", tiny_pipeline, (30, 3.0))],
)
def test_a_model_is_sampled_as_its_pipeline_class_documents(name: str, make: Any, expected: tuple[int, float]) -> None:
    assert documented_sampling(name, make()) == expected
    assert documented_sampling("anything") == (50, 7.5)


def test_pictures_are_pooled_as_the_words_were_learned(tmp_path: Path) -> None:
    """Against plain diffusers with the two files, which takes the word for the prompt's end."""
    assert main(flags_for(tmp_path, tiny_sdxl(), pooling="diffusers")) == 0
    out, asked = tmp_path / "out", ["--prompt", "a <tok> photo", "--seed", "3", "--num_inference_steps", "2"]
    assert main(["generate", "--concept", str(out), *asked, "--output_dir", str(tmp_path / "pictures")]) == 0
    pipeline = StableDiffusionXLPipeline.from_pretrained(tmp_path / "model")
    parts = ((pipeline.tokenizer, pipeline.text_encoder), (pipeline.tokenizer_2, pipeline.text_encoder_2))
    for name, (tokenizer, text_encoder) in zip(("learned_embeds", "learned_embeds_2"), parts, strict=True):
        pipeline.load_textual_inversion(out / f"{name}.safetensors", tokenizer=tokenizer, text_encoder=text_encoder)
    plain = pipeline("a <tok> photo", num_inference_steps=2, generator=torch.Generator().manual_seed(3))
    generated = Image.open(tmp_path / "pictures" / "prompt-00_seed-3.png")
    assert same(generated, plain.images[0])
    at_end = LearnedConcept("<tok>", load_concept(out).vectors)
    ((other,),) = sample(load_pipeline(tmp_path / "model"), [at_end], ["a <tok> photo"], [3], SampleSettings(2, 5.0))
    assert not same(generated, other)


@pytest.mark.parametrize("recipe", ['{"pooling": "end"}', "{}", "[3]", "{", None])
def test_words_that_were_learned_otherwise_are_pooled_at_the_end_with_a_warning(
    recipe: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    ours = LearnedConcept("<ours>", WORD.vectors, {"recipe": '{"pooling": "diffusers"}'})
    theirs = LearnedConcept("<theirs>", WORD.vectors, {} if recipe is None else {"recipe": recipe})
    assert recorded_pooling([ours]) == recorded_pooling([ours, ours]) == "diffusers"
    assert recorded_pooling([theirs]) == recorded_pooling([]) == "end" and not caplog.records
    assert recorded_pooling([ours, theirs]) == "end"
    assert "<ours> learned with --pooling diffusers and <theirs> not" in caplog.text


def test_one_encoder_learns_alone(tmp_path: Path) -> None:
    flags = flags_for(tmp_path, tiny_sdxl(), encoders="clip_g", validation_prompt="a <tok>", num_validation_images=1)
    assert main(flags) == 0
    written = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert written == ["learned_embeds.safetensors"], "no other interface knows such a word"
    assert load_concept(tmp_path / "out").vectors.keys() == {"clip_g"}


def test_an_unknown_encoder_is_refused_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags_for(tmp_path, tiny_sdxl(), encoders="t5")) != 0
    assert "encoders is 't5'; this model has clip_l, clip_g" in capsys.readouterr().err


@pytest.mark.parametrize("make", [tiny_inpainting, tiny_sdxl_inpainting])
def test_a_whole_run_of_an_inpainting_model(make: Any, tmp_path: Path) -> None:
    flags = flags_for(tmp_path, make(), validation_prompt="a <tok>", num_validation_images=1)
    assert main(flags) == 0
    assert (tmp_path / "out" / "previews" / "step-000002.png").exists()
    ((picture,),) = sample(load_pipeline(tmp_path / "model"), [load_concept(tmp_path / "out")], ["a <tok>"], [1], FAST)
    assert picture.size == (16, 16)


@pytest.mark.parametrize("negative", ["", "a red <tok>"])
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_pictures_are_those_of_the_pipeline_with_the_word_loaded(negative: str, guidance: float) -> None:
    settings = SampleSettings(2, guidance, negative_prompt=negative, size=(24, 16))
    ((picture,),) = sample(tiny_sdxl(), [WORD], ["a <tok> cat"], [4], settings)
    pipeline = add_concept_loading(tiny_sdxl())
    pipeline.load_textual_inversion(WORD)
    plain = pipeline(
        "a <tok> cat",
        negative_prompt=negative or None,
        num_inference_steps=2,
        guidance_scale=guidance,
        width=24,
        height=16,
        generator=torch.Generator().manual_seed(4),
    ).images[0]
    assert same(picture, plain)


@pytest.mark.parametrize("kind", [StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline])
def test_sister_pipelines_make_the_same_pictures(kind: type[Any]) -> None:
    ((expected,),) = sample(tiny_sdxl(), [WORD], ["a <tok>"], [4], FAST)
    ((picture,),) = sample(tiny_sdxl(kind=kind), [WORD], ["a <tok>"], [4], FAST)
    assert same(picture, expected)


def test_words_of_both_kinds_are_used_together() -> None:
    """One knows both encoders, the other one only: there its name is plain text."""
    half = LearnedConcept("<half>", {"clip_g": rows(1, WIDTH_G, seed=2)})
    ((picture,),) = sample(tiny_sdxl(), [half, WORD], ["<half> and <tok>"], [4], FAST)
    pipeline = add_concept_loading(tiny_sdxl())
    pipeline.load_textual_inversion([half, WORD])
    plain = pipeline("<half> and <tok>", num_inference_steps=2, guidance_scale=7.5, generator=torch.manual_seed(4))
    assert same(picture, plain.images[0])
    wrong = LearnedConcept("<wrong>", {"clip_l": rows(1, WIDTH_L), "clip_g": rows(1, WIDTH_L)})
    with pytest.raises(EmbeddingFileError, match="clip_g of width 16, this model needs .*clip_g of width 24"):
        sample(tiny_sdxl(), [wrong], ["<wrong>"], [4], FAST)


@pytest.mark.parametrize("precision", ["no", "fp16"])
def test_a_resumed_run_is_an_uninterrupted_one(precision: Literal["no", "fp16"], tmp_path: Path) -> None:
    def train(folder: str, resumed: Path | None = None) -> LearnedConcept:
        config = TextualInversionConfig(
            output_dir=tmp_path / folder,  # type: ignore[arg-type]
            max_train_steps=4,
            train_batch_size=2,
            checkpointing_steps=2,
            mixed_precision=precision,
            resume_from_checkpoint=None if resumed is None else str(resumed),
        )
        spec = ConceptSpec("<tok>", tiny_images(3), "cat", num_vectors=2)
        return TextualInversionTrainer(config, [spec], pipeline=tiny_sdxl()).train().concepts[0]

    whole = train("whole")
    again = train("again", tmp_path / "whole" / "checkpoint-2")
    assert whole.vectors.keys() == again.vectors.keys() == {"clip_l", "clip_g"}
    assert all(torch.equal(again.vectors[key], vectors) for key, vectors in whole.vectors.items())
