"""Writing a card again keeps what its user wrote, and never loses a word of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hub_cards.card import Card
from hub_cards.contents import License
from hub_cards.errors import CardError
from hub_cards.facts import Score
from hub_cards.own_sections import own_sections, was_edited
from tests.golden.cards.examples import EXAMPLES, bare, corgi, dataset

ABOUT = "<!-- own section: about (kept when this card is written again) -->\n"
NEW = "<!-- own section: credits (kept when this card is written again) -->\nThanks.\n<!-- end of own section -->\n"


def filled(text: str, words: str = "He *never* looks.\n\n## Why\n\n| a | b |") -> str:
    assert text.count(ABOUT) == 1
    return text.replace(ABOUT, f"{ABOUT}{words}\n")


@pytest.mark.parametrize("name", EXAMPLES)
def test_writing_again_changes_nothing(name: str) -> None:
    card = Card.of(EXAMPLES[name])
    assert not was_edited(card.text) and own_sections(card.text) == {}
    assert Card.of(EXAMPLES[name], previous=card) == card


@pytest.mark.parametrize("name", EXAMPLES)
def test_own_sections_are_kept(name: str) -> None:
    edited = Card.parse(filled(Card.of(EXAMPLES[name]).markdown()), dataset=name == "dataset")
    assert own_sections(edited.text) == {"about": "He *never* looks.\n\n## Why\n\n| a | b |"}
    assert Card.of(EXAMPLES[name], previous=edited).markdown() == edited.markdown()


def test_they_stay_while_everything_else_is_new() -> None:
    edited = Card.parse(filled(Card.of(bare()).markdown()))
    new = Card.of(replace(bare(), scores=(Score("clip", "word", 0.25),), title="New"), previous=edited)
    assert "He *never* looks." in new.text and "0.250" in new.text and "# New" in new.text
    assert "No scores were measured" not in new.text


def test_a_new_section_of_ones_own_is_kept_wherever_it_stood() -> None:
    text = Card.of(bare()).markdown().replace("## Training\n", f"{NEW}\n## Training\n")
    new = Card.of(bare(), previous=Card.parse(text))
    assert own_sections(new.text) == {"credits": "Thanks."}
    assert Card.of(bare(), previous=new) == new


def test_a_template_without_the_place_loses_nothing() -> None:
    edited = Card.parse(filled(Card.of(bare()).markdown()))
    assert own_sections(Card.of(bare(), template="# x", previous=edited).text) == own_sections(edited.text)


@pytest.mark.parametrize("change", [("## Limits", "## My limits"), ("# `sks`", "# My word\n\nMine!"), ("1 vector", "")])
def test_an_edit_elsewhere_is_not_lost_in_silence(change: tuple[str, str]) -> None:
    edited = Card.parse(Card.of(bare()).markdown().replace(*change))
    assert was_edited(edited.text)
    with pytest.raises(CardError, match="marked places"):
        Card.of(bare(), previous=edited)
    assert Card.of(bare(), previous=edited, discard_edits=True) == Card.of(bare())


def test_a_readme_of_somebody_else_is_not_replaced() -> None:
    with pytest.raises(CardError, match="not written here"):
        Card.of(bare(), previous=Card.parse("---\nlicense: mit\n---\n# By hand\n"))


def test_editors_that_trim_and_turn_line_ends_edit_nothing(tmp_path: Path) -> None:
    written = filled(Card.of(corgi()).markdown())
    trimmed = "\n".join(line.rstrip() for line in written.split("\n")).rstrip("\n")
    for content in (written.replace("\n", "\r\n"), "\ufeff" + written, trimmed):
        (tmp_path / "README.md").write_bytes(content.encode("utf-8"))
        assert Card.of(corgi(), previous=Card.load(tmp_path / "README.md")).markdown() == written


@pytest.mark.parametrize(
    "break_it",
    [
        lambda text: text.replace("<!-- end of own section -->\n", "", 1),
        lambda text: text.replace(ABOUT, "", 1),
        lambda text: text.replace("## Training", f"{NEW}{NEW}## Training"),
    ],
)
def test_broken_marks_are_explained(break_it: Callable[[str], str]) -> None:
    with pytest.raises(CardError, match="own"):
        Card.of(bare(), previous=Card.parse(break_it(Card.of(bare()).markdown())), discard_edits=True)


def test_metadata_of_the_user_stay_and_ours_are_renewed() -> None:
    previous = Card.of(corgi())
    previous.data["language"] = ["en"]
    previous.data["thumbnail"] = "https://example.org/x.png"
    data = Card.of(bare(), previous=Card.parse(previous.markdown())).data.to_dict()
    assert data["language"] == ["en"] and data["thumbnail"] == "https://example.org/x.png"
    assert not {"model-index", "widget", "base_model", "datasets"} & set(data)


def test_a_licence_chosen_on_the_hub_stays_until_another_is_asked_for() -> None:
    previous = Card.of(bare())
    previous.data["license"] = "mit"
    kept = Card.of(bare(), previous=Card.parse(previous.markdown()))
    assert kept.data["license"] == "mit" and "No licence was given" not in kept.text
    asked = Card.of(replace(bare(), license=License("apache-2.0")), previous=kept)
    assert asked.data["license"] == "apache-2.0" and "\nmit." in kept.text and "\nmit." not in asked.text


def test_a_data_sets_card_keeps_its_user_text_too() -> None:
    edited = Card.parse(filled(Card.of(dataset()).markdown()), dataset=True)
    edited.data["language"] = "en"
    again = Card.of(dataset(), previous=edited)
    assert again.data.to_dict()["language"] == "en" and own_sections(again.text)
