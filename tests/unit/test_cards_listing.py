"""The list of a publication's files at the end of its card: written, read again, and harmless."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from huggingface_hub.hf_api import RepoFile

from hub_cards.card import Card
from hub_cards.digests import digests, is_same
from hub_cards.listing import listed, listing
from hub_cards.own_sections import own_sections, was_edited
from tests.golden.cards.examples import EXAMPLES, NASTY, corgi

FILES: dict[str, bytes | Path] = {"pictures/01.png": b"a picture", "config.json": b"{}"}


def listed_by(card: Card, files: dict[str, bytes | Path]) -> str:
    content = card.beside(files)["README.md"]
    assert isinstance(content, bytes)
    return content.decode()


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_card_lists_what_it_is_published_with(name: str) -> None:
    card = Card.of(EXAMPLES[name])
    text = listed_by(card, FILES)
    assert listed(text) == {path: digests(content) for path, content in FILES.items()}
    assert listed(card.markdown()) is None
    parsed = Card.parse(text, dataset=name == "dataset")
    assert not was_edited(parsed.text)
    assert own_sections(parsed.text) == own_sections(card.text)


def test_a_second_list_takes_the_place_of_the_first() -> None:
    again = Card.parse(listed_by(Card.of(corgi()), FILES))
    assert listed_by(again, FILES) == listed_by(Card.of(corgi()), FILES)
    assert listed(listed_by(again, {})) == {}
    assert "files published with this card" not in Card.of(corgi(), previous=again).markdown()


def test_any_name_is_read_again_and_stays_in_the_comment() -> None:
    names = [*NASTY, "a-->b.png", "<!--", 'quo"te\\', "日本.safetensors"]
    text = listing({name: b"" for name in names if "\ud83d" not in name})
    assert text.count("-->") == 1
    assert text.endswith("\n-->")
    assert listed(f"# A card\n\n{text}\n") == {name: digests(b"") for name in names if "\ud83d" not in name}


def test_a_list_in_an_own_section_is_the_users() -> None:
    mine = listing({"mine.txt": b"mine"})
    mark = "<!-- own section: about (kept when this card is written again) -->\n"
    card = Card.parse(Card.of(corgi()).markdown().replace(mark, f"{mark}{mine}\n"))
    text = listed_by(card, FILES)
    assert mine in text
    assert listed(text) == {path: digests(content) for path, content in FILES.items()}


def test_line_ends_do_not_matter_and_a_spoiled_list_is_none() -> None:
    text = listed_by(Card.of(corgi()), FILES)
    assert listed(text.replace("\n", "\r\n")) == listed(text)
    assert listed(text.replace('"config.json":', '"config.json"')) is None
    assert was_edited(Card.parse(text.replace('"config.json"', '"theirs.txt"')).text)


def test_a_file_is_told_by_the_name_that_the_hub_gives_it(tmp_path: Path) -> None:
    content = b"rows" * 1000
    (tmp_path / "file").write_bytes(content)
    assert digests(tmp_path / "file") == digests(content)
    git = hashlib.sha1(b"blob 4000\0" + content).hexdigest()
    large = {"oid": hashlib.sha256(content).hexdigest(), "size": 4000, "pointerSize": 130}
    plain = RepoFile(path="a", size=4000, oid=git)
    stored = RepoFile(path="a", size=4000, oid="0" * 40, lfs=large)
    for entry in (plain, stored):
        assert is_same(entry, digests(content))
        assert not is_same(entry, digests(content + b"x"))
        assert not is_same(entry, "")
