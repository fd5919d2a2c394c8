"""Recipes: presets that expand into ordinary flags."""

from __future__ import annotations

import dataclasses
import shlex

import pytest

from textual_inversion_ext import ConceptSpec, TextualInversionConfig
from textual_inversion_ext.cli.main import make_parser
from textual_inversion_ext.cli.parser import TrainCommand, read_train_flags
from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.recipes import RECIPES, recipe_named

CONCEPT = ["--placeholder_token", "<corgi>", "--train_data_dir", "corgi", "--initializer_token", "dog"]
each_recipe = pytest.mark.parametrize("name", RECIPES)


def read(*flags: str) -> TrainCommand:
    return read_train_flags(make_parser().parse_args(["train", *CONCEPT, *flags]))


def test_the_paper_the_script_and_ours_are_there() -> None:
    paper = {"1-word", "2-words", "3-words", "progressive", "regularized", "per-image", "low-lr", "high-lr"}
    assert {f"gal-{name}" for name in paper} | {"diffusers", "dti", "fast"} == set(RECIPES)


@each_recipe
def test_a_recipe_equals_the_flags_that_it_prints(name: str) -> None:
    by_name, by_hand = read("--recipe", name), read(*shlex.split(RECIPES[name].flags()))
    assert by_name.config == by_hand.config
    assert by_name.concepts == by_hand.concepts
    assert any(RECIPES[name].flags() in notice for notice in by_name.notices)
    assert not by_hand.notices


@each_recipe
def test_a_recipe_changes_what_it_says_and_nothing_else(name: str) -> None:
    command, plain = read("--recipe", name), read()
    assert command.config == dataclasses.replace(plain.config, **RECIPES[name].settings)
    assert command.config != plain.config
    assert command.concepts == tuple(dataclasses.replace(c, **RECIPES[name].concept) for c in plain.concepts)


def test_a_typed_flag_wins_over_the_recipe() -> None:
    command = read("--max_train_steps", "7", "--recipe", "gal-3-words", "--num_vectors", "2")
    assert command.config.max_train_steps == 7
    assert command.config.scale_lr
    assert command.concepts[0].num_vectors == 2


def test_recipes_cannot_be_changed_by_accident() -> None:
    with pytest.raises(TypeError):
        RECIPES["dti"].settings["learning_rate"] = 1.0  # type: ignore[index]


def test_the_published_numbers() -> None:
    gal = TextualInversionConfig(**RECIPES["gal-1-word"].settings)
    assert (gal.learning_rate * gal.train_batch_size, gal.max_train_steps) == (0.04, 5000)
    dti = TextualInversionConfig(**RECIPES["dti"].settings)
    assert (dti.learning_rate * dti.train_batch_size, dti.max_train_steps, dti.vmf_kappa) == (0.04, 400, 1e-4)
    assert ConceptSpec("<a>", None, **RECIPES["gal-progressive"].concept).num_vectors == 3


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="recipe is 'gal'; allowed are gal-1-word"):
        recipe_named("gal")
