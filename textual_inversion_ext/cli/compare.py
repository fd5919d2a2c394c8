"""``textual-inversion compare``: several runs in one table and one plot, and sweeps over any flags."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual_inversion_ext.errors import ConfigError, ReportError

if TYPE_CHECKING:
    from textual_inversion_ext.evaluation.comparison.runs import EvaluatedRun
    from textual_inversion_ext.evaluation.comparison.tables import Table

HELP = "Compare evaluated runs: a table with intervals and the editability-versus-reconstruction plot."

logger = logging.getLogger(__name__)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags.

    Args:
        parser: The verb's parser.
    """
    many: dict[str, Any] = {"nargs": "*", "default": [], "metavar": "RUN"}
    parser.add_argument("runs", **many, help="Folders of evaluated runs; differences are taken from the first.")
    parser.add_argument(
        "--sweep",
        type=Path,
        default=None,
        metavar="FILE",
        help='Train and evaluate a grid first: JSON with "flags" for all runs, "grid" (flag: list of values) and '
        '"runs" (name: flags). Flags are those of train and evaluate. What is done already is skipped.',
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        default=None,
        metavar="DIR",
        help="Default: comparison; with --sweep the name of its file, and the runs go there too.",
    )
    parser.add_argument(
        "--axes",
        nargs=2,
        default=None,
        metavar=("ACROSS", "UP"),
        help="Metrics of the plot. Default: clip_image clip_text.",
    )
    parser.add_argument("--title", default="Comparison", help="Headline of page and plot. Default: Comparison.")


def run(flags: argparse.Namespace) -> None:
    """Run the sweep, if there is one; compare; say where the files are.

    Args:
        flags: The parsed flags.

    Raises:
        ConfigError: There is nothing to compare.
        ReportError: No run has a report, or runs of the sweep failed.
    """
    if not flags.runs and flags.sweep is None:
        raise ConfigError("There is nothing to compare; give the folders of runs, or --sweep FILE.")
    from textual_inversion_ext.evaluation.comparison.files import check_folder

    folder = flags.output_dir or (Path("comparison") if flags.sweep is None else Path(flags.sweep.stem))
    places = [Path(place) for place in flags.runs]
    failures: tuple[tuple[str, str], ...] = ()
    if flags.sweep is not None:
        from textual_inversion_ext.cli.sweep import run_sweep
        from textual_inversion_ext.cli.sweep_plan import read_sweep

        if folder.resolve() == flags.sweep.resolve():
            raise ConfigError(f"--output_dir {folder} is the sweep's file; name a folder.")
        check_folder(folder)
        result = run_sweep(read_sweep(flags.sweep), folder)
        places, failures = [*places, *result.folders], result.failures
    told = "\n".join(f"  {name}: {message}" for name, message in failures)
    if not places:
        raise ReportError(f"All {len(failures)} runs of the sweep failed; there is nothing to compare.\n{told}")
    show(places, folder, title=flags.title, axes=tuple(flags.axes) if flags.axes else None)
    if failures:
        raise ReportError(f"{len(failures)} run(s) of the sweep failed; the others are compared.\n{told}")


def show(
    places: Sequence[Path], folder: Path, *, title: str = "Comparison", axes: tuple[str, str] | None = None
) -> None:
    """Compare runs, write the files, print the tables.

    Args:
        places: Folders of runs; those without a report are named and left out.
        folder: Where the files go.
        title: Headline of page and plot.
        axes: Metrics of the plot; None for CLIP image and text score.

    Raises:
        ReportError: None of the runs has a report.
        ConfigError: No report has a metric that `axes` names.
    """
    from textual_inversion_ext.evaluation.comparison.files import write_comparison
    from textual_inversion_ext.evaluation.comparison.tables import AXES, compare

    runs, missing = _read(places)
    if not runs:
        raise ReportError("\n".join(missing))
    comparison = compare(runs, axes or AXES)
    if axes is not None:
        _check_axes(axes, comparison.tables)
    unknown = [
        f"No plot of {table.rows[0].name}: no report has {' and '.join(lacking)}; there are {', '.join(table.metrics)}."
        for table in comparison.tables
        if (lacking := [key for key, name in zip(axes or AXES, table.axes, strict=True) if name is None])
    ]
    notices = (*comparison.notices, *(f"Left out: {reason}" for reason in missing), *unknown)
    for notice in notices:
        logger.warning("notice: %s", notice)
    for table in comparison.tables:
        print("\n".join(["", table.rules, *table_lines(table), ""]))
    written = write_comparison(replace(comparison, notices=notices), folder, title)
    print("\n".join(f"{file}" for file in written))


def _check_axes(axes: tuple[str, str], tables: Sequence[Table]) -> None:
    """Refuse a mistyped name before the plots of an earlier comparison give way to none."""
    from textual_inversion_ext.evaluation.comparison.runs import metric_named

    known = tuple(dict.fromkeys(name for table in tables for name in table.metrics))
    if unknown := [axis for axis in axes if metric_named(known, axis) is None]:
        raise ConfigError(f"--axes names {' and '.join(unknown)}, which no report has; there are {', '.join(known)}.")


def table_lines(table: Table) -> list[str]:
    """Lay the means out for a terminal.

    Args:
        table: Runs that can be compared.

    Returns:
        A line for the head, and one for each run and baseline.
    """
    from textual_inversion_ext.evaluation.comparison.files import shown

    rows = [["", *table.metrics]]
    for row in table.rows:
        rows.append([row.name, *(shown(row.means[name]) if name in row.means else "" for name in table.metrics)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _read(places: Sequence[Path]) -> tuple[list[EvaluatedRun], list[str]]:
    """Read what has a report, under the shortest names that tell the folders apart."""
    from textual_inversion_ext.evaluation.comparison.runs import read_run

    distinct = list(dict.fromkeys(place.resolve() for place in places))
    runs, missing = [], []
    for place, name in zip(distinct, run_names(distinct), strict=True):
        try:
            runs.append(read_run(place, name))
        except ReportError as error:
            missing.append(str(error))
    return runs, missing


def run_names(places: Sequence[Path]) -> list[str]:
    """Name folders by as many of their last parts as tell them apart.

    Args:
        places: Different absolute paths.

    Returns:
        One name each, for example "gal/seed-1" and "dti/seed-1", or just "gal" and "dti".
    """
    names = []
    for place in places:
        parts = 1
        while parts < len(place.parts) and any(
            other.parts[-parts:] == place.parts[-parts:] for other in places if other != place
        ):
            parts += 1
        names.append("/".join(place.parts[-parts:]))
    return names
