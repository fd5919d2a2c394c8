"""``report.html``: a report as one page that needs nothing but itself.

Tokens, prompts and captions are other people's text: the template escapes all of it, and the page's own policy forbids
scripts and whatever would have to be fetched.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from textual_inversion_ext.atomic import atomic_write
from textual_inversion_ext.evaluation.charts import WIDTH, Bar, Norms, bars_of, loss_curve, norm_strip
from textual_inversion_ext.evaluation.facts import EncoderRows, PictureSet
from textual_inversion_ext.evaluation.report import EvaluationReport
from textual_inversion_ext.evaluation.score import REAL_PICTURES, WORD, Score
from textual_inversion_ext.evaluation.shown import Embedded, embedded, references, sets_of_prompt, shown_pictures

PAGE_FILE = "report.html"
"""Name of the page."""

MOST_PICTURES = 16
"""Pictures of a subject and prompt that are shown; a protocol with 64 samples would make a page of a hundred MB."""
_MOST_REFERENCES = 8
_LONGEST = 256  # pixels of a picture's longer side
_MOST_BESIDE, _LONGEST_BESIDE = 4, 112


@dataclass(frozen=True, slots=True)
class Tile:
    """A picture as the template writes it.

    Attributes:
        image: The picture, or None where there is no such picture.
        alt: What a reader hears who does not see it.
        seed: Its seed, or None.
        scores: Short metric name and score.
    """

    image: Embedded | None
    alt: str
    seed: int | None
    scores: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Strip:
    """The pictures of a subject and a prompt.

    Attributes:
        subject: Whose.
        text: The prompt as the model got it.
        total: How many there are; ``tiles`` may be fewer.
        means: Scores of these pictures together.
        tiles: Those that are shown.
        ours: Whether they are the learned word's.
    """

    subject: str
    text: str
    total: int
    means: tuple[Score, ...]
    tiles: tuple[Tile, ...]
    ours: bool


@dataclass(frozen=True, slots=True)
class Section:
    """All pictures of a prompt.

    Attributes:
        prompt: The prompt with a star where the word goes.
        strips: One per subject.
    """

    prompt: str
    strips: tuple[Strip, ...]


def write_page(report: EvaluationReport, folder: str | Path) -> Path:
    """Write ``report.html``.

    Args:
        report: The report.
        folder: Where ``report.json`` lies; the pictures are read from there, and the page goes there.

    Returns:
        The page.

    Raises:
        StorageError: It cannot be written.
    """
    file = Path(folder) / PAGE_FILE
    atomic_write(file, page(report, Path(folder)))
    return file


def page(report: EvaluationReport, folder: Path) -> str:
    """Make the page.

    Args:
        report: The report.
        folder: Where ``report.json`` lies. Pictures that are missing there are said to be missing.

    Returns:
        HTML.
    """
    real = references(report, folder, _MOST_REFERENCES)
    source = files("textual_inversion_ext.evaluation") / "templates" / "report.html.jinja"
    # Without `trim_blocks` every line of a loop would leave an empty one.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["short"] = short_name
    return environment.from_string(source.read_text(encoding="utf-8")).render(
        report=report,
        width=WIDTH,
        tables=_tables(report),
        prompts=tuple(dict.fromkeys(score.prompt for score in report.scores if score.prompt is not None)),
        references=[embedded(picture, _LONGEST) for picture in real],
        # Once more for every prompt, so they are small there.
        beside=[embedded(picture, _LONGEST_BESIDE) for picture in real[:_MOST_BESIDE]],
        sections=_sections(report, folder),
        strips=_norm_strips(report),
        curve=loss_curve(report.losses),
        most=MOST_PICTURES,
    )


def short_name(metric: str) -> str:
    """A metric's name without its backbone, where there is no room for both.

    Args:
        metric: For example "clip_image (pocket)".

    Returns:
        For example "clip image".
    """
    return metric.split(" (")[0].replace("_", " ")


def _tables(report: EvaluationReport) -> list[tuple[str, bool, list[Bar]]]:
    """Metric, whether a higher score is better, and its bars."""
    direction = {score.metric: score.higher_is_better for score in report.scores}
    tables = [(metric, direction[metric], bars_of(report, metric)) for metric in report.metrics]
    return [table for table in tables if table[2]]


def _norm_strips(report: EvaluationReport) -> list[tuple[EncoderRows, Norms | None]]:
    return [(rows, norm_strip(rows)) for rows in report.rows]


def _sections(report: EvaluationReport, folder: Path) -> list[Section]:
    prompts = dict.fromkeys(entry.prompt for entry in report.pictures if entry.prompt is not None)
    sections = []
    for prompt in prompts:
        strips = []
        for entry in sets_of_prompt(report, prompt):
            if entry.subject == REAL_PICTURES:
                continue
            means = [report.score(metric, entry.subject, prompt) for metric in report.metrics]
            strips.append(
                Strip(
                    entry.subject,
                    entry.text,
                    len(entry.files),
                    tuple(score for score in means if score is not None),
                    _tiles(report, folder, entry),
                    entry.subject == WORD,
                )
            )
        sections.append(Section(prompt.replace("{}", "*"), tuple(strips)))
    return sections


def _tiles(report: EvaluationReport, folder: Path, entry: PictureSet) -> tuple[Tile, ...]:
    tiles = []
    for number, shown in enumerate(shown_pictures(report, folder, entry, MOST_PICTURES), start=1):
        which = f"picture {number}" if shown.seed is None else f"seed {shown.seed}"
        told = tuple((short_name(metric), f"{value:.3f}") for metric, value in shown.scores)
        scores = "".join(f", {metric} {value}" for metric, value in told)
        image = None if shown.picture is None else embedded(shown.picture, _LONGEST)
        tiles.append(Tile(image, f"{entry.subject}: {entry.text}, {which}{scores}", shown.seed, told))
    return tuple(tiles)
