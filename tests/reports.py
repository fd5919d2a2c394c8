"""A report with pictures on disk, small and without a model: what pages, sheets and comparisons are made from."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

from PIL import Image

from textual_inversion_ext.evaluation.report import (
    CAPTION,
    CLASS_WORD,
    INITIAL_ROWS,
    REAL_PICTURES,
    WORD,
    ConceptFacts,
    EncoderRows,
    EvaluationReport,
    PictureSet,
    ProtocolFacts,
    PublishedScore,
    Score,
)

PROMPTS = ("a photo of {}", "a painting of {}", "{} on the beach")
SEEDS = (0, 1, 2)
PHRASES = {WORD: "<bruno>", CLASS_WORD: "dog", CAPTION: "a brown dog with a scarf", INITIAL_ROWS: "dog"}
LEVELS = {INITIAL_ROWS: 0.52, CLASS_WORD: 0.55, CAPTION: 0.71, WORD: 0.83, REAL_PICTURES: 0.9}
COLOURS = {INITIAL_ROWS: 40, CLASS_WORD: 90, CAPTION: 140, WORD: 190, REAL_PICTURES: 240}


def sample_report(folder: Path, prompts: tuple[str, ...] = PROMPTS, token: str = "<bruno>") -> EvaluationReport:
    """Write plain pictures below ``folder`` and report made-up scores of them; the same at every call."""
    numbers = random.Random(0)
    scores, pictures = [], []
    for subject in PHRASES:
        every: dict[str, list[float]] = {"clip_image (pocket)": [], "clip_text (pocket)": []}
        for prompt in prompts:
            text = prompt.replace("{}", PHRASES[subject] if subject != WORD else token)
            own = {
                name: [round(LEVELS[subject] / part + numbers.uniform(-0.05, 0.05), 3) for _ in SEEDS]
                for part, name in enumerate(every, start=1)
            }
            for name, values in own.items():
                scores.append(Score.of(name, subject, values, prompt=prompt, backbone="pocket"))
                every[name] += values
            names = [f"pictures/{subject}-{prompts.index(prompt)}-{seed}.png" for seed in SEEDS]
            write_pictures(folder, names, COLOURS[subject])
            pictures.append(PictureSet(subject=subject, prompt=prompt, text=text, files=tuple(names), seeds=SEEDS))
        scores += [Score.of(name, subject, values, backbone="pocket") for name, values in every.items()]
    scores.append(Score.of("clip_image (pocket)", REAL_PICTURES, [0.88, 0.9, 0.92], backbone="pocket"))
    names = [f"references/{number}.png" for number in range(3)]
    write_pictures(folder, names, COLOURS[REAL_PICTURES])
    pictures.append(PictureSet(subject=REAL_PICTURES, prompt=None, text="", files=tuple(names)))
    return EvaluationReport(
        concept=ConceptFacts(
            token=token,
            base_model="pocket",
            num_vectors={"clip_l": 2},
            class_word="dog",
            initializer="dog",
            train_steps=400,
            references=3,
        ),
        protocol=ProtocolFacts(name="quick", source="ours", prompts=prompts, seeds=SEEDS),
        scores=tuple(scores),
        phrases={**PHRASES, WORD: token},
        settings={"num_inference_steps": 30, "guidance_scale": 4.0, "negative_prompt": "", "size": None},
        versions={"textual-inversion-ext": "0.1.0", "torch": "2.0"},
        rows=(
            EncoderRows(
                encoder="clip_l",
                norms=(1.5, 9.0),
                vocabulary_norms=(0.4, 0.6, 0.9),
                nearest=((("dog", 0.41), ("puppy", 0.3)), (("brown", 0.22),)),
            ),
        ),
        losses=tuple(
            (step, round(0.2 + math.exp(-step / 80) + numbers.uniform(-0.1, 0.1), 4)) for step in range(5, 401, 5)
        ),
        pictures=tuple(pictures),
        published=(PublishedScore(method="Some method", metric="CLIP-I", mean=0.78, source="Table 1 of a paper"),),
        notes=("4 prompts are few.",),
        seconds=12.5,
    )


def with_scores(report: EvaluationReport, *scores: Score) -> EvaluationReport:
    """The same report with other scores."""
    return replace(report, scores=scores)


def write_pictures(folder: Path, names: list[str], shade: int) -> None:
    for number, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (shade, 60 * number, 255 - shade)).save(file)
