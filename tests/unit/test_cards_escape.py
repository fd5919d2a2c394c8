"""Whatever somebody typed is shown, and does nothing: the rendered card has the same tags as one of harmless names."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from html.parser import HTMLParser

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from hub_cards.card import Card
from hub_cards.escape import Markdown, address, code, fenced, html_text, one_line, python_string, text, whole
from hub_cards.own_sections import own_sections, was_edited
from tests.golden.cards.examples import EXAMPLES, NASTY, with_texts

# Every character with a meaning in Markdown, HTML or YAML, and some that programs stumble over.
SPECIAL = "`*_[](){}<>!|\\$#+-=.~&:;%^@,?/\"' \n\r\tab12é€\u0627\u200d\u200b\u202e\u2028\x85\x00\x1b\ud83d\U0001f469"
typed = st.one_of(
    st.text(alphabet=SPECIAL, min_size=1, max_size=24),
    st.lists(st.sampled_from(NASTY), min_size=1, max_size=3).map("".join),
    st.text(min_size=1, max_size=12),
).filter(one_line)
fast = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


class Page(HTMLParser):
    """Tags with their attributes in the order of the page, and the text of each tag of a kind."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.addresses: list[str] = []
        self.shown: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attributes)))
        self.addresses += [value or "" for name, value in attributes if name in ("href", "src")]
        self.shown += [(name, value or "") for name, value in attributes if name == "alt"]
        if tag not in ("img", "hr", "br"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)

    def handle_endtag(self, tag: str) -> None:
        self.tags.append((f"/{tag}", ()))
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.shown.append((self._open[-1] if self._open else "", data))


def rendered(markdown: str) -> Page:
    """What GitHub's Markdown makes of it, raw HTML allowed, as on the Hub before its own cleaning."""
    return Page(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown))


def body_with(texts: Iterator[str]) -> str:
    return Card.of(with_texts(texts)).text


def tags_of(body: str) -> list[tuple[str, tuple[str, ...]]]:
    return rendered(body).tags


HARMLESS = tags_of(body_with(itertools.repeat("harmless")))


@pytest.mark.parametrize("value", NASTY)
def test_nasty_text_changes_no_tag(value: str) -> None:
    assert tags_of(body_with(itertools.repeat(value))) == HARMLESS


@fast
@given(st.lists(typed, min_size=1, max_size=6))
def test_no_text_changes_a_tag(values: list[str]) -> None:
    body = body_with(itertools.cycle(values))
    assert tags_of(body) == HARMLESS
    assert own_sections(body) == {} and not was_edited(body)


@fast
@given(st.lists(typed, min_size=1, max_size=6))
def test_metadata_hold_every_text_and_nothing_else(values: list[str]) -> None:
    card = Card.of(with_texts(itertools.cycle(values)))
    again = Card.parse(card.markdown())
    assert again.data.to_dict() == card.data.to_dict() and again.text == card.text
    written = yaml.safe_load(card.markdown().split("\n---\n")[0])
    assert set(written) == set(Card.of(with_texts(itertools.repeat("harmless"))).data.to_dict())
    assert written["instance_prompt"] == f"a{whole(values[0])}, <b>"
    card.markdown().encode("utf-8")


def test_only_the_cards_own_addresses_are_linked() -> None:
    page = rendered(Card.of(EXAMPLES["nasty"]).text)
    for link in page.addresses:
        ours = link.startswith(("pictures/", "references/", "https://example.org/"))
        assert ours or link.endswith("%2Bui.safetensors")
    assert not {"script", "b", "del", "em", "hr", "blockquote", "ol"} & {tag for tag, _ in page.tags}


@pytest.mark.parametrize("value", NASTY)
def test_text_and_code_show_what_was_typed(value: str) -> None:
    expected = one_line(value)
    for write in (text, code):
        page = rendered(f"| head |\n| --- |\n| {write(value)} |\n")
        cell = "".join(part for tag, part in page.shown if tag in ("td", "code"))
        assert cell.replace("\u2060", "") == expected
        assert [tag for tag, _ in page.tags if tag in ("td", "tr")] == ["tr", "tr", "td"]


@fast
@given(typed)
def test_every_text_is_shown_as_typed(value: str) -> None:
    for write in (text, code):
        shown = "".join(part for _, part in rendered(f"x {write(value)} x").shown)
        assert shown.replace("\u2060", "") == f"x {one_line(value)} x"


@fast
@given(st.text(alphabet=SPECIAL, max_size=30))
def test_python_reads_the_string_again(value: str) -> None:
    literal = python_string(value)
    assert ast.literal_eval(literal) == value
    assert "\n" not in literal and literal.isprintable()


@fast
@given(st.text(alphabet="`\n <!->ab\u2028", max_size=40))
def test_a_block_of_code_stays_closed(value: str) -> None:
    page = rendered(f"before\n\n{fenced(value, 'python')}\n\nafter")
    assert [tag for tag, _ in page.tags] == ["p", "/p", "pre", "code", "/code", "/pre", "p", "/p"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("pictures/01.png", "pictures/01.png"),
        ("a b/(1).png", "a%20b/%281%29.png"),
        ("javascript:alert(1)", "javascript%3Aalert%281%29"),
        ("a|b`c`<d>.png", "a%7Cb%60c%60%3Cd%3E.png"),
        ("https://example.org/a b?c=1&d=%20#e", "https://example.org/a%20b?c=1&d=%20#e"),
        ("https://example.org/)![x](y", "https://example.org/%29!%5Bx%5D%28y"),
        ("https://example.org/100%", "https://example.org/100%25"),
    ],
)
def test_addresses(path: str, expected: str) -> None:
    assert address(path) == expected


def test_html() -> None:
    assert html_text('"><script>\n') == "&quot;&gt;&lt;script&gt;"


def test_directions_are_not_turned_and_emoji_stay_whole() -> None:
    family = "\U0001f469\u200d\U0001f467"
    assert one_line(f"a\u202eb\u2066c {family}\u200b") == f"abc {family}"
    assert one_line("\u0627\u0644\u0639") == "\u0627\u0644\u0639"


def test_what_is_markdown_is_not_escaped_twice() -> None:
    assert text(text("a*b")) == text("a*b") == r"a\*b"
    assert isinstance(code("x"), Markdown) and code("") == "" and code(" \n") == ""


def test_no_link_is_made_of_plain_text() -> None:
    shown = text("https://evil.example www.evil.example me@evil.example")
    assert "://" not in shown and "www." not in shown and "@e" not in shown
