"""Finding, opening and distrusting embedding files; what all formats promise is in contracts/test_formats.py."""

from __future__ import annotations

import json
import random
import re
import warnings
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.errors import ConfigError, EmbeddingFileError, StorageError
from textual_inversion_ext.files import load_concept, save_concept
from textual_inversion_ext.files.container import safetensors_bytes

ROWS = torch.arange(8.0).reshape(2, 4)
CONCEPT = LearnedConcept("<corgi>", {"clip_l": ROWS}, {"steps": "3"})


def store(file: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    safetensors.torch.save_file({key: rows.clone() for key, rows in tensors.items()}, file, metadata)
    return file


def header_of(file: Path) -> dict[str, object]:
    content = file.read_bytes()
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def test_the_diffusers_file_is_what_diffusers_reads(tmp_path: Path) -> None:
    file = CONCEPT.save(tmp_path)
    assert file == tmp_path / "learned_embeds.safetensors"
    assert torch.equal(safetensors.torch.load_file(file)["<corgi>"], ROWS)
    with safetensors.safe_open(file, framework="pt") as opened:
        assert opened.metadata()["format"] == "pt"


def test_the_webui_file_has_one_tensor_and_is_named_like_the_trigger(tmp_path: Path) -> None:
    file = CONCEPT.save(tmp_path, format="webui")
    assert file == tmp_path / "corgi.safetensors"
    assert list(safetensors.torch.load_file(file)) == ["emb_params"]
    assert load_concept(file).token == "<corgi>"


def test_the_numbers_start_at_a_multiple_of_eight_and_the_metadata_is_sorted(tmp_path: Path) -> None:
    for extra in range(8):
        concept = LearnedConcept("<a>", {"clip_l": ROWS}, {"z" * extra or "q": "ü"})
        file = save_concept(concept, tmp_path / "a.safetensors")
        assert int.from_bytes(file.read_bytes()[:8], "little") % 8 == 0
        keys = list(header_of(file)["__metadata__"])  # type: ignore[call-overload]
        assert keys == sorted(keys) and torch.equal(load_concept(file).vectors["clip_l"], ROWS)


@pytest.mark.parametrize(
    ("name", "metadata", "token"),
    [
        ("EasyNegative", None, "EasyNegative"),
        ("my style", None, "my_style"),
        ("x", {"token": "<y>"}, "<y>"),
        ("x", {"token": ""}, "x"),
        ("v1.2-final", {"format": "pt"}, "v1.2-final"),
    ],
)
def test_other_tools_files_are_named_by_metadata_or_file_name(
    name: str, metadata: dict[str, str] | None, token: str, tmp_path: Path
) -> None:
    concept = load_concept(store(tmp_path / f"{name}.safetensors", {"emb_params": ROWS}, metadata))
    assert concept.token == token and torch.equal(concept.vectors["clip_l"], ROWS)


def test_a_file_of_the_concepts_library_is_read(tmp_path: Path) -> None:
    concept = load_concept(store(tmp_path / "learned_embeds.safetensors", {"<cat-toy>": ROWS[0].half()}))
    assert concept.token == "<cat-toy>" and concept.vectors["clip_l"].shape == (1, 4)


@pytest.mark.parametrize("token", ["my cat", "<a\x07>", "\u200b"])
def test_a_token_nobody_can_type_is_refused_until_another_is_given(token: str, tmp_path: Path) -> None:
    file = store(tmp_path / "a.safetensors", {token: ROWS})
    with pytest.raises(EmbeddingFileError, match="token='<name>'"):
        load_concept(file)
    assert load_concept(file, token="<b>").token == "<b>"


def test_a_token_with_path_separators_does_not_leave_the_folder(tmp_path: Path) -> None:
    concept = load_concept(store(tmp_path / "a.safetensors", {"../../evil": ROWS}))
    assert concept.token == "../../evil"
    assert save_concept(concept, tmp_path / "out", "webui").parent == tmp_path / "out"


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"<a>": ROWS, "<b>": ROWS},
        {"clip_l": ROWS, "clip_g": ROWS},
        {"clip_l": ROWS},
        {"emb_params": ROWS, "other": ROWS},
        {f"unet.{layer}": ROWS for layer in range(100)},
    ],
    ids=len,
)
def test_unknown_layouts_say_what_was_seen_and_what_is_known(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    file = store(tmp_path / "a.safetensors", tensors)
    with pytest.raises(EmbeddingFileError) as caught:
        load_concept(file)
    message = str(caught.value)
    assert str(file) in message and "diffusers (" in message and "webui (" in message and len(message) < 1000
    assert not tensors or f"{next(iter(sorted(tensors)))!r} (2, 4)" in message


@pytest.mark.parametrize("token", ["emb_params", "clip_l", "t5"])
def test_a_token_that_is_a_layouts_own_name_is_not_written_as_one(token: str, tmp_path: Path) -> None:
    concept = LearnedConcept(token, {"clip_l": ROWS})
    with pytest.raises(EmbeddingFileError, match="rename"):
        save_concept(concept, tmp_path)
    assert load_concept(save_concept(concept, tmp_path, "webui")).token == token


def test_a_folder_prefers_the_diffusers_file(tmp_path: Path) -> None:
    store(tmp_path / "a.safetensors", {"<other>": ROWS})
    assert load_concept(tmp_path).token == "<other>"
    store(tmp_path / "learned_embeds.safetensors", {"<corgi>": ROWS})
    store(tmp_path / ".learned_embeds.partial.safetensors", {"<half>": ROWS})
    assert load_concept(str(tmp_path)).token == "<corgi>"


def test_a_folder_that_leaves_a_choice_open_lists_it(tmp_path: Path) -> None:
    for steps in (500, 1000):
        store(tmp_path / f"learned_embeds-steps-{steps}.safetensors", {"<corgi>": ROWS})
    with pytest.raises(EmbeddingFileError, match=r"learned_embeds-steps-1000.safetensors, learned_embeds-steps-500"):
        load_concept(tmp_path)


def test_a_folder_without_embeddings_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(EmbeddingFileError, match="holds: nothing"):
        load_concept(tmp_path)
    (tmp_path / "config.json").touch()
    CONCEPT.save(tmp_path / "corgi")
    with pytest.raises(EmbeddingFileError, match=re.escape(str(tmp_path / "corgi"))) as caught:
        load_concept(tmp_path)
    assert "config.json, corgi/" in str(caught.value)


def test_a_missing_place_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EmbeddingFileError, match="no embedding file or folder at user/concept") as caught:
        load_concept("user/concept")
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", ["learned_embeds.bin", "a.pt"])
def test_pickles_are_not_opened_and_the_way_out_is_told(name: str, tmp_path: Path) -> None:
    torch.save({"<corgi>": ROWS}, tmp_path / name)
    for place in (tmp_path, tmp_path / name):
        with pytest.raises(EmbeddingFileError, match=r"weights_only=True.*\.safetensors"):
            load_concept(place)


def test_other_endings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(EmbeddingFileError, match=r"'\.png'"):
        load_concept(tmp_path / "a.png")
    with pytest.raises(EmbeddingFileError, match=r"'\.bin'"):
        save_concept(CONCEPT, tmp_path / "a.bin")
    with pytest.raises(ConfigError, match="webui, diffusers"):
        save_concept(CONCEPT, tmp_path, "pickle")


SOUND = safetensors_bytes({"<corgi>": ROWS}, {"format": "pt"})


def lying(**changes: object) -> bytes:
    header = {"<corgi>": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32], **changes}}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(32)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (SOUND[:-1], "damaged or incomplete"),
        (SOUND[:20], "damaged or incomplete"),
        (SOUND + b"x", "damaged or incomplete"),
        ((2**63).to_bytes(8, "little") + SOUND[8:], "damaged or incomplete"),
        (lying(shape=[2**40, 2**40]), "damaged or incomplete"),
        (lying(shape=[2, 400], data_offsets=[0, 3200]), "damaged or incomplete"),
        (lying(data_offsets=[32, 0]), "damaged or incomplete"),
        (lying(dtype="F31"), "damaged or incomplete"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"PK\x03\x04" + bytes(60), "pickle"),
        (b"<!DOCTYPE html><html></html>", "web page"),
    ],
)
def test_files_that_lie_or_were_cut_are_named(content: bytes, says: str, tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(content)
    with pytest.raises(EmbeddingFileError, match=says) as caught:
        load_concept(file)
    assert str(file) in str(caught.value)


def test_damaged_files_give_a_concept_or_our_error_and_nothing_else(tmp_path: Path) -> None:
    chance, file = random.Random(3), tmp_path / "a.safetensors"
    for _ in range(300):
        damaged = bytearray(SOUND)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        file.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, about number types a flipped byte may name
            try:
                assert load_concept(file).vectors["clip_l"].isfinite().all()
            except EmbeddingFileError as error:
                assert str(file) in str(error)


def test_a_model_given_by_mistake_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    with file.open("wb") as stream:
        stream.truncate(300 * 1024**2)  # sparse: takes no space
    with pytest.raises(EmbeddingFileError, match="300 MiB.*looks like a model"):
        load_concept(file)


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    file = CONCEPT.save(tmp_path)
    before = file.read_bytes()
    with pytest.raises(StorageError):
        CONCEPT.save(file / "inside-a-file")
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]
