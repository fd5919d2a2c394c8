"""diffusers as the judge where it is right, and diffusers' own ways of making, saving and sharing pipelines."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoPipelineForImage2Image, DiffusionPipeline
from transformers import CLIPTokenizer

import textual_inversion_ext
from tests.tiny import tiny_images, tiny_pipeline
from tests.tiny_families import WIDTH_G, WIDTH_L, WIDTH_T5, learned_ids, rows, state, tiny_flux, tiny_sd3, tiny_sdxl
from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.errors import ModelError
from textual_inversion_ext.pipelines.words.loader import ConceptLoaderMixin, add_concept_loading

PROMPTS = [
    "a photo of a <corgi>",
    "<corgi>",
    "mytok, <corgi>on the beach",
    "a red (mytok) and a blue <corgi>!",
    "a cat",
]
WIDTHS = {"clip_l": WIDTH_L, "clip_g": WIDTH_G, "t5": WIDTH_T5}
KEYS = {
    tiny_pipeline: {"": "clip_l"},
    tiny_sdxl: {"": "clip_l", "_2": "clip_g"},
    tiny_sd3: {"": "clip_l", "_2": "clip_g", "_3": "t5"},
    tiny_flux: {"": "clip_l", "_2": "t5"},
}
READY = [name for name in textual_inversion_ext.__all__ if name.endswith("Pipeline")]


def encoded(pipeline: Any, prompts: list[str] | str, negative: str = "mytok") -> list[torch.Tensor]:
    extra = {name: None for name in ("prompt_2", "prompt_3") if hasattr(pipeline, f"tokenizer{name[-2:]}")}
    if "StableDiffusionPipeline" in type(pipeline).__name__:
        extra = {"num_images_per_prompt": 1, "do_classifier_free_guidance": True}
    if "Flux" not in type(pipeline).__name__:
        extra["negative_prompt"] = negative if isinstance(prompts, str) else [negative] * len(prompts)
    with torch.no_grad():
        outputs = pipeline.encode_prompt(prompts, device="cpu", **extra)
    return [output for output in outputs if isinstance(output, torch.Tensor)]


def load_both(plain: Any, ours: Any, count: int) -> None:
    """The same rows: with diffusers encoder by encoder, with ours in one call."""
    make = next(make for make in KEYS if type(make()) is type(plain))
    words = {"<corgi>": count, "mytok": 2}
    sources = []
    for number, (token, many) in enumerate(words.items()):
        vectors = {key: rows(many, WIDTHS[key], seed=number) for key in KEYS[make].values()}
        sources.append(vectors)
        for suffix, key in KEYS[make].items():
            parts = {"tokenizer": f"tokenizer{suffix}", "text_encoder": f"text_encoder{suffix}"}
            parts = {name: getattr(plain, part) for name, part in parts.items()}
            plain.load_textual_inversion({token: vectors[key]}, **parts)
    ours.load_textual_inversion(sources, token=list(words))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("make", [tiny_pipeline, tiny_sdxl, tiny_flux])
def test_encodings_equal_plain_diffusers(make: Any, count: int) -> None:
    # With the right end token in its configuration; with the old one diffusers pools elsewhere (see the traps).
    options = {} if make is tiny_pipeline else {"eos_token_id": tiny_pipeline().tokenizer.eos_token_id}
    plain, ours = make(**options), add_concept_loading(make(**options))
    load_both(plain, ours, count)
    for prompts in (*PROMPTS, PROMPTS):
        expected, got = encoded(plain, prompts), encoded(ours, prompts)
        assert len(expected) == len(got) >= 2
        assert all(torch.equal(one, other) for one, other in zip(expected, got, strict=True))


def test_encodings_equal_plain_diffusers_on_the_real_vocabulary(clip_vocabulary: Any) -> None:
    vocabulary, merges = clip_vocabulary
    plain, ours = (
        tiny_pipeline(tokenizer=CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)) for _ in range(2)
    )
    load_both(plain, add_concept_loading(ours), 8)
    assert all(torch.equal(*pair) for pair in zip(encoded(plain, PROMPTS), encoded(ours, PROMPTS), strict=True))


@pytest.mark.parametrize("make", KEYS)
def test_a_pipeline_saved_with_concepts_works_in_plain_diffusers(make: Any, tmp_path: Path) -> None:
    ours = add_concept_loading(make())
    before = state(ours)
    corgi, mytok = ({key: rows(2, WIDTHS[key], seed=seed) for key in KEYS[make].values()} for seed in (0, 1))
    ours.load_textual_inversion([LearnedConcept("<corgi>", corgi, {"steps": "7"}), LearnedConcept("mytok", mytok)])
    ours.save_pretrained(tmp_path)
    plain = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(plain) is type(make())
    expected = encoded(ours, "a <corgi> and mytok", negative="mytok")
    # Written out by hand, because not every pipeline of diffusers does it.
    plain.maybe_convert_prompt = lambda text, tokenizer: text
    got = encoded(plain, "a <corgi> <corgi>_1 and mytok mytok_1", negative="mytok mytok_1")
    assert all(torch.equal(*pair) for pair in zip(expected, got, strict=True))
    del plain.maybe_convert_prompt

    again = add_concept_loading(plain)
    assert learned_ids(again, "mytokish <Corgi>") == [0, 1]
    assert {token: concept.num_vectors for token, concept in again.concepts.items()} == {"<corgi>": 2, "mytok": 2}
    assert again.concepts["<corgi>"].metadata == {"steps": "7"}
    again.unload_textual_inversion()
    assert state(again)[2] == before[2] and state(again)[4] == before[4]
    assert [config.get("eos_token_id") for config in state(again)[1]] == [c.get("eos_token_id") for c in before[1]]


def test_words_loaded_by_plain_diffusers_are_taken_over() -> None:
    plain = tiny_pipeline()
    before = state(plain)[4]
    plain.load_textual_inversion([{"<a>": rows(3)}, {"MyTok": rows(2)}])
    ours = textual_inversion_ext.ConceptStableDiffusionPipeline.from_pipe(plain)
    assert {token: concept.num_vectors for token, concept in ours.concepts.items()} == {"<a>": 3, "MyTok": 2}
    assert ours.maybe_convert_prompt("mytok", ours.tokenizer) == "MyTok MyTok_1"
    ours.load_textual_inversion({"<b>": rows()})
    ours.unload_textual_inversion()
    assert state(ours)[4] == before


@pytest.mark.parametrize("name", READY)
def test_ready_classes_from_any_pipeline(name: str, tmp_path: Path) -> None:
    kind, xl = getattr(textual_inversion_ext, name), "XL" in name
    base = tiny_sdxl() if xl else tiny_pipeline()
    pipeline = kind.from_pipe(base)
    assert isinstance(pipeline, ConceptLoaderMixin) and pipeline.text_encoder is base.text_encoder
    vectors = {key: rows(2, WIDTHS[key]) for key in (("clip_l", "clip_g") if xl else ("clip_l",))}
    pipeline.load_textual_inversion(vectors, token="<a>")
    pipeline.set_progress_bar_config(disable=True)
    (picture,) = tiny_images(1)
    options: dict[str, Any] = {"num_inference_steps": 2, "output_type": "np"}
    if "Img2Img" in name:
        options |= {"image": picture, "strength": 0.5}
    elif "Inpaint" in name:
        options |= {"image": picture, "mask_image": picture.convert("L"), "height": 16, "width": 16}
    else:
        options |= {"height": 16, "width": 16}
    assert pipeline("an <A>", **options).images.shape == (1, 16, 16, 3)
    pipeline.save_pretrained(tmp_path)
    assert DiffusionPipeline.load_config(tmp_path)["_class_name"] == name.removeprefix("Concept")
    assert type(kind.from_pretrained(tmp_path)) is kind


def test_pipelines_with_the_same_encoder_share_its_words() -> None:
    text = textual_inversion_ext.ConceptStableDiffusionPipeline.from_pipe(tiny_pipeline())
    image = textual_inversion_ext.ConceptStableDiffusionImg2ImgPipeline.from_pipe(text)
    text.load_textual_inversion({"<a>": rows(2)})
    assert list(image.concepts) == ["<a>"]
    image.unload_textual_inversion()
    assert not text.concepts


def test_any_pipeline_object() -> None:
    pipeline = tiny_sd3()
    assert add_concept_loading(pipeline) is pipeline and add_concept_loading(pipeline) is pipeline
    assert type(pipeline).__name__ == "StableDiffusion3Pipeline"
    pipeline.load_textual_inversion({"clip_l": rows(2), "clip_g": rows(2, WIDTH_G)}, token="<a>")
    image = pipeline("an <A>", num_inference_steps=1, height=16, width=16, output_type="np").images
    assert image.shape == (1, 16, 16, 3)
    with pytest.raises(ModelError, match="object has no tokenizer"):
        add_concept_loading(object())


def test_autopipeline_knows_it() -> None:
    pipeline = add_concept_loading(tiny_pipeline())
    pipeline.load_textual_inversion({"<a>": rows(2)})
    image = add_concept_loading(AutoPipelineForImage2Image.from_pipe(pipeline))
    assert type(image).__name__ == "StableDiffusionImg2ImgPipeline" and list(image.concepts) == ["<a>"]


def test_as_a_custom_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = importlib.import_module("diffusers.utils.dynamic_modules_utils")
    monkeypatch.setattr(modules, "HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path / "cache"))
    tiny_pipeline().save_pretrained(tmp_path / "model")
    (tmp_path / "custom").mkdir()
    code = "from textual_inversion_ext import ConceptStableDiffusionPipeline\n"
    (tmp_path / "custom" / "pipeline.py").write_text(code)
    pipeline = DiffusionPipeline.from_pretrained(
        tmp_path / "model", custom_pipeline=str(tmp_path / "custom"), trust_remote_code=True
    )
    pipeline.load_textual_inversion({"<a>": rows(2)})
    assert type(pipeline) is textual_inversion_ext.ConceptStableDiffusionPipeline and list(pipeline.concepts) == ["<a>"]
