"""Many concepts at once: lists in files, folders of folders, and what a run makes of them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from tests.runs import rows_of, save_images, train_flags
from textual_inversion_ext.cli.main import main
from textual_inversion_ext.cli.parser import TrainCommand, add_train_flags, read_train_flags
from textual_inversion_ext.concept import ConceptSpec, HubDataset
from textual_inversion_ext.errors import ConceptError, ConfigError, DataError


def read(*flags: str | Path) -> TrainCommand:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_train_flags(parser)
    return read_train_flags(parser.parse_args([str(flag) for flag in flags]))


def concepts(*flags: str | Path) -> tuple[ConceptSpec, ...]:
    return read(*flags).concepts


def write(file: Path, *rows: dict[str, Any]) -> Path:
    file.write_text("\n\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8-sig")
    return file


def test_a_file_with_a_concept_a_line(tmp_path: Path) -> None:
    (tmp_path / "start.safetensors").write_bytes(b"")
    (tmp_path / "dog").write_bytes(b"")
    file = write(
        tmp_path / "mine.jsonl",
        {"placeholder_token": "<a>", "images": "pictures/a", "initializer": "dog", "num_vectors": 2},
        {"placeholder_token": "<b>", "images": ["b/1.png", "/pictures/2.png"], "initializer": "start.safetensors"},
        {"placeholder_token": "<c>", "images": {"dataset_name": "user/c", "split": "test"}, "class_name": "cat"},
    )
    a, b, c = concepts("--concepts", file)
    assert (a.images, a.initializer, a.num_vectors) == (str(tmp_path / "pictures" / "a"), "dog", 2)
    assert b.images == [str(tmp_path / "b" / "1.png"), "/pictures/2.png"]
    assert b.initializer == str(tmp_path / "start.safetensors")
    assert (c.images, c.class_name) == (HubDataset("user/c", "test"), "cat")
    (tmp_path / "user" / "c").mkdir(parents=True)
    assert concepts("--concepts", file)[2].images == HubDataset(str(tmp_path / "user" / "c"), "test")


def test_how_a_line_starts_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "dog").mkdir()
    lines = [
        {"placeholder_token": "<a>", "images": "a", "initializer": "dog", "initialization": "file"},
        {"placeholder_token": "<b>", "images": "b", "initializer": "dog"},
        {"placeholder_token": "<c>", "images": "c", "initializer": "user/corgi", "initialization": "file"},
    ]
    (tmp_path / "runs" / "old").mkdir(parents=True)
    lines.append({"placeholder_token": "<d>", "images": "d", "initializer": "runs/old"})
    command = read("--concepts", write(tmp_path / "mine.jsonl", *lines), "--initialization", "cross")
    assert command.config.initialization == "cross"
    assert [(spec.initializer, spec.initialization) for spec in command.concepts] == [
        *((str(tmp_path / "dog"), "file"), ("dog", None), ("user/corgi", "file")),
        (str(tmp_path / "runs" / "old"), None),
    ]
    assert [ConceptSpec.from_dict(spec.to_dict()) for spec in command.concepts] == list(command.concepts)


def test_a_folder_of_folders(tmp_path: Path) -> None:
    for name in ("dog 10", "dog 2", ".hidden", "__MACOSX"):
        save_images(tmp_path / name, 1)
    (tmp_path / "README.md").write_text("mine")
    found = concepts("--concepts", tmp_path, "--initializer_token", "dog", "--num_vectors", "2")
    assert [spec.placeholder_token for spec in found] == ["<dog-2>", "<dog-10>"]
    assert [spec.images for spec in found] == [str(tmp_path / "dog 2"), str(tmp_path / "dog 10")]
    assert {(spec.initializer, spec.num_vectors) for spec in found} == {("dog", 2)}
    write(tmp_path / "concepts.jsonl", {"placeholder_token": "<x>", "images": "dog 2"})
    assert [spec.placeholder_token for spec in concepts("--concepts", tmp_path)] == ["<x>"]


def test_flags_hold_for_all_or_one_each(tmp_path: Path) -> None:
    rows = [{"placeholder_token": f"<{name}>", "images": name, "initializer": "dog"} for name in "ab"]
    file = write(tmp_path / "mine.jsonl", *rows)
    found = concepts("--concepts", file, "--initializer_token", "cat", "toy", "--class_name", "thing")
    assert [(spec.initializer, spec.class_name) for spec in found] == [("cat", "thing"), ("toy", "thing")]
    with pytest.raises(ConfigError, match="--num_vectors has 3 values for 2"):
        read("--concepts", file, "--num_vectors", "1", "2", "3")


@pytest.mark.parametrize("flag", ["placeholder_token", "train_data_dir", "dataset_name", "dataset_split"])
def test_what_a_list_says_is_not_said_twice(flag: str, tmp_path: Path) -> None:
    file = write(tmp_path / "mine.jsonl", {"placeholder_token": "<a>", "images": "a"})
    with pytest.raises(ConfigError, match=f"--{flag} and --concepts both"):
        read("--concepts", file, f"--{flag}", "x")


@pytest.mark.parametrize(
    ("line", "error", "says"),
    [
        ("{", DataError, "line 2 is not valid JSON"),
        ("[]", ConceptError, "line 2: a concept is stored as fields and values"),
        ('{"images": "a"}', ConceptError, "line 2: a concept needs placeholder_token"),
        ('{"placeholder_token": "<b>"}', ConceptError, "line 2: a concept of a list needs images"),
        ('{"placeholder_token": "<b>", "images": 3}', ConceptError, "line 2: images is 3"),
        ('{"placeholder_token": "<b>", "images": {"folder": "a"}}', ConceptError, "line 2: images is"),
        ('{"placeholder_token": "<b>", "images": {"dataset_name": "b", "x": 1}}', ConceptError, "line 2: a data set"),
        ('{"placeholder_token": "<b>", "images": "b", "initializer": 3}', ConceptError, "line 2: <b>: initializer"),
        ('{"placeholder_token": "<b>", "train_data_dir": "b"}', ConceptError, r"line 2: unknown field.*Known: "),
        ('{"placeholder_token": "two words", "images": "b"}', ConceptError, "line 2: .*white space"),
        ('{"placeholder_token": "<b>", "images": "~no-such-user/b"}', DataError, "line 2: '~no-such-user/b'"),
    ],
)
def test_a_broken_line_is_named(line: str, error: type[Exception], says: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"placeholder_token": "<a>", "images": "a"}\n' + line)
    with pytest.raises(error, match=rf"mine\.jsonl, {says}"):
        read("--concepts", file)


def test_places_that_are_no_lists(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "folder").mkdir()
    save_images(tmp_path / "pictures")
    (tmp_path / "names" / "123").mkdir(parents=True)
    for name, error, says in [
        ("nothing", DataError, "does not exist"),
        ("empty.jsonl", DataError, "is empty"),
        ("folder", DataError, "holds no folders"),
        ("pictures", DataError, r"holds pictures itself \(0\.png, .*--train_data_dir"),
        ("names", ConceptError, "123: .*no letter.*rename it"),
    ]:
        with pytest.raises(error, match=says):
            read("--concepts", tmp_path / name)
    with pytest.raises(DataError, match="'~no-such-user/mine'"):
        read("--concepts", "~no-such-user/mine")


def test_data_set_flags() -> None:
    (spec,) = concepts("--placeholder_token", "<a>", "--dataset_name", "user/a", "--dataset_revision", "v1")
    assert spec.images == HubDataset("user/a", revision="v1")
    flags = ["--placeholder_token", "<a>", "<b>", "--dataset_name", "user/all", "--dataset_split", "a", "b"]
    assert [spec.images for spec in concepts(*flags)] == [HubDataset("user/all", "a"), HubDataset("user/all", "b")]
    with pytest.raises(ConfigError, match="--dataset_split has 3 values for 2"):
        read(*flags, "c")
    with pytest.raises(ConfigError, match="--train_data_dir and --dataset_name both"):
        read("--placeholder_token", "<a>", "--dataset_name", "user/a", "--train_data_dir", "x")
    with pytest.raises(ConfigError, match="--dataset_config_name is about a data set; give --dataset_name"):
        read("--placeholder_token", "<a>", "--dataset_config_name", "big")


def test_a_run_file_with_a_data_set_is_overridden_in_parts(tmp_path: Path) -> None:
    concept = {"placeholder_token": "<a>", "images": {"dataset_name": "user/a", "split": "train", "revision": "v1"}}
    (tmp_path / "run.json").write_text(json.dumps({"concepts": [concept]}))
    (spec,) = concepts("--config", tmp_path / "run.json", "--dataset_revision", "v2")
    assert spec.images == HubDataset("user/a", "train", None, "v2")
    (spec,) = concepts("--config", tmp_path / "run.json", "--dataset_name", "user/b")
    assert spec.images == HubDataset("user/b")
    (spec,) = concepts("--config", tmp_path / "run.json", "--train_data_dir", "b")
    assert spec.images == "b"


def without(flags: list[str], *names: str) -> list[str]:
    for name in names:
        place = flags.index(f"--{name}")
        flags = flags[:place] + flags[place + 2 :]
    return flags


def test_each_concept_of_a_folder_gets_a_folder_like_a_run_of_its_own(tmp_path: Path) -> None:
    flags = without(train_flags(tmp_path), "train_data_dir", "placeholder_token")
    for number, name in enumerate(("corgi", "toy")):
        save_images(tmp_path / "all" / name, 2, seed=number)
    assert main([*flags, "--concepts", str(tmp_path / "all")]) == 0
    alone = without(train_flags(tmp_path), "train_data_dir", "placeholder_token", "output_dir")
    alone += ["--placeholder_token", "<corgi>", "--train_data_dir", str(tmp_path / "all" / "corgi")]
    assert main([*alone, "--output_dir", str(tmp_path / "alone")]) == 0
    assert rows_of(tmp_path / "out" / "corgi").allclose(rows_of(tmp_path / "alone"), atol=1e-5)
    assert not rows_of(tmp_path / "out" / "corgi").equal(rows_of(tmp_path / "out" / "toy"))
    shared = {"steps.jsonl", "logs", "previews", "checkpoint-4"}  # of the run, not of a concept
    for name, twin in (("corgi", tmp_path / "alone"), ("toy", tmp_path / "alone")):
        own = {path.name.replace(name, "corgi") for path in (tmp_path / "out" / name).iterdir()}
        assert own >= {path.name for path in twin.iterdir()} - shared
    again = ["train", "--config", str(tmp_path / "out" / "corgi" / "config.json")]
    assert main([*again, "--output_dir", str(tmp_path / "again")]) == 0
    assert rows_of(tmp_path / "again").equal(rows_of(tmp_path / "alone"))
