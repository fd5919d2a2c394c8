"""Where rows start."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tiny import tiny_pipeline
from textual_inversion_ext.concept import ConceptSpec, LearnedConcept
from textual_inversion_ext.errors import ConceptError
from textual_inversion_ext.families import EncoderSlot, adapter_for
from textual_inversion_ext.initializers import FileInitializer, WordsInitializer, resolve


@pytest.fixture(scope="module")
def slot() -> EncoderSlot:
    return adapter_for(tiny_pipeline()).slots[0]


def rows_of(slot: EncoderSlot, words: list[str]) -> torch.Tensor:
    ids = slot.tokenizer.convert_tokens_to_ids([f"{word}</w>" for word in words])
    return slot.text_encoder.get_input_embeddings().weight[ids]


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
def test_words(slot: EncoderSlot, initializer: str, count: int, words: list[str]) -> None:
    concept = ConceptSpec("<x>", None, initializer, num_vectors=count)
    rows = resolve(concept)(concept, slot)
    assert torch.equal(rows, rows_of(slot, words)) and rows.dtype == torch.float32
    rows.zero_()
    assert rows_of(slot, words).abs().sum() > 0


def test_class_name_stands_in(slot: EncoderSlot) -> None:
    concept = ConceptSpec("<x>", None, class_name="cat")
    assert torch.equal(resolve(concept)(concept, slot), rows_of(slot, ["cat"]))


@pytest.mark.parametrize(
    ("initializer", "message"),
    [
        ("", "no initializer"),
        ("red dog", r"2 tokens of clip_l \(red</w>, dog</w>\).*num_vectors=1.*num_vectors=2"),
        ("corgi", r"splits into 5 tokens.*num_vectors=5"),
        ("犬", "does not know the initializer '犬'"),
    ],
)
def test_words_that_do_not_fit(slot: EncoderSlot, initializer: str, message: str) -> None:
    concept = ConceptSpec("<x>", None, initializer)
    with pytest.raises(ConceptError, match=message):
        WordsInitializer()(concept, slot)


def test_file(slot: EncoderSlot, tmp_path: Path) -> None:
    vectors = torch.randn(2, slot.dim)
    file = LearnedConcept("<old>", {"clip_l": vectors}).save(tmp_path / "old.safetensors")
    concept = ConceptSpec("<x>", None, str(file), num_vectors=2)
    initializer = resolve(concept)
    assert isinstance(initializer, FileInitializer)
    assert torch.equal(initializer(concept, slot), vectors)
    with pytest.raises(ConceptError, match=r"holds 2 vector.*set num_vectors=2"):
        initializer(ConceptSpec("<x>", None, str(file)), slot)


def test_file_of_another_model(slot: EncoderSlot, tmp_path: Path) -> None:
    file = LearnedConcept("<old>", {"clip_l": torch.randn(1, slot.dim + 1)}).save(tmp_path / "old.safetensors")
    concept = ConceptSpec("<x>", None, str(file))
    with pytest.raises(ConceptError, match=f"width {slot.dim + 1}.* has {slot.dim}"):
        resolve(concept)(concept, slot)


def test_a_word_is_a_word_even_beside_a_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dog").mkdir()
    assert isinstance(resolve(ConceptSpec("<x>", None, "dog")), WordsInitializer)
    assert isinstance(resolve(ConceptSpec("<x>", None, "./dog")), FileInitializer)
