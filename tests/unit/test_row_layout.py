from __future__ import annotations

import pytest
from transformers import CLIPTokenizer

from tests.tiny import tiny_pipeline
from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.errors import ConceptError
from textual_inversion_ext.families import adapter_for
from textual_inversion_ext.row_layout import image_row_ranges, image_token, prompt_encoders, row_ids, row_ranges
from textual_inversion_ext.tokens import PromptEncoder

SPECS = [ConceptSpec("<a>", None, "dog", num_vectors=2), ConceptSpec("b", None, "dog", num_vectors=3)]


def test_rows_follow_one_another() -> None:
    assert row_ranges(SPECS) == (range(0, 2), range(2, 5))
    assert [list(rows) for rows in image_row_ranges(SPECS)] == [[], []]
    assert row_ids(SPECS, 10) == {"<a>": (10, 11), "b": (12, 13, 14)}


def test_rows_of_single_pictures_follow_those_of_their_concept() -> None:
    assert row_ranges(SPECS, (2, 1)) == (range(0, 2), range(4, 7))
    assert image_row_ranges(SPECS, (2, 1)) == (range(2, 4), range(7, 8))
    assert row_ids(SPECS, 10, (2, 1)) == {
        "<a>": (10, 11),
        "b": (14, 15, 16),
        "<a-1>": (12,),
        "<a-2>": (13,),
        "b-1": (17,),
    }


def test_words_of_pictures_are_not_names_of_vectors() -> None:
    assert [image_token(token, 12) for token in ("<corgi>", "corgi", "<s1>")] == ["<corgi-12>", "corgi-12", "<s1-12>"]
    assert not {image_token("<a>", 1)} & set(SPECS[0].vector_tokens)


def test_a_picture_with_the_name_of_another_concept_is_refused() -> None:
    specs = [ConceptSpec("<a>", None, "dog"), ConceptSpec("<A-1>", None, "dog")]
    assert len(row_ids(specs, 0)) == 2
    with pytest.raises(ConceptError, match="its picture 1 would be called '<a-1>'"):
        row_ids(specs, 0, (1, 0))


def test_prompt_encoders_know_all_words() -> None:
    adapter = adapter_for(tiny_pipeline())
    (slot,) = adapter.slots
    specs = [SPECS[0], ConceptSpec("<b>", None, "dog", num_vectors=3)]
    encoder = prompt_encoders(adapter.slots, specs, (2, 1))[slot.key]
    ids = [token_id for token_id in encoder.content_ids("<a> with <a-2>, <b> <b-1>") if token_id >= slot.first_id]
    assert [token_id - slot.first_id for token_id in ids] == [0, 1, 3, 4, 5, 6, 7]


def test_an_encoder_for_fewer_vectors(clip_tokenizer: CLIPTokenizer) -> None:
    first = len(clip_tokenizer)
    encoder = PromptEncoder(clip_tokenizer, row_ids(SPECS, first))
    fewer = encoder.with_vectors({"<a>": 1})
    assert [token_id - first for token_id in fewer.content_ids("<a> b") if token_id >= first] == [0, 2, 3, 4]
    assert [token_id - first for token_id in encoder.content_ids("<a> b") if token_id >= first] == [0, 1, 2, 3, 4]
    assert fewer.placeholders_in("one <A> and b, not <b>") == ["<A>", "b", "b"]


def test_rows_that_have_no_room(clip_tokenizer: CLIPTokenizer) -> None:
    encoder = PromptEncoder(clip_tokenizer, {"<a>": range(len(clip_tokenizer), len(clip_tokenizer) + 75)})
    assert encoder.rows_cut("<a>") == 0 and encoder.rows_cut("<a> and words that are lost") == 0
    assert encoder.rows_cut("a photo of a <a>") == 4
