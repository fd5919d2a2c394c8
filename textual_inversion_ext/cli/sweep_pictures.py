"""Pictures that runs of a sweep have in common: those of the class word and of captions are made only once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from textual_inversion_ext.errors import ReportError
from textual_inversion_ext.evaluation.report import REPORT_FILE, WORD, EvaluationReport

__all__ = ["share_pictures"]

_PICTURES = "pictures"


def share_pictures(source: Path, target: Path) -> int:
    """Hand the pictures of one evaluated run that do not show its word on to another.

    Whether they fit is decided by the evaluation, which looks at what is written in each file.

    Args:
        source: Folder of an evaluated run.
        target: Folder of a run that is going to be evaluated.

    Returns:
        How many files were handed on. They are hard links where the disk has them, else copies.
    """
    count = 0
    for report in (source / "evaluation" / REPORT_FILE, *sorted(source.glob(f"*/evaluation/{REPORT_FILE}"))):
        try:
            told = EvaluationReport.load(report)
        except ReportError:
            continue
        own = {report.parent / file for found in told.pictures if found.subject == WORD for file in found.files}
        for file in sorted((report.parent / _PICTURES).rglob("*.png")):
            place = target / file.relative_to(source)
            if file not in own and not file.name.startswith(".") and not place.exists():
                _link(file, place)
                count += 1
    return count


def _link(file: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, place)
    except OSError:  # other disks, and file systems without links
        shutil.copyfile(file, place)
