"""What every embedding file format, and every tool that files are written for, promises."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import textual_inversion_ext
from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.errors import ConceptError, ConfigError, EmbeddingFileError
from textual_inversion_ext.files import FORMATS, TARGETS, lay_out, load_concept, load_concepts, save_concept
from textual_inversion_ext.files.base import ENCODERS, Content, Format, Part
from textual_inversion_ext.files.containers import safetensors_bytes
from textual_inversion_ext.files.metadata import file_metadata

each_target = pytest.mark.parametrize("target", TARGETS)
WRITTEN = [name for name, kind in FORMATS.items() if type(kind).write is not Format.write]
each_written = pytest.mark.parametrize("kind", WRITTEN)
# What reading adds about the file; the rest of a concept's metadata is the concept's.
ABOUT_THE_FILE = {"file_format", "file_variant", "file_dtype"}

WIDTHS = {"clip_l": 6, "clip_g": 10, "t5": 14, "llama": 18, "gemma": 22}
SETS = [("clip_l",), ("clip_l", "clip_g"), ("clip_l", "t5"), ("clip_l", "clip_g", "t5"), ("t5",), ("clip_g",), ENCODERS]


def concept(num_vectors: int = 2, token: str = "<Corgi>", encoders: tuple[str, ...] = ("clip_l",)) -> LearnedConcept:
    chance = torch.Generator().manual_seed(num_vectors)
    rows = {key: torch.randn(num_vectors, WIDTHS[key], generator=chance) for key in encoders}
    return LearnedConcept(token, rows, {"base_model": "pocket", "family": "sd", "steps": "500", "ä": "猫\n"})


def saved(original: LearnedConcept, folder: Path, target: str) -> tuple[Path, ...]:
    """Write; no files when the tool has no place for the concept, and then the error says so and nothing is written."""
    before = sorted(folder.rglob("*"))
    try:
        return save_concept(original, folder, target)
    except EmbeddingFileError as error:
        tool = TARGETS[target].tool if target in TARGETS else target
        assert tool in str(error) and sorted(folder.rglob("*")) == before
        return ()


def assert_same(again: LearnedConcept, original: LearnedConcept) -> None:
    assert again.token == original.token and list(again.vectors) == list(original.vectors)
    assert all(torch.equal(again.vectors[key], original.vectors[key]) for key in original.vectors)
    assert original.metadata.items() <= again.metadata.items()


def test_the_tables_agree_with_themselves() -> None:
    assert FORMATS and all(kind.name == name and kind.description for name, kind in FORMATS.items())
    assert set(TARGETS) == {"diffusers", "webui", "comfyui", "invokeai", "kohya", "onetrainer"}
    used = {name for target in TARGETS.values() for name in [*target.layouts.values(), target.otherwise] if name}
    assert used == set(WRITTEN), "every layout that can be written is written for somebody, and no other is"
    assert list(FORMATS)[-1] == "diffusers", "any name can be a token there, so it is asked last"


@each_target
@pytest.mark.parametrize("num_vectors", [1, 2, 8])
@pytest.mark.parametrize("token", ["<Corgi>", "EasyNegative", "<a/b>", "<猫>", "<../x>"])
def test_what_is_written_is_read_back(target: str, num_vectors: int, token: str, tmp_path: Path) -> None:
    original = concept(num_vectors, token)
    for file in saved(original, tmp_path, target)[:1]:
        assert_same(load_concept(file), original)


@each_target
@pytest.mark.parametrize("encoders", SETS, ids="+".join)
def test_every_text_encoder_is_kept_or_refused(target: str, encoders: tuple[str, ...], tmp_path: Path) -> None:
    original = concept(encoders=encoders)
    for file in saved(original, tmp_path, target)[:1]:  # the first one finds the others
        (only,) = load_concepts(tmp_path)
        for again in (only, load_concept(tmp_path), load_concept(file)):
            assert_same(again, original)


@pytest.mark.parametrize(
    ("target", "held"),
    [
        ("diffusers", SETS),
        ("webui", SETS[:2]),
        ("invokeai", SETS[:2]),
        ("kohya", SETS[:2]),
        ("comfyui", SETS[:-1]),
        ("onetrainer", SETS),
    ],
)
def test_which_sets_of_encoders_each_tool_takes(target: str, held: list[tuple[str, ...]]) -> None:
    taken = []
    for encoders in SETS:
        try:
            lay_out(concept(encoders=encoders), target)
        except EmbeddingFileError:
            continue
        taken.append(encoders)
    assert taken == held


@given(
    token=st.text(st.characters(codec="utf-8"), min_size=1, max_size=12),
    encoders=st.sets(st.sampled_from(ENCODERS), min_size=1),
    rows=st.lists(
        st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3), min_size=1
    ),
    facts=st.dictionaries(st.text(min_size=1).filter(lambda key: key not in ("format", "encoder", "token")), st.text()),
    target=st.sampled_from(list(TARGETS)),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_write_then_read_is_the_identity(
    token: str, encoders: set[str], rows: list[list[float]], facts: dict[str, str], target: str, tmp_path: Path
) -> None:
    try:
        original = LearnedConcept(token, {key: torch.tensor(rows) for key in ENCODERS if key in encoders}, facts)
        files = save_concept(original, tmp_path / "a.safetensors", target)
    except (ConceptError, EmbeddingFileError):
        return  # no word, or no place for it; other tests hold what is said then
    again = load_concept(files[0])
    for file in files:
        file.unlink()
    assert again.token == token and list(again.vectors) == list(original.vectors)
    assert all(torch.equal(again.vectors[key], original.vectors[key]) for key in encoders)
    storable = {key.encode(errors="replace").decode(): value for key, value in facts.items()}
    kept = {key: again.metadata[key] for key in storable if not key.startswith(("file_", "not_read"))}
    assert kept == {key: storable[key].encode(errors="replace").decode() for key in kept}


@each_target
def test_a_folder_gets_the_files_and_they_are_found_again(target: str, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    files = save_concept(concept(), folder, target)
    assert sorted(folder.iterdir()) == sorted(files)
    stem = TARGETS[target].stem or "Corgi"
    assert [file.name for file in files] == [f"{stem}.safetensors"]
    assert load_concept(folder).token == "<Corgi>"


@each_target
def test_every_file_carries_the_same_metadata(target: str, tmp_path: Path) -> None:
    bare = LearnedConcept("<a>", {"clip_l": torch.ones(1, 4)})
    metadata = load_concept(save_concept(bare, tmp_path, target)[0]).metadata
    assert {key: value for key, value in metadata.items() if key not in ABOUT_THE_FILE} == {
        "token": "<a>",
        "base_model": "unknown",
        "family": "unknown",
        "steps": "unknown",
        "library_version": textual_inversion_ext.__version__,
        "encoder": "clip_l",
        "format": "pt",
    }
    assert metadata["file_dtype"] == "float32" and metadata["file_format"] in FORMATS


@each_target
@pytest.mark.parametrize("encoders", SETS[:2], ids="+".join)
def test_equal_concepts_give_equal_bytes(target: str, encoders: tuple[str, ...], tmp_path: Path) -> None:
    original = concept(encoders=encoders)
    written = [save_concept(original, tmp_path / f"{copy}", target) for copy in range(3)]
    written.append(save_concept(load_concept(written[0][0]), tmp_path / "again", target))
    assert len({tuple(file.read_bytes() for file in files) for files in written}) == 1


@each_target
@pytest.mark.parametrize("through", TARGETS)
def test_every_tool_s_file_converts_to_every_other(target: str, through: str, tmp_path: Path) -> None:
    original = concept(encoders=("clip_l", "clip_g"))
    between = load_concept(save_concept(original, tmp_path / "a", through)[0])
    again = load_concept(save_concept(between, tmp_path / "b", target)[0])
    assert_same(again, original)
    assert "source_format" not in again.metadata, "files of ours are no foreign source"


@each_written
def test_exactly_one_format_recognises_what_it_wrote(kind: str) -> None:
    for part in FORMATS[kind].write(concept()):
        content = Content(part.tensors, file_metadata(concept(), part.encoders), "a")
        assert [name for name, other in FORMATS.items() if other.recognises(content)] == [kind]


@each_written
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_other_number_types_become_float32(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    (part,) = FORMATS[kind].write(concept())
    stored = {key: tensor.to(dtype) for key, tensor in part.tensors.items()}
    (tmp_path / "a.safetensors").write_bytes(safetensors_bytes(stored, {}))
    again = load_concept(tmp_path / "a.safetensors")
    rows = again.vectors["clip_l"]
    assert rows.dtype == torch.float32 and torch.equal(rows, next(iter(stored.values())).float())
    assert again.metadata["file_dtype"] == str(dtype).removeprefix("torch.")


@each_written
def test_one_vector_without_row_dimension_is_read(kind: str, tmp_path: Path) -> None:
    (part,) = FORMATS[kind].write(concept(1))
    flat = {key: tensor.flatten() for key, tensor in part.tensors.items()}
    (tmp_path / "a.safetensors").write_bytes(safetensors_bytes(flat, {}))
    assert load_concept(tmp_path / "a.safetensors").vectors["clip_l"].shape == (1, 6)


@each_written
@pytest.mark.parametrize(
    "rows",
    [
        torch.ones(1, 2, 6),
        torch.ones(0, 6),
        torch.ones(0),
        torch.tensor(1.0),
        torch.tensor([[1.0, float("nan")]]),
        torch.tensor([[float("-inf"), 1.0]]),
        torch.ones(1, 6, dtype=torch.int32),
        torch.ones(1, 6, dtype=torch.complex64),
        torch.ones(1, 6, dtype=torch.bool),
        torch.full((1, 6), 1e300, dtype=torch.float64),
        torch.ones(1, 20_000),
        torch.ones(5_000, 1),
    ],
    ids=lambda rows: f"{rows.dtype}-{tuple(rows.shape)}",
)
def test_rows_that_would_break_a_pipeline_are_refused(kind: str, rows: torch.Tensor, tmp_path: Path) -> None:
    (part,) = FORMATS[kind].write(concept())
    file = tmp_path / "a.safetensors"
    safetensors.torch.save_file({key: rows.clone() for key in part.tensors}, file)
    with pytest.raises(EmbeddingFileError) as caught:
        load_concept(file)
    assert str(file) in str(caught.value) and repr(kind) in str(caught.value) and len(str(caught.value)) < 600
    assert all(f"{key!r} {tuple(rows.shape)}" in str(caught.value) for key in part.tensors)


@each_target
def test_an_unknown_encoder_is_refused(target: str, tmp_path: Path) -> None:
    with pytest.raises(EmbeddingFileError, match="has rows for qwen; .* reads embeddings for"):
        save_concept(LearnedConcept("<a>", {"qwen": torch.ones(1, 4)}), tmp_path, target)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [name for name in FORMATS if name not in WRITTEN])
def test_a_format_that_is_only_read_says_so(kind: str, tmp_path: Path) -> None:
    with pytest.raises(EmbeddingFileError, match="read, not written"):
        save_concept(concept(), tmp_path, kind)


def test_an_unknown_format_lists_the_tools(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'pickle'; allowed: diffusers, webui, comfyui"):
        save_concept(concept(), tmp_path, "pickle")


def test_the_example_in_adding_md_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    guide = Path(textual_inversion_ext.__file__).parent / "files" / "ADDING.md"
    text = guide.read_text(encoding="utf-8")
    code, row = re.search(r"```python\n(.*?)```.*`(\"\w+\": \w+\(\),)`", text, re.S).groups()  # type: ignore[union-attr]
    names: dict[str, type[Format]] = {}
    exec(code, names)
    ((name, kind),) = ((name, names[of]()) for name, of in re.findall(r'"(\w+)": (\w+)\(\),', row))
    for key, value in [(name, kind), ("diffusers", FORMATS["diffusers"])]:
        monkeypatch.delitem(FORMATS, key, raising=False)
        monkeypatch.setitem(FORMATS, key, value)
    (file,) = save_concept(concept(), tmp_path, name)
    header = json.loads(file.read_bytes()[8 : 8 + int.from_bytes(file.read_bytes()[:8], "little")])
    (part,) = kind.write(concept())
    assert isinstance(part, Part) and set(header) == {"__metadata__", *part.tensors}
    assert torch.equal(load_concept(file).vectors["clip_l"], concept().vectors["clip_l"])
    assert load_concept(file).metadata["file_format"] == name
