"""What a comparison leaves behind: the plot, its picture, the page and the table."""

from __future__ import annotations

import csv
import io
import re
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from tests.browser import CHROMIUM, NO_CHROMIUM, Browser
from tests.score_reports import IMAGE, TEXT, report, run
from textual_inversion_ext.errors import OutputFolderError, StorageError
from textual_inversion_ext.evaluation.comparison.bootstrap import Interval
from textual_inversion_ext.evaluation.comparison.drawing import Drawing, Line, Mark, Text, text_width
from textual_inversion_ext.evaluation.comparison.files import COLUMNS, plot_of, to_csv, to_markdown, write_comparison
from textual_inversion_ext.evaluation.comparison.plot import HEIGHT, WIDTH, Point, plot
from textual_inversion_ext.evaluation.comparison.tables import Comparison, compare

NASTY = "<script>alert('a & b')</script>"


def interval(mean: float, half: float = 0.01) -> Interval:
    return Interval(mean, mean - half, mean + half, 3, 12)


def comparison(*names: str) -> Comparison:
    baselines = {"class word": ([0.4, 0.5], [0.7, 0.8]), "real pictures": ([0.9, 0.8], [])}
    return compare(
        [
            run(name, report([0.6, 0.6 + n / 10], [0.5, 0.4], baselines=baselines, notes=(f"a note of {name}",)))
            for n, name in enumerate(names)
        ]
    )


def boxes(drawing: Drawing) -> dict[str, tuple[float, float, float, float]]:
    """Where the labels of the marks lie."""
    labels = [part for part in drawing.parts if isinstance(part, Text) and part.halo]
    return {
        label.text: (x, y - label.size, x + text_width(label.text, label.size), y)
        for label, (x, y) in ((label, label.place) for label in labels)
    }


def test_a_mark_lies_where_its_scores_say() -> None:
    points = [Point("a", interval(0.6), interval(0.5)), Point("b", interval(0.8), interval(0.7))]
    drawing = plot([*points, Point("c", interval(0.7), interval(0.6), baseline=True)], x_label="x", y_label="y")
    a, b, c = (part for part in drawing.parts if isinstance(part, Mark))
    assert b.place[0] > a.place[0] and b.place[1] < a.place[1], "to the right and upwards is more"
    assert c.place == pytest.approx(((a.place[0] + b.place[0]) / 2, (a.place[1] + b.place[1]) / 2))
    assert (a.shape, b.shape, c.shape) == ("disc", "disc", "diamond")
    bars = [part for part in drawing.parts if isinstance(part, Line) and part.colour == a.colour]
    across = next(bar for bar in bars if bar.start[1] == bar.end[1])
    assert (across.start[0] + across.end[0]) / 2 == pytest.approx(a.place[0])
    # The bar is 0.02 long where a and b are 0.2 apart.
    assert (across.end[0] - across.start[0]) == pytest.approx((b.place[0] - a.place[0]) / 10)


def test_labels_do_not_cover_each_other() -> None:
    numbers = np.random.default_rng(1)
    points = [
        Point(f"learning_rate-{n}", interval(x), interval(y))
        for n, (x, y) in enumerate(numbers.normal([0.7, 0.5], [0.03, 0.03], (12, 2)))
    ]
    points += [Point("far", interval(0.95), interval(0.9)), Point("corner", interval(0.4), interval(0.1))]
    drawing = plot(points, x_label="x", y_label="y")
    found = boxes(drawing)
    assert len(found) == 14
    for one, other in combinations(found.values(), 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    marks = [part.place for part in drawing.parts if isinstance(part, Mark)]
    for left, top, right, bottom in found.values():
        assert left >= 0 and top >= 0 and right <= WIDTH and bottom <= HEIGHT
        assert not any(left < x < right and top < y < bottom for x, y in marks)


def test_what_has_one_score_only_is_a_dashed_line() -> None:
    points = [Point("run", interval(0.6), interval(0.5)), Point("real", interval(0.9), None, True)]
    drawing = plot([*points, Point("prompt", None, interval(0.7), True)], x_label="x", y_label="y")
    upright, level = [part for part in drawing.parts if isinstance(part, Line) and part.dashed]
    assert upright.start[0] == upright.end[0] and level.start[1] == level.end[1]
    assert len([part for part in drawing.parts if isinstance(part, Mark)]) == 1


def test_a_far_baseline_does_not_press_the_runs_into_a_corner() -> None:
    runs = [Point(name, interval(x), interval(y)) for name, x, y in (("a", 0.6, 0.5), ("b", 0.7, 0.6))]
    near, far = Point("class", interval(0.5), interval(0.7), True), Point("images", interval(0.9), interval(0.1), True)
    drawing = plot([*runs, near, far], x_label="x", y_label="y")
    assert len([part for part in drawing.parts if isinstance(part, Mark)]) == 3
    (line,) = [part for part in drawing.parts if isinstance(part, Line) and part.dashed]
    assert line.start[0] == line.end[0], "its near score stays, as a line"
    # A run is what the plot is about: it stays a mark wherever it is.
    drawing = plot([*runs, Point("bad", interval(0.9), interval(0.1))], x_label="x", y_label="y")
    assert len([part for part in drawing.parts if isinstance(part, Mark)]) == 3


def test_one_run_without_intervals_can_be_drawn() -> None:
    lonely = Interval(0.5, None, None, 1, 1)
    drawing = plot([Point("one", lonely, lonely)], x_label="x", y_label="y")
    ElementTree.fromstring(drawing.to_svg())
    with pytest.raises(ValueError, match="score"):
        plot([], x_label="x", y_label="y")


def test_svg_and_png_show_the_same_marks() -> None:
    drawing = plot(
        [Point("run", interval(0.6), interval(0.5)), Point("class", interval(0.4), interval(0.7), True)],
        x_label="across", y_label="upwards", title=NASTY,
    )  # fmt: skip
    svg = ElementTree.fromstring(drawing.to_svg())
    space = "{http://www.w3.org/2000/svg}"
    (circle,) = svg.iter(f"{space}circle")
    x, y = float(circle.get("cx", 0)), float(circle.get("cy", 0))
    picture = Image.open(io.BytesIO(drawing.to_png()))
    assert picture.size == (2 * WIDTH, 2 * HEIGHT)
    assert "#{:02x}{:02x}{:02x}".format(*picture.getpixel((2 * x, 2 * y))) == circle.get("fill")
    assert {element.text for element in svg.iter(f"{space}text")} >= {"across", "upwards", NASTY, "run", "class"}


def test_the_page_escapes_and_fetches_nothing(tmp_path: Path) -> None:
    written = write_comparison(comparison("plain", NASTY), tmp_path, title=NASTY)
    assert [file.name for file in written] == ["comparison.html", "comparison.csv", "comparison.png"]
    page = written[0].read_text(encoding="utf-8")
    assert "<script" not in page.casefold()
    assert page.count("&lt;script&gt;") >= 4  # headline, table, note, plot
    assert not re.search(r"(src|href)\s*=|@import|url\(", page)
    parser = HTMLParser()
    parser.feed(page)
    parser.close()
    assert "<svg" in page and "real pictures" in page
    assert "0.650 [0.600, 0.700]" in page and "+0.050 [+0.000, +0.100]" in page


def test_concepts_that_the_first_run_lacks_are_on_the_page(tmp_path: Path) -> None:
    cat, dog = report([0.6, 0.8], [0.3, 0.5]), report([0.9, 0.7], [0.1, 0.2], token="<dog>")
    write_comparison(compare([run("first", cat), run("second", cat, dog)]), tmp_path)
    page = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    details = page[page.index("Concept by concept") :]
    assert "<td>&lt;cat&gt;</td>" in details and "<td>&lt;dog&gt;</td>" in details


@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
@pytest.mark.parametrize("width", [1200, 360])
def test_a_browser_shows_the_page(tmp_path: Path, width: int) -> None:
    page, *_ = write_comparison(comparison("plain", NASTY), tmp_path, title=NASTY)
    with Browser(tmp_path / "profile") as browser:
        browser.open(page, width)
        assert browser.requests == [page.resolve().as_uri()]
        assert browser.messages == [] and browser.evaluate("document.scripts.length") == 0
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        marks = "[...document.querySelectorAll('svg *')].filter(part => part.getBoundingClientRect().width > 0).length"
        assert browser.evaluate(marks) > 10
        colours = {colour for _, colour in browser.screenshot().getcolors(1 << 24) or ()}
    assert (0x00, 0x72, 0xB2) in colours, "the first run's mark"


def test_the_table_holds_every_number() -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv(comparison("first", "second")))))
    assert tuple(lines[0]) == COLUMNS
    (line,) = [n for n in lines if (n["run"], n["concept"], n["metric"]) == ("second", "", IMAGE)]
    assert [float(line[name]) for name in ("mean", "low", "high")] == [0.65, 0.6, 0.7]
    assert [float(line[name]) for name in ("difference", "difference_low", "difference_high")] == [0.05, 0.0, 0.1]
    assert (line["kind"], line["concepts"], line["pictures"]) == ("run", "1", "2")
    assert {n["run"] for n in lines if n["kind"] == "baseline"} == {"class word", "real pictures"}
    assert {n["concept"] for n in lines} == {"", "<cat>"}


def test_no_spreadsheet_takes_a_name_for_a_formula() -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv(comparison("=1+1", 'a,"b"\nc')))))
    assert {n["run"] for n in lines if n["kind"] == "run"} == {"'=1+1", 'a,"b"\nc'}


def test_the_markdown_table_names_runs_and_metrics() -> None:
    (table,) = comparison("first", "se|cond").tables
    text = to_markdown(table)
    assert text.splitlines()[0].count("|") == 4
    assert "0.650 \\[0.600, 0.700\\]" in text and "se\\|cond" in text


def test_incomparable_runs_get_a_plot_of_their_own(tmp_path: Path) -> None:
    made = compare([run("a", report([0.6, 0.7], [0.5, 0.6])), run("b", report([0.6, 0.7], [0.5, 0.6], model="other"))])
    names = [file.name for file in write_comparison(made, tmp_path)]
    assert names == ["comparison.html", "comparison.csv", "comparison.png", "comparison-2.png"]
    page = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert "Not comparable with a: b (model: tiny and other)" in page
    assert page.count("<svg") == 2


def test_a_plot_of_an_earlier_comparison_does_not_stay(tmp_path: Path) -> None:
    runs = [run("a", report([0.6, 0.7], [0.5, 0.6])), run("b", report([0.6, 0.7], [0.5, 0.6], model="other"))]
    write_comparison(compare(runs), tmp_path)
    mine = {"comparison-of-mine.png", "comparison-2024.png"}
    for name in mine:
        (tmp_path / name).touch()
    assert (tmp_path / "comparison-2.png").exists()
    write_comparison(compare(runs[:1]), tmp_path)
    assert {file.name for file in tmp_path.glob("*.png")} == {"comparison.png", *mine}
    (tmp_path / "comparison.csv").unlink()
    with pytest.raises(OutputFolderError, match=r"holds comparison\.html, comparison\.png, and no comparison\.csv"):
        write_comparison(compare(runs), tmp_path)


def test_without_one_of_the_axes_there_is_no_plot(tmp_path: Path) -> None:
    made = compare([run("a", report([0.6], [0.5], metrics=("dino (tiny)", TEXT)))])
    assert plot_of(made.tables[0]) is None
    assert [file.name for file in write_comparison(made, tmp_path)] == ["comparison.html", "comparison.csv"]
    assert "dino (tiny)" in (tmp_path / "comparison.html").read_text(encoding="utf-8")


def test_a_failed_write_leaves_the_old_files(tmp_path: Path) -> None:
    write_comparison(comparison("a"), tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    (tmp_path / "comparison.html").unlink()
    (tmp_path / "comparison.html").mkdir()  # cannot be replaced by a file
    (tmp_path / "comparison.html" / "x").touch()
    with pytest.raises(StorageError, match=r"comparison\.html"):
        write_comparison(comparison("a", "b"), tmp_path)
    assert (tmp_path / "comparison.png").read_bytes() == before["comparison.png"]
    assert not list(tmp_path.glob(".*partial"))
