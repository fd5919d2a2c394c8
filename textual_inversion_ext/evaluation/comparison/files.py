"""What a comparison leaves behind: a page, the plot as a picture, and a table for other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path

from textual_inversion_ext.atomic import atomic_write
from textual_inversion_ext.errors import OutputFolderError
from textual_inversion_ext.evaluation.comparison.bootstrap import Interval
from textual_inversion_ext.evaluation.comparison.drawing import Drawing
from textual_inversion_ext.evaluation.comparison.plot import Point, plot
from textual_inversion_ext.evaluation.comparison.tables import Comparison, Row, Table
from textual_inversion_ext.evaluation.score import REAL_PICTURES

__all__ = ["COLUMNS", "check_folder", "plot_of", "to_csv", "to_html", "to_markdown", "write_comparison"]

COLUMNS = (
    ("model_and_protocol", "run", "kind", "concept", "metric", "mean", "low", "high", "concepts", "pictures")
    + ("difference", "difference_low", "difference_high", "facts")
)  # fmt: skip
"""Columns of the CSV file: one line per run, concept and metric; concept is "" in lines about the mean."""

_PAGE, _TABLE = "comparison.html", "comparison.csv"
# A spreadsheet takes text that begins like this for a formula and runs it.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def check_folder(folder: str | Path, tables: int = 1) -> None:
    """Refuse to replace what no comparison wrote.

    Args:
        folder: Where a comparison is to go.
        tables: How many tables it has; each may have a plot.

    Raises:
        OutputFolderError: It is a file, or holds files of a comparison's names without a comparison's table.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise OutputFolderError(f"{folder} is a file; give the name of a folder.")
    plots = [_plot_name(number) for number in range(1, tables + 1)]
    names = [name for name in (_PAGE, _TABLE, *plots) if (folder / name).exists()]
    if names and _table_text(folder) is None:
        raise OutputFolderError(
            f"{folder} holds {', '.join(names)}, and no {_TABLE} says that a comparison wrote it. Choose another"
            " --output_dir, or move these files away."
        )


def write_comparison(comparison: Comparison, folder: str | Path, title: str = "Comparison") -> list[Path]:
    """Write the page, the plots and the table.

    Args:
        comparison: What was compared.
        folder: Where they go; made if it is missing.
        title: Headline of the page and the plots.

    Returns:
        ``comparison.html``, ``comparison.csv``, and for each table that has a plot ``comparison.png``,
        ``comparison-2.png`` and so on.

    Raises:
        OutputFolderError: The folder holds files of these names that no comparison wrote.
        StorageError: They cannot be written.
    """
    folder = Path(folder)
    check_folder(folder, len(comparison.tables))
    earlier = _plots_of(_table_text(folder) or "")
    written = [folder / _PAGE, folder / _TABLE]
    atomic_write(written[1], to_csv(comparison))  # first: by it the others are known to be of a comparison
    atomic_write(written[0], to_html(comparison, title))
    drawings = [plot_of(table, title) for table in comparison.tables]
    for number, drawing in enumerate(drawings, start=1):
        if drawing is not None:
            written.append(folder / _plot_name(number))
            atomic_write(written[-1], drawing.to_png())
    for name in earlier:  # A plot of an earlier comparison would pass for one of this.
        if folder / name not in written:
            (folder / name).unlink(missing_ok=True)
    return written


def plot_of(table: Table, title: str = "") -> Drawing | None:
    """Draw editability against reconstruction.

    Args:
        table: Runs that can be compared.
        title: Above the plot.

    Returns:
        The drawing, or None where no run has both scores.
    """
    across, upwards = table.axes
    if across is None or upwards is None:
        return None
    points = [
        Point(row.name, row.means.get(across), row.means.get(upwards), row.baseline)
        for row in table.rows
        if not row.name.startswith(f"{REAL_PICTURES}, ")  # other ways to count the same bound; the table has them
    ]
    if not any(point.x and point.y for point in points):
        return None
    return plot(points, x_label=f"reconstruction: {across}", y_label=f"editability: {upwards}", title=title)


def to_csv(comparison: Comparison) -> str:
    """Write every number as comma-separated values.

    Args:
        comparison: What was compared.

    Returns:
        The file's text, with the columns ``COLUMNS``.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for table in comparison.tables:
        for row in table.rows:
            for line in _lines(table, row):
                writer.writerow([_cell(value) for value in line])
    return text.getvalue()


def to_html(comparison: Comparison, title: str) -> str:
    """Write a page that needs nothing but itself.

    Args:
        comparison: What was compared.
        title: Its headline.

    Returns:
        The page; all text in it is escaped.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    source = files("textual_inversion_ext.evaluation.comparison") / "templates" / "comparison.html.jinja"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["interval"] = shown
    plots = [plot_of(table) for table in comparison.tables]
    return environment.from_string(source.read_text(encoding="utf-8")).render(
        title=title,
        notices=comparison.notices,
        # The drawing escapes its texts itself.
        tables=list(zip(comparison.tables, [plot and Markup(plot.to_svg()) for plot in plots], strict=True)),
    )


def to_markdown(table: Table) -> str:
    """Write the means of a table for a README or a model card.

    Args:
        table: Runs that can be compared.

    Returns:
        A table with a line for each run and baseline.
    """
    from textual_inversion_ext.evaluation.markdown import score_table

    lines = [
        (row.name, *(shown(row.means[metric]) if metric in row.means else "" for metric in table.metrics))
        for row in table.rows
    ]
    return score_table(("", *table.metrics), lines)


def shown(value: Interval) -> str:
    """Write a mean with its interval.

    Args:
        value: The mean.

    Returns:
        For example ``0.812 [0.790, 0.834]``.
    """
    return f"{value.mean:.3f}" + ("" if value.low is None else f" [{value.low:.3f}, {value.high:.3f}]")


def _plot_name(number: int) -> str:
    return "comparison.png" if number == 1 else f"comparison-{number}.png"


def _table_text(folder: Path) -> str | None:
    """The table that a comparison left in a folder, or None if there is none."""
    try:
        text = (folder / _TABLE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return text if text.startswith(COLUMNS[0]) else None


def _plots_of(text: str) -> list[str]:
    """Names of the plots that a comparison can have left: its tables are numbered, and each has a run of its own."""
    runs = {line["run"] for line in csv.DictReader(io.StringIO(text)) if line.get("kind") == "run"}
    return [_plot_name(number) for number in range(1, len(runs) + 1)]


def _lines(table: Table, row: Row) -> Iterator[list[object]]:
    facts = "; ".join(f"{name} {value}" for name, value in row.facts.items())
    parts: list[tuple[str, Mapping[str, Interval], Mapping[str, Interval]]] = [("", row.means, row.differences)]
    parts += [(token, means, {}) for token, means in row.by_concept.items()]
    for token, means, differences in parts:
        for metric, value in means.items():
            line = [table.rules, row.name, "baseline" if row.baseline else "run", token, metric]
            above = differences.get(metric)
            apart = [None] * 3 if above is None else [above.mean, above.low, above.high]
            yield [*line, value.mean, value.low, value.high, value.concepts, value.images, *apart, facts]


def _cell(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.6f}"
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value
