"""`textual-inversion inspect`: a table for people, JSON for programs, and a model's words beside the vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.tiny import tiny_pipeline
from textual_inversion_ext.cli.main import main
from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.errors import ModelError
from textual_inversion_ext.pipelines.vocabularies import open_vocabularies


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tiny_pipeline().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def as_json(flags: list[object], capsys: pytest.CaptureFixture[str], code: int = 0) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["inspect", "--json", *map(str, flags)]) == code
    return json.loads(capsys.readouterr().out)


def test_a_table_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"string_to_param": {"*": torch.full((1, 4), 2.0).half()}, "name": "bad"}, tmp_path / "bad.pt")
    save_file(
        {"clip_l": torch.ones(2, 4), "clip_g": torch.ones(2, 9), "clip_l_out": torch.ones(2, 4)},
        tmp_path / "x.safetensors",
    )
    (tmp_path / "broken.safetensors").write_bytes(b"x")
    assert main(["inspect", str(tmp_path)]) == 0
    head, first, second, *rest = capsys.readouterr().out.splitlines()
    assert head.split() == "FILE FORMAT WORD VECTORS TYPE NORM LOADED AS IT IS BY".split()
    assert first.split()[1:6] == ["a1111", "bad", "clip_l", "1x4", "float16"]
    assert "diffusers, kohya, invokeai, webui, comfyui" in first and " 4 " in first
    assert "clip_l 2x4, clip_g 2x9" in second and "2-2, 3-3" in second and second.endswith("onetrainer")
    assert first.index("a1111") == head.index("FORMAT") == second.index("encoders")
    text = "\n".join(rest)
    assert "not read: clip_l_out" in text and "not readable: " in text and "broken.safetensors" in text


def test_json_has_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    concept = LearnedConcept("<猫>", {"clip_l": torch.tensor([[3.0, 4.0], [0.0, 1.0]])}, {"steps": "7"})
    file = concept.save(tmp_path)
    (entry,) = as_json([file], capsys)
    assert entry["file"] == str(file) and entry["token"] == "<猫>" and entry["format"] == "diffusers"
    assert entry["vectors"] == {"clip_l": {"vectors": 2, "dim": 2, "norms": [5.0, 1.0]}}
    assert entry["tools"]["diffusers"] == "yes" and "onetrainer" not in entry["tools"]
    assert entry["metadata"]["steps"] == "7" and entry["dtype"] == "float32"


def test_the_nearest_words_of_a_model(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = tiny_pipeline()
    table = pipeline.text_encoder.get_input_embeddings().weight.detach()
    cat, dog = (pipeline.tokenizer.convert_tokens_to_ids(f"{word}</w>") for word in ("cat", "dog"))
    file = LearnedConcept("<a>", {"clip_l": torch.stack([table[cat] * 3, -table[dog]])}).save(tmp_path)
    (entry,) = as_json([file, "--model", model], capsys)
    facts = entry["vectors"]["clip_l"]
    assert facts["nearest"][0][0] == {"word": "cat", "cosine": 1.0}
    assert "dog" not in [word["word"] for word in facts["nearest"][1]], "it points the other way"
    cosines = torch.nn.functional.cosine_similarity(table[cat], table)
    assert facts["nearest"][0][1]["cosine"] == pytest.approx(cosines.topk(2).values[1].item(), abs=1e-4)
    low, middle, high = facts["vocabulary_norms"]
    lengths = table.norm(dim=1).sort().values
    assert low < middle < high and middle == pytest.approx(lengths.median().item(), rel=0.01)
    assert main(["inspect", str(file), "--model", str(model)]) == 0
    shown = capsys.readouterr().out
    assert "clip_l 1: cat 1.00, " in shown and f"(words {low:.3g}-{high:.3g})" in shown


def test_a_model_of_another_width_is_not_compared(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = LearnedConcept("<a>", {"clip_l": torch.ones(1, 5)}).save(tmp_path)
    (entry,) = as_json([file, "--model", model], capsys)
    assert set(entry["vectors"]["clip_l"]) == {"vectors", "dim", "norms"}


def test_the_built_in_model_is_one_word_away() -> None:
    (words,) = open_vocabularies("pocket")
    row = words.table[words.tokenizer.convert_tokens_to_ids("red</w>")][None]
    assert words.nearest(row, 1)[0][0] == ("red", pytest.approx(1.0, abs=1e-4))


def test_what_is_no_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Cannot load the text encoders of"):
        open_vocabularies(str(tmp_path))


def test_several_places_and_what_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = LearnedConcept("<a>", {"clip_l": torch.ones(1, 5)}).save(tmp_path / "a")
    found = as_json([file, tmp_path / "nowhere.pt"], capsys)
    assert found[0]["token"] == "<a>" and "nowhere.pt" in found[1]["error"]
    (entry,) = as_json([tmp_path / "nowhere.pt"], capsys, code=1)
    assert set(entry) == {"file", "error"}
    assert main(["inspect", str(tmp_path / "nowhere.pt")]) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("error: no embedding file")


def test_a_folder_of_pictures_says_that_there_is_nothing_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert main(["inspect", str(tmp_path)]) == 1
    assert f"error: folder {tmp_path} holds no embedding, only pictures without one" in capsys.readouterr().err
    (entry,) = as_json([tmp_path], capsys, code=1)
    assert "a.png" in entry["error"]
