"""Words between words."""

from __future__ import annotations

import math

import pytest
import torch

from tests.tiny import tiny_pipeline
from tests.tiny_families import WIDTH_G, WIDTH_L, tiny_sdxl
from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.errors import ConceptError, ConfigError
from textual_inversion_ext.pipelines.words.blending import blend_concepts, blend_vectors, lerp, slerp
from textual_inversion_ext.pipelines.words.loader import add_concept_loading


def rows(count: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("t", [0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
def test_slerp_turns_at_constant_speed_and_interpolates_the_length(t: float) -> None:
    a, b = rows(3, 16, 0), 3 * rows(3, 16, 1)
    between = slerp(a, b, t).double()
    whole, part = (2 * torch.atan2(*_chords(a, other)) for other in (b, between))
    torch.testing.assert_close(part, t * whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        between.norm(dim=-1), ((1 - t) * a.norm(dim=-1) + t * b.norm(dim=-1)).double(), atol=1e-5, rtol=0
    )


def _chords(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = (torch.nn.functional.normalize(side.double(), dim=-1) for side in (a, b))
    return (x - y).norm(dim=-1), (x + y).norm(dim=-1)


def test_slerp_in_the_plane() -> None:
    half = slerp(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]]), 0.5)
    torch.testing.assert_close(half, torch.tensor([[math.sqrt(2), math.sqrt(2)]]))
    torch.testing.assert_close(
        lerp(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]]), 0.5), torch.tensor([[0.5, 1.5]])
    )


def test_the_ends_are_exact_and_the_way_back_is_the_same() -> None:
    a, b = rows(2, 16, 0), rows(2, 16, 1)
    for blend in (slerp, lerp):
        assert torch.equal(blend(a, b, 0), a) and torch.equal(blend(a, b, 1), b)
        torch.testing.assert_close(blend(a, b, 0.3), blend(b, a, 0.7))


def test_parallel_rows_are_no_trouble() -> None:
    a = rows(2, 16, 0)
    torch.testing.assert_close(slerp(a, a, 0.3), a)
    torch.testing.assert_close(slerp(a, 2 * a, 0.5), 1.5 * a)
    nearly = a + 1e-6 * rows(2, 16, 1)
    torch.testing.assert_close(slerp(a, nearly, 0.5), lerp(a, nearly, 0.5))


def test_what_has_no_arc_is_refused() -> None:
    a = rows(2, 16, 0)
    with pytest.raises(ConceptError, match="opposite directions"):
        slerp(a, -a, 0.5)
    with pytest.raises(ConceptError, match="zero"):
        slerp(a, torch.zeros_like(a), 0.5)
    assert torch.equal(lerp(a, -a, 0.5), torch.zeros_like(a))


def test_the_shorter_side_repeats_its_last_row() -> None:
    short, long = {"clip_l": rows(2, 16, 0)}, {"clip_l": rows(4, 16, 1)}
    blended = blend_vectors(short, long, 0.3)["clip_l"]
    continued = torch.cat([short["clip_l"], short["clip_l"][-1:], short["clip_l"][-1:]])
    assert torch.equal(blended, slerp(continued, long["clip_l"], 0.3))
    assert torch.equal(blend_vectors(short, long, 1.0)["clip_l"], long["clip_l"])


def test_concepts_without_a_pipeline() -> None:
    a = LearnedConcept("<a>", {"clip_l": rows(1, 16, 0), "clip_g": rows(1, 24, 1)}, {"base_model": "m", "steps": "1"})
    b = LearnedConcept("<b>", {"clip_l": rows(2, 16, 2)}, {"base_model": "m", "steps": "2"})
    blended = blend_concepts(a, b, 0.25, "<ab>", "lerp")
    assert blended.token == "<ab>" and list(blended.vectors) == ["clip_l"] and blended.num_vectors == 2
    assert blended.metadata == {"base_model": "m", "blend": "lerp <a> <b> 0.25"}


@pytest.mark.parametrize("t", [-0.1, 1.1, float("nan"), "half"])
def test_places_outside_are_refused(t: float) -> None:
    with pytest.raises(ConfigError, match="0 .*to 1"):
        blend_vectors({"clip_l": rows(1, 16, 0)}, {"clip_l": rows(1, 16, 1)}, t)


def test_what_cannot_be_blended() -> None:
    one = {"clip_l": rows(1, 16, 0)}
    with pytest.raises(ConfigError, match="slerp, lerp"):
        blend_vectors(one, one, 0.5, "cubic")  # type: ignore[arg-type]
    with pytest.raises(ConceptError, match="same kind of model"):
        blend_vectors(one, {"t5": rows(1, 16, 0)}, 0.5)
    with pytest.raises(ConceptError, match="16 wide on one side and 24"):
        blend_vectors(one, {"clip_l": rows(1, 24, 0)}, 0.5)


def test_a_blend_is_a_prompt_token() -> None:
    pipeline = add_concept_loading(tiny_sdxl())
    a, b = ({"clip_l": rows(n, WIDTH_L, n), "clip_g": rows(n, WIDTH_G, n + 9)} for n in (1, 2))
    pipeline.load_textual_inversion([a, b], token=["<a>", "<b>"])
    blended = pipeline.blend("<a>", "<B>", 0.3, "<ab>")
    assert pipeline.maybe_convert_prompt("an <ab>", pipeline.tokenizer_2) == "an <ab> <ab>_1"
    for key, suffix in (("clip_l", ""), ("clip_g", "_2")):
        expected = slerp(a[key].expand(2, -1), b[key], 0.3)
        assert torch.equal(blended.vectors[key], expected)
        table = getattr(pipeline, f"text_encoder{suffix}").get_input_embeddings().weight
        assert torch.equal(table[-2:], expected)
    assert torch.equal(pipeline.concepts["<ab>"].vectors["clip_g"], blended.vectors["clip_g"])


def test_a_blend_with_a_word_and_a_weaker_concept() -> None:
    pipeline = add_concept_loading(tiny_pipeline())
    pipeline.load_textual_inversion({"<a>": rows(1, WIDTH_L, 0)})
    table = pipeline.text_encoder.get_input_embeddings().weight.detach()
    dog = table[pipeline.tokenizer("dog", add_special_tokens=False).input_ids]
    assert torch.equal(pipeline.blend("<a>", "dog", 1.0, "<dog-1>").vectors["clip_l"], dog)
    assert torch.equal(
        pipeline.with_strength("<a>", 0.6, "dog", "<a-60>").vectors["clip_l"], slerp(dog, rows(1, WIDTH_L, 0), 0.6)
    )
    phrase = pipeline.blend("red dog", "<a>", 0.5, "<red-dog-a>")
    assert phrase.num_vectors == 2 and phrase.metadata["blend"] == "slerp red dog <a> 0.5"
    with pytest.raises(ConceptError, match=r"'<b>' is neither a loaded concept \(<a>,"):
        pipeline.blend("<a>", "<b>", 0.5, "<c>")
    with pytest.raises(ConceptError, match="<a> is loaded in clip_l already"):
        pipeline.blend("<a>", "dog", 0.5, "<a>")
