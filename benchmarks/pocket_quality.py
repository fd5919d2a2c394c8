"""How well the pocket models follow prompts: recognition over attribute combinations, VAE error, a grid to look at.

python -m benchmarks.pocket_quality
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.reader import CACHE, Reader, accuracy, load_reader, to_tensor
from textual_inversion_ext.pipelines.loading import load_pipeline
from textual_inversion_ext.pipelines.sampling import SampleSettings, sample
from textual_inversion_ext.pipelines.sheets import contact_sheet
from textual_inversion_ext.pocket import GUIDANCE_SCALE, NUM_INFERENCE_STEPS
from textual_inversion_ext.pocket import vocabulary as words
from textual_inversion_ext.pocket.captions import describe, with_article
from textual_inversion_ext.pocket.renderer import render
from textual_inversion_ext.pocket.sampler import place, random_picture
from textual_inversion_ext.pocket.specs import PictureSpec, SubjectSpec

Combination = tuple[str, str, str]  # subject, colour, scene
JUDGED = ("subject", "colour", "scene")


def combinations(count: int, held_out: bool, seed: int) -> Iterator[Combination]:
    """Draw combinations that occur in training, or ones that were kept out of it."""
    rng = np.random.default_rng(seed)
    while count:
        found = (
            str(rng.choice(words.SUBJECTS)),
            str(rng.choice(list(words.COLOURS))),
            str(rng.choice(list(words.SCENES))),
        )
        if words.is_held_out(*found) == held_out:
            count -= 1
            yield found


def one_of_each(pipeline: Any, prompts: list[str], settings: SampleSettings) -> list[Image.Image]:
    """Make one picture of each prompt."""
    pictures: list[Image.Image] = []
    for start in range(0, len(prompts), settings.batch_size):  # every batch has noise of its own
        made = sample(pipeline, (), prompts[start : start + settings.batch_size], (start,), settings)
        pictures += [row[0] for row in made]
    return pictures


def two_colours(
    reader: Reader, count: int, make: Callable[[list[SubjectSpec]], list[Image.Image]]
) -> dict[str, dict[str, float]]:
    """Count how often each of two named colours is seen where it belongs, by pattern.

    Args:
        reader: Sees the colours.
        count: Subjects of each pattern.
        make: Gives a picture of each subject.

    Returns:
        Pattern -> "main" and "accent" -> share of the pictures.
    """
    rng = np.random.default_rng(11)
    found: dict[str, dict[str, float]] = {}
    for pattern in words.PATTERNS:
        named = [rng.choice(list(words.COLOURS), 2, replace=False) for _ in range(count)]
        kinds = rng.choice(words.SUBJECTS, count)
        subjects = [
            SubjectSpec(str(kind), words.COLOURS[main], words.COLOURS[accent], pattern)
            for kind, (main, accent) in zip(kinds, named, strict=True)
        ]
        numbers = reader.read(make(subjects)).numbers
        found[pattern] = {}
        for position, name in enumerate(("main", "accent")):
            seen = [words.nearest_colour(tuple(colour * 255)) for colour in numbers[name]]
            found[pattern][name] = float(np.mean([s == n[position] for s, n in zip(seen, named, strict=True)]))
    return found


def rendered(subjects: list[SubjectSpec]) -> list[Image.Image]:
    """Render each subject by itself, as a photo without a scene."""
    rng = np.random.default_rng(12)
    specs = [PictureSpec((s,), place("medium", 1, rng), words.STUDIO, "photo", "medium", 1.0, 0) for s in subjects]
    return [render(spec) for spec in specs]


def recognition(
    pipeline: Any, reader: Reader, chosen: list[Combination], settings: SampleSettings
) -> tuple[dict[str, float], list[Image.Image]]:
    """Make one picture per combination and count how often each attribute is recognised."""
    prompts = [f"a photo of {with_article(f'{colour} {kind}')} {words.SCENES[scene]}" for kind, colour, scene in chosen]
    pictures = one_of_each(pipeline, prompts, settings)
    reading = reader.read(pictures)
    hits = {
        name: float(np.mean([seen == meant[column] for seen, meant in zip(reading.choices[name], chosen, strict=True)]))
        for column, name in enumerate(JUDGED)
    }
    return hits, pictures


@torch.no_grad()
def reconstruction_psnr(pipeline: Any, count: int = 300, seed: int = 5) -> float:
    """Mean PSNR in dB of pictures after VAE encoding (mean) and decoding, on fresh renderings of all styles."""
    rng = np.random.default_rng(seed)
    pixels = torch.stack([to_tensor(render(random_picture(rng)[0])) for _ in range(count)])
    latents = pipeline.vae.encode(pixels * 2 - 1).latent_dist.mean
    decoded = (pipeline.vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    error = (decoded - pixels).square().mean((1, 2, 3))
    return float((-10 * error.log10()).mean())


def main() -> None:
    """Measure and print; write `pocket_quality.json` and two grids beside the cache."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300, help="combinations of each kind")
    parser.add_argument("--guidance_scale", type=float, default=GUIDANCE_SCALE)
    parser.add_argument("--num_inference_steps", type=int, default=NUM_INFERENCE_STEPS)
    parser.add_argument("--weights", type=Path, help="another pipeline folder than the shipped one")
    parser.add_argument("--output_dir", type=Path, default=CACHE)
    arguments = parser.parse_args()
    settings = SampleSettings(arguments.num_inference_steps, arguments.guidance_scale, batch_size=12)
    pipeline: Any = load_pipeline(arguments.weights or "pocket")
    pipeline.set_progress_bar_config(disable=True)
    reader, start = load_reader(), time.perf_counter()
    report: dict[str, Any] = {
        "settings": {"guidance_scale": settings.guidance_scale, "steps": settings.num_inference_steps}
    }
    report["reader on fresh renderings"] = accuracy(reader)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    for name, held_out in (("trained combinations", False), ("held-out combinations", True)):
        chosen = list(combinations(arguments.count, held_out, seed=9 + held_out))
        report[name], pictures = recognition(pipeline, reader, chosen, settings)
        # Of a share near 0.9, the one that is asked for.
        report[name]["standard error"] = round(math.sqrt(0.9 * 0.1 / len(chosen)), 3)
        rows = [pictures[i : i + 8] for i in range(0, min(48, len(pictures)), 8)]
        contact_sheet(rows, title=name).save(arguments.output_dir / f"{name.replace(' ', '_')}.png")

    def prompted(subjects: list[SubjectSpec]) -> list[Image.Image]:
        return one_of_each(pipeline, [f"a photo of {with_article(describe(s))}" for s in subjects], settings)

    for name, make in (("two named colours", prompted), ("two named colours, rendered", rendered)):
        report[name] = two_colours(reader, arguments.count // 4, make)
    report["VAE reconstruction PSNR (dB)"] = reconstruction_psnr(pipeline)
    report["seconds"] = round(time.perf_counter() - start, 1)
    text = json.dumps(report, indent=2)
    (arguments.output_dir / "pocket_quality.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
