"""The lines that a card tells people to paste are pasted, into plain diffusers."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from hub_cards.card import Card
from hub_cards.contents import BaseModel, CardContents, EmbeddingFile, Word
from hub_cards.usage import diffusers_code, places
from tests.golden.cards.examples import corgi, sdxl
from tests.tiny import tiny_pipeline
from tests.tiny_families import rows, tiny_flux, tiny_sd3, tiny_sdxl
from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.files import save_concept
from textual_inversion_ext.pipelines.words.slots import slots_of
from textual_inversion_ext.publishing.facts import card_contents
from textual_inversion_ext.publishing.files import files_of_concept
from textual_inversion_ext.publishing.run import FinishedRun


def learned(pipeline: Any, token: str, count: int = 2, keys: tuple[str, ...] = ("clip_l",)) -> LearnedConcept:
    encoders = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
    widths = {key: getattr(pipeline, encoders[key]).get_input_embeddings().weight.shape[1] for key in keys}
    return LearnedConcept(token, {key: rows(count, width) for key, width in widths.items()})


def pasted(contents: CardContents, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Takes the lines out of the finished card and runs them where its files are."""
    monkeypatch.chdir(folder)
    (block,) = Card.of(contents).text.split("```python\n")[1:]
    names: dict[str, Any] = {}
    exec(compile(block.split("\n```")[0], "card", "exec"), names)
    return names["pipe"]


def row_of(encoder: Any, tokenizer: Any, token: str) -> torch.Tensor:
    return encoder.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(token)].detach()


def test_stable_diffusion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path / "model")
    concept = learned(pipeline, "<corgi>")
    (file,) = save_concept(concept, tmp_path)
    word = Word("<corgi>", (EmbeddingFile(file.name),), "corgi.safetensors")
    contents = CardContents((word,), BaseModel(str(tmp_path / "model")))
    pipe = pasted(contents, tmp_path, monkeypatch)
    assert torch.equal(row_of(pipe.text_encoder, pipe.tokenizer, "<corgi>_1"), concept.vectors["clip_l"][1])
    assert Image.open(tmp_path / "corgi.png").size == (16, 16)


@pytest.mark.parametrize("keys", [("clip_l", "clip_g"), ("clip_g",)])
def test_stable_diffusion_xl(keys: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = tiny_sdxl()
    pipeline.save_pretrained(tmp_path / "model")
    concept = learned(pipeline, "<corgi>", keys=keys)
    files = save_concept(concept, tmp_path)
    encoders = ["text_encoder" if key == "clip_l" else "text_encoder_2" for key in keys]
    parts = tuple(EmbeddingFile(file.name, encoder) for file, encoder in zip(files, encoders, strict=True))
    pipe = pasted(CardContents((Word("<corgi>", parts),), BaseModel(str(tmp_path / "model"))), tmp_path, monkeypatch)
    for key, encoder in zip(keys, encoders, strict=True):
        tokenizer = getattr(pipe, encoder.replace("text_encoder", "tokenizer"))
        assert torch.equal(row_of(getattr(pipe, encoder), tokenizer, "<corgi>"), concept.vectors[key][0])
    assert (tmp_path / "picture.png").is_file()


def published(encoders: dict[str, int], folder: Path) -> tuple[LearnedConcept, CardContents]:
    """A word for text encoders of these widths, laid out as it is published, for the model in the same folder."""
    vectors = {key: rows(2, width, seed) for seed, (key, width) in enumerate(encoders.items())}
    concept = LearnedConcept("<corgi>", vectors, {"base_model": f"{folder}/model"})
    files = files_of_concept(concept)
    for name, content in files.files.items():
        assert isinstance(content, bytes)
        (folder / name).write_bytes(content)
    return concept, card_contents(FinishedRun(folder, concept), files)


@pytest.mark.parametrize("family", ["flux", "sd3"])
def test_every_encoder_gets_its_own_rows(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """T5 is the second encoder of Flux, and the third of Stable Diffusion 3, into which diffusers loads no words."""
    pipeline = {"flux": tiny_flux, "sd3": tiny_sd3}[family]()
    pipeline.save_pretrained(tmp_path / "model")
    slots = {slot.key: (suffix, slot.dim) for suffix, slot in slots_of(pipeline).items()}
    assert slots["t5"][0] == {"flux": "_2", "sd3": "_3"}[family]
    concept, contents = published({key: width for key, (_, width) in slots.items()}, tmp_path)
    pipe = pasted(contents, tmp_path, monkeypatch)
    for key, (suffix, _) in slots.items():
        encoder, tokenizer = getattr(pipe, f"text_encoder{suffix}"), getattr(pipe, f"tokenizer{suffix}")
        assert torch.equal(row_of(encoder, tokenizer, "<corgi>_1"), concept.vectors[key][1])


@pytest.mark.parametrize("keys", [("t5",), ("clip_l", "clip_g", "t5", "llama"), ("gemma",), ("clip_g", "t5")])
def test_rows_that_diffusers_has_no_place_for_are_named(keys: tuple[str, ...], tmp_path: Path) -> None:
    _, contents = published(dict.fromkeys(keys, 8), tmp_path)
    code = diffusers_code(contents)
    assert f"these rows ({', '.join(keys)})" in code
    assert "text_encoder" not in code
    assert 'add_concept_loading(pipe).load_textual_inversion(".")' in code


def test_several_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path / "model")
    words = []
    for name in ("cat", "dog"):
        save_concept(learned(pipeline, f"<{name}>", 1), tmp_path / name)
        words.append(Word(f"<{name}>", (EmbeddingFile(f"{name}/learned_embeds.safetensors"),)))
    pipe = pasted(CardContents(tuple(words), BaseModel(str(tmp_path / "model"))), tmp_path, monkeypatch)
    assert {"<cat>", "<dog>"} <= set(pipe.tokenizer.get_vocab())


def test_what_is_pasted_from_the_hub() -> None:
    assert diffusers_code(corgi()).splitlines() == [
        "import torch",
        "from diffusers import DiffusionPipeline",
        "",
        "pipe = DiffusionPipeline.from_pretrained(",
        '    "stable-diffusion-v1-5/stable-diffusion-v1-5",',
        '    revision="451f4fe1",',
        ").to(torch.float32)",
        'pipe.load_textual_inversion("user/corgi")',
        'pipe("a photo of <corgi>").images[0].save("corgi.png")',
    ]
    assert 'pipe.load_lora_weights("user/duotone", weight_name="pytorch_lora_weights.safetensors")' in diffusers_code(
        sdxl()
    )


def test_half_precision_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers loads them as they are and diffusers as float32; the pasted lines make them fit."""
    pipeline = tiny_pipeline()
    save_concept(learned(pipeline, "<corgi>", 1), tmp_path)
    pipeline.to(torch.float16).save_pretrained(tmp_path / "model")
    word = Word("<corgi>", (EmbeddingFile("learned_embeds.safetensors"),))
    pipe = pasted(CardContents((word,), BaseModel(str(tmp_path / "model"))), tmp_path, monkeypatch)
    assert {pipe.text_encoder.dtype, pipe.unet.dtype, pipe.vae.dtype} == {torch.float32}


def test_a_base_model_with_lines_of_its_own() -> None:
    base = BaseModel("pocket", load_lines=("from somewhere import load", "", 'pipe = load("pocket")'))
    lines = diffusers_code(replace(corgi(), base_model=base)).splitlines()
    assert lines[:4] == [*base.load_lines, 'pipe.load_textual_inversion("user/corgi")']  # type: ignore[misc]
    text = Card.of(replace(corgi(), base_model=base)).text
    assert "cannot load this base model" in text and "stable-diffusion-webui" not in text


@pytest.mark.parametrize(
    "token", ['<"quoted">', "<back\\slash>", "<new\nline>", "<'''>", "<👩\u200d👧>", "<\u202eabc>"]
)
def test_nasty_tokens_stay_strings(token: str) -> None:
    contents = CardContents((Word(token, (EmbeddingFile("a'\"b/c`d.safetensors"),)),), BaseModel(token), "me/x")
    tree = ast.parse(diffusers_code(contents))
    assert len(tree.body) == 5, "two imports, three lines"
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert sorted(texts) == sorted([token, "me/x", "a'\"b", "c`d.safetensors", f"a photo of {token}", "picture.png"])


def test_places_for_other_programs() -> None:
    (word,) = corgi().words
    assert [(place.program, place.trigger) for place in places(word)] == [
        ("AUTOMATIC1111, Forge", "corgi"),
        ("ComfyUI", "embedding:corgi"),
        ("InvokeAI", "<corgi>"),
    ]
    assert places(replace(word, ui_file=None)) == []
    assert places(replace(word, ui_file="日本.safetensors"))[2].trigger is None
