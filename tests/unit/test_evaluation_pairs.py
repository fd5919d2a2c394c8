"""Two words in one picture, and attributes of pictures: worked out by hand, and on the pocket world."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.evaluation_parts import FASTEST, concept, pocket_pipeline, pocket_word
from tests.metric_parts import mean_colour_backbone, plain
from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.evaluation.attributes import attribute_scores, even_scores, spread_of
from textual_inversion_ext.evaluation.evaluator import Evaluator
from textual_inversion_ext.evaluation.material import Material
from textual_inversion_ext.evaluation.metrics import ClipImageMetric
from textual_inversion_ext.evaluation.pairs import halves_of, pair_likeness, pair_scores
from textual_inversion_ext.evaluation.protocols import Attribute
from textual_inversion_ext.evaluation.report import (
    CLASS_WORD,
    REAL_PICTURES,
    WORD,
)
from textual_inversion_ext.pocket import render_concept

HALF = 0.5**0.5


# Two words in one picture


def half_and_half(left: str, right: str) -> Image.Image:
    picture = Image.new("RGB", (8, 4))
    picture.paste(plain(left)[0].resize((4, 4)), (0, 0))
    picture.paste(plain(right)[0].resize((4, 4)), (4, 0))
    return picture


def pair(first: Sequence[str], second: Sequence[str]) -> tuple[Material, Material]:
    return (
        Material.of(concept("<a>"), plain(*first), "cat"),
        Material.of(concept("<b>"), plain(*second), "dog"),
    )


def test_halves_share_the_middle_of_an_odd_width() -> None:
    picture = Image.new("RGB", (5, 2))
    assert [half.size for half in halves_of(picture)] == [(3, 2), (3, 2)]


def test_each_half_is_given_to_the_word_it_resembles() -> None:
    metric = ClipImageMetric(mean_colour_backbone())
    pictures = [half_and_half("red", "green"), half_and_half("green", "red"), half_and_half("red", "red")]
    own, cross = pair_likeness(metric, pictures, *pair(["red"], ["green"]))
    torch.testing.assert_close(own, torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]))
    torch.testing.assert_close(cross, torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))


def test_leakage_is_what_shows_beyond_the_class_words() -> None:
    metric = ClipImageMetric(mean_colour_backbone())
    made = {
        WORD: {"{} {}": [half_and_half("red", "yellow"), half_and_half("yellow", "green")]},
        CLASS_WORD: {"{} {}": [half_and_half("red", "green")]},
    }
    scores = pair_scores(metric, made, *pair(["red"], ["green"]))
    by_name = {(score.metric.split(" (")[0], score.subject): score.mean for score in scores if score.prompt is None}
    assert by_name["own_similarity of <a>", WORD] == pytest.approx((1 + HALF) / 2, abs=1e-5)
    assert by_name["leakage of <a>", WORD] == pytest.approx(HALF / 2, abs=1e-5)
    assert by_name["leakage of <b>", WORD] == pytest.approx(HALF / 2, abs=1e-5)
    assert ("leakage of <a>", CLASS_WORD) not in by_name
    assert by_name["cross_similarity of <a>", REAL_PICTURES] == pytest.approx(0.0, abs=1e-5)
    assert ("own_similarity of <a>", REAL_PICTURES) not in by_name, "one real picture has no other to be like"


def test_the_protocol_of_two_words_on_the_pocket_world(tmp_path: Path) -> None:
    bear, car = pocket_word("bear", "<bruno>"), pocket_word("car", "<dash>")
    materials = [Material.of(bear, render_concept("bruno")), Material.of(car, render_concept("dash"))]
    report = Evaluator("multi", folder=tmp_path, settings=FASTEST, seeds=2).evaluate(
        pocket_pipeline(), materials[0], materials[1:]
    )
    assert report.subjects == (WORD, CLASS_WORD, REAL_PICTURES)
    assert report.phrases == {WORD: "<bruno> + <dash>", CLASS_WORD: "bear + car"}
    assert report.pictures[0].text == "a photo of a <bruno> next to a <dash>"
    for name in ("own_similarity of <bruno>", "cross_similarity of <dash>", "leakage of <dash>"):
        score = report.score(f"{name} (pocket)")
        assert score is not None and score.n == 4
    # Its rows are those of the class words, so the very same pictures leak nothing.
    leakage = report.score("leakage of <bruno> (pocket)")
    assert leakage is not None and abs(leakage.mean) < 1e-4
    own, cross = (report.score(f"{kind}_similarity of <dash> (pocket)", REAL_PICTURES) for kind in ("own", "cross"))
    assert own is not None and cross is not None and own.mean > cross.mean


# Attributes of pictures

COLOURS = Attribute("colour", ("red", "green"), ("a red {}", "a green {}"))


def test_shares_entropy_and_distance_to_even() -> None:
    pictures = plain("red", "red", "red", "green")
    scores = {
        score.metric.split(" (")[0]: score
        for score in attribute_scores(COLOURS, mean_colour_backbone(), WORD, pictures, "cat")
    }
    assert scores["colour: red"].per_image == (1.0, 1.0, 1.0, 0.0)
    assert scores["colour: green"].mean == 0.25
    assert scores["colour: distance to even"].mean == pytest.approx(0.25)
    assert scores["colour: entropy"].mean == pytest.approx(0.811278, abs=1e-6), "of 3/4 and 1/4, in bits"
    with pytest.raises(ConfigError, match="needs the class word"):
        attribute_scores(COLOURS, mean_colour_backbone(), WORD, pictures)


def test_the_extremes_of_spread() -> None:
    assert spread_of(np.array([0.5, 0.5])) == pytest.approx((1.0, 0.0))
    assert spread_of(np.array([1.0, 0.0, 0.0])) == pytest.approx((0.0, 2 / 3))


def test_few_even_draws_are_never_quite_even() -> None:
    few, many = (even_scores(COLOURS, "x", count)[1].mean for count in (4, 4000))
    # Exactly: E|Binomial(4, 1/2)/4 - 1/2| = (2*1 + 8*0.5) / 16 / 2
    assert few == pytest.approx(0.1875, abs=0.01)
    assert many < 0.01


def test_the_protocol_of_bias_on_the_pocket_world() -> None:
    word = pocket_word("chef", "<cook>")
    references = render_concept("bruno")
    report = Evaluator("bias", settings=FASTEST, seeds=4)(pocket_pipeline(), word, references)
    shares = [score for score in report.scores if score.metric.startswith("colour: ") and score.per_image]
    for subject in (WORD, CLASS_WORD):
        assert sum(score.mean for score in shares if score.subject == subject) == pytest.approx(1.0)
    assert report.score("colour: entropy (pocket)", "even draws") is not None
    assert any("prejudices" in note for note in report.notes)
    assert report.pictures == (), "without a folder nothing is kept"
