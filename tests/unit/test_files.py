"""Finding and opening embedding files; contracts/test_formats.py has what all formats promise."""

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
from textual_inversion_ext.errors import EmbeddingFileError, StorageError
from textual_inversion_ext.files import load_concept, load_concepts, save_concept, scan
from textual_inversion_ext.files.containers import safetensors_bytes
from textual_inversion_ext.files.places.folder import choose

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
        (file,) = save_concept(concept, tmp_path / "a.safetensors")
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
    (file,) = save_concept(concept, tmp_path / "out", "webui")
    assert file.parent == tmp_path / "out" and list(tmp_path.rglob("*evil*")) == [file]


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"a": ROWS, "b": ROWS},
        {"clip_l": ROWS, "unet": ROWS},
        {"emb_params": ROWS, "other": ROWS},
        {"IN01": ROWS, "IN99": ROWS},
        {f"unet.{layer}": ROWS for layer in range(100)},
    ],
    ids=len,
)
def test_unknown_layouts_say_what_was_seen_and_what_is_known(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    file = store(tmp_path / "a.safetensors", tensors)
    with pytest.raises(EmbeddingFileError) as caught:
        load_concept(file)
    message = str(caught.value)
    assert str(file) in message and "diffusers (" in message and "emb_params (" in message and len(message) < 1500
    assert not tensors or f"{next(iter(sorted(tensors)))!r} (2, 4)" in message


@pytest.mark.parametrize("token", ["emb_params", "clip_l", "t5"])
def test_a_token_that_is_a_layouts_own_name_is_not_written_as_one(token: str, tmp_path: Path) -> None:
    concept = LearnedConcept(token, {"clip_l": ROWS})
    with pytest.raises(EmbeddingFileError, match="rename"):
        save_concept(concept, tmp_path)
    assert load_concept(save_concept(concept, tmp_path, "webui")[0]).token == token


def test_a_folder_prefers_the_diffusers_file(tmp_path: Path) -> None:
    store(tmp_path / "a.safetensors", {"<other>": ROWS})
    assert load_concept(tmp_path).token == "<other>"
    store(tmp_path / "learned_embeds.safetensors", {"<corgi>": ROWS})
    store(tmp_path / ".learned_embeds.partial.safetensors", {"<half>": ROWS})
    assert load_concept(str(tmp_path)).token == "<corgi>"


def test_a_lora_beside_an_embedding_is_not_taken_for_one(tmp_path: Path) -> None:
    """diffusers' advanced scripts write NAME_emb.safetensors beside it; alone it may hold embeddings."""
    lora = store(tmp_path / "pytorch_lora_weights.safetensors", {"unet.a.lora_A.weight": ROWS})
    torch.save({"<pickled>": ROWS}, tmp_path / "corgi_emb.pt")
    assert load_concept(tmp_path).token == "<pickled>"
    store(tmp_path / "corgi_emb.safetensors", {"clip_l": ROWS})
    assert load_concept(tmp_path).token == "corgi_emb"
    assert choose([lora.name, "corgi_emb.safetensors", "README.md"]) == ["corgi_emb.safetensors"], "as on the Hub"
    assert choose([lora.name, "README.md"]) == [lora.name]


def test_a_folder_that_leaves_a_choice_open_lists_it(tmp_path: Path) -> None:
    for steps in (500, 1000):
        store(tmp_path / f"learned_embeds-steps-{steps}.safetensors", {"<corgi>": ROWS})
    with pytest.raises(
        EmbeddingFileError, match=r"2 concepts: '<corgi>' in learned_embeds-steps-1000.safetensors, '<co"
    ):
        load_concept(tmp_path)
    with pytest.raises(EmbeddingFileError, match=r"several are called '<corgi>'; give one file"):
        load_concept(tmp_path, token="<corgi>")
    store(tmp_path / "other.safetensors", {"<other>": ROWS})
    assert load_concept(tmp_path, token="<other>").token == "<other>"
    assert len(load_concepts(tmp_path)) == 3


def test_safe_files_are_preferred_to_pickles(tmp_path: Path) -> None:
    torch.save({"<pickled>": ROWS}, tmp_path / "learned_embeds.bin")
    assert load_concept(tmp_path).token == "<pickled>"
    store(tmp_path / "learned_embeds.safetensors", {"<safe>": ROWS})
    assert load_concept(tmp_path).token == "<safe>"


def test_a_folder_of_concepts_in_folders_is_read(tmp_path: Path) -> None:
    for name in ("corgi", "teapot"):
        LearnedConcept(f"<{name}>", {"clip_l": ROWS}).save(tmp_path / name)
    (tmp_path / "config.json").touch()
    assert [concept.token for concept in load_concepts(tmp_path)] == ["<corgi>", "<teapot>"]
    with pytest.raises(EmbeddingFileError, match="holds 2 concepts: '<corgi>' in .*'<teapot>' in"):
        load_concept(tmp_path)
    assert load_concept(tmp_path, token="<teapot>").token == "<teapot>"


def test_a_folder_without_embeddings_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(EmbeddingFileError, match="holds: nothing"):
        load_concept(tmp_path)
    (tmp_path / "config.json").touch()
    (tmp_path / "photo.png").touch()
    (tmp_path / "corgi").mkdir()
    with pytest.raises(EmbeddingFileError, match=re.escape("config.json, corgi/, photo.png")):
        load_concept(tmp_path)


def test_scanning_goes_on_after_a_damaged_file(tmp_path: Path) -> None:
    CONCEPT.save(tmp_path / "deep" / "corgi")
    LearnedConcept("<xl>", {"clip_l": ROWS, "clip_g": ROWS}).save(tmp_path)
    (tmp_path / "checkpoint-5").mkdir()
    store(tmp_path / "checkpoint-5" / "state.safetensors", {"<half>": ROWS})
    (tmp_path / "broken.pt").write_bytes(b"PK\x03\x04")
    (tmp_path / ".hidden.safetensors").touch()
    (tmp_path / "photo.png").touch()
    found = {file.relative_to(tmp_path).as_posix(): result for file, result in scan(tmp_path)}
    assert list(found) == ["broken.pt", "deep/corgi/learned_embeds.safetensors", "learned_embeds.safetensors"]
    assert isinstance(found.pop("broken.pt"), EmbeddingFileError)
    tokens = [concept.token for result in found.values() if isinstance(result, list) for concept in result]
    assert tokens == ["<corgi>", "<xl>"]


def test_scanning_finds_another_word_under_the_name_of_a_second_encoder(tmp_path: Path) -> None:
    for name, token in {"learned_embeds": "<a>", "learned_embeds_2": "<b>", "learned_embedsX": "<c>"}.items():
        store(tmp_path / f"{name}.safetensors", {token: ROWS})
    LearnedConcept("<xl>", {"clip_l": ROWS, "clip_g": ROWS}).save(tmp_path / "xl")
    found = [result for _, result in scan(tmp_path)]
    tokens = [concept.token for result in found if isinstance(result, list) for concept in result]
    assert sorted(tokens) == ["<a>", "<b>", "<c>", "<xl>"]


def test_a_missing_place_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("learned.safetensors", "embeddings/cat.pt", Path("user/concept"), "./user/concept", "a/../b"):
        with pytest.raises(EmbeddingFileError, match=f"no embedding file or folder at {Path(place)}") as caught:
            load_concept(place)
        assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("place", ["a\0b.safetensors", "x" * 5000 + ".safetensors", ""])
def test_names_that_no_file_can_have(place: str) -> None:
    with pytest.raises(EmbeddingFileError):
        load_concept(place)


@pytest.mark.parametrize("name", ["learned_embeds.bin", "a.pt"])
def test_pickles_are_read_whatever_they_are_called(name: str, tmp_path: Path) -> None:
    torch.save({"<corgi>": ROWS}, tmp_path / name)
    (tmp_path / name).rename(tmp_path / "a.safetensors")
    assert load_concept(tmp_path / "a.safetensors").token == "<corgi>"
    store(tmp_path / "b.pt", {"<dog>": ROWS})
    assert load_concept(tmp_path / "b.pt").token == "<dog>"


def test_other_endings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("<corgi>")
    with pytest.raises(EmbeddingFileError, match=r"'\.txt'; .*\.safetensors, \.pti, \.bin"):
        load_concept(tmp_path / "a.txt")
    (tmp_path / "a.pt.optim").write_text("x")
    with pytest.raises(EmbeddingFileError, match="optimizer"):
        load_concept(tmp_path / "a.pt.optim")
    with pytest.raises(EmbeddingFileError, match=r"'\.bin'"):
        save_concept(CONCEPT, tmp_path / "a.bin")


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
        (b"PK\x03\x04" + bytes(60), "zip directory is damaged"),
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
