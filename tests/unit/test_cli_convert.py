"""`textual-inversion convert`: one file, a folder of files, and everything that stands in the way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.runs import train_flags
from textual_inversion_ext.cli.main import main
from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.files import TARGETS, load_concept, save_concept

ROWS = torch.arange(8.0).reshape(2, 4)
XL = {"clip_l": ROWS, "clip_g": torch.ones(2, 6)}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file as AUTOMATIC1111 saves it."""
    file = tmp_path / "in" / "EasyNegative.pt"
    file.parent.mkdir()
    torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": ROWS}, "name": None, "step": 9}, file)
    return file


def failed(flags: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["convert", *flags]) == 1
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err and shown.err.startswith("error: ")
    return shown.err


@pytest.mark.parametrize("format", TARGETS)
def test_a_pickle_becomes_what_each_tool_reads(format: str, old: Path, tmp_path: Path) -> None:
    assert main(["convert", str(old), str(tmp_path / "out"), "--format", format]) == 0
    (file,) = (tmp_path / "out").iterdir()
    concept = load_concept(file)
    assert file.stem == (TARGETS[format].stem or "EasyNegative") and concept.token == "EasyNegative"
    assert torch.equal(concept.vectors["clip_l"], ROWS) and concept.metadata["steps"] == "9"
    assert list(load_file(file).values())[0].equal(ROWS)


def test_a_file_with_another_name_and_word(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new" / "bad.safetensors"
    assert main(["convert", str(old), str(target), "--token", "<bad>"]) == 0
    assert capsys.readouterr().out == f"{old} -> {target}\n"
    assert list(load_file(target)) == ["<bad>"] and load_concept(target).metadata["original_name"] == "EasyNegative"


def test_the_pair_says_how_diffusers_loads_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file(XL, tmp_path / "style.safetensors")
    assert main(["convert", str(tmp_path / "style.safetensors"), str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert f'pipe.load_textual_inversion("{tmp_path}/out/learned_embeds.safetensors")' in shown
    assert "tokenizer=pipe.tokenizer_2, text_encoder=pipe.text_encoder_2" in shown
    assert main(["convert", str(tmp_path / "out"), str(tmp_path / "back"), "--format", "webui"]) == 0
    back = load_file(tmp_path / "back" / "style.safetensors")
    assert set(back) == set(XL) and all(torch.equal(back[key], XL[key]) for key in XL)


@pytest.mark.parametrize(
    ("format", "names"),
    [
        ("diffusers", {"cat/learned_embeds.safetensors", "dog/learned_embeds.safetensors"}),
        ("webui", {"cat.safetensors", "dog.safetensors"}),
    ],
)
def test_a_folder_of_files(format: str, names: set[str], tmp_path: Path) -> None:
    torch.save({"<cat>": ROWS}, tmp_path / "in.pt")
    LearnedConcept("<dog>", {"clip_l": ROWS}).save(tmp_path / "in" / "deep")
    (tmp_path / "in.pt").rename(tmp_path / "in" / "a.pt")
    assert main(["convert", str(tmp_path / "in"), str(tmp_path / "out"), "--format", format]) == 0
    found = {file.relative_to(tmp_path / "out").as_posix() for file in (tmp_path / "out").rglob("*.safetensors")}
    assert found == names


def test_a_run_s_folder_has_its_concept_twice_and_gives_it_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    concept = LearnedConcept("<dog>", {"clip_l": ROWS})
    for target in ("diffusers", "webui"):
        save_concept(concept, tmp_path / "run", target)
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "out"), "--format", "comfyui"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["dog.safetensors"]
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "one.safetensors"), "--format", "webui"]) == 0
    assert torch.equal(load_concept(tmp_path / "one.safetensors").vectors["clip_l"], ROWS)


def test_a_run_s_folder_gives_the_final_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its snapshots have the same word, and their names come first."""
    for name, rows in {"-best": ROWS + 2, "-steps-2": ROWS + 1, "": ROWS}.items():
        save_concept(LearnedConcept("<dog>", {"clip_l": rows}), tmp_path / "run" / f"learned_embeds{name}.safetensors")
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "out"), "--format", "webui"]) == 0
    (file,) = (tmp_path / "out").iterdir()
    assert torch.equal(load_concept(file).vectors["clip_l"], ROWS)
    assert "left out 2 snapshots" in capsys.readouterr().err
    snapshot = tmp_path / "run" / "learned_embeds-steps-2.safetensors"
    assert main(["convert", str(snapshot), str(tmp_path / "step.safetensors"), "--format", "webui"]) == 0
    assert torch.equal(load_concept(tmp_path / "step.safetensors").vectors["clip_l"], ROWS + 1)


def test_one_bad_file_does_not_stop_the_others(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (old.parent / "broken.safetensors").write_bytes(b"x")
    torch.save({"<dog>": ROWS}, old.parent / "dog.bin")
    shown = failed([str(old.parent), str(tmp_path / "out"), "--format", "kohya"], capsys)
    assert "1 could not be converted, everything else was" in shown and "broken.safetensors" in shown
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"EasyNegative.safetensors", "dog.safetensors"}


def test_what_is_there_is_kept(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.safetensors"
    target.write_bytes(b"precious")
    assert "--overwrite" in failed([str(old), str(target)], capsys)
    assert target.read_bytes() == b"precious"
    assert main(["convert", str(old), str(target), "--overwrite"]) == 0
    assert load_concept(target).token == "EasyNegative"


def test_a_trained_concept_goes_through_every_tool_and_back(tmp_path: Path) -> None:
    flags = train_flags(tmp_path, num_vectors=2, learning_rate=0.01, pretrained_model_name_or_path="pocket")
    assert main(flags) == 0
    trained, place = load_concept(tmp_path / "out"), tmp_path / "out"
    for format in TARGETS:
        assert main(["convert", str(place), str(tmp_path / format), "--format", format]) == 0
        place = tmp_path / format
        again = load_concept(place)
        assert again.token == "<tok>" and torch.equal(again.vectors["clip_l"], trained.vectors["clip_l"])
        for fact in ("steps", "base_model", "family", "recipe", "library_version", "training_data_digest"):
            assert again.metadata[fact] == trained.metadata[fact] != "unknown"


def test_two_words_of_one_name_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"string_to_param": {"<a/b>": ROWS, "<a_b>": ROWS + 1}}, tmp_path / "x.pt")
    shown = failed([str(tmp_path / "x.pt"), str(tmp_path / "out"), "--format", "webui"], capsys)
    assert "would both become" in shown and "--token" in shown
    assert torch.equal(load_concept(tmp_path / "out").vectors["clip_l"], ROWS)


def test_the_help_names_every_tool(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    shown = capsys.readouterr().out
    assert not [name for name in TARGETS if name not in shown]


def test_what_cannot_be_says_why(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "allowed: diffusers (" in failed([str(old), str(tmp_path / "out"), "--format", "midjourney"], capsys)
    assert "nowhere.pt" in failed([str(tmp_path / "nowhere.pt"), str(tmp_path / "out")], capsys)
    assert "'.bin'" in failed([str(old), str(tmp_path / "out.bin")], capsys)
    assert "'~no-such-user/x'" in failed([str(old), "~no-such-user/x"], capsys)
    torch.save({"string_to_param": {"<a>": ROWS, "<b>": ROWS}}, tmp_path / "two.pt")
    assert "2 concepts; give a folder" in failed([str(tmp_path / "two.pt"), str(tmp_path / "o.safetensors")], capsys)
    assert "choose one with token=" in failed([str(tmp_path / "two.pt"), str(tmp_path / "o"), "--token", "<c>"], capsys)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "a.png")
    assert "photos holds no embedding, only pict" in failed([str(tmp_path / "photos"), str(tmp_path / "out")], capsys)
    save_file({"t5": torch.ones(1, 4096)}, tmp_path / "t5.safetensors")
    shown = failed([str(tmp_path / "t5.safetensors"), str(tmp_path / "out"), "--format", "webui"], capsys)
    assert "has rows for t5" in shown
    assert not (tmp_path / "out").exists() and not (tmp_path / "o").exists()
