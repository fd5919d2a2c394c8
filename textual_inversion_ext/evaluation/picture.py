"""``report.png``: the gist of a report as one picture to share."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from textual_inversion_ext.atomic import atomic_write
from textual_inversion_ext.evaluation.charts import Bar, bars_of
from textual_inversion_ext.evaluation.report import EvaluationReport
from textual_inversion_ext.evaluation.score import CAPTION, CLASS_WORD, INITIAL_ROWS, SUBJECTS, WORD
from textual_inversion_ext.evaluation.shown import read_picture, references, sets_of_prompt
from textual_inversion_ext.pipelines.sheets import contact_sheet

PICTURE_FILE = "report.png"
"""Name of the picture."""

_MOST_PROMPTS = 4
_MOST_METRICS = 3
_SAMPLES = 3  # of the word, per prompt
_LONGEST = 256
_PAPER, _INK, _SOFT, _TRACK = (255, 255, 255), (31, 35, 40), (89, 99, 110), (235, 238, 241)
_OURS, _OTHER = (26, 86, 196), (168, 179, 192)
_MARGIN, _GAP = 8, 28
_SMALLEST_WIDTH = 900


def write_picture(report: EvaluationReport, folder: str | Path) -> Path:
    """Write ``report.png``.

    Args:
        report: The report.
        folder: Where ``report.json`` lies; the pictures are read from there, and the picture goes there.

    Returns:
        The picture's file.

    Raises:
        StorageError: It cannot be written.
    """
    data = io.BytesIO()
    picture(report, Path(folder)).save(data, "PNG", optimize=True)
    file = Path(folder) / PICTURE_FILE
    atomic_write(file, data.getvalue())
    return file


def picture(report: EvaluationReport, folder: Path) -> Image.Image:
    """Draw a report: bars of its first metrics, and below them pictures of its first prompts.

    Args:
        report: The report.
        folder: Where ``report.json`` lies. Pictures that are missing there leave their cell empty.

    Returns:
        The picture, RGB.
    """
    sheet = _sheet(report, folder)
    width = max(_SMALLEST_WIDTH, 0 if sheet is None else sheet.width)
    head = _head(report, width)
    drawn = Image.new("RGB", (width, head.height + (0 if sheet is None else sheet.height)), _PAPER)
    drawn.paste(head, (0, 0))
    if sheet is not None:
        drawn.paste(sheet, (0, head.height))
    return drawn


def _head(report: EvaluationReport, width: int) -> Image.Image:
    """Title and bars."""
    drawn_bars = {metric: _common(bars_of(report, metric)) for metric in report.metrics}
    tables = [(metric, bars) for metric, bars in drawn_bars.items() if bars][:_MOST_METRICS]
    lines = max((len(bars) for _, bars in tables), default=0)
    title, plain = ImageFont.load_default(size=22), ImageFont.load_default(size=15)
    drawn = Image.new("RGB", (width, 78 + (34 + 24 * lines if tables else 0)), _PAPER)
    draw = ImageDraw.Draw(drawn)
    draw.text((_MARGIN, 10), _cut(f"{report.concept.token} on {report.concept.base_model}", title, width), _INK, title)
    rules = f"protocol {report.protocol.name}: {len(report.protocol.prompts)} prompts, "
    rules += f"{len(report.protocol.seeds)} pictures each"
    draw.text((_MARGIN, 42), _cut(rules, plain, width), _SOFT, plain)
    each = (width - 2 * _MARGIN + _GAP) // max(1, len(tables)) - _GAP
    for place, (metric, bars) in enumerate(tables):
        _draw_bars(draw, (_MARGIN + place * (each + _GAP), 78), each, metric, bars)
    return drawn


def _common(bars: Sequence[Bar]) -> list[Bar]:
    """The bars that every protocol has; all where there are none."""
    return [bar for bar in bars if bar.subject in SUBJECTS] or list(bars)


def _draw_bars(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], width: int, metric: str, bars: Sequence[Bar]
) -> None:
    font = ImageFont.load_default(size=15)
    left, top = corner
    arrow = "higher is better" if bars[0].score.higher_is_better else "lower is better"
    draw.text((left, top), _cut(f"{metric}, {arrow}", font, width), _INK, font)
    start, end = left + 104, left + width - 54
    for line, bar in enumerate(bars, start=1):
        y = top + 4 + 24 * line
        draw.text((left, y), _cut(bar.subject, font, 100), _INK, font)
        draw.rectangle((start, y + 2, end, y + 16), _TRACK)
        first = start + (end - start) * bar.start / 100
        last = first + (end - start) * bar.length / 100
        draw.rectangle((first, y + 2, last, y + 16), _OURS if bar.ours else _OTHER)
        if bar.whisker is not None:
            begin = start + (end - start) * bar.whisker[0] / 100
            draw.line((begin, y + 9, begin + (end - start) * bar.whisker[1] / 100, y + 9), _INK, 2)
        draw.text((left + width, y), f"{bar.score.mean:.3f}", _INK, font, anchor="ra")


def _sheet(report: EvaluationReport, folder: Path) -> Image.Image | None:
    """A row per prompt: a real picture, one without the word, some with it."""
    shown = {entry.subject for entry in report.pictures if entry.prompt is not None}
    baseline = next((subject for subject in (CAPTION, CLASS_WORD, INITIAL_ROWS) if subject in shown), None)
    columns = [(WORD, number) for number in range(_SAMPLES)]
    if baseline is not None:
        columns.insert(0, (baseline, 0))
    real = references(report, folder, _MOST_PROMPTS)
    prompts = list(islice(dict.fromkeys(entry.prompt for entry in report.pictures if entry.prompt), _MOST_PROMPTS))
    rows = []
    for number, prompt in enumerate(prompts):
        files = {entry.subject: entry.files for entry in sets_of_prompt(report, prompt)}
        row: list[Image.Image | None] = [_reduced(real[number % len(real)])] if real else []
        for subject, place in columns:
            names = files.get(subject, ())
            found = read_picture(folder, names[place]) if place < len(names) else None
            row.append(None if found is None else _reduced(found))
        rows.append(row)
    labels = ["real picture"] * bool(real)
    labels += [_label(report, subject) for subject, _ in columns]
    if not any(cell is not None for row in rows for cell in row):
        return None
    return contact_sheet(rows, row_labels=[prompt.replace("{}", "*") for prompt in prompts], column_labels=labels)


def _label(report: EvaluationReport, subject: str) -> str:
    phrase = report.phrase(subject)
    return f"{subject}: {phrase}" if phrase else subject


def _reduced(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.thumbnail((_LONGEST, _LONGEST), Image.Resampling.LANCZOS)
    return image


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """The beginning of a line that fits."""
    line = " ".join(text.split())
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(f"{line}...") > width:
        line = line[:-1]
    return f"{line}..."
