from __future__ import annotations

from typing import Any

import pytest
import torch

from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.training.activation import (
    Activation,
    activation_steps,
    check_progressive,
)


def config(steps: str | None, total: int | None = 6000, **settings: Any) -> TextualInversionConfig:
    return TextualInversionConfig(progressive_steps=steps, max_train_steps=total, **settings)


@pytest.mark.parametrize(
    ("text", "vectors", "expected"),
    [
        (None, 3, (0, 0, 0)),
        ("2000 4000", 3, (0, 2000, 4000)),
        ("2000,4000", 3, (0, 2000, 4000)),
        ("0.25 0.5", 3, (0, 1500, 3000)),
        ("0 0", 3, (0, 0, 0)),
        ("2000 4000", 2, (0, 2000)),  # the concept beside it has three
        ("100 0.5", 3, (0, 100, 3000)),
    ],
)
def test_steps_of_the_vectors(text: str | None, vectors: int, expected: tuple[int, ...]) -> None:
    assert activation_steps(config(text), vectors, 6000) == expected


def test_the_papers_three_words() -> None:
    steps = activation_steps(config("2000 4000"), 3, 6000)
    activation = Activation([steps], [range(3)], 3, "cpu")
    counts = [activation.count(0, step) for step in (0, 1999, 2000, 3999, 4000, 5999)]
    assert counts == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("soon 4000", "not 'soon'"),
        ("-5 4000", "not '-5'"),
        ("0.5 1.0", "not '1.0'"),
        ("nan 4000", "not 'nan'"),
        ("4000 2000", "none is less"),
        ("2000", "1 entries, but 3 vectors need 2"),
        ("2000 6000", "at step 6000 of 6000"),
        ("2000 3000 4000", "3 entries, but the longest word has 3"),
    ],
)
def test_lists_that_cannot_work_are_refused_at_once(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_progressive(config(text), [ConceptSpec("<a>", None, "cat", num_vectors=3)])


def test_without_a_number_of_steps_it_is_the_default() -> None:
    concept = ConceptSpec("<a>", None, "cat", num_vectors=3)
    check_progressive(config("0.1 100", None), [concept])
    with pytest.raises(ConfigError, match="at step 501 of 500"):
        check_progressive(config("100 501", None), [concept])


def test_with_epochs_only_the_list_itself_is_checked() -> None:
    check_progressive(config("0.5 4000", None, num_train_epochs=3), [ConceptSpec("<a>", None, "cat", num_vectors=3)])


def test_masks_and_levels() -> None:
    # <a>: rows 0-2 and two pictures' rows 3-4; <b>: row 5, all active
    activation = Activation([(0, 2, 2), (0,)], [range(0, 3), range(5, 6)], 6, "cpu")
    assert activation.levels == ((1, 3), (1,))
    assert activation.mask([0, 9]).tolist() == [True, False, False, True, True, True]
    assert activation.mask([1, 0]) is activation.mask([0, 9]), "copied to the device only when it changes"
    assert activation.mask([2, 0]).all() and activation.mask([2, 0]).dtype == torch.bool
    assert [activation.level(0, step) for step in (0, 1, 2, 3)] == [0, 0, 1, 1]
    # after two steps only the first vector has been trained; the next step is the others' first
    assert [activation.trained(0, done) for done in (0, 1, 2, 3)] == [1, 1, 1, 3]
