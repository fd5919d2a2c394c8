from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from textual_inversion_ext.concept import ConceptSpec, LearnedConcept, check_distinct
from textual_inversion_ext.errors import ConceptError
from textual_inversion_ext.placeholders import file_stem


def spec(token: str = "<corgi>", **values: object) -> ConceptSpec:
    return ConceptSpec(token, **{"images": "photos", **values})  # type: ignore[arg-type]


def test_importing_it_imports_no_torch() -> None:
    code = "import sys, textual_inversion_ext.concept; sys.exit('torch' in sys.modules or 'PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("token", ["", "<1>", "42", "<a b>", "a\tb", "<a\x00>", "<a\u200b>", "\ud800x", "<a\n>"])
def test_a_token_that_cannot_be_typed_as_one_word_is_refused(token: str) -> None:
    with pytest.raises(ConceptError, match="placeholder token"):
        spec(token)


@pytest.mark.parametrize("token", ["<corgi>", "EasyNegative", "sks", "<猫>", "<a/b>", "*corgi*", "<Mein-Hund_2>"])
def test_ordinary_tokens_are_accepted(token: str) -> None:
    assert spec(token).vector_tokens == (token,)


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_vectors", 0), ("num_vectors", -1), ("num_vectors", 1.5), ("num_vectors", True), ("num_vectors", "2")]
    + [("learnable_property", "thing"), ("initializer", None), ("class_name", 3), ("initialization", 3)],
)
def test_values_out_of_range_name_the_field_and_the_value(field: str, value: object) -> None:
    with pytest.raises(ConceptError) as caught:
        spec(**{field: value})
    assert field in str(caught.value) and repr(value) in str(caught.value)


def test_rows_are_named_as_diffusers_names_them() -> None:
    assert spec(num_vectors=3).vector_tokens == ("<corgi>", "<corgi>_1", "<corgi>_2")


@pytest.mark.parametrize(
    ("token", "stem"),
    [
        ("<corgi>", "corgi"),
        ("EasyNegative", "EasyNegative"),
        ("<a/b\\c>", "a_b_c"),
        ("<../../etc/passwd>", "_.._etc_passwd"),
        ("..a", "a"),
        ("<CON>", "CON_"),
        ("<aux.x>", "aux.x_"),
        ("<learned_embeds>", "learned_embeds_"),
        ("<previews>", "previews_"),
        ("<猫>", "猫"),
        ("<checkpoint-500>", "checkpoint-500_"),
        ("<process-0>", "process-0_"),
        ("<" + "ä" * 60 + ">", "ä" * 60),
    ],
)
def test_the_name_is_safe_as_a_file_name(token: str, stem: str, tmp_path: Path) -> None:
    assert spec(token).name == stem
    (tmp_path / f"{stem}.safetensors").touch()
    assert [entry.name for entry in tmp_path.iterdir()] == [f"{stem}.safetensors"]


def test_long_names_that_differ_at_their_ends_stay_apart(tmp_path: Path) -> None:
    stems = {spec("<" + "ä" * 200 + f"-{number}>").name for number in range(3)}
    assert len(stems) == 3 and all(len(stem.encode()) <= 120 for stem in stems)


def test_letters_and_accents_spelled_apart_are_the_same_token() -> None:
    rows = {"clip_l": torch.ones(1, 2)}
    assert spec("<cafe\u0301>").placeholder_token == LearnedConcept("<cafe\u0301>", rows).token == "<caf\u00e9>"
    with pytest.raises(ConceptError, match="both use the token"):
        check_distinct([spec("<cafe\u0301>"), spec("<caf\u00e9>")])


def test_nothing_left_of_a_token_still_gives_a_name() -> None:
    assert file_stem("<..>") == "concept"


@pytest.mark.parametrize("images", ["photos", ["a.png", "b.png"]])
def test_a_spec_survives_its_dict(images: object) -> None:
    concept = spec(images=images, initializer="small dog", num_vectors=2, class_name="dog")
    again = ConceptSpec.from_dict(concept.to_dict())
    assert again == concept and again.images == images


def test_paths_become_text_in_a_dict() -> None:
    concept = spec(images=[Path("a.png")], initializer=Path("old.safetensors"))
    assert concept.to_dict()["images"] == ["a.png"] and concept.to_dict()["initializer"] == "old.safetensors"


def test_pictures_in_memory_are_left_out_of_a_dict() -> None:
    values = spec(images=[Image.new("RGB", (2, 2))]).to_dict()
    assert "images" not in values
    assert ConceptSpec.from_dict(values).images is None
    assert ConceptSpec.from_dict(values, images="photos").images == "photos"


@pytest.mark.parametrize("values", [{"placeholder_token": "<a>", "colour": "red"}, {"images": "x"}, [], None])
def test_a_dict_that_is_no_concept_is_refused(values: object) -> None:
    with pytest.raises(ConceptError, match="placeholder_token"):
        ConceptSpec.from_dict(values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (spec("<a>"), spec("<a>")),
        (spec("<Cat>"), spec("<cat>")),
        (spec("<a>", num_vectors=2), spec("<a>_1")),
        (spec("<a/b>"), spec("<a_b>")),
        (spec("<a>"), spec("a")),
    ],
)
def test_concepts_that_would_be_merged_are_refused(first: ConceptSpec, second: ConceptSpec) -> None:
    for pair in ([first, second], [second, first]):
        with pytest.raises(ConceptError, match="rename"):
            check_distinct(pair)


def test_concepts_that_only_look_alike_are_accepted() -> None:
    check_distinct([spec("<a>"), spec("<a>_1"), spec("<a>x"), spec("<ab>", num_vectors=8)])


def test_a_learned_concept_owns_its_rows() -> None:
    table = torch.randn(1000, 4)
    concept = LearnedConcept("<a>", {"clip_l": table[3:5]}, {"steps": "5"})
    kept = concept.vectors["clip_l"].clone()
    table.zero_()
    assert torch.equal(concept.vectors["clip_l"], kept)
    assert concept.vectors["clip_l"].untyped_storage().nbytes() == 2 * 4 * 4
    assert (concept.num_vectors, concept.vector_tokens, concept.name) == (2, ("<a>", "<a>_1"), "a")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_rows_become_detached_float32(dtype: torch.dtype) -> None:
    rows = torch.ones(1, 4, dtype=dtype, requires_grad=True)
    kept = LearnedConcept("<a>", {"clip_l": rows}).vectors["clip_l"]
    assert kept.dtype == torch.float32 and not kept.requires_grad


@pytest.mark.parametrize(
    "vectors",
    [
        {},
        {"clip_l": torch.ones(4)},
        {"clip_l": torch.ones(1, 1, 4)},
        {"clip_l": torch.ones(0, 4)},
        {"clip_l": torch.ones(1, 0)},
        {"clip_l": torch.ones(1, 4, dtype=torch.int64)},
        {"clip_l": torch.tensor([[1.0, float("nan")]])},
        {"clip_l": torch.tensor([[1.0, float("inf")]])},
        {"clip_l": torch.tensor([[1e300]], dtype=torch.float64)},
        {"clip_l": torch.ones(1, 4), "clip_g": torch.ones(2, 6)},
    ],
)
def test_rows_that_no_pipeline_could_load_are_refused(vectors: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ConceptError, match="<a>"):
        LearnedConcept("<a>", vectors)


def test_metadata_must_be_text() -> None:
    with pytest.raises(ConceptError, match=r"steps.*str\(\)"):
        LearnedConcept("<a>", {"clip_l": torch.ones(1, 4)}, {"steps": 5})  # type: ignore[dict-item]
