"""Which method when? Every recipe on the pocket world: likeness, prompt fidelity, identity, cost.

    textual-inversion compare --sweep examples/sweeps/recipes.json --output_dir methods
    python -m benchmarks.methods methods

The first command learns and evaluates (an interrupted one goes on where it was), and compares by CLIP. The second adds
what CLIP cannot tell: how far colours, proportions and accessory are from the truth. The last three shipped concepts
are shown apart, as a check: no setting is to be chosen by them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.reader import load_reader
from textual_inversion_ext.evaluation.comparison.runs import read_run
from textual_inversion_ext.evaluation.metrics import Scored
from textual_inversion_ext.evaluation.metrics.identity_error import IdentityErrorMetric
from textual_inversion_ext.evaluation.report import CAPTION, CLASS_WORD, REAL_PICTURES, WORD, EvaluationReport
from textual_inversion_ext.pocket import OBJECTS

IMAGE, TEXT, IDENTITY = "clip_image (pocket)", "clip_text (pocket)", "identity error"
TRUTH = {concept.placeholder_token: concept.subject for concept in OBJECTS}
CHECK = tuple(concept.placeholder_token for concept in OBJECTS[-3:])

Scores = dict[str, dict[str, float]]
"""Token -> metric -> score."""


class Folder:
    """An evaluated run.

    Args:
        path: Its folder.
        metric: Measures the identity.
    """

    def __init__(self, path: Path, metric: IdentityErrorMetric) -> None:
        self.path, self.metric = path, metric
        self.reports = {report.concept.token: report for report in read_run(path).reports}

    def scores(self, subject: str) -> Scores:
        """Collect the scores of a subject; identity is judged where nothing but the subject is asked for."""
        return {token: self._scores(report, subject) for token, report in self.reports.items()}

    def _scores(self, report: EvaluationReport, subject: str) -> dict[str, float]:
        found = {name: score.mean for name in (IMAGE, TEXT) if (score := report.score(name, subject))}
        plain = "" if subject == REAL_PICTURES else report.protocol.prompts[0]
        place = self.path / report.concept.token.strip("<>") / "evaluation"
        pictures = [
            Image.open(place / file).convert("RGB")
            for entry in report.pictures
            if entry.subject == subject and plain in ("", entry.prompt)
            for file in entry.files
        ]
        if pictures:
            error = self.metric(Scored(tuple(pictures), truth=TRUTH[report.concept.token]))
            found[IDENTITY] = error.mean().item()
        return found

    def cost(self) -> list[str]:
        """Steps, seconds of training and final norm of a concept, as cells."""
        last = json.loads((self.path / "steps.jsonl").read_text().splitlines()[-1])
        steps = {report.concept.train_steps for report in self.reports.values()}
        norms = [np.mean(rows.norms) for report in self.reports.values() for rows in report.rows]
        return [
            "/".join(str(count) for count in sorted(steps, key=str)),
            f"{last['seconds'] / len(self.reports):.0f}",
            f"{np.mean(norms):.2f}",
        ]


def line(name: str, scores: Scores, cost: Sequence[str]) -> str:
    """Write a row of the table: means over the concepts to choose by, then over those to check by."""

    def mean(metric: str, wanted: Callable[[str], bool]) -> str:
        values = [found[metric] for token, found in scores.items() if wanted(token) and metric in found]
        return f"{np.mean(values):.3f}" if values else ""

    cells = [mean(metric, lambda token: token not in CHECK) for metric in (IMAGE, TEXT, IDENTITY)]
    cells += [*cost, *(mean(metric, lambda token: token in CHECK) for metric in (IMAGE, TEXT, IDENTITY))]
    return f"| {name} | {' | '.join(cells)} |"


def table(folders: Sequence[Folder]) -> str:
    """Format runs, and what they are judged by, as Markdown."""
    names = ("CLIP-I", "CLIP-T", "identity error")
    heads = ("recipe", *names, "steps", "seconds", "norm", *(f"check: {name}" for name in names))
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for subject in (CLASS_WORD, CAPTION, REAL_PICTURES):
        lines.append(line(f"*{subject}*", folders[0].scores(subject), ["", "", ""]))
    lines += [line(folder.path.name, folder.scores(WORD), folder.cost()) for folder in folders]
    return "\n".join(lines)


def main() -> None:
    """Print the table of a folder that `compare --sweep` has made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", nargs="+", help="names of runs; default: all")
    arguments = parser.parse_args()
    metric = IdentityErrorMetric(load_reader())
    runs = arguments.runs or sorted(path.parent.name for path in arguments.folder.glob("*/sweep-run.json"))
    done = [arguments.folder / run for run in runs if list((arguments.folder / run).glob("*/evaluation/report.json"))]
    print(table([Folder(path, metric) for path in done]))


if __name__ == "__main__":
    main()
