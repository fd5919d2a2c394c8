"""Does a word learned with the default settings beat the best caption? Every shipped concept, several seeds.

    python -m benchmarks.pocket_learning --seeds 0 1 2

Prints a table per concept: CLIP image similarity of the best caption without the word, of the learned word and of the
real pictures among themselves; the share of that distance that the word closes; and how far each measured identity
attribute has moved from what the caption gives to the truth (1 = all the way, 0 = not at all). The truth is what the
reader sees on fresh renderings of the concept: it misreads those too, and no word could do better.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.reader import CACHE, Reader, load_reader
from textual_inversion_ext import ConceptSpec, TextualInversionConfig, TextualInversionTrainer
from textual_inversion_ext.evaluation.backbones import load_image_text_backbone
from textual_inversion_ext.evaluation.metrics import ClipImageMetric, Scored
from textual_inversion_ext.pipelines.sampling import sample
from textual_inversion_ext.pocket import OBJECTS, PocketConcept, load_pipeline
from textual_inversion_ext.pocket.measure import SETTINGS, best_caption
from textual_inversion_ext.pocket.renderer import render
from textual_inversion_ext.pocket.specs import SubjectSpec

CAPTION_SEEDS = tuple(range(100, 108))
SCORE_SEEDS = tuple(range(16))
TRUE_PICTURES, TRUE_SEED = 48, 9_000  # fresh renderings, on which the reader's own error is measured
EDIT_PROMPTS = (
    "a photo of {} on the beach",
    "a photo of {} in the snow",
    "a painting of {}",
    "a cartoon of {} at night",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One concept and seed; similarities are cosines, distances as in `identity_distances`."""

    concept: str
    seed: int
    caption: str
    caption_similarity: float
    word_similarity: float
    reference_similarity: float
    closed: float
    caption_text: float
    word_text: float
    caption_distances: dict[str, float]
    word_distances: dict[str, float]
    true_distances: dict[str, float]
    norm: float
    seconds: float


def pictures_of(concept: PocketConcept, count: int = 5, seed: int | None = None) -> list[Image.Image]:
    """Render a concept, or a character as if it were one."""
    return [render(picture) for picture in concept.pictures(count, seed=seed)]


def truth_of(concept: PocketConcept) -> SubjectSpec:
    """Exact attributes of a shipped object."""
    if concept.subject is None:
        raise ValueError(f"{concept.name} is a style; only objects are measured here")
    return concept.subject


def identity_distances(reader: Reader, pictures: Sequence[Image.Image], subject: SubjectSpec) -> dict[str, float]:
    """Mean distance of what the reader sees from the truth: colours in 0..255 (Euclidean), proportions in 0..2.

    "colours" is the mean of main and accent colour in the order that fits better: in a striped thing, which of the two
    is the body's is hard to tell for anyone.
    """
    numbers = reader.read(list(pictures)).numbers
    truth = {"main": np.array(subject.main) / 255, "accent": np.array(subject.accent) / 255}

    def far(seen: str, true: str) -> np.ndarray:
        return np.linalg.norm(numbers[seen] - truth[true], axis=1) * 255.0

    main, accent = far("main", "main"), far("accent", "accent")
    swapped = far("main", "accent") + far("accent", "main")
    return {
        "main": float(main.mean()),
        "accent": float(accent.mean()),
        "colours": float(np.minimum(main + accent, swapped).mean() / 2),
        "aspect": float(np.abs(numbers["aspect"] - subject.aspect).mean()),
        "feature": float(np.abs(numbers["feature"] - subject.feature).mean()),
    }


class Bench:
    """The pipeline and the rulers, shared by all runs."""

    def __init__(self) -> None:
        self.pipeline, self.reader = load_pipeline(), load_reader()
        self.backbone = load_image_text_backbone("pocket")
        self.clip = ClipImageMetric(self.backbone)

    def likeness(self, pictures: Sequence[Image.Image], references: Sequence[Image.Image]) -> float:
        """CLIP image similarity: mean cosine over all pairs of a picture and a reference."""
        return self.clip(Scored(tuple(pictures), references=tuple(references))).mean().item()

    def text_similarity(self, made: list[list[Image.Image]], class_name: str) -> float:
        """CLIP text similarity of edited pictures to their prompts, the class word in place of the concept."""
        texts = self.backbone.texts([prompt.format(f"a {class_name}") for prompt in EDIT_PROMPTS])
        cosines = [self.backbone.images(pictures) @ text for pictures, text in zip(made, texts, strict=True)]
        return float(np.mean([c.mean().item() for c in cosines]))

    def baseline(self, concept: PocketConcept) -> dict[str, Any]:
        """Find and measure the best caption."""
        references, subject = pictures_of(concept), truth_of(concept)
        caption = best_caption(self.pipeline, lambda made: self.likeness(made, references), subject, CAPTION_SEEDS)
        made = sample(self.pipeline, (), [f"a photo of {caption.phrase}"], SCORE_SEEDS, SETTINGS)[0]
        edits = sample(self.pipeline, (), [p.format(caption.phrase) for p in EDIT_PROMPTS], range(4), SETTINGS)
        return {
            "caption": caption.phrase,
            "caption_similarity": self.likeness(made, references),
            "caption_distances": identity_distances(self.reader, made, subject),
            "true_distances": identity_distances(self.reader, pictures_of(concept, TRUE_PICTURES, TRUE_SEED), subject),
            "caption_text": self.text_similarity(edits, concept.class_name),
            "reference_similarity": self.clip.bound(references).mean().item(),
        }

    def learn(
        self,
        concept: PocketConcept,
        seed: int,
        baseline: dict[str, Any],
        settings: Mapping[str, Any],
        fields: Mapping[str, Any],
    ) -> Row:
        """Train one word and measure it against its baseline.

        Args:
            concept: What to learn.
            seed: Of the training.
            baseline: From `baseline`.
            settings: Settings of the trainer that differ from the defaults.
            fields: Fields of the `ConceptSpec` that differ from the defaults.

        Returns:
            What was measured.
        """
        references = pictures_of(concept)
        given = {"initializer": concept.class_name, "class_name": concept.class_name, **fields}
        spec = ConceptSpec(concept.placeholder_token, references, **given)
        with tempfile.TemporaryDirectory() as folder:
            config = TextualInversionConfig(output_dir=folder, **{"seed": seed, **settings})
            start = time.perf_counter()
            result = TextualInversionTrainer(config, [spec], pipeline=self.pipeline).train()
            seconds = time.perf_counter() - start
        word = result.concepts[0]
        made = sample(self.pipeline, (word,), [f"a photo of {word.token}"], SCORE_SEEDS, SETTINGS)[0]
        edits = sample(self.pipeline, (word,), [p.format(word.token) for p in EDIT_PROMPTS], range(4), SETTINGS)
        similarity = self.likeness(made, references)
        before, top = baseline["caption_similarity"], baseline["reference_similarity"]
        return Row(
            concept=concept.name,
            seed=seed,
            **baseline,
            word_similarity=similarity,
            closed=(similarity - before) / (top - before),
            word_text=self.text_similarity(edits, concept.class_name),
            word_distances=identity_distances(self.reader, made, truth_of(concept)),
            norm=float(next(iter(word.vectors.values())).norm(dim=-1).mean()),
            seconds=round(seconds, 1),
        )


def table(rows: list[Row]) -> str:
    """Format the means over the seeds of each concept as a Markdown table, with the mean of all last."""
    names = list(rows[0].word_distances)
    head = (
        "| concept | seeds | caption | word | real | closed | text: caption | text: word | "
        + " | ".join(names)
        + " | norm | s |"
    )
    lines = [head, "|" + "---|" * (10 + len(names))]

    def cells(group: list[Row], concept: str, seed: str) -> str:
        mean = lambda value: float(np.mean([value(row) for row in group]))  # noqa: E731
        far, reached, least = (
            [mean(lambda r, k=k, n=n: getattr(r, f"{k}_distances")[n]) for n in names]
            for k in ("caption", "word", "true")
        )
        moved = [(a - b) / (a - c) for a, b, c in zip(far, reached, least, strict=True)]
        before, after, top = (
            mean(lambda r, k=k: getattr(r, f"{k}_similarity")) for k in ("caption", "word", "reference")
        )
        # Of the means, not the mean of the shares: near the references a share means nothing.
        values = [before, after, top, (after - before) / (top - before)]
        values += [mean(lambda r, k=k: getattr(r, k)) for k in ("caption_text", "word_text")]
        cols = [f"{v:.3f}" for v in values] + [f"{m:.2f}" for m in moved]
        return (
            f"| {concept} | {seed} | "
            + " | ".join(cols)
            + f" | {mean(lambda r: r.norm):.2f} | {mean(lambda r: r.seconds):.0f} |"
        )

    for concept in dict.fromkeys(row.concept for row in rows):
        group = [row for row in rows if row.concept == concept]
        lines.append(cells(group, concept, " ".join(str(row.seed) for row in group)))
    lines.append(cells(rows, "**mean**", "all"))
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark; rows are appended to a JSON-lines file, so an interrupted run goes on where it stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--concepts", nargs="+", default=[concept.name for concept in OBJECTS])
    parser.add_argument("--num_vectors", type=int, default=1)
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=JSON", help="settings that differ from the defaults"
    )
    parser.add_argument("--results", type=Path, default=CACHE / "pocket_learning.jsonl")
    arguments = parser.parse_args()
    overrides = {name: json.loads(value) for name, value in (pair.split("=", 1) for pair in arguments.set)}
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    done = (
        [json.loads(line) for line in arguments.results.read_text().splitlines()] if arguments.results.exists() else []
    )
    rows = [Row(**entry) for entry in done]
    bench = Bench()
    for concept in (c for c in OBJECTS if c.name in arguments.concepts):
        wanted = [s for s in arguments.seeds if not any((r.concept, r.seed) == (concept.name, s) for r in rows)]
        baseline = bench.baseline(concept) if wanted else {}
        for seed in wanted:
            rows.append(bench.learn(concept, seed, baseline, overrides, {"num_vectors": arguments.num_vectors}))
            with arguments.results.open("a") as file:
                file.write(json.dumps(asdict(rows[-1])) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
