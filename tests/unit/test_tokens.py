"""Placeholders in prompts, on CLIP's real vocabulary."""

from __future__ import annotations

import logging

import pytest
import torch
from transformers import CLIPTokenizer

from tests.tiny import tiny_text_encoder, tiny_tokenizer
from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.errors import ConceptError
from textual_inversion_ext.row_layout import row_ids
from textual_inversion_ext.tokens import (
    PromptEncoder,
    RowEmbedding,
    attach_rows,
    attached,
    check_new_token,
    word_ids,
)

FIRST = 49408


@pytest.mark.parametrize(
    "prompt", ["", "a photo of a cat", "  Ünïcode, it's 42!!  ", "<corgi is not a token", "word " * 100]
)
def test_without_placeholders_it_is_the_tokenizer(clip_tokenizer: CLIPTokenizer, prompt: str) -> None:
    expected = clip_tokenizer([prompt], padding="max_length", truncation=True, return_tensors="pt").input_ids
    encoder = PromptEncoder(clip_tokenizer, {"<corgi>": [FIRST]})
    assert torch.equal(encoder.encode([prompt]), expected)


@pytest.mark.parametrize("count", [1, 2, 8])
def test_ids_equal_those_of_a_tokenizer_with_the_tokens_added(clip_tokenizer: CLIPTokenizer, count: int) -> None:
    spec = ConceptSpec("<corgi>", None, "dog", num_vectors=count)
    encoder = PromptEncoder(clip_tokenizer, row_ids([spec], len(clip_tokenizer)))
    prompts = ["a photo of a <corgi>", "<corgi>, on the beach", "one (<corgi>) and another<corgi>!"]
    ours = encoder.encode(prompts)
    clip_tokenizer.add_tokens(list(spec.vector_tokens))
    expanded = [prompt.replace("<corgi>", " ".join(spec.vector_tokens)) for prompt in prompts]
    theirs = clip_tokenizer(expanded, padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert torch.equal(ours, theirs)


def test_the_tokenizer_is_never_changed(clip_tokenizer: CLIPTokenizer) -> None:
    before = (len(clip_tokenizer), clip_tokenizer.get_added_vocab())
    PromptEncoder(clip_tokenizer, {"<corgi>": [FIRST]}).encode(["a <corgi>"])
    assert (len(clip_tokenizer), clip_tokenizer.get_added_vocab()) == before


def content(encoder: PromptEncoder, prompt: str) -> list[int]:
    return [token - FIRST for token in encoder.content_ids(prompt) if token >= FIRST]


@pytest.mark.parametrize(
    ("prompt", "rows"),
    [
        ("mytok and mytok2", [0, 1]),
        ("mytokish", []),
        ("mytok_1 mytok", [0]),
        ("(mytok), mytok2.", [0, 1]),
        ("<a><a_b> <a>_1", [2, 3, 2]),
        ("*s mytok*s", [4, 4]),
        ("MyTok", [0]),
    ],
)
def test_names_that_contain_one_another(clip_tokenizer: CLIPTokenizer, prompt: str, rows: list[int]) -> None:
    names = ("mytok", "mytok2", "<a>", "<a_b>", "*s")
    encoder = PromptEncoder(clip_tokenizer, {name: [FIRST + i] for i, name in enumerate(names)})
    expected = rows if prompt != "*s mytok*s" else [4, 0, 4]
    assert content(encoder, prompt) == expected


def test_case_matters_only_between_names_that_differ_by_nothing_else(clip_tokenizer: CLIPTokenizer) -> None:
    encoder = PromptEncoder(clip_tokenizer, {"<Cat>": [FIRST], "<cat>": [FIRST + 1]})
    assert content(encoder, "<Cat> <cat> <CAT>") == [0, 1, 0]
    upper = PromptEncoder(clip_tokenizer, {"EasyNegative": [FIRST, FIRST + 1, FIRST + 2]})
    assert content(upper, "EasyNegative and easynegative") == [0, 1, 2, 0, 1, 2]


def test_letters_that_only_look_like_others_in_another_case_are_plain_text(clip_tokenizer: CLIPTokenizer) -> None:
    encoder = PromptEncoder(clip_tokenizer, {"<milo>": [FIRST]})
    for prompt in ("a <mılo>", "A <MİLO>"):  # `re` takes a Turkish i for an i
        assert encoder.content_ids(prompt) == word_ids(clip_tokenizer, prompt)
        assert encoder.placeholders_in(prompt) == []
    assert FIRST in encoder.content_ids("<MILO>")


def test_letters_and_accents_spelled_apart_are_found(clip_tokenizer: CLIPTokenizer) -> None:
    together, apart = "<caf\u00e9>", "<cafe\u0301>"
    for token in (together, apart):
        encoder = PromptEncoder(clip_tokenizer, {token: [FIRST]})
        assert content(encoder, f"{together} {apart}") == [0, 0]
        assert encoder.placeholders_in(f"{together} {apart}") == [together, together]


def test_truncation_is_said_and_equals_the_tokenizers(
    clip_tokenizer: CLIPTokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = PromptEncoder(clip_tokenizer, {"<corgi>": [FIRST]})
    with caplog.at_level(logging.WARNING):
        ids = encoder.encode(["photo " * 74 + "<corgi> clock", "photo " * 80 + "<corgi>"])
    assert ids.shape == (2, 77) and (ids[:, -1] == clip_tokenizer.eos_token_id).all()
    assert ids[0, 75] == FIRST and FIRST not in ids[1]
    assert "clock" in caplog.messages[0] and "1 learned vector" in caplog.messages[1]


def test_no_prompts(clip_tokenizer: CLIPTokenizer) -> None:
    assert PromptEncoder(clip_tokenizer, {}).encode([]).shape == (0, 77)


@pytest.mark.parametrize("token", ["cat", "foo", "Cat", "CORGI", "photo</w>", "<|endoftext|>", "the", "!"])
def test_tokens_that_the_vocabulary_holds_are_refused(clip_tokenizer: CLIPTokenizer, token: str) -> None:
    with pytest.raises(ConceptError, match=r"choose a name"):
        check_new_token(clip_tokenizer, token)


@pytest.mark.parametrize("token", ["<cat>", "sks-dog", "MyCorgi", "<corgi_1>", "Ω≈"])
def test_new_tokens_are_allowed(clip_tokenizer: CLIPTokenizer, token: str) -> None:
    check_new_token(clip_tokenizer, token, 4)


def test_the_names_of_further_vectors_must_be_new_too(clip_tokenizer: CLIPTokenizer) -> None:
    clip_tokenizer.add_tokens(["<corgi>_1"])
    check_new_token(clip_tokenizer, "<corgi>", 1)
    with pytest.raises(ConceptError, match="<corgi>_1"):
        check_new_token(clip_tokenizer, "<corgi>", 2)


def test_capitals_with_several_vectors_are_warned_about(
    clip_tokenizer: CLIPTokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    check_new_token(clip_tokenizer, "<Corgi>", 1)
    assert not caplog.messages
    check_new_token(clip_tokenizer, "<Corgi>", 2)
    assert "'<corgi>'" in caplog.messages[0]


def test_row_embedding_replaces_only_learned_ids() -> None:
    table = torch.nn.Embedding(5, 3).requires_grad_(False)
    embedding = RowEmbedding(table, first_id=4)  # the table is longer than the vocabulary, as T5's are
    ids = torch.tensor([[0, 4, 3], [5, 1, 4]])
    rows = torch.randn(2, 3, requires_grad=True)
    embedding.rows = rows
    out = embedding(ids)
    assert (
        torch.equal(out[0, 0], table.weight[0]) and torch.equal(out[0, 1], rows[0]) and torch.equal(out[1, 0], rows[1])
    )
    out.sum().backward()
    assert torch.equal(rows.grad, torch.tensor([[2.0] * 3, [1.0] * 3]))


def test_attaching_is_undone_also_after_an_error() -> None:
    encoder = tiny_text_encoder(tiny_tokenizer())
    table, keys = encoder.get_input_embeddings(), list(encoder.state_dict())
    with pytest.raises(ZeroDivisionError), attached(encoder, len(table.weight)) as embedding:
        assert encoder.get_input_embeddings() is embedding
        with pytest.raises(RuntimeError, match="already"):
            attach_rows(encoder, 1)
        raise ZeroDivisionError
    assert encoder.get_input_embeddings() is table and list(encoder.state_dict()) == keys
