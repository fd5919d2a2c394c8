"""Where rows start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import tiny_images, tiny_pipeline
from tests.tiny_families import tiny_clip, tiny_t5, tiny_t5_tokenizer
from textual_inversion_ext import TextualInversionTrainer
from textual_inversion_ext.concept import ConceptSpec, LearnedConcept
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.errors import ConceptError, ConfigError, EmbeddingFileError
from textual_inversion_ext.families import EncoderSlot, adapter_for
from textual_inversion_ext.files import save_concept
from textual_inversion_ext.initializers import (
    INITIALIZERS,
    FileInitializer,
    InitializerContext,
    WordsInitializer,
    initial_rows,
    resolve,
)
from textual_inversion_ext.initializers.base import spread


@pytest.fixture(scope="module")
def slot() -> EncoderSlot:
    return adapter_for(tiny_pipeline()).slots[0]


def rows_of(slot: EncoderSlot, words: list[str]) -> torch.Tensor:
    ids = slot.tokenizer.convert_tokens_to_ids([f"{word}</w>" for word in words])
    return slot.text_encoder.get_input_embeddings().weight.detach()[ids]


def start(slot: EncoderSlot, concept: ConceptSpec, initialization: str = "auto", **settings: Any) -> torch.Tensor:
    config = TextualInversionConfig(initialization=initialization, **settings)
    return initial_rows(concept, slot, InitializerContext(config))


# ---- words and phrases


@pytest.mark.parametrize(
    ("initializer", "count", "words"),
    [
        ("dog", 1, ["dog"]),
        ("Dog", 1, ["dog"]),
        ("dog", 3, ["dog", "dog", "dog"]),
        ("red dog", 2, ["red", "dog"]),
        ("red dog", 3, ["red", "dog", "red"]),
    ],
)
@pytest.mark.parametrize("initialization", ["auto", "words"])
def test_words(slot: EncoderSlot, initializer: str, count: int, words: list[str], initialization: str) -> None:
    rows = start(slot, ConceptSpec("<x>", None, initializer, num_vectors=count), initialization)
    assert torch.equal(rows, rows_of(slot, words)) and rows.dtype == torch.float32
    rows.zero_()
    assert rows_of(slot, words).abs().sum() > 0


def test_class_name_stands_in(slot: EncoderSlot) -> None:
    assert torch.equal(start(slot, ConceptSpec("<x>", None, class_name="cat")), rows_of(slot, ["cat"]))


@pytest.mark.parametrize(
    ("initializer", "message"),
    [
        ("", "no initializer"),
        ("red dog", r"2 tokens of clip_l \(red</w>, dog</w>\).*num_vectors=1.*num_vectors=2.*'phrase'"),
        ("corgi", r"splits into 5 tokens.*num_vectors=5"),
        ("犬", "does not know the initializer '犬'"),
    ],
)
def test_words_that_do_not_fit(slot: EncoderSlot, initializer: str, message: str) -> None:
    with pytest.raises(ConceptError, match=message):
        start(slot, ConceptSpec("<x>", None, initializer))


@pytest.mark.parametrize(("count", "words"), [(2, ["red", "dog"]), (4, ["red", "dog", "dog", "dog"])])
def test_a_phrase_has_one_row_per_token_and_the_noun_repeats(slot: EncoderSlot, count: int, words: list[str]) -> None:
    rows = start(slot, ConceptSpec("<x>", None, "red dog", num_vectors=count), "phrase")
    assert torch.equal(rows, rows_of(slot, words))


def test_a_phrase_in_fewer_vectors_drops_nothing(slot: EncoderSlot) -> None:
    rows = start(slot, ConceptSpec("<x>", None, "blue red dog", num_vectors=2), "phrase")
    blue, red, dog = rows_of(slot, ["blue", "red", "dog"])
    mean = (blue + red) / 2
    assert torch.equal(rows[1], dog)
    assert torch.allclose(rows[0], mean / mean.norm() * (blue.norm() + red.norm()) / 2)
    pieces = start(slot, ConceptSpec("<x>", None, "corgi"), "phrase")
    assert pieces.shape == (1, slot.dim)


def test_spread_survives_rows_that_cancel_out() -> None:
    rows = spread(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), 1)
    assert rows.isfinite().all()


# ---- files


def test_file(slot: EncoderSlot, tmp_path: Path) -> None:
    vectors = torch.randn(2, slot.dim)
    file = LearnedConcept("<old>", {"clip_l": vectors}).save(tmp_path / "old.safetensors")
    concept = ConceptSpec("<x>", None, str(file), num_vectors=2)
    assert isinstance(resolve(concept), FileInitializer)
    assert torch.equal(start(slot, concept), vectors)
    for count in (1, 3):
        with pytest.raises(ConceptError, match=rf"holds 2 vector.*num_vectors={count}; set num_vectors=2"):
            start(slot, ConceptSpec("<x>", None, str(file), num_vectors=count))


@pytest.mark.parametrize("layout", ["emb_params", "webui", "diffusers", "invokeai"])
def test_file_of_any_layout(slot: EncoderSlot, tmp_path: Path, layout: str) -> None:
    vectors = torch.randn(1, slot.dim)
    (file,) = save_concept(LearnedConcept("<old>", {"clip_l": vectors}), tmp_path / "old.safetensors", layout)
    assert torch.equal(start(slot, ConceptSpec("<x>", None, str(file))), vectors)


def test_file_with_several_concepts(slot: EncoderSlot, tmp_path: Path) -> None:
    for token, value in (("<x>", 1.0), ("<y>", 2.0)):
        LearnedConcept(token, {"clip_l": torch.full((1, slot.dim), value)}).save(tmp_path / f"{token[1]}.safetensors")
    assert start(slot, ConceptSpec("<y>", None, str(tmp_path)))[0, 0] == 2
    with pytest.raises(EmbeddingFileError, match="holds 2 concepts"):
        start(slot, ConceptSpec("<z>", None, str(tmp_path)))


def test_file_of_another_model(slot: EncoderSlot, tmp_path: Path) -> None:
    file = LearnedConcept("<old>", {"clip_l": torch.randn(1, slot.dim + 1)}).save(tmp_path / "old.safetensors")
    with pytest.raises(ConceptError, match=f"width {slot.dim + 1}.* has {slot.dim}"):
        start(slot, ConceptSpec("<x>", None, str(file)))
    second = EncoderSlot("clip_g", slot.tokenizer, slot.text_encoder)
    with pytest.raises(ConceptError, match="has vectors for clip_l; the model needs clip_g too"):
        start(second, ConceptSpec("<x>", None, str(file)))


def test_file_from_the_hub(slot: EncoderSlot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a bare "user/repository" is, only its author knows: words, unless a file is asked for."""
    monkeypatch.chdir(tmp_path)
    assert isinstance(resolve(ConceptSpec("<x>", None, "black/white")), WordsInitializer)
    assert isinstance(resolve(ConceptSpec("<x>", None, "https://huggingface.co/user/cat")), FileInitializer)
    with pytest.raises(EmbeddingFileError, match=r"Hub.*offline"):
        start(slot, ConceptSpec("<x>", None, "user/cat"), "file")
    with pytest.raises(ConceptError, match="no file; .*not only a class_name"):
        start(slot, ConceptSpec("<x>", None, class_name="cat"), "file")


def test_a_word_is_a_word_even_beside_a_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dog").mkdir()
    assert isinstance(resolve(ConceptSpec("<x>", None, "dog")), WordsInitializer)
    assert isinstance(resolve(ConceptSpec("<x>", None, "./dog")), FileInitializer)
    assert isinstance(resolve(ConceptSpec("<x>", None, "emb.png")), FileInitializer)


# ---- mean and noise


def test_mean(slot: EncoderSlot) -> None:
    table = slot.text_encoder.get_input_embeddings().weight.detach()
    plain = start(slot, ConceptSpec("<x>", None, num_vectors=2), "mean", initializer_noise=0.0)
    assert torch.allclose(plain, table.mean(0).repeat(2, 1), atol=1e-7)
    noisy = start(slot, ConceptSpec("<x>", None, num_vectors=2), "mean")
    assert not torch.equal(noisy[0], noisy[1])
    assert torch.allclose(((noisy - plain) / table.std(0)).std(), torch.tensor(0.1), rtol=0.4)


def test_mean_leaves_spare_rows_out() -> None:
    tokenizer = tiny_t5_tokenizer()
    slot = EncoderSlot("t5", tokenizer, tiny_t5(tokenizer))
    table = slot.text_encoder.get_input_embeddings().weight
    with torch.no_grad():
        table[len(tokenizer) :] = 1e6
    rows = start(slot, ConceptSpec("<x>", None), "mean")
    assert rows.abs().max() < 1e3


def test_noise_is_a_function_of_seed_token_encoder_and_row(slot: EncoderSlot) -> None:
    def noise(token: str = "<x>", count: int = 3, key: str = "clip_l", seed: int = 0) -> torch.Tensor:
        concept = ConceptSpec(token, None, "dog", num_vectors=count)
        named = EncoderSlot(key, slot.tokenizer, slot.text_encoder)
        return start(named, concept, initializer_noise=0.5, seed=seed)

    torch.manual_seed(1)
    first = noise()
    torch.manual_seed(2)
    assert torch.equal(noise(), first)
    assert torch.equal(noise(count=1), first[:1])
    for other in (noise("<y>"), noise(key="clip_g"), noise(seed=1)):
        assert not torch.isclose(other, first).any(dim=1).all()


# ---- cross initialisation


@pytest.mark.parametrize("projection", [False, True])
def test_cross_is_the_encoders_output_at_the_word(slot: EncoderSlot, projection: bool) -> None:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    kind = CLIPTextModelWithProjection if projection else CLIPTextModel
    encoder = tiny_clip(slot.tokenizer, 24, kind)
    ids = slot.tokenizer("red dog", padding="max_length", return_tensors="pt").input_ids  # padded, as pipelines do
    states = encoder(ids).last_hidden_state[0]
    named = EncoderSlot("clip_g", slot.tokenizer, encoder)
    rows = start(named, ConceptSpec("<x>", None, "red dog", num_vectors=2), "cross")
    assert torch.allclose(rows, states[1:3], atol=1e-5)
    one = start(named, ConceptSpec("<x>", None, "red dog"), "cross")
    assert torch.allclose(one.norm(), rows.norm(dim=-1).mean())


def test_cross_without_a_start_token() -> None:
    tokenizer = tiny_t5_tokenizer()
    slot = EncoderSlot("t5", tokenizer, tiny_t5(tokenizer))
    rows = start(slot, ConceptSpec("<x>", None, "red dog", num_vectors=2), "cross")
    inputs = tokenizer("red dog", padding="max_length", return_tensors="pt")
    states = slot.text_encoder(inputs.input_ids, attention_mask=inputs.attention_mask).last_hidden_state[0]
    assert torch.allclose(rows, states[:2], atol=1e-5)


def test_cross_of_a_text_that_is_too_long(slot: EncoderSlot) -> None:
    rows = start(slot, ConceptSpec("<x>", None, "dog " * 50, num_vectors=2), "cross")
    assert rows.shape == (2, slot.dim) and rows.isfinite().all()


# ---- settings


def test_an_unknown_initialization(slot: EncoderSlot) -> None:
    with pytest.raises(ConfigError, match="'random'; allowed: auto, .*cross.*words"):
        start(slot, ConceptSpec("<x>", None, "dog"), "random")


def test_the_help_names_every_initializer() -> None:
    text = next(field.metadata["help"] for field in _fields() if field.name == "initialization")
    assert all(name in text for name in ("auto", *INITIALIZERS))


@pytest.mark.parametrize("name", ["words", "phrase", "mean", "cross"])
def test_the_trainer_starts_there(name: str, tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    concept = ConceptSpec("<x>", tiny_images(2), "dog")
    config = TextualInversionConfig(
        output_dir=str(tmp_path), initialization=name, max_train_steps=1, learning_rate=1e-9, train_batch_size=1
    )
    result = TextualInversionTrainer(config, [concept], pipeline=pipeline).train()
    rows = result.concepts[0].vectors["clip_l"]
    assert torch.allclose(rows, start(adapter_for(pipeline).slots[0], concept, name), atol=1e-6)


def test_a_concept_may_have_its_own_way_to_start(tmp_path: Path) -> None:
    pipeline, slot = tiny_pipeline(), adapter_for(tiny_pipeline()).slots[0]
    concepts = [
        ConceptSpec("<x>", tiny_images(2), "red dog", initialization="phrase"),
        ConceptSpec("<y>", tiny_images(2), "dog"),
    ]
    config = TextualInversionConfig(
        output_dir=str(tmp_path), initialization="cross", max_train_steps=1, learning_rate=1e-9, train_batch_size=1
    )
    result = TextualInversionTrainer(config, concepts, pipeline=pipeline).train()
    for learned, spec, name in zip(result.concepts, concepts, ("phrase", "cross"), strict=True):
        assert torch.allclose(learned.vectors["clip_l"], start(slot, spec, name), atol=1e-6)
        assert json.loads(learned.metadata["recipe"])["initialization"] == name
    with pytest.raises(ConfigError, match="'random'; allowed: auto, .*cross.*words"):
        TextualInversionTrainer(config, [ConceptSpec("<x>", None, "dog", initialization="random")])


def _fields() -> Any:
    import dataclasses

    return dataclasses.fields(TextualInversionConfig)
