"""Prompts with learned words, on CLIP's real vocabulary, and the tools that read prompts themselves."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from transformers import CLIPTokenizer

from tests.tiny import tiny_pipeline
from tests.tiny_families import WIDTH_G, WIDTH_L, WIDTH_T5, like, rows, tiny_flux, tiny_sd3, tiny_sdxl
from textual_inversion_ext.pipelines.words.loader import add_concept_loading
from textual_inversion_ext.tokens import PromptEncoder
from textual_inversion_ext.vocabulary import added_words, expand, group_rows

WORDS = {"<a>": 2, "mytok": 3, "mytok2": 1, "<Corgi>": 8, "EasyNegative": 8, "*s": 2, "<a-b>": 1, "Ωmega": 2}


@pytest.fixture
def pipe(clip_tokenizer: CLIPTokenizer) -> Any:
    pipeline = add_concept_loading(tiny_pipeline(tokenizer=clip_tokenizer))
    pipeline.load_textual_inversion([rows(count) for count in WORDS.values()], token=list(WORDS))
    return pipeline


PROMPTS = [
    "a photo of <a>",
    "<A>,<a-b> and <a-B>!",
    "mytok, mytok2 and (mytok)",
    "mytokish tomytok mytok_7 mytok22",
    "<corgi> and EASYNEGATIVE",
    "a<a>b <corgi>dog",
    "*s x*s *sky **s",
    "ΩMEGA ωmega, it's 42",
    "no learned word, cat",
    "mytok's mytok-2 <a>_ <a>s",
    "",
]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_loaded_words_are_read_as_in_training(prompt: str, pipe: Any) -> None:
    """`PromptEncoder` is what training uses; it never changes a tokenizer."""
    fresh = like(pipe.tokenizer)
    words = added_words(pipe.tokenizer)
    expected = PromptEncoder(fresh, words).content_ids(prompt)
    written = pipe.maybe_convert_prompt(prompt, pipe.tokenizer)
    assert pipe.tokenizer(written, add_special_tokens=False).input_ids == expected
    assert pipe.maybe_convert_prompt(written, pipe.tokenizer) == written


def test_lists_and_other_things(pipe: Any) -> None:
    assert pipe.maybe_convert_prompt(["<a>", "cat"], pipe.tokenizer) == ["<a> <a>_1", "cat"]
    assert pipe.maybe_convert_prompt([], pipe.tokenizer) == []
    assert pipe.maybe_convert_prompt("the second: <A>_1", pipe.tokenizer) == "the second: <a>_1"
    assert pipe.maybe_convert_prompt("<a>\n<a>_1", pipe.tokenizer) == "<a> <a>_1"
    assert expand("İ <a>", pipe.tokenizer) == "İ <a> <a>_1"


def test_rows_are_grouped_by_name() -> None:
    names = ["<a>_1", "<a>", "<a>_2", "<a>_4", "b_1", "c", "c_0", "c_01"]
    groups = group_rows(names)
    assert groups == {
        "<a>": ("<a>", "<a>_1", "<a>_2"),
        "<a>_4": ("<a>_4",),
        "b_1": ("b_1",),
        "c": ("c",),
        "c_0": ("c_0",),
        "c_01": ("c_01",),
    }


def test_what_is_cut_is_said(caplog: pytest.LogCaptureFixture) -> None:
    pipe = add_concept_loading(tiny_pipeline())
    pipe.load_textual_inversion({"<a>": rows(3)})
    with caplog.at_level(logging.WARNING, "textual_inversion_ext"):
        pipe.encode_prompt("photo " * 19 + "<a>", "cpu", 1, False)
        assert not caplog.messages
        pipe.encode_prompt("photo " * 21 + "<a> red", "cpu", 1, True, "photo " * 25)
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("textual_inversion_ext")]
    assert len(ours) == 2
    assert "clip_l reads 24 tokens" in ours[0] and "has 27" in ours[0]
    assert "'<a>_1 <a>_2 red' (vectors of <a>," in ours[0] and "vectors" not in ours[1]


def test_a_t5_has_another_limit(caplog: pytest.LogCaptureFixture) -> None:
    pipe = add_concept_loading(tiny_flux())
    pipe.load_textual_inversion({"clip_l": rows(3), "t5": rows(3, WIDTH_T5)}, token="<a>")
    with caplog.at_level(logging.WARNING, "textual_inversion_ext"):
        pipe.encode_prompt("a photo of <a>", None, device="cpu", max_sequence_length=6)
    (message,) = [record.getMessage() for record in caplog.records if record.name.startswith("textual_inversion_ext")]
    assert message.startswith("t5 reads 6 tokens, and a prompt has 7") and "(vectors of <a>," in message


def test_every_encoder_gets_its_own_text() -> None:
    """A word that one encoder does not know is plain text there, not the names of rows it never heard of."""
    pipe = add_concept_loading(tiny_sd3())
    pipe.load_textual_inversion({"clip_l": rows(2), "clip_g": rows(2, WIDTH_G)}, token="<a>")
    with torch.no_grad():
        got = pipe.encode_prompt("a <a>", None, None, device="cpu", do_classifier_free_guidance=False)
        expected = pipe.encode_prompt(
            "a <a> <a>_1", "a <a> <a>_1", "a <a>", device="cpu", do_classifier_free_guidance=False
        )
    assert torch.equal(got[0], expected[0]) and torch.equal(got[2], expected[2])


def test_prompts_that_were_encoded_before() -> None:
    pipe = add_concept_loading(tiny_sdxl())
    embeds, pooled = torch.zeros(1, 24, WIDTH_L + WIDTH_G), torch.zeros(1, WIDTH_G)
    out = pipe.encode_prompt(
        None, device="cpu", prompt_embeds=embeds, pooled_prompt_embeds=pooled, do_classifier_free_guidance=False
    )
    assert out[0] is not None and torch.equal(out[0], embeds)


def test_decoding_and_reading_again(pipe: Any) -> None:
    """What compel does with a prompt's ids before it writes the words out."""
    prompt = "a photo of mytok on the beach, <corgi> mytok2 dog EasyNegative red *s cat"
    ids = pipe.tokenizer(prompt, add_special_tokens=False).input_ids
    decoded = pipe.tokenizer.decode(ids)
    again = pipe.tokenizer.encode(pipe.maybe_convert_prompt(decoded, pipe.tokenizer), add_special_tokens=False)
    expected = pipe.tokenizer.encode(pipe.maybe_convert_prompt(prompt, pipe.tokenizer), add_special_tokens=False)
    assert again == expected


@pytest.mark.parametrize("token", ["<a>", "mytok", "EasyNegative"])
def test_compel_weighs_learned_words(token: str) -> None:
    compel = pytest.importorskip("compel", reason="prompt weighting is optional: pip install compel")
    pipe = add_concept_loading(tiny_pipeline())
    pipe.load_textual_inversion(rows(3, WIDTH_L), token=token)
    encode = compel.Compel(
        tokenizer=pipe.tokenizer,
        text_encoder=pipe.text_encoder,
        textual_inversion_manager=compel.DiffusersTextualInversionManager(pipe),
    )
    with torch.no_grad():
        plain_text = pipe.encode_prompt(f"a photo of {token} dog", "cpu", 1, False)[0]
        same, more = encode(f"a photo of {token} dog"), encode(f"a photo of ({token})1.5 dog")
    torch.testing.assert_close(same, plain_text)
    assert not torch.allclose(more, plain_text)
