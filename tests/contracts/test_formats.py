"""What every embedding file format promises, whichever it is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

import textual_inversion_ext
from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.errors import EmbeddingFileError
from textual_inversion_ext.files import FORMATS, load_concept, save_concept
from textual_inversion_ext.files.base import Format
from textual_inversion_ext.files.container import safetensors_bytes

each_format = pytest.mark.parametrize("kind", FORMATS)


def concept(num_vectors: int = 2, token: str = "<Corgi>", dim: int = 6) -> LearnedConcept:
    rows = torch.randn(num_vectors, dim, generator=torch.Generator().manual_seed(num_vectors))
    return LearnedConcept(
        token, {"clip_l": rows}, {"base_model": "pocket", "family": "sd", "steps": "500", "ä": "猫\n"}
    )


def test_the_table_and_the_formats_agree_on_names() -> None:
    assert FORMATS and all(kind.name == name and kind.description for name, kind in FORMATS.items())


@each_format
@pytest.mark.parametrize("num_vectors", [1, 2, 8])
@pytest.mark.parametrize("token", ["<Corgi>", "EasyNegative", "<a/b>", "<猫>", "<../x>"])
def test_what_is_written_is_read_back(kind: str, num_vectors: int, token: str, tmp_path: Path) -> None:
    original = concept(num_vectors, token)
    again = load_concept(save_concept(original, tmp_path, kind))
    assert again.token == token and list(again.vectors) == ["clip_l"]
    assert torch.equal(again.vectors["clip_l"], original.vectors["clip_l"])
    assert original.metadata.items() <= again.metadata.items()


@each_format
def test_a_folder_gets_one_file_and_it_is_found_again(kind: str, tmp_path: Path) -> None:
    file = concept().save(tmp_path / "new" / "run", format=kind)
    assert list((tmp_path / "new" / "run").iterdir()) == [file]
    assert file.name == FORMATS[kind].file_name(concept())
    assert load_concept(tmp_path / "new" / "run").token == "<Corgi>"


@each_format
def test_every_file_carries_the_same_metadata(kind: str, tmp_path: Path) -> None:
    bare = LearnedConcept("<a>", {"clip_l": torch.ones(1, 4)})
    metadata = load_concept(save_concept(bare, tmp_path, kind)).metadata
    assert metadata == {
        "token": "<a>",
        "base_model": "unknown",
        "family": "unknown",
        "steps": "unknown",
        "library_version": textual_inversion_ext.__version__,
        "encoder": "clip_l",
        "format": "pt",
    }


@each_format
def test_equal_concepts_give_equal_bytes(kind: str, tmp_path: Path) -> None:
    contents = {save_concept(concept(), tmp_path / f"{copy}.safetensors", kind).read_bytes() for copy in range(4)}
    contents.add(save_concept(load_concept(tmp_path / "0.safetensors"), tmp_path, kind).read_bytes())
    assert len(contents) == 1


@each_format
def test_every_other_encoder_key_survives(kind: str, tmp_path: Path) -> None:
    original = LearnedConcept("<a>", {"clip_g": torch.ones(1, 4)})
    assert list(load_concept(save_concept(original, tmp_path, kind)).vectors) == ["clip_g"]


@each_format
def test_exactly_one_format_recognises_what_it_wrote(kind: str) -> None:
    tensors, metadata = FORMATS[kind].write(concept())
    assert [name for name, other in FORMATS.items() if other.recognises(tensors, metadata)] == [kind]


@each_format
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_number_types_become_float32(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    tensors, metadata = FORMATS[kind].write(concept())
    stored = {key: tensor.to(dtype) for key, tensor in tensors.items()}
    (tmp_path / "a.safetensors").write_bytes(safetensors_bytes(stored, metadata))
    rows = load_concept(tmp_path / "a.safetensors").vectors["clip_l"]
    assert rows.dtype == torch.float32 and torch.equal(rows, next(iter(stored.values())).float())


@each_format
def test_one_vector_without_row_dimension_is_read(kind: str, tmp_path: Path) -> None:
    tensors, metadata = FORMATS[kind].write(concept(1))
    flat = {key: tensor.flatten() for key, tensor in tensors.items()}
    (tmp_path / "a.safetensors").write_bytes(safetensors_bytes(flat, metadata))
    assert load_concept(tmp_path / "a.safetensors").vectors["clip_l"].shape == (1, 6)


@each_format
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
        torch.full((1, 6), 1e300, dtype=torch.float64),
    ],
    ids=lambda rows: f"{rows.dtype}-{tuple(rows.shape)}",
)
def test_rows_that_would_break_a_pipeline_are_refused(kind: str, rows: torch.Tensor, tmp_path: Path) -> None:
    tensors, metadata = FORMATS[kind].write(concept())
    file = tmp_path / "a.safetensors"
    file.write_bytes(safetensors_bytes(dict.fromkeys(tensors, rows), metadata))
    with pytest.raises(EmbeddingFileError) as caught:
        load_concept(file)
    assert str(file) in str(caught.value) and repr(kind) in str(caught.value)
    assert all(repr(key) in str(caught.value) for key in tensors)


@each_format
def test_several_text_encoders_are_kept_or_refused(kind: str, tmp_path: Path) -> None:
    original = LearnedConcept("<a>", {"clip_l": torch.ones(1, 4), "clip_g": torch.ones(1, 6)})
    try:
        file = save_concept(original, tmp_path, kind)
    except EmbeddingFileError as error:
        assert "clip_l, clip_g" in str(error) and not list(tmp_path.iterdir())
    else:
        assert set(load_concept(file).vectors) == {"clip_l", "clip_g"}


def test_the_example_in_adding_md_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    guide = Path(textual_inversion_ext.__file__).parent / "files" / "ADDING.md"
    code, row = re.search(
        r"```python\n(.*?)```.*`(\"\w+\": \w+\(\),)`", guide.read_text(encoding="utf-8"), re.S
    ).groups()  # type: ignore[union-attr]
    names: dict[str, type[Format]] = {}
    exec(code, names)
    ((name, kind),) = ((name, names[of]()) for name, of in re.findall(r'"(\w+)": (\w+)\(\),', row))
    for key, value in [(name, kind), ("diffusers", FORMATS["diffusers"])]:
        monkeypatch.delitem(FORMATS, key, raising=False)
        monkeypatch.setitem(FORMATS, key, value)
    file = save_concept(concept(), tmp_path, name)
    header = json.loads(file.read_bytes()[8 : 8 + int.from_bytes(file.read_bytes()[:8], "little")])
    assert set(header) == {"__metadata__", "emp_params"}
    assert torch.equal(load_concept(file).vectors["clip_l"], concept().vectors["clip_l"])
