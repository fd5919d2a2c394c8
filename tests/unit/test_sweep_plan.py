"""What a sweep's file stands for: its runs, their names and their flags."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from tests.runs import ROOT
from textual_inversion_ext.cli import evaluate, train
from textual_inversion_ext.cli.parser import read_train_flags
from textual_inversion_ext.cli.sweep_plan import SweepRun, plan_sweep, read_sweep
from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.pocket import OBJECTS
from textual_inversion_ext.recipes import RECIPES


def names(sweep: dict[str, object]) -> list[str]:
    return [run.name for run in plan_sweep(sweep)]


def test_a_grid_is_every_combination_in_order() -> None:
    runs = plan_sweep({"flags": {"seed": 3}, "grid": {"learning_rate": [1e-3, 0.005], "num_vectors": [1, 2]}})
    assert [run.name for run in runs] == [
        "learning_rate=0.001_num_vectors=1",
        "learning_rate=0.001_num_vectors=2",
        "learning_rate=0.005_num_vectors=1",
        "learning_rate=0.005_num_vectors=2",
    ]
    assert dict(runs[1].flags) == {"seed": 3, "learning_rate": 0.001, "num_vectors": 2}


def test_named_runs_multiply_with_the_grid_and_win_over_common_flags() -> None:
    runs = plan_sweep(
        {
            "flags": {"max_train_steps": 100, "flip_p": 0.5},
            "runs": {"paper": {"recipe": "gal-1-word", "max_train_steps": 9}, "ours": {}},
            "grid": {"seed": [0, 1]},
        }
    )
    assert [run.name for run in runs] == ["paper_seed=0", "paper_seed=1", "ours_seed=0", "ours_seed=1"]
    assert dict(runs[0].flags) == {"max_train_steps": 9, "flip_p": 0.5, "recipe": "gal-1-word", "seed": 0}
    assert dict(runs[3].flags) == {"max_train_steps": 100, "flip_p": 0.5, "seed": 1}


def test_flags_are_written_as_they_are_typed() -> None:
    flags = {"scale_lr": True, "flip": False, "snr_gamma": None, "lr": -1e-3, "token": ["<a>", "<b>"], "t": "-x y"}
    run = SweepRun("x", flags)
    known = {"--scale_lr", "--no-flip", "--lr", "--token", "--t", "--snr_gamma"}
    assert run.arguments(known) == ["--scale_lr", "--no-flip", "--lr=-0.001", "--token", "<a>", "<b>", "--t=-x y"]
    assert run.unknown(known) == []
    assert run.arguments({"--lr"}) == ["--lr=-0.001"]
    assert run.unknown({"--lr", "--t"}) == ["--scale_lr", "--no-flip", "--token"]


def test_names_of_other_runs_stay_when_values_are_added() -> None:
    before = names({"grid": {"learning_rate": [1, 2]}})
    assert before == names({"grid": {"learning_rate": [1, 2, 3]}})[:2]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "default"),
        (True, "on"),
        ("a photo of {} / there", "a-photo-of-there"),
        (["<a>", "<b>"], "a+b"),
        ("../../etc", "etc"),
        ("", "none"),
        ("日本", "日本"),
    ],
)
def test_every_value_makes_a_name_of_a_folder(value: object, shown: str) -> None:
    assert names({"grid": {"flag": [value]}}) == [f"flag={shown}"]


def test_long_and_equal_names_are_told_apart() -> None:
    long = names({"grid": {"prompt": ["word " * 60 + end for end in "ab"]}})
    assert len(set(long)) == 2 and all(len(name.encode()) <= 100 for name in long)
    # The same folder on file systems that ignore upper case, and the same name everywhere.
    assert len({name.casefold() for name in names({"grid": {"t": ["<Cat>", "<cat>", "cat"]}})}) == 3
    assert long == names({"grid": {"prompt": ["word " * 60 + end for end in "ab"]}})


@pytest.mark.parametrize(
    ("sweep", "told"),
    [
        ({}, "single run"),
        ({"flags": {"seed": 1}}, "single run"),
        ({"gird": {"seed": [1]}}, "gird"),
        ({"grid": {"seed": 1}}, "list of values"),
        ({"grid": {"seed": []}}, "list of values"),
        ({"grid": []}, "must be an object"),
        ({"runs": {"a": 3}}, "'a' must be an object"),
    ],
)
def test_what_is_no_sweep_is_refused(sweep: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        plan_sweep(sweep)


def test_a_value_that_no_flag_can_have_is_refused() -> None:
    (run,) = plan_sweep({"grid": {"seed": [{"a": 1}]}})
    with pytest.raises(ConfigError, match="seed is an object"):
        run.arguments({"--seed"})


def test_a_sweep_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "sweep.json"
    file.write_text(json.dumps({"grid": {"seed": [1, 2]}}), encoding="utf-8")
    assert [run.name for run in read_sweep(file)] == ["seed=1", "seed=2"]
    file.write_text("[1]", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"sweep\.json must hold a JSON object"):
        read_sweep(file)
    with pytest.raises(ConfigError, match="Cannot read"):
        read_sweep(tmp_path / "missing.json")


def test_the_shipped_sweep_is_about_every_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # its paths are meant from there
    runs = read_sweep("examples/sweeps/recipes.json")
    assert {run.flags.get("recipe") for run in runs} == {None, *RECIPES}
    parsers = []
    for verb in (train, evaluate):
        parser = argparse.ArgumentParser()
        verb.add_flags(parser)
        parsers.append({option for action in parser._actions for option in action.option_strings})
    for run in runs:
        assert run.unknown(parsers[0] | parsers[1]) == []
        parser = argparse.ArgumentParser()
        train.add_flags(parser)
        command = read_train_flags(parser.parse_args(run.arguments(parsers[0])))
        assert [concept.placeholder_token for concept in command.concepts] == [c.placeholder_token for c in OBJECTS]
        assert all(Path(str(concept.images)).is_dir() for concept in command.concepts)
