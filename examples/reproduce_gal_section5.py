"""The quantitative analysis of Gal et al. 2022 (section 5.2, figure 10) on the pocket world: figure, table, findings.

    python examples/reproduce_gal_section5.py --output_dir gal

Every set-up of the paper learns the shipped concepts: one, two and three words, progressive, regularized, a word per
picture, low and high learning rate. Beside them stand what the paper compares with: people's captions (here: written
from what the concepts truly look like), the training pictures themselves ("image only") and the evaluation prompts
without any subject ("prompt only"). The default takes about an hour on two cores, with fewer concepts, steps and
samples than the paper; `--full` takes its numbers. An interrupted call goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from textual_inversion_ext.atomic import atomic_write
from textual_inversion_ext.cli.sweep import run_sweep
from textual_inversion_ext.cli.sweep_plan import plan_sweep
from textual_inversion_ext.evaluation.comparison.bootstrap import Interval, bootstrap_mean
from textual_inversion_ext.evaluation.comparison.files import shown, to_markdown, write_comparison
from textual_inversion_ext.evaluation.comparison.runs import EvaluatedRun, read_run
from textual_inversion_ext.evaluation.comparison.tables import Row, Table, compare
from textual_inversion_ext.evaluation.gallery import Gallery, Wanted
from textual_inversion_ext.evaluation.metric_parts import MetricParts
from textual_inversion_ext.evaluation.metrics import ClipImageMetric, Metric, Scored, build_metrics
from textual_inversion_ext.evaluation.protocols import PROTOCOLS, ProtocolPrompt
from textual_inversion_ext.evaluation.report import EvaluationReport, Score
from textual_inversion_ext.evaluation.texts import scored_text
from textual_inversion_ext.pipelines.loading import documented_sampling, load_pipeline
from textual_inversion_ext.pocket import OBJECTS, PocketConcept, render_concept, write_concept
from textual_inversion_ext.pocket.captions import describe
from textual_inversion_ext.pocket.specs import SubjectSpec
from textual_inversion_ext.pocket.vocabulary import nearest_colour
from textual_inversion_ext.recipes import RECIPES

SET_UPS = tuple(name for name in RECIPES if name.startswith("gal-"))
FIRST = "gal-1-word"
SHORT, LONG, IMAGE_ONLY, PROMPT_ONLY = "short caption", "long caption", "image only", "prompt only"
IMAGE, TEXT = "clip_image", "clip_text"
DEFAULT_CONCEPTS = ("mochi", "rusty", "bruno", "pico", "latte", "bolt")
STEPS, SAMPLES = 5000, 64  # the paper's
DEFAULT_STEPS, DEFAULT_SAMPLES = 0.1, 16  # a share of the paper's, and pictures a prompt
NEAR = 0.1  # "comparable": within this share of the way from "prompt only" to "image only"

HOLDS, FAILS, OPEN = "holds", "does not hold", "undecided"


@dataclass(frozen=True)
class Size:
    """How much of the paper's experiment is done."""

    concepts: tuple[str, ...]
    steps: float
    samples: int

    def flags(self) -> str:
        """What has to be typed for it, beside the folder."""
        words = [] if self.concepts == DEFAULT_CONCEPTS else ["--concepts", *self.concepts]
        words += [] if self.steps == DEFAULT_STEPS else ["--steps", f"{self.steps:g}"]
        words += [] if self.samples == DEFAULT_SAMPLES else ["--samples", str(self.samples)]
        return "".join(f" {word}" for word in words)

    def told(self) -> str:
        """Say it, beside what the paper does."""
        steps = round(self.steps * STEPS)
        whole = steps == STEPS and self.samples == SAMPLES and len(self.concepts) == len(OBJECTS)
        concepts = f"{len(self.concepts)} concept" + ("s" if len(self.concepts) > 1 else "")
        text = f"{concepts}, {steps} steps, {self.samples} pictures a prompt"
        return text if whole else f"{text} (in full: {len(OBJECTS)} concepts, {STEPS} steps, {SAMPLES} pictures)"


@dataclass(frozen=True)
class Evidence:
    """One number that speaks for or against a claim."""

    text: str
    value: Interval
    verdict: str


def above(text: str, value: Interval, limit: float = 0.0) -> Evidence:
    """A difference that should lie above a limit: with all of its interval, or nothing is decided."""
    if value.low is None or value.high is None:
        return Evidence(text, value, OPEN)
    return Evidence(text, value, HOLDS if value.low > limit else FAILS if value.high < limit else OPEN)


def verdict(parts: Sequence[Evidence]) -> str:
    """A claim holds if all of its parts do, and fails with one of them."""
    found = {part.verdict for part in parts}
    return FAILS if FAILS in found else OPEN if OPEN in found else HOLDS


class Findings:
    """Judges the paper's four qualitative findings on a table."""

    def __init__(self, table: Table) -> None:
        self.rows: dict[str, Row] = {row.name: row for row in table.rows}
        self.names = {metric.split(" (")[0]: metric for metric in table.metrics}
        self.scale = self.difference(IMAGE_ONLY, PROMPT_ONLY, IMAGE).mean

    def difference(self, one: str, other: str, key: str) -> Interval:
        """How far one row lies above another, concept by concept."""
        metric = self.names[key]
        pairs = [
            (means, self.rows[other].by_concept.get(token, {})) for token, means in self.rows[one].by_concept.items()
        ]
        apart = [
            mine[metric].mean - theirs[metric].mean for mine, theirs in pairs if metric in mine and metric in theirs
        ]
        return bootstrap_mean([[[value]] for value in apart])

    def more(self, one: str, other: str, key: str) -> Evidence:
        """One row's score is higher."""
        what = "reconstruction" if key == IMAGE else "editability"
        return above(f"{what}: {one} above {other}", self.difference(one, other, key))

    def near(self, one: str, other: str) -> Evidence:
        """One row's reconstruction is not much lower."""
        limit = -NEAR * self.scale
        value = self.difference(one, other, IMAGE)
        return above(f"reconstruction: {one} less than {-limit:.3f} below {other}", value, limit)

    def curve(self) -> Evidence:
        """Whoever reconstructs better edits worse: rank correlation of the set-ups' two scores (Spearman)."""
        image, text = ([self.rows[name].means[self.names[key]].mean for name in SET_UPS] for key in (IMAGE, TEXT))
        ranks = [np.argsort(np.argsort(values)).tolist() for values in (image, text)]
        value = statistics.correlation(*ranks)
        found = HOLDS if value <= -0.5 else FAILS if value >= 0 else OPEN
        return Evidence("one curve: rank correlation of the two scores over the set-ups (-0.5 or less)",
                        Interval(value, None, None, len(SET_UPS), 0), found)  # fmt: skip

    def claims(self) -> dict[str, list[Evidence]]:
        """The four findings of section 5.2 and what speaks for or against each of them here."""
        return {
            "A learned word reconstructs about as well as the training pictures themselves (image only).": [
                self.near(FIRST, IMAGE_ONLY)
            ],
            "One word reconstructs about as well as two or three, and is clearly easier to edit.": [
                *(self.near(FIRST, other) for other in ("gal-2-words", "gal-3-words")),
                *(self.more(FIRST, other, TEXT) for other in ("gal-2-words", "gal-3-words")),
            ],
            "Reconstruction and editability are one curve: a low learning rate or a regularizer buys editability, a"
            " high learning rate or more words buy likeness.": [
                *(self.more(other, FIRST, TEXT) for other in ("gal-low-lr", "gal-regularized")),
                *(self.more(other, FIRST, IMAGE) for other in ("gal-high-lr", "gal-3-words")),
                self.curve(),
            ],
            "Captions do worse than a learned word in both, the long ones worst.": [
                *(self.more(FIRST, caption, key) for caption in (SHORT, LONG) for key in (IMAGE, TEXT)),
                *(self.more(SHORT, LONG, key) for key in (IMAGE, TEXT)),
            ],
        }


def short_caption(subject: SubjectSpec) -> str:
    """What somebody would say in a few words."""
    pattern = "" if subject.pattern == "plain" else f"{subject.pattern} "
    return f"{nearest_colour(subject.main)} {pattern}{subject.kind}"


class Beside:
    """Scores of what the paper compares with; pictures are kept in a folder and reused."""

    def __init__(self, folder: Path, samples: int) -> None:
        self.pipeline: Any = load_pipeline("pocket")
        self.gallery, self.seeds = Gallery(folder), tuple(range(samples))
        protocol = PROTOCOLS["gal"].on("pocket")
        self.prompts = protocol.prompts
        self.settings = protocol.settings(documented_sampling("pocket"), batch_size=8)
        parts = MetricParts(clip="pocket")
        self.image = ClipImageMetric.build(parts)
        self.metrics: tuple[Metric, ...] = (self.image, *build_metrics((TEXT,), parts))

    def scores(self, concept: PocketConcept) -> list[Score]:
        """Score both captions, the training pictures and the bare prompts.

        Args:
            concept: The concept.

        Returns:
            Scores over all prompts, of the four subjects.
        """
        assert concept.subject is not None
        references = tuple(render_concept(concept.name))
        texts = {
            SHORT: [prompt.described(short_caption(concept.subject)) for prompt in self.prompts],
            LONG: [prompt.described(describe(concept.subject)) for prompt in self.prompts],
            PROMPT_ONLY: [" ".join(scored_text(prompt.text).split()) for prompt in self.prompts],
        }
        found = []
        for subject, filled in texts.items():
            made = self.gallery.pictures(self.pipeline, Wanted((), filled, self.seeds, self.settings))
            found += [self._score(subject, metric, made, references) for metric in self.metrics]
        # Pairs of a picture and itself are left out; the paper's code counts them, which flatters the bound.
        found.append(Score.of(self.image.name, IMAGE_ONLY, self.image.bound(references).tolist()))
        found.append(self._score(IMAGE_ONLY, self.metrics[1], [references] * len(self.prompts), references))
        return found

    def _score(self, subject: str, metric: Metric, made: Sequence[Sequence[Any]], references: tuple[Any, ...]) -> Score:
        values: list[float] = []
        for prompt, pictures in zip(self.prompts, made, strict=True):
            if _measures(prompt, metric):
                told = (scored_text(prompt.text),) * len(pictures)
                values += metric(Scored(tuple(pictures), told, references)).tolist()
        return Score.of(metric.name, subject, values)


def _measures(prompt: ProtocolPrompt, metric: Metric) -> bool:
    return prompt.aim in ("both", metric.aspect)


def sweep_of(size: Size, folder: Path) -> dict[str, Any]:
    """The sweep that learns and evaluates every set-up; pictures and list of the concepts are written first.

    Args:
        size: How much is done.
        folder: Where it goes.

    Returns:
        What `plan_sweep` takes.
    """
    lines = []
    for concept in OBJECTS:
        if concept.name in size.concepts:
            write_concept(concept.name, folder / "concepts" / concept.name)
            fields = {"placeholder_token": concept.placeholder_token, "images": concept.name}
            lines.append(json.dumps({**fields, "initializer": concept.class_name, "class_name": concept.class_name}))
    atomic_write(folder / "concepts" / "concepts.jsonl", "\n".join(lines) + "\n")
    steps = max(1, round(size.steps * STEPS))
    flags = {
        "concepts": str(folder / "concepts"),
        "max_train_steps": steps,
        "eval_steps": 0,
        "checkpointing_steps": 100,
    }
    # What the paper compares with is made below, once for all set-ups.
    evaluation = {"protocol": "gal", "seeds": size.samples, "batch_size": 8}
    evaluation |= {"metrics": [IMAGE, TEXT], "baselines": ["none"]}
    return {"flags": {**flags, **evaluation}, "runs": {name: {"recipe": name} for name in SET_UPS}}


def with_baselines(run: EvaluatedRun, scores: Mapping[str, Sequence[Score]]) -> EvaluatedRun:
    """Put further subjects beside a run's word; its own baselines, made for other purposes, are left out."""

    def extended(report: EvaluationReport) -> EvaluationReport:
        own = tuple(score for score in report.scores if score.subject == "word")
        return dataclasses.replace(report, scores=(*own, *scores.get(report.concept.token, ())))

    return EvaluatedRun(run.name, tuple(extended(report) for report in run.reports))


def results(table: Table, size: Size) -> str:
    """Write table and findings as Markdown."""
    lines = [
        "# Gal et al. 2022, section 5.2, on the pocket world",
        "",
        f"`python examples/reproduce_gal_section5.py{size.flags()}`: {size.told()}. Cosines of the pocket CLIP;"
        " captions are written from what the concepts truly look like. The pocket world is small: what fails here may"
        " hold for a real model, and the other way round.",
        "",
        "![editability against reconstruction](RESULTS-gal.png)",
        "",
        to_markdown(table),
        "",
        *(f"- {notice}" for notice in table.notices),
    ]
    complete = {row.name for row in table.rows} >= set(SET_UPS)
    if not complete:
        lines += ["", "Not every set-up is there, so nothing is said about the paper's findings."]
    for claim, parts in Findings(table).claims().items() if complete else ():
        lines += ["", f"**{verdict(parts)}**: {claim}", ""]
        lines += [f"- {part.verdict}: {part.text}: {shown(part.value)}" for part in parts]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Learn, evaluate, compare, judge.

    Args:
        arguments: What was typed; None for the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [concept.name for concept in OBJECTS]
    parser.add_argument("--output_dir", type=Path, default=Path("gal"))
    parser.add_argument("--full", action="store_true", help="the paper's counts; takes days on a laptop")
    parser.add_argument("--concepts", nargs="+", choices=names, default=list(DEFAULT_CONCEPTS))
    parser.add_argument("--steps", type=float, default=DEFAULT_STEPS, help="share of the paper's 5,000 steps")
    parser.add_argument("--samples", type=int, default=DEFAULT_SAMPLES, help="pictures a prompt")
    flags = parser.parse_args(arguments)
    size = Size(tuple(flags.concepts), flags.steps, flags.samples)
    if flags.full:
        size = Size(tuple(names), 1.0, SAMPLES)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("textual_inversion_ext").setLevel(logging.INFO)
    print(f"{len(SET_UPS)} set-ups, {size.told()}")
    folder: Path = flags.output_dir
    runs = run_sweep(plan_sweep(sweep_of(size, folder)), folder / "runs")
    for name, message in runs.failures:
        print(f"{name} failed and is missing below: {message}")
    beside = Beside(folder / "baselines", size.samples)
    scores = {c.placeholder_token: beside.scores(c) for c in OBJECTS if c.name in size.concepts}
    read = [read_run(place) for place in runs.folders]
    comparison = compare([with_baselines(run, scores) for run in read])
    write_comparison(comparison, folder, "Gal et al. 2022, section 5.2, on the pocket world")
    text = results(comparison.tables[0], size)
    atomic_write(folder / "RESULTS-gal.md", text)
    atomic_write(folder / "RESULTS-gal.png", (folder / "comparison.png").read_bytes())
    print(text)
    print(f"Figure: {folder / 'RESULTS-gal.png'}\nPage:   {folder / 'comparison.html'}")


if __name__ == "__main__":
    main()
