"""``textual-inversion demo``: learn one shipped concept on the pocket world and show what came of it."""

from __future__ import annotations

import argparse
import base64
import io
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from textual_inversion_ext.atomic import atomic_write
from textual_inversion_ext.errors import ConfigError, OutputFolderError
from textual_inversion_ext.pocket import OBJECTS

if TYPE_CHECKING:
    from PIL import Image

    from textual_inversion_ext.pocket.measure import BestCaption
    from textual_inversion_ext.records import TrainingResult

HELP = "Learn one of the shipped concepts in about a minute and show it."
PROMPTS = ("a photo of {}", "{} on the beach", "{} in the snow", "a painting of {}", "a cartoon of {} at night")
CAPTION_SEEDS = tuple(range(100, 104))
SCORE_SEEDS = tuple(range(8))
_SHOWN = 2  # samples per prompt and column of the sheet


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags.

    Args:
        parser: The verb's parser.
    """
    names = [concept.name for concept in OBJECTS]
    parser.add_argument("--concept", default="latte", metavar="NAME", help=f"Which one: {', '.join(names)}.")
    parser.add_argument("--output_dir", type=Path, default=Path("textual-inversion-demo"), help="Where it goes.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the training.")
    parser.add_argument("--max_train_steps", type=int, help="Train for fewer or more steps than usual.")


def run(flags: argparse.Namespace) -> None:
    """Train, make pictures, write picture and page, print where they are.

    Args:
        flags: Parsed flags.

    Raises:
        ConfigError: There is no such concept.
        OutputFolderError: The output folder holds something else than an earlier demo.
    """
    from textual_inversion_ext.concept import ConceptSpec
    from textual_inversion_ext.config import TextualInversionConfig
    from textual_inversion_ext.pipelines.loading import load_pipeline
    from textual_inversion_ext.pocket import write_concept
    from textual_inversion_ext.training.trainer import TextualInversionTrainer

    concepts = {concept.name: concept for concept in OBJECTS}
    if flags.concept not in concepts:
        raise ConfigError(f"--concept is {flags.concept!r}; the demo knows {', '.join(concepts)}.")
    concept, folder = concepts[flags.concept], flags.output_dir
    _check_folder(folder)
    config = TextualInversionConfig(
        output_dir=str(folder), overwrite_output_dir=True, seed=flags.seed, max_train_steps=flags.max_train_steps
    )
    spec = ConceptSpec(concept.placeholder_token, str(folder / "pictures"), initializer=concept.class_name)
    pipeline = load_pipeline(config.pretrained_model_name_or_path)
    trainer = TextualInversionTrainer(config, [spec], pipeline=pipeline)
    print(f"Learning {concept.placeholder_token}, a {concept.class_name} that no caption can fully describe.")
    atomic_write(folder / "demo.html", "<p>The demo has not finished yet.</p>\n")
    write_concept(concept.name, folder / "pictures")
    result = trainer.train()
    show(flags.concept, folder, pipeline, result)


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise OutputFolderError(f"--output_dir {folder} is a file; give the name of a folder.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "demo.html").exists():
        raise OutputFolderError(f"--output_dir {folder} is not empty and holds no demo; name another folder.")


@dataclass(frozen=True, slots=True)
class Scores:
    """CLIP image similarity to the references, of 'a photo of ...' in `SCORE_SEEDS`.

    Attributes:
        caption: Of the best caption without the word.
        word: Of the learned word.
        references: Of the references among themselves, pairs of different pictures.
    """

    caption: float
    word: float
    references: float


def show(name: str, folder: Path, pipeline: object, result: TrainingResult) -> None:
    """Make and write what the demo shows, and print where it is.

    Args:
        name: The concept's name.
        folder: The demo's folder; its `pictures` are the references.
        pipeline: The pocket pipeline.
        result: What training learned.
    """
    from PIL import Image

    from textual_inversion_ext.evaluation.backbones import load_image_text_backbone
    from textual_inversion_ext.evaluation.metrics import ClipImageMetric, Scored
    from textual_inversion_ext.pipelines.sampling import sample
    from textual_inversion_ext.pocket import CONCEPTS
    from textual_inversion_ext.pocket.measure import SETTINGS, best_caption

    learned, subject = result.concepts[0], CONCEPTS[name].subject
    if subject is None:
        raise ConfigError(f"{name} is a style; the demo shows objects.")
    references = [Image.open(path).convert("RGB") for path in sorted((folder / "pictures").glob("*.png"))]
    clip = ClipImageMetric(load_image_text_backbone("pocket"))

    def likeness(pictures: Sequence[Image.Image]) -> float:
        return clip(Scored(tuple(pictures), references=tuple(references))).mean().item()

    caption = best_caption(pipeline, likeness, subject, CAPTION_SEEDS)
    made = {
        phrase: sample(pipeline, words, [p.format(phrase) for p in PROMPTS], SCORE_SEEDS[:_SHOWN], SETTINGS)
        for phrase, words in ((caption.phrase, ()), (learned.token, (learned,)))
    }
    scored = {
        phrase: sample(pipeline, words, [PROMPTS[0].format(phrase)], SCORE_SEEDS, SETTINGS)[0]
        for phrase, words in ((caption.phrase, ()), (learned.token, (learned,)))
    }
    scores = Scores(
        likeness(scored[caption.phrase]), likeness(scored[learned.token]), clip.bound(references).mean().item()
    )
    sheet = _sheet(references, caption, learned.token, made)
    picture, page = folder / "demo.png", folder / "demo.html"
    data = io.BytesIO()
    sheet.save(data, "PNG")
    atomic_write(picture, data.getvalue())
    command = shlex.join(
        [
            "textual-inversion",
            "generate",
            "--concept",
            str(folder),
            "--prompt",
            f"a sketch of {learned.token} in the forest",
        ]
    )
    atomic_write(page, _page(data.getvalue(), folder, caption, scores, result, command, len(references)))
    print(f"\nCLIP similarity to the real pictures: caption {scores.caption:.3f}, word {scores.word:.3f},", end=" ")
    print(f"real pictures among themselves {scores.references:.3f}")
    print(f"Picture: {picture}\nPage:    {page}\nWord:    {folder / 'learned_embeds.safetensors'}")
    print(f"Next:    {command}")


def _sheet(
    references: list[Image.Image], caption: BestCaption, token: str, made: dict[str, list[list[Image.Image]]]
) -> Image.Image:
    from textual_inversion_ext.pipelines.sheets import contact_sheet

    rows = [
        [references[index % len(references)], *made[caption.phrase][index], *made[token][index]]
        for index in range(len(PROMPTS))
    ]
    return contact_sheet(
        rows,
        row_labels=[prompt.format("...") for prompt in PROMPTS],
        column_labels=["reference", *[f"caption: {caption.phrase}"] * _SHOWN, *[f"learned: {token}"] * _SHOWN],
    )


def _page(
    sheet: bytes,
    folder: Path,
    caption: BestCaption,
    scores: Scores,
    result: TrainingResult,
    command: str,
    pictures: int,
) -> str:
    from jinja2 import Environment

    learned = result.concepts[0]
    lines = (folder / "steps.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [float(next(iter(json.loads(line)["loss"].values()))) for line in lines]
    smooth = [sum(losses[max(0, i - 9) : i + 1]) / len(losses[max(0, i - 9) : i + 1]) for i in range(len(losses))]
    rows = next(iter(learned.vectors.values()))
    source = files("textual_inversion_ext.cli") / "templates" / "demo.html.jinja"
    template = source.read_text(encoding="utf-8")
    return (
        Environment(autoescape=True)
        .from_string(template)
        .render(
            token=learned.token,
            pictures=pictures,
            vectors=rows.shape[0],
            width=rows.shape[1],
            steps=result.steps[learned.token],
            seconds=result.seconds,
            sheet=base64.b64encode(sheet).decode("ascii"),
            samples=len(SCORE_SEEDS),
            caption=caption.phrase,
            caption_score=scores.caption,
            word_score=scores.word,
            reference_score=scores.references,
            curve=_points(losses, losses),
            smooth_curve=_points(smooth, losses),
            highest=max(losses),
            lowest=min(losses),
            next_command=command,
        )
    )


def _points(values: list[float], scale: list[float]) -> str:
    """Place values in the page's 720x240 drawing, top and bottom at the extremes of `scale`."""
    low, span = min(scale), max(max(scale) - min(scale), 1e-9)
    step = 700 / max(1, len(values) - 1)
    return " ".join(f"{10 + i * step:.1f},{225 - 205 * (v - low) / span:.1f}" for i, v in enumerate(values))
