"""Which sentences a picture is shown with: templates, captions, words of single pictures, and what has no room."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
from transformers import CLIPTokenizer

from tests.tiny import tiny_images
from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.data.prompts.caption_prompts import caption_prompts, varied, with_word
from textual_inversion_ext.data.prompts.layout import concept_prompts, encode_prompts, in_shares
from textual_inversion_ext.data.prompts.templates import DUAL_TEMPLATES, PHOTO_TEMPLATES, TEMPLATES
from textual_inversion_ext.data.sources.collect import Sample
from textual_inversion_ext.errors import ConceptError, DataError
from textual_inversion_ext.row_layout import row_ids
from textual_inversion_ext.tokens import PromptEncoder

DOG = ConceptSpec("<tok>", None, "dog")
STYLE = ConceptSpec("<tok>", None, "painting", learnable_property="style")


def samples(*captions: tuple[str, ...]) -> list[Sample]:
    (image,) = tiny_images(1)
    return [Sample(image, f"{number}.png", 0, image.size, "", own) for number, own in enumerate(captions)]


def shown(spec: ConceptSpec, *captions: tuple[str, ...], **settings: Any) -> list[list[str]]:
    """The prompts of each picture."""
    laid_out = concept_prompts(spec, samples(*captions), TextualInversionConfig(**settings))
    spans = zip(laid_out.start, laid_out.count, strict=True)
    return [list(laid_out.prompts[start : start + count]) for start, count in spans]


@pytest.mark.parametrize(
    ("caption", "prompt"),
    [
        ("a photo of <TOK> on grass", "a photo of <TOK> on grass"),
        ("a {} on grass", "a <tok> on grass"),
        ("a Dog on grass, another dog", "a <tok> on grass, another dog"),
        ("two dogs on grass", "<tok>, two dogs on grass"),
        ("hotdog", "<tok>, hotdog"),
    ],
)
def test_the_word_gets_into_a_caption(caption: str, prompt: str) -> None:
    assert with_word(caption, DOG) == prompt


def test_the_class_name_comes_before_the_initializer() -> None:
    spec = ConceptSpec("<tok>", None, "red", class_name="teddy bear")
    assert with_word("a red teddy bear", spec) == "a red <tok>"
    assert with_word("a red thing", spec) == "a <tok> thing"


def test_a_style_is_not_put_in_the_place_of_its_class() -> None:
    assert with_word("a painting of a cat", STYLE) == "a painting of a cat, in the style of <tok>"


@pytest.mark.parametrize(
    ("token", "fields", "caption", "prompt"),
    [
        ("zzyx", {"class_name": "dog "}, "a dog on grass", "a zzyx on grass"),
        ("zzyx", {"initializer": " dog"}, "a dog on grass", "a zzyx on grass"),
        ("zzyx", {"class_name": "cafe\u0301"}, "the caf\u00e9 at night", "the zzyx at night"),
        ("istanbul", {"class_name": "cat"}, "a cat in \u0130stanbul", "a istanbul in \u0130stanbul"),
        ("zzyx", {"class_name": " "}, "a dog on grass", "zzyx, a dog on grass"),
    ],
)
def test_words_are_found_as_prompts_are_read(token: str, fields: dict[str, str], caption: str, prompt: str) -> None:
    assert with_word(caption, ConceptSpec(token, [], **{"initializer": "cat", **fields})) == prompt


def test_tags_change_places_and_drop_out_but_not_the_word() -> None:
    chance = random.Random(0)
    prompt = "red, <tok>, big, on grass"
    seen = [varied(prompt, "<tok>", shuffle=True, tag_dropout=0.0, chance=chance) for _ in range(100)]
    assert all(text.split(", ")[1] == "<tok>" for text in seen) and len(set(seen)) == 6
    assert {frozenset(text.split(", ")) for text in seen} == {frozenset(prompt.split(", "))}
    dropped = [varied(prompt, "<tok>", shuffle=False, tag_dropout=0.5, chance=chance) for _ in range(400)]
    counts = Counter(tag for text in dropped for tag in text.split(", "))
    assert counts["<tok>"] == 400 and all(150 < counts[tag] < 250 for tag in ("red", "big", "on grass"))
    assert "<tok>" in dropped, "sometimes nothing but the word is left"


def test_a_word_with_a_comma_is_one_tag() -> None:
    prompt = "red, <A,b>, big"
    seen = {varied(prompt, "<a,b>", shuffle=True, tag_dropout=0.0, chance=random.Random(n)) for n in range(20)}
    assert seen == {"red, <A,b>, big", "big, <A,b>, red"}


def test_captions_without_anything_to_vary_stay_one_each() -> None:
    own = caption_prompts(("a dog", "big"), DOG, 9, shuffle=False, tag_dropout=0.0, chance=random.Random(0))
    assert own == ["a <tok>", "<tok>, big"]


def test_shares_are_exact() -> None:
    parts = [("abc", Fraction(3, 4)), ("xy", Fraction(1, 4)), ("never", Fraction(0))]
    counts = Counter(in_shares(parts))
    assert counts == {"a": 2, "b": 2, "c": 2, "x": 1, "y": 1}


def test_shares_that_would_take_millions_of_prompts_are_rounded() -> None:
    parts = [("a" * 27, Fraction(33, 100)), ("b" * 27, Fraction(67, 200)), ("c" * 101, Fraction(67, 200))]
    listed = in_shares(parts)
    assert len(listed) < 5000
    for letter, (_, share) in zip("abc", parts, strict=True):
        assert listed.count(letter) / len(listed) == pytest.approx(float(share), abs=0.02)


def test_by_default_all_pictures_share_the_templates() -> None:
    laid_out = concept_prompts(DOG, samples((), ("a dog",)), TextualInversionConfig())
    assert laid_out.prompts == tuple(template.format("<tok>") for template in PHOTO_TEMPLATES)
    assert laid_out.start == (0, 0) and laid_out.count == (27, 27)


def test_captions_only() -> None:
    assert shown(DOG, ("a dog", "a big dog"), ("grass",), captions="captions") == [
        ["a <tok>", "a big <tok>"],
        ["<tok>, grass"],
    ]


def test_both_are_shown_equally_often() -> None:
    (own,) = shown(DOG, ("a dog",), captions="both")
    assert len(own) == 54 and own.count("a <tok>") == 27


def test_a_picture_without_caption_has_the_templates(caplog: pytest.LogCaptureFixture) -> None:
    first, second = shown(DOG, ("a dog",), (), captions="captions")
    assert first == ["a <tok>"] and len(second) == 27
    assert "1 picture(s) have no caption and use the templates: 1.png" in caplog.text
    with pytest.raises(DataError, match="no picture has one"):
        shown(DOG, (), (), captions="both")


def test_dropped_captions_are_an_exact_share() -> None:
    (own,) = shown(DOG, ("a dog", "grass"), captions="captions", caption_dropout_rate=0.2)
    assert Counter(own) == {"a <tok>": 2, "<tok>, grass": 2, "<tok>": 1}


def test_variants_depend_on_seed_token_and_picture_alone() -> None:
    settings: dict[str, Any] = {"captions": "captions", "shuffle_caption": True, "caption_tag_dropout_rate": 0.3}
    tags = ("dog, a, b, c, d, e",)
    first, second = shown(DOG, tags, tags, **settings)
    assert len(first) == len(second) == 27 and first != second
    assert shown(DOG, tags, (), **settings)[0] == first
    assert shown(DOG, tags, **settings, seed=1)[0] != first
    renamed = shown(ConceptSpec("<other>", None, "dog"), tags, **settings)[0]
    assert [text.replace("<other>", "<tok>") for text in renamed] != first


@pytest.mark.parametrize("spec", [DOG, STYLE])
def test_words_of_single_pictures_have_the_share_of_the_released_code(spec: ConceptSpec) -> None:
    templates = TEMPLATES[spec.learnable_property]
    for number, own in enumerate(shown(spec, (), (), (), per_image_tokens=True), start=1):
        with_picture = [text for text in own if text.endswith(f"<tok> with <tok-{number}>")]
        plain = [text for text in own if text.endswith("<tok>")]
        assert (len(plain), len(with_picture)) == (3 * len(templates), len(templates))
        assert len(own) == len(plain) + len(with_picture)
        assert Counter(plain) == Counter(3 * [template.format("<tok>") for template in templates])


def test_words_of_single_pictures_go_with_captions() -> None:
    (own,) = shown(DOG, ("a dog",), per_image_tokens=True, per_image_share=0.5, captions="both")
    kinds = Counter("dual" if "<tok-1>" in text else "caption" if text == "a <tok>" else "template" for text in own)
    assert kinds["dual"] * 2 == kinds["caption"] * 4 == kinds["template"] * 4 == len(own)
    (only,) = shown(DOG, (), per_image_tokens=True, per_image_share=1.0)
    assert all(text.endswith("with <tok-1>") for text in only)


def test_dual_templates_have_two_places() -> None:
    assert {key: len(duals) for key, duals in DUAL_TEMPLATES.items()} == {"object": 27, "style": 19}
    assert all(dual.count("{}") == 2 for duals in DUAL_TEMPLATES.values() for dual in duals)


def encoders_for(spec: ConceptSpec, tokenizer: CLIPTokenizer) -> dict[str, PromptEncoder]:
    return {"clip_l": PromptEncoder(tokenizer, row_ids([spec], len(tokenizer)))}


def test_prompts_for_fewer_vectors_come_first(clip_tokenizer: CLIPTokenizer) -> None:
    spec, first = ConceptSpec("<tok>", None, "dog", num_vectors=3), len(clip_tokenizer)
    prompts = ["a photo of <tok>", "<tok>", "<tok>"]
    ids = encode_prompts(prompts, spec, (1, 3), encoders_for(spec, clip_tokenizer))["clip_l"]
    assert ids.shape == (6, 77)
    rows = [[token_id - first for token_id in own.tolist() if token_id >= first] for own in ids]
    assert rows == [[0], [0], [0], [0, 1, 2], [0, 1, 2], [0, 1, 2]]
    whole = encoders_for(spec, clip_tokenizer)["clip_l"].encode(prompts)
    assert ids[3:].equal(whole)


def test_sentences_without_room_become_the_word_alone(
    clip_tokenizer: CLIPTokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    spec, first = ConceptSpec("<tok>", None, "dog", num_vectors=75), len(clip_tokenizer)
    prompts = ["a photo of a <tok>", "<tok>", "<tok> and words after it"]
    ids = encode_prompts(prompts, spec, (2, 75), encoders_for(spec, clip_tokenizer))["clip_l"]
    assert [int((own >= first).sum()) for own in ids] == [2, 2, 2, 75, 75, 75]
    assert "1 of 3 sentences have no room for 75 vectors" in caplog.text and "'a photo of a <tok>'" in caplog.text
    assert "1 of 3 sentences are longer" in caplog.text and "cut off: 'and words after it" in caplog.text
    more = ConceptSpec("<tok>", None, "dog", num_vectors=76)
    with pytest.raises(ConceptError, match="'<tok>' alone, with 76 vector"):
        encode_prompts(prompts, more, (76,), encoders_for(more, clip_tokenizer))
