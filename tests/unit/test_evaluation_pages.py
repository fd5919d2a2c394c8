"""The page and the picture of a report: whole, escaped, fetching nothing, and shown by a real browser."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from tests.browser import CHROMIUM, NO_CHROMIUM, Browser
from tests.reports import PROMPTS, SEEDS, sample_report, write_pictures
from textual_inversion_ext.evaluation.charts import bars_of, loss_curve, norm_strip, round_values
from textual_inversion_ext.evaluation.facts import EncoderRows
from textual_inversion_ext.evaluation.html import MOST_PICTURES, page, write_page
from textual_inversion_ext.evaluation.picture import write_picture
from textual_inversion_ext.evaluation.report import REAL_PICTURES, WORD, EvaluationReport, PictureSet, Score

NASTY = "</title><script>window.hit=1</script>\"'><img src=x onerror='window.hit=1'>{{ 7*7 }}{% raw %}"


class Reader(HTMLParser):
    """Collects what a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.words += data

    def named(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_shows_all_there_is(tmp_path: Path) -> None:
    report = sample_report(tmp_path)
    reader = Reader(write_page(report, tmp_path).read_text(encoding="utf-8"))
    images = reader.named("img")
    # Every picture with what it is; the real ones once for all and once more, silently, beside each prompt.
    told = [image["alt"] for image in images if image["alt"]]
    assert len(told) == 4 * len(PROMPTS) * len(SEEDS) + 3
    assert len(images) - len(told) == 3 * len(PROMPTS)
    score = report.score("clip_image (pocket)", WORD, PROMPTS[0])
    assert score is not None and score.per_image[1] is not None
    assert any(alt.startswith(f"word: a photo of <bruno>, seed 1, clip image {score.per_image[1]:.3f}") for alt in told)
    for words in (
        "0.900 ± 0.012",
        "a brown dog with a scarf",
        "puppy 0.30",
        "Table 1 of a paper",
        "4 prompts are few.",
    ):
        assert words in reader.words
    assert len(reader.named("polyline")) == 2


def test_the_pictures_on_the_page_are_the_files(tmp_path: Path) -> None:
    reader = Reader(page(sample_report(tmp_path), tmp_path))
    wanted = "caption: a painting of a brown dog with a scarf, seed 2"
    image = next(image for image in reader.named("img") if image["alt"].startswith(wanted))
    kind, data = image["src"].split(";base64,")
    assert kind == "data:image/png"
    shown = Image.open(io.BytesIO(base64.b64decode(data)))
    assert ImageChops.difference(shown, Image.open(tmp_path / "pictures/caption-1-2.png")).getbbox() is None


def nasty_report(folder: Path) -> EvaluationReport:
    report = sample_report(folder, prompts=(NASTY + " {}", "a {}"), token=NASTY)
    rows = dataclasses.replace(report.rows[0], encoder=NASTY, nearest=(((NASTY, 0.5),), ()))
    return dataclasses.replace(
        report,
        concept=dataclasses.replace(report.concept, base_model=NASTY, class_word=NASTY, initializer=NASTY),
        protocol=dataclasses.replace(report.protocol, name=NASTY, source=NASTY),
        scores=(*report.scores, Score.of(NASTY, NASTY, [1.0, 2.0])),
        phrases={**report.phrases, "caption": NASTY},
        settings={NASTY: NASTY},
        versions={NASTY: NASTY},
        rows=(rows,),
        published=tuple(dataclasses.replace(one, method=NASTY, metric=NASTY, source=NASTY) for one in report.published),
        notes=(NASTY,),
    )


def test_other_peoples_text_stays_text(tmp_path: Path) -> None:
    plain, nasty = Reader(page(sample_report(tmp_path, prompts=("b {}", "a {}")), tmp_path)), nasty_report(tmp_path)
    reader = Reader(page(nasty, tmp_path))
    assert reader.named("script") == []
    assert not any(name.startswith("on") for _, attributes in reader.tags for name in attributes)
    assert {tag for tag, _ in reader.tags} == {tag for tag, _ in plain.tags}
    assert len(reader.named("img")) == len(plain.named("img"))
    assert reader.words.count(NASTY) > 20


def test_the_page_fetches_nothing(tmp_path: Path) -> None:
    text = page(nasty_report(tmp_path), tmp_path)
    for tag, attributes in Reader(text).tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
    assert not re.search(r"url\(|@import", text)
    (policy,) = [meta["content"] for meta in Reader(text).named("meta") if "http-equiv" in meta]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_pictures_outside_the_folder_are_never_opened(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["secret.png"], 200)
    folder = tmp_path / "run" / "evaluation"
    report = sample_report(folder)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "text.png").write_text("no picture")
    names = ("../../secret.png", str(tmp_path / "secret.png"), "link.png", "text.png", "gone.png", "a\0b.png")
    entry = PictureSet(subject=WORD, prompt=PROMPTS[0], text="x", files=names, seeds=tuple(range(len(names))))
    text = page(dataclasses.replace(report, pictures=(entry,)), folder)
    assert Reader(text).named("img") == []
    assert text.count("picture is missing") == len(names)
    write_picture(dataclasses.replace(report, pictures=(entry,)), folder)


def test_of_many_pictures_the_first_are_shown(tmp_path: Path) -> None:
    names = [f"p/{number}.png" for number in range(MOST_PICTURES + 5)]
    write_pictures(tmp_path, names, 10)
    entry = PictureSet(subject=WORD, prompt="a {}", text="a <b>", files=tuple(names))
    text = page(dataclasses.replace(sample_report(tmp_path), pictures=(entry,)), tmp_path)
    assert len(Reader(text).named("img")) == MOST_PICTURES
    assert f"the first {MOST_PICTURES} of {MOST_PICTURES + 5}" in text


def test_a_bare_report_makes_a_page_and_a_picture_too(tmp_path: Path) -> None:
    report = sample_report(tmp_path)
    bare = EvaluationReport(concept=report.concept, protocol=report.protocol, scores=())
    assert "No score over all prompts was recorded." in write_page(bare, tmp_path).read_text(encoding="utf-8")
    with Image.open(write_picture(bare, tmp_path)) as picture:
        assert picture.width >= 900


def test_large_pictures_are_reduced(tmp_path: Path) -> None:
    report = sample_report(tmp_path)
    Image.effect_noise((1024, 768), 80).convert("RGB").save(tmp_path / report.pictures[0].files[0])
    image = Reader(page(report, tmp_path)).named("img")
    large = next(one for one in image if one["src"].startswith("data:image/jpeg"))
    assert Image.open(io.BytesIO(base64.b64decode(large["src"].split(",")[1]))).size == (256, 192)
    assert "class" not in large


def test_the_picture_to_share_shows_scores_and_pictures(tmp_path: Path) -> None:
    report = sample_report(tmp_path)
    with Image.open(write_picture(report, tmp_path)) as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24) or ()}
    blue, bars = (26, 86, 196), (168, 179, 192)
    shown = [name for entry in report.pictures if entry.subject in (WORD, REAL_PICTURES) for name in entry.files]
    seen = [Image.open(tmp_path / name).getpixel((0, 0)) for name in shown]
    assert {blue, bars, *seen} <= colours


def test_bars_begin_at_zero_and_end_at_their_means(tmp_path: Path) -> None:
    report = dataclasses.replace(
        sample_report(tmp_path),
        scores=(
            Score(metric="m", subject="word", mean=0.75, standard_error=0.25, n=2),
            Score(metric="m", subject="caption", mean=-0.25, n=1),
            Score(metric="m", subject="real pictures", mean=0.5, n=1),
        ),
    )
    word, caption, real = bars_of(report, "m")
    # From -0.25 to 1.0: zero lies at a fifth.
    assert (word.start, word.length, word.whisker) == (20.0, 60.0, (60.0, 40.0))
    assert (caption.start, caption.length, caption.whisker) == (0.0, 20.0, None)
    assert (real.start, real.length) == (20.0, 40.0)


def test_losses_and_norms_are_placed_in_proportion() -> None:
    assert loss_curve([(1, 0.5)]) is None
    curve = loss_curve([(0, 1.0), (50, 2.0), (100, 3.0)])
    assert curve is not None
    assert curve.points == "56.0,206.0 382.0,110.0 708.0,14.0"
    assert [tick.label for tick in curve.across] == ["0", "20", "40", "60", "80", "100"]
    flat = loss_curve([(5, 0.1), (5, 0.1)])
    assert flat is not None and "nan" not in flat.points
    strip = norm_strip(EncoderRows(encoder="e", norms=(1.0, 100.0), vocabulary_norms=(1.0, 10.0, 100.0)))
    assert strip is not None
    assert strip.median == pytest.approx(sum(strip.dots) / 2, abs=0.1)
    assert norm_strip(EncoderRows(encoder="e", norms=(0.0,), vocabulary_norms=(1.0, 10.0, 100.0))) is None


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.031, 0.0312), (-3.0, 900.0), (1.0, 1.0), (1e-9, 2e-9)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    ticks = round_values(low, high)
    assert 1 <= len(ticks) <= 8
    assert all(low - 1e-12 <= tick <= high + 1e-12 for tick in ticks)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip(NO_CHROMIUM)
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (1200, True), (360, False)])
def test_a_browser_shows_the_page(browser: Browser, tmp_path: Path, width: int, dark: bool) -> None:
    file = write_page(sample_report(tmp_path), tmp_path)
    browser.open(file, width, dark)
    assert browser.requests == [file.resolve().as_uri()]
    assert browser.messages == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    images = browser.evaluate("[...document.images].map(i => [i.complete, i.naturalWidth, i.clientWidth])")
    assert images and all(complete and natural == 16 and shown > 20 for complete, natural, shown in images)
    screen = browser.screenshot()
    assert screen.getpixel((1, 1)) == ((18, 22, 28) if dark else (255, 255, 255))
    colours = {colour for _, colour in screen.getcolors(1 << 24) or ()}
    assert ((110, 160, 255) if dark else (26, 86, 196)) in colours  # the word's bars
    assert Image.open(tmp_path / "pictures/word-2-2.png").getpixel((8, 8)) in colours


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_ground(browser: Browser, tmp_path: Path, dark: bool) -> None:
    browser.open(write_page(sample_report(tmp_path), tmp_path), dark=dark)
    names = ("--paper", "--panel", "--ink", "--soft", "--word")
    style = "getComputedStyle(document.documentElement)"
    colours = {name: browser.evaluate(f"{style}.getPropertyValue('{name}')").strip() for name in names}
    for ground in ("--paper", "--panel"):
        for ink in ("--ink", "--soft", "--word"):
            assert contrast(colours[ground], colours[ink]) >= 4.5, (ground, ink)  # WCAG 2.1, level AA


def contrast(first: str, second: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def test_a_browser_runs_nothing_of_other_peoples_text(browser: Browser, tmp_path: Path) -> None:
    file = write_page(nasty_report(tmp_path), tmp_path)
    browser.open(file, 500)
    assert browser.evaluate("window.hit") is None
    assert browser.evaluate("document.scripts.length") == 0
    assert browser.requests == [file.resolve().as_uri()]
    assert browser.evaluate("document.title").startswith("</title><script>")
    assert browser.evaluate("document.documentElement.scrollWidth") <= 500
