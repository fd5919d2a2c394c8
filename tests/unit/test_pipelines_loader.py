"""Loading into pipelines: what may be given, what is refused, what is left behind."""

from __future__ import annotations

import contextlib
import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTokenizer

from tests.tiny import tiny_pipeline, tiny_text_encoder, tiny_tokenizer
from tests.tiny_families import WIDTH_G, WIDTH_L, WIDTH_T5, learned_ids, rows, state, tiny_flux, tiny_sd3, tiny_sdxl
from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.errors import (
    ConceptError,
    ConfigError,
    EmbeddingFileError,
    ModelError,
    TextualInversionError,
)
from textual_inversion_ext.files import TARGETS, load_concept
from textual_inversion_ext.pipelines.words.loader import add_concept_loading
from textual_inversion_ext.pipelines.words.slots import slots_of

SDXL = {"clip_l": rows(2), "clip_g": rows(2, WIDTH_G)}


@pytest.fixture
def pipe() -> Any:
    return add_concept_loading(tiny_pipeline())


@pytest.fixture
def sdxl() -> Any:
    return add_concept_loading(tiny_sdxl())


def concept_file(folder: Path, token: str = "<a>", count: int = 2) -> Path:
    file = folder / "learned_embeds.safetensors"
    LearnedConcept(token, {"clip_l": rows(count)}, {"steps": "7"}).save(file)
    return file


@pytest.mark.parametrize(
    "kind", ["path", "text", "folder", "concept", "dict", "tensor", "1-D", "emb_params", "weight_name"]
)
def test_what_can_be_given(kind: str, pipe: Any, tmp_path: Path) -> None:
    file, options = concept_file(tmp_path / "below"), {}
    source = {
        "path": file,
        "text": str(file),
        "folder": file.parent,
        "concept": load_concept(file),
        "dict": {"<a>": rows(2)},
        "tensor": rows(2),
        "1-D": rows(2)[0],
        "emb_params": {"emb_params": rows(2)},
        "weight_name": tmp_path,
    }[kind]
    if kind == "weight_name":
        options = {"weight_name": file.name, "subfolder": "below", "use_safetensors": True}
    token = "<a>" if kind in ("tensor", "1-D", "emb_params") else None
    pipe.load_textual_inversion(source, token=token, **options)
    expected = rows(2)[:1] if kind == "1-D" else rows(2)
    assert list(pipe.concepts) == ["<a>"]
    assert torch.equal(pipe.concepts["<a>"].vectors["clip_l"], expected)
    assert torch.equal(pipe.text_encoder.get_input_embeddings().weight[-len(expected) :], expected)
    if kind in ("path", "text", "folder", "concept", "weight_name"):
        assert pipe.concepts["<a>"].metadata["steps"] == "7"


def test_a_repository_in_the_cache(pipe: Any, tmp_path: Path) -> None:
    """The Hub's cache as `huggingface_hub` lays it out; nothing is downloaded."""
    place = tmp_path / "models--someone--corgi"
    concept_file(place / "snapshots" / ("0" * 40) / "below")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0" * 40)
    cached = {"cache_dir": tmp_path, "local_files_only": True}
    pipe.load_textual_inversion("someone/corgi", weight_name="learned_embeds.safetensors", subfolder="below", **cached)
    assert torch.equal(pipe.concepts["<a>"].vectors["clip_l"], rows(2))
    with pytest.raises(EmbeddingFileError, match="other.safetensors cannot be had"):
        pipe.load_textual_inversion("someone/corgi", weight_name="other.safetensors", **cached)
    with pytest.raises(ConfigError, match="cache_dir=, local_files_only= needs weight_name="):
        pipe.load_textual_inversion("someone/corgi", **cached)


def test_another_name(pipe: Any, tmp_path: Path) -> None:
    file = concept_file(tmp_path)
    pipe.load_textual_inversion([file, load_concept(file), {"<x>": rows(1)}], token=["<b>", "<c>", None])
    assert list(pipe.concepts) == ["<b>", "<c>", "<x>"]


def test_one_tensor_for_several_names(pipe: Any) -> None:
    pipe.load_textual_inversion(rows(3), token=["<s0>", "<s1>", "<s2>"])
    assert [concept.vectors["clip_l"].tolist() for concept in pipe.concepts.values()] == rows(3)[:, None].tolist()


def test_a_dict_of_several_words(pipe: Any) -> None:
    pipe.load_textual_inversion({"<a>": rows(1), "<b>": rows(2)})
    assert [concept.num_vectors for concept in pipe.concepts.values()] == [1, 2]


@pytest.mark.parametrize(
    ("source", "token", "error", "words"),
    [
        (rows(1), None, ConceptError, "come without a name"),
        ({"emb_params": rows(1)}, None, ConceptError, "come without a name"),
        ([{"<a>": rows()}, {"<b>": rows()}], ["<c>"], ConfigError, "2 concept.* and 1 token"),
        ([{"<a>": rows()}, {"<b>": rows()}], "<c>", ConfigError, "2 concept.* and 1 token"),
        (rows(3), ["<a>", "<b>"], ConfigError, "3 concept.* and 2 token"),
        ({"<a>": rows(), "<b>": rows()}, "<c>", ConfigError, "one token was given"),
        ({"<a>": 3}, None, EmbeddingFileError, "dict of tensors"),
        ({}, None, EmbeddingFileError, "dict of tensors"),
        ({"string_to_param": {"*": 5}, "name": "q"}, None, EmbeddingFileError, "must hold one tensor"),
        (7, None, ConfigError, "cannot load a concept from int"),
        ("no such place", None, TextualInversionError, "no such place"),
        ({"<a b>": rows()}, None, ConceptError, "white space"),
        ({"cat": rows()}, None, ConceptError, "choose a name"),
        ({"Cat": rows()}, None, ConceptError, "choose a name"),
        ({"<a>": torch.ones(1, WIDTH_L, dtype=torch.int64)}, None, ConceptError, "floating-point"),
    ],
)
def test_what_is_refused_leaves_no_trace(source: Any, token: Any, error: type, words: str, pipe: Any) -> None:
    before = state(pipe)
    with pytest.raises(error, match=words):
        pipe.load_textual_inversion(source, token=token)
    assert state(pipe) == before and not pipe.concepts


def test_a_loaded_word_is_not_replaced(pipe: Any) -> None:
    pipe.load_textual_inversion({"<a>": rows(2)})
    before = state(pipe)
    for token in ("<a>", "<A>"):
        with pytest.raises(ConceptError, match=rf"{token} is loaded in clip_l already.*unload_textual_inversion"):
            pipe.load_textual_inversion({token: rows(1)})
    assert state(pipe) == before


def test_an_error_on_the_way_undoes_everything(sdxl: Any) -> None:
    """The second encoder does not belong to its tokenizer, which shows only when its rows go in."""
    sdxl.load_textual_inversion(SDXL, token="<first>")
    table = sdxl.text_encoder_2.get_input_embeddings()
    table.weight.data = table.weight.data[:-10]
    before = state(sdxl)
    with pytest.raises(ModelError, match="clip_g: the tokenizer has 225 entries and the text encoder only 215 rows"):
        sdxl.load_textual_inversion(SDXL, token="<a>")
    assert state(sdxl) == before


class _Watched(nn.Embedding):
    """An embedding that notes every height it had."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "num_embeddings":
            self.__dict__.setdefault("heights", []).append(value)
        super().__setattr__(name, value)


def test_fifty_concepts_cost_one_resize(sdxl: Any) -> None:
    for encoder in (sdxl.text_encoder, sdxl.text_encoder_2):
        height, width = encoder.get_input_embeddings().weight.shape
        encoder.set_input_embeddings(_Watched(height, width))
    concepts = [LearnedConcept(f"<c{number:02}>", SDXL) for number in range(50)]
    sdxl.load_textual_inversion(concepts)
    assert len(sdxl.concepts) == 50
    for encoder in (sdxl.text_encoder, sdxl.text_encoder_2):
        assert encoder.get_input_embeddings().heights == [223, 223 + 100]
    sdxl.unload_textual_inversion([concept.token for concept in concepts[:25]])
    assert list(sdxl.concepts) == [concept.token for concept in concepts[25:]]
    assert sdxl.text_encoder.get_input_embeddings().heights == [223, 323, 273]


def test_concepts_in_the_middle_leave(pipe: Any) -> None:
    for number, token in enumerate(("<a>", "mytok", "<c>")):
        pipe.load_textual_inversion({token: rows(number + 1, seed=number)})
    pipe.unload_textual_inversion("MYTOK")
    assert learned_ids(pipe, "<a> mytok <c>") == [0, 1, 2, 3]
    for number, token in ((0, "<a>"), (2, "<c>")):
        assert torch.equal(pipe.concepts[token].vectors["clip_l"], rows(number + 1, seed=number))
        ids = pipe.tokenizer(pipe.maybe_convert_prompt(token, pipe.tokenizer), add_special_tokens=False).input_ids
        assert torch.equal(pipe.text_encoder.get_input_embeddings().weight[ids], rows(number + 1, seed=number))


def test_unloading_by_rows_as_diffusers_needs_it(pipe: Any) -> None:
    pipe.load_textual_inversion({"<a>": rows(3)})
    with pytest.raises(ConceptError, match="<a>_1 cannot be unloaded: it is a vector of <a>"):
        pipe.unload_textual_inversion("<a>_1")
    with pytest.raises(ConceptError, match="<b> cannot be unloaded: loaded: <a>"):
        pipe.unload_textual_inversion(["<a>", "<b>"])
    assert list(pipe.concepts) == ["<a>"]
    pipe.unload_textual_inversion(["<a>", "<a>_1", "<a>_2"])
    assert not pipe.concepts
    pipe.unload_textual_inversion()


def test_one_encoder_at_a_time_as_diffusers_needs_it(sdxl: Any) -> None:
    before = state(sdxl)
    sdxl.load_textual_inversion(SDXL["clip_l"], token="<a>", text_encoder=sdxl.text_encoder, tokenizer=sdxl.tokenizer)
    sdxl.load_textual_inversion(SDXL["clip_g"], token="<a>", text_encoder=sdxl.text_encoder_2)
    assert list(sdxl.concepts["<a>"].vectors) == ["clip_l", "clip_g"]
    with pytest.raises(ConceptError, match="<b> has 1 vectors, and 2 in clip_l"):
        sdxl.load_textual_inversion(rows(2), token="<b>", tokenizer=sdxl.tokenizer)
        sdxl.load_textual_inversion(rows(1, WIDTH_G), token="<b>", tokenizer=sdxl.tokenizer_2)
    sdxl.unload_textual_inversion(["<a>", "<b>"], text_encoder=sdxl.text_encoder, tokenizer=sdxl.tokenizer)
    assert list(sdxl.concepts["<a>"].vectors) == ["clip_g"]
    sdxl.unload_textual_inversion("<a>", tokenizer=sdxl.tokenizer_2)
    assert state(sdxl) == before
    with pytest.raises(ConfigError, match="none of this pipeline's; it has tokenizer, tokenizer_2"):
        sdxl.load_textual_inversion(rows(), token="<a>", tokenizer=tiny_tokenizer())


def test_foreign_parts(pipe: Any) -> None:
    before, tokenizer = state(pipe), tiny_tokenizer()
    encoder = tiny_text_encoder(tokenizer, width=8)
    pipe.load_textual_inversion({"<a>": rows(2, 8)}, tokenizer=tokenizer, text_encoder=encoder)
    assert state(pipe) == before and torch.equal(encoder.get_input_embeddings().weight[-2:], rows(2, 8))


def test_a_half_is_warned_about(sdxl: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        sdxl.load_textual_inversion({"<l>": rows(1)})
        sdxl.load_textual_inversion({"<g>": rows(1, WIDTH_G)})
        sdxl.load_textual_inversion({**SDXL, "t5": rows(2, WIDTH_T5)}, token="<all>")
    assert caplog.messages == [
        "<l> has no vectors for clip_g, which reads it as plain text",
        "<g> has no vectors for clip_l, which reads it as plain text",
        "<all> has vectors for t5, which is not loaded here",
    ]
    assert list(sdxl.concepts["<g>"].vectors) == ["clip_g"]


def test_concepts_of_another_model_are_refused(pipe: Any, sdxl: Any) -> None:
    with pytest.raises(
        EmbeddingFileError, match="clip_l of width 99, clip_g of width 24, and here is clip_l of width 16"
    ):
        sdxl.load_textual_inversion({"clip_l": rows(2, 99), "clip_g": rows(2, WIDTH_G)}, token="<a>")
    with pytest.raises(EmbeddingFileError, match="Load the model it was trained on"):
        pipe.load_textual_inversion({"t5": rows(1, WIDTH_T5)}, token="<a>")


def test_numbers_that_half_precision_cannot_hold() -> None:
    pipe = add_concept_loading(tiny_pipeline().to(torch.float16))
    with pytest.raises(EmbeddingFileError, match="too large for torch.float16"):
        pipe.load_textual_inversion({"<a>": rows() * 1e6})


@pytest.mark.parametrize("make", [tiny_pipeline, tiny_sdxl, tiny_sd3, tiny_flux])
def test_after_unloading_nothing_is_left(make: Any) -> None:
    pipe = add_concept_loading(make())
    before = state(pipe)
    concepts = [
        LearnedConcept(token, {slot.key: rows(count, slot.dim) for slot in slots_of(pipe).values()})
        for token, count in (("<a>", 1), ("MyTok", 3), ("<b>_1", 2))
    ]
    pipe.load_textual_inversion(concepts[:2])
    pipe.load_textual_inversion(concepts[2])
    assert list(pipe.concepts) == ["<a>", "MyTok", "<b>_1"]
    pipe.unload_textual_inversion("<a>")
    pipe.unload_textual_inversion()
    assert state(pipe) == before


def test_half_precision_keeps_the_exact_rows(tmp_path: Path) -> None:
    pipe = add_concept_loading(tiny_pipeline().to(torch.bfloat16))
    pipe.load_textual_inversion(concept_file(tmp_path))
    table = pipe.text_encoder.get_input_embeddings().weight
    assert table.dtype == torch.bfloat16 and torch.equal(table[-2:], rows(2).bfloat16())
    (saved,) = pipe.save_textual_inversion("<A>", tmp_path / "again.safetensors")
    assert torch.equal(load_concept(saved).vectors["clip_l"], rows(2))
    with pytest.raises(ConceptError, match="<b> is not loaded; loaded: <a>"):
        pipe.save_textual_inversion("<b>", tmp_path)


@pytest.mark.parametrize("make", [tiny_pipeline, tiny_sdxl])
def test_what_is_saved_for_a_tool_loads_again(make: Any, tmp_path: Path) -> None:
    widths = {"clip_l": WIDTH_L} if make is tiny_pipeline else {"clip_l": WIDTH_L, "clip_g": WIDTH_G}
    concept = LearnedConcept("<a>", {key: rows(3, width) for key, width in widths.items()})
    pipe, written = add_concept_loading(make()), {}
    pipe.load_textual_inversion(concept)
    for tool in TARGETS:
        with contextlib.suppress(EmbeddingFileError):  # some tools know one of the two models only
            written[tool] = pipe.save_textual_inversion("<a>", tmp_path / tool, tool)
    assert {"diffusers", "webui", "comfyui"} <= written.keys()
    for tool, files in written.items():
        again = add_concept_loading(make())
        again.load_textual_inversion(files[0].parent, token="<a>")
        assert state(again)[4] == state(pipe)[4], tool


def test_a_file_of_several_words(pipe: Any, tmp_path: Path) -> None:
    save_file({"<a>": rows(1), "<b>": rows(2)}, tmp_path / "two.safetensors")
    pipe.load_textual_inversion(tmp_path / "two.safetensors")
    assert [concept.num_vectors for concept in pipe.concepts.values()] == [1, 2]
    pipe.unload_textual_inversion()
    pipe.load_textual_inversion(tmp_path / "two.safetensors", token="<b>")
    assert list(pipe.concepts) == ["<b>"]


def test_copies_do_not_share(pipe: Any) -> None:
    pipe.load_textual_inversion({"<a>": rows(2)})
    encoder, tokenizer = copy.deepcopy(pipe.text_encoder), copy.deepcopy(pipe.tokenizer)
    pipe.unload_textual_inversion()
    other = add_concept_loading(tiny_pipeline(text_encoder=encoder, tokenizer=tokenizer))
    assert torch.equal(other.concepts["<a>"].vectors["clip_l"], rows(2))


def test_on_the_real_vocabulary(clip_tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    pipe = add_concept_loading(tiny_pipeline(tokenizer=clip_tokenizer))
    before = pipe.tokenizer.backend_tokenizer.to_str()
    save_file({"emb_params": rows(8)}, tmp_path / "EasyNegative.safetensors")
    pipe.load_textual_inversion(tmp_path / "EasyNegative.safetensors")
    assert learned_ids(pipe, "a photo, EasyNegative, easynegative.") == [*range(8), *range(8)]
    assert learned_ids(pipe, "EasyNegatives and NotEasyNegative") == []
    pipe.unload_textual_inversion("EasyNegative")
    assert pipe.tokenizer.backend_tokenizer.to_str() == before
    for word in ("cat", "foo", "the", "!"):
        with pytest.raises(ConceptError, match="choose a name"):
            pipe.load_textual_inversion(rows(), token=word)
