"""Where plain diffusers' loader goes wrong, side by side with ours.

Every test first asserts what plain diffusers does (`plain`), wrong as it is: when one of these lines fails, diffusers
has been mended, and the line can go. Versions: diffusers 0.42, transformers 5.23.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline, StableDiffusion3Pipeline, StableDiffusionPipeline
from safetensors.torch import save_file
from transformers import CLIPTokenizer

from tests.tiny import tiny_pipeline
from tests.tiny_families import (
    WIDTH_G,
    WIDTH_L,
    WIDTH_T5,
    learned_ids,
    like,
    rows,
    state,
    tiny_flux,
    tiny_sd3,
    tiny_sdxl,
)
from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.errors import ConceptError, ConfigError, EmbeddingFileError
from textual_inversion_ext.pipelines.words.loader import add_concept_loading


def pair(make: Any = tiny_pipeline, **options: Any) -> tuple[Any, Any]:
    """The same pipeline twice: as diffusers makes it, and with our loader."""
    return make(**options), add_concept_loading(make(**options))


def test_unknown_arguments() -> None:
    plain, ours = pair()
    plain.load_textual_inversion({"<a>": rows()}, tokens=["<b>"])  # diffusers' own docstring has this example
    assert "<a>" in plain.tokenizer.get_vocab()
    with pytest.raises(ConfigError, match=r"does not know tokens=.*Did you mean token=\?"):
        ours.load_textual_inversion({"<a>": rows()}, tokens=["<b>"])


def test_a_damaged_file_is_called_damaged(tmp_path: Path) -> None:
    plain, ours = pair()
    (tmp_path / "learned_embeds.safetensors").write_bytes(b"no safetensors")
    with pytest.raises(OSError, match="learned_embeds.bin"):
        plain.load_textual_inversion(str(tmp_path))
    with pytest.raises(EmbeddingFileError, match="learned_embeds.safetensors"):
        ours.load_textual_inversion(str(tmp_path))


def test_a_folder_with_one_checkpoint(tmp_path: Path) -> None:
    plain, ours = pair()
    save_file({"<a>": rows()}, tmp_path / "learned_embeds-steps-500.safetensors")
    with pytest.raises(OSError, match="learned_embeds.bin"):
        plain.load_textual_inversion(str(tmp_path))
    ours.load_textual_inversion(str(tmp_path))
    assert list(ours.concepts) == ["<a>"]


def test_a1111_dicts_with_another_key() -> None:
    plain, ours = pair()
    content = {
        "string_to_param": {"<placeholder>": rows(2)},
        "string_to_token": {"<placeholder>": 265},
        "name": "mytok",
    }
    with pytest.raises(KeyError):
        plain.load_textual_inversion(dict(content))
    ours.load_textual_inversion(content)
    assert ours.concepts["mytok"].num_vectors == 2


def test_the_same_token_twice_in_a_list() -> None:
    plain, ours = pair()
    twice = [{"<a>": rows(seed=1)}, {"<a>": rows(seed=2)}]
    plain.load_textual_inversion(list(twice))
    assert len(plain.text_encoder.get_input_embeddings().weight) == len(plain.tokenizer) + 1  # an orphan row
    before = state(ours)
    with pytest.raises(ConceptError, match="<a> was given twice"):
        ours.load_textual_inversion(twice)
    with pytest.raises(ConceptError, match="<A> was given twice, once as <a>"):
        ours.load_textual_inversion(twice, token=["<a>", "<A>"])
    assert state(ours) == before


def test_a_concept_named_like_a_row_of_another() -> None:
    plain, ours = pair()
    for pipeline in (plain, ours):
        pipeline.load_textual_inversion({"<a>": rows()})
    plain.load_textual_inversion({"<a>_1": rows()})
    assert plain.maybe_convert_prompt("x <a>", plain.tokenizer) == "x <a> <a>_1"  # two concepts became one
    with pytest.raises(ConceptError, match="<a> and <a>_1 cannot be loaded together"):
        ours.load_textual_inversion({"<a>_1": rows()})
    ours.load_textual_inversion({"<b>_1": rows()})
    with pytest.raises(ConceptError, match="<b> and <b>_1 cannot be loaded together"):
        ours.load_textual_inversion({"<b>": rows()})
    assert ours.maybe_convert_prompt("x <a>", ours.tokenizer) == "x <a>"


def test_wrong_width_is_said_in_numbers() -> None:
    plain, ours = pair()
    with pytest.raises(ValueError, match=r"\{embeddings.shape\[-1\]\}"):
        plain.load_textual_inversion({"<a>": rows(1, 7)})
    with pytest.raises(EmbeddingFileError, match="clip_l of width 7, and here is clip_l of width 16"):
        ours.load_textual_inversion({"<a>": rows(1, 7)})


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        (torch.zeros(1, 2, WIDTH_L), RuntimeError),
        (torch.zeros(0, WIDTH_L), IndexError),
        (torch.full((1, WIDTH_L), torch.nan), None),
        (torch.full((1, WIDTH_L), torch.inf), None),
    ],
    ids=["3-D", "no rows", "NaN", "infinite"],
)
def test_broken_rows(broken: torch.Tensor, error: type[Exception] | None) -> None:
    plain, ours = pair()
    if error is None:
        plain.load_textual_inversion({"<a>": broken})
        assert not plain.text_encoder.get_input_embeddings().weight.isfinite().all()
    else:
        with pytest.raises(error):
            plain.load_textual_inversion({"<a>": broken})
    before = state(ours)
    with pytest.raises(ConceptError):
        ours.load_textual_inversion([{"<good>": rows()}, {"<a>": broken}])
    assert state(ours) == before


@pytest.mark.parametrize(
    ("token", "prompt"), [("EasyNegative", "EasyNegative"), ("<cat>", "<Cat>"), ("<Cat>", "a <cat> <CAT>")]
)
def test_capitals(token: str, prompt: str, clip_tokenizer: CLIPTokenizer) -> None:
    plain = tiny_pipeline(tokenizer=like(clip_tokenizer))
    ours = add_concept_loading(tiny_pipeline(tokenizer=clip_tokenizer))
    for pipeline in (plain, ours):
        pipeline.load_textual_inversion({token: rows(8)})
    assert set(learned_ids(plain, prompt)) == {0}  # 1 of 8 vectors
    assert set(learned_ids(ours, prompt)) == set(range(8))


@pytest.mark.parametrize(
    ("prompt", "right"), [("mytok and mytok2", [0, 1, 2, 3]), ("mytokish", []), ("mytok mytok_1", [0, 1])]
)
def test_names_inside_names(prompt: str, right: list[int]) -> None:
    plain, ours = pair()
    for pipeline in (plain, ours):
        pipeline.load_textual_inversion([{"mytok": rows(2)}, {"mytok2": rows(2, seed=1)}])
    assert learned_ids(plain, prompt) != right  # which wrong rows it reaches depends on the order of a set
    assert learned_ids(ours, prompt) == right


def test_expanding_twice_changes_nothing() -> None:
    plain, ours = pair()
    for pipeline in (plain, ours):
        pipeline.load_textual_inversion({"<a>": rows(3)})
    once = "x <a> <a>_1 <a>_2"
    assert plain.maybe_convert_prompt(once, plain.tokenizer) != once
    assert ours.maybe_convert_prompt("x <a>", ours.tokenizer) == once
    assert ours.maybe_convert_prompt(once, ours.tokenizer) == once


def test_unloading_takes_all_vectors() -> None:
    plain, ours = pair()
    before = state(ours)
    for pipeline in (plain, ours):
        pipeline.load_textual_inversion({"<a>": rows(3)})
        pipeline.unload_textual_inversion("<a>")
    assert set(plain.tokenizer.get_added_vocab()) >= {"<a>_1", "<a>_2"}  # rows of nobody
    assert state(ours) == before


def test_after_unloading_the_pipeline_can_be_saved_and_loaded(tmp_path: Path) -> None:
    plain, ours = pair()
    before = state(ours)
    for name, pipeline in (("plain", plain), ("ours", ours)):
        pipeline.load_textual_inversion({"<a>": rows(2)})
        pipeline.unload_textual_inversion()
        pipeline.save_pretrained(tmp_path / name)
    with pytest.raises((RuntimeError, OSError, ValueError)):
        StableDiffusionPipeline.from_pretrained(tmp_path / "plain")
    again = StableDiffusionPipeline.from_pretrained(tmp_path / "ours")
    assert state(again)[2:3] + state(again)[4:] == before[2:3] + before[4:]
    assert len(again.tokenizer) == again.text_encoder.config.vocab_size


def test_after_unloading_text_is_decoded_as_before(clip_tokenizer: CLIPTokenizer) -> None:
    """compel decodes a prompt's ids and reads the text again."""
    plain = tiny_pipeline(tokenizer=like(clip_tokenizer))
    ours = add_concept_loading(tiny_pipeline(tokenizer=clip_tokenizer))
    for pipeline in (plain, ours):
        pipeline.load_textual_inversion({"<a>": rows(2)})
        pipeline.unload_textual_inversion()
    assert plain.tokenizer.decode([320, 1125]) == "a</w>photo</w>"
    assert ours.tokenizer.decode([320, 1125]) == "a photo"


def test_words_that_are_letters_survive_decoding(clip_tokenizer: CLIPTokenizer) -> None:
    plain = tiny_pipeline(tokenizer=like(clip_tokenizer))
    ours = add_concept_loading(tiny_pipeline(tokenizer=clip_tokenizer))
    before = state(ours)[0]
    for pipeline in (plain, ours):
        pipeline.load_textual_inversion([{"mytok": rows(2)}, {"<a>": rows(2)}])
    prompt = "a mytok mytok_1 photo of <a> <a>_1 mytok mytok_1, red"
    ids = ours.tokenizer(prompt, add_special_tokens=False).input_ids
    assert plain.tokenizer.decode(ids) == "a mytokmytok_1photo of <a><a>_1mytokmytok_1, red"
    again = ours.tokenizer(ours.tokenizer.decode(ids), add_special_tokens=False).input_ids
    assert again == ids
    ours.unload_textual_inversion("mytok")
    ours.unload_textual_inversion("<a>")
    assert state(ours)[0] == before


def test_a_frozen_table_stays_frozen() -> None:
    plain, ours = pair()
    for pipeline in (plain, ours):
        pipeline.text_encoder.requires_grad_(False)
        pipeline.load_textual_inversion({"<a>": rows()})
        pipeline.unload_textual_inversion()
    assert plain.text_encoder.get_input_embeddings().weight.requires_grad
    assert not ours.text_encoder.get_input_embeddings().weight.requires_grad


def test_loading_draws_no_random_numbers() -> None:
    """diffusers resizes with random rows first, from a normal distribution fitted to the table (2-3 s for CLIP)."""
    plain, ours = pair()
    torch.manual_seed(0)
    untouched = torch.get_rng_state()
    plain.load_textual_inversion({"<a>": rows()})
    assert not torch.equal(torch.get_rng_state(), untouched)
    torch.set_rng_state(untouched)
    ours.load_textual_inversion({"<a>": rows()})
    assert torch.equal(torch.get_rng_state(), untouched)


def test_both_encoders_of_sdxl() -> None:
    plain, ours = pair(tiny_sdxl)
    plain.load_textual_inversion({"<a>": rows(2)})
    assert learned_ids(plain, "<a>") == [0, 1] and learned_ids(plain, "<a>", "tokenizer_2") == []  # read as text
    ours.load_textual_inversion({"clip_l": rows(2), "clip_g": rows(2, WIDTH_G)}, token="<a>")
    assert learned_ids(ours, "<a>") == learned_ids(ours, "<a>", "tokenizer_2") == [0, 1]
    ours.unload_textual_inversion("<a>")
    assert learned_ids(ours, "<a>") == learned_ids(ours, "<a>", "tokenizer_2") == []


def test_clip_pools_at_the_end_of_the_prompt() -> None:
    """With `eos_token_id: 2`; the right answer is that of the same model with the right number."""
    plain, ours = pair(tiny_sdxl)
    right = tiny_sdxl(eos_token_id=plain.tokenizer_2.eos_token_id)
    pooled = {}
    for name, pipeline in (("plain", plain), ("ours", ours), ("right", right)):
        for part, width in (("", WIDTH_L), ("_2", WIDTH_G)):
            parts = {key + part: getattr(pipeline, key + part) for key in ("tokenizer", "text_encoder")}
            parts = {key.removesuffix("_2"): value for key, value in parts.items()}
            pipeline.load_textual_inversion({"<a>": rows(2, width)}, **parts)
        with torch.no_grad():
            pooled[name] = pipeline.encode_prompt("a <a> photo", device="cpu", do_classifier_free_guidance=False)[2]
    assert not torch.allclose(pooled["plain"], pooled["right"])
    assert torch.equal(pooled["ours"], pooled["right"])
    assert ours.text_encoder_2.config.eos_token_id == ours.tokenizer_2.eos_token_id
    ours.unload_textual_inversion()
    assert ours.text_encoder_2.config.eos_token_id == 2 and ours.text_encoder_2.text_model.eos_token_id == 2


def test_spare_rows_of_a_t5_stay(tmp_path: Path) -> None:
    plain, ours = pair(tiny_flux)
    before = state(ours)
    height = plain.text_encoder_2.config.vocab_size
    parts = {"tokenizer": plain.tokenizer_2, "text_encoder": plain.text_encoder_2}
    plain.load_textual_inversion({"<a>": rows(1, WIDTH_T5)}, **parts)
    assert plain.text_encoder_2.config.vocab_size < height
    ours.load_textual_inversion({"clip_l": rows(2), "t5": rows(2, WIDTH_T5)}, token="<a>")
    assert ours.text_encoder_2.config.vocab_size == height + 2
    ours.save_pretrained(tmp_path)
    again = add_concept_loading(FluxPipeline.from_pretrained(tmp_path))
    for pipeline in (ours, again):
        pipeline.unload_textual_inversion()
        assert state(pipeline)[2] == before[2] and state(pipeline)[4] == before[4]
    assert state(ours) == before


def test_pipelines_that_diffusers_forgot() -> None:
    plain, ours = pair(tiny_sd3)
    assert isinstance(plain, StableDiffusion3Pipeline) and not hasattr(plain, "load_textual_inversion")
    vectors = {"clip_l": rows(2), "clip_g": rows(2, WIDTH_G), "t5": rows(2, WIDTH_T5)}
    ours.load_textual_inversion(LearnedConcept("<a>", vectors))
    with torch.no_grad():
        short = ours.encode_prompt("a <a>", None, None, device="cpu")
        written_out = ours.encode_prompt("a <a> <a>_1", None, None, device="cpu")
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(short, written_out, strict=True))
