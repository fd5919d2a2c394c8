"""Does a word learned with the default settings beat the best caption? Every shipped concept, several seeds.

    python -m benchmarks.pocket_learning --seeds 0 1 2

Prints two tables. The first, per concept: CLIP image similarity of the class word (where the row starts), of the best
caption without the word, of the learned word and of the real pictures among themselves, the share of the distance
from the caption to the real pictures that the word closes, and its gain over the caption with the standard error over
pairs of pictures made from the same noise. The second, per identity attribute: how far the pictures of each of them
are from the truth (`IdentityErrorMetric.errors`), and how far the word has moved to the truth (1 = all the way, 0 = not
at all) from where its row started, and from the caption, which names every attribute that it has a word for. The least
error is that of what the reader sees on fresh renderings of the concept: it misreads those too, and no word could do
better.
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

from benchmarks.reader import CACHE, load_reader
from textual_inversion_ext import ConceptSpec, LearnedConcept, TextualInversionConfig, TextualInversionTrainer
from textual_inversion_ext.evaluation.backbones import load_image_text_backbone
from textual_inversion_ext.evaluation.fingerprint import fingerprint_of, model_fingerprint, settings_facts
from textual_inversion_ext.evaluation.metrics import ClipImageMetric, Scored
from textual_inversion_ext.evaluation.metrics.identity_error import IdentityErrorMetric
from textual_inversion_ext.pipelines.sampling import sample
from textual_inversion_ext.pocket import OBJECTS, PocketConcept, load_pipeline
from textual_inversion_ext.pocket.measure import SETTINGS, best_caption
from textual_inversion_ext.pocket.renderer import render
from textual_inversion_ext.pocket.specs import SubjectSpec

CAPTION_SEEDS = tuple(range(100, 108))
SCORE_SEEDS = tuple(range(64))  # single pictures differ by 0.04 in likeness: 16 would leave 0.01 of doubt
LEAST_WAY = 0.01  # where a caption is as much like the real pictures as they are, there is no way to close
TRUE_PICTURES, TRUE_SEED = 48, 9_000  # fresh renderings, on which the reader's own error is measured
EDIT_PROMPTS = (
    "a photo of {} on the beach",
    "a photo of {} in the snow",
    "a painting of {}",
    "a cartoon of {} at night",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One concept and seed. Similarities are cosines, errors as in `Bench.errors`.

    Rows of one table have one `made_by`: fingerprint of the model, its sampling, and what differs from the defaults.
    """

    made_by: str
    concept: str
    seed: int
    caption: str
    start_similarity: float
    start_errors: dict[str, float]
    caption_each: list[float]
    word_each: list[float]
    reference_similarity: float
    caption_text: float
    word_text: float
    caption_errors: dict[str, float]
    word_errors: dict[str, float]
    true_errors: dict[str, float]
    norm: float
    seconds: float

    @property
    def caption_similarity(self) -> float:
        """Mean over the caption's pictures."""
        return float(np.mean(self.caption_each))

    @property
    def word_similarity(self) -> float:
        """Mean over the word's pictures."""
        return float(np.mean(self.word_each))


def pictures_of(concept: PocketConcept, count: int = 5, seed: int | None = None) -> list[Image.Image]:
    """Render a concept, or a character as if it were one."""
    return [render(picture) for picture in concept.pictures(count, seed=seed)]


def truth_of(concept: PocketConcept) -> SubjectSpec:
    """Exact attributes of a shipped object."""
    if concept.subject is None:
        raise ValueError(f"{concept.name} is a style; only objects are measured here")
    return concept.subject


class Bench:
    """The pipeline and the rulers, shared by all runs."""

    def __init__(self) -> None:
        self.pipeline = load_pipeline()
        self.backbone = load_image_text_backbone("pocket")
        self.clip = ClipImageMetric(self.backbone)
        self.identity = IdentityErrorMetric(load_reader())
        self.model = model_fingerprint(self.pipeline)

    def made_by(self, settings: Mapping[str, Any], fields: Mapping[str, Any]) -> str:
        """Fingerprint all that tells one table from another."""
        facts = {"model": self.model, "sampling": settings_facts(SETTINGS), "scored": len(SCORE_SEEDS)}
        return fingerprint_of({**facts, "settings": dict(settings), "fields": dict(fields)})

    def likeness_of_each(self, pictures: Sequence[Image.Image], references: Sequence[Image.Image]) -> list[float]:
        """CLIP image similarity of every picture: its mean cosine to the references."""
        return self.clip(Scored(tuple(pictures), references=tuple(references))).tolist()

    def likeness(self, pictures: Sequence[Image.Image], references: Sequence[Image.Image]) -> float:
        """CLIP image similarity: mean cosine over all pairs of a picture and a reference."""
        return float(np.mean(self.likeness_of_each(pictures, references)))

    def errors(self, pictures: Sequence[Image.Image], subject: SubjectSpec) -> dict[str, float]:
        """Mean error of each identity attribute, of both colours and of both proportions; 0 to 1."""
        found = self.identity.errors(Scored(tuple(pictures), truth=subject))
        means = {name: error.mean().item() for name, error in found.items()}
        pairs = {"colours": ("main", "accent"), "proportions": ("aspect", "feature")}
        return means | {both: sum(means[name] for name in pair) / 2 for both, pair in pairs.items()}

    def text_similarity(self, made: list[list[Image.Image]], class_name: str) -> float:
        """CLIP text similarity of edited pictures to their prompts, the class word in place of the concept."""
        texts = self.backbone.texts([prompt.format(f"a {class_name}") for prompt in EDIT_PROMPTS])
        cosines = [self.backbone.images(pictures) @ text for pictures, text in zip(made, texts, strict=True)]
        return float(np.mean([c.mean().item() for c in cosines]))

    def baseline(self, concept: PocketConcept) -> dict[str, Any]:
        """Find and measure the best caption."""
        references, subject = pictures_of(concept), truth_of(concept)
        caption = best_caption(self.pipeline, lambda made: self.likeness(made, references), subject, CAPTION_SEEDS)
        prompts = [f"a photo of {concept.class_name}", f"a photo of {caption.phrase}"]
        start, made = sample(self.pipeline, (), prompts, SCORE_SEEDS, SETTINGS)
        edits = sample(self.pipeline, (), [p.format(caption.phrase) for p in EDIT_PROMPTS], range(4), SETTINGS)
        return {
            "caption": caption.phrase,
            "start_similarity": self.likeness(start, references),
            "start_errors": self.errors(start, subject),
            "caption_each": self.likeness_of_each(made, references),
            "caption_errors": self.errors(made, subject),
            "true_errors": self.errors(pictures_of(concept, TRUE_PICTURES, TRUE_SEED), subject),
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
        given = {"initializer": concept.class_name, "class_name": concept.class_name, **fields}
        spec = ConceptSpec(concept.placeholder_token, pictures_of(concept), **given)
        with tempfile.TemporaryDirectory() as folder:
            config = TextualInversionConfig(output_dir=folder, **{"seed": seed, **settings})
            start = time.perf_counter()
            result = TextualInversionTrainer(config, [spec], pipeline=self.pipeline).train()
            seconds = time.perf_counter() - start
        scores = self.word_scores(result.concepts[0], concept, SCORE_SEEDS)
        made_by = self.made_by(settings, fields)
        return Row(made_by, concept=concept.name, seed=seed, **baseline, **scores, seconds=round(seconds, 1))

    def word_scores(self, word: LearnedConcept, concept: PocketConcept, seeds: Sequence[int]) -> dict[str, Any]:
        """Make pictures with a word, one for each seed and four of each edited prompt; fields of `Row`."""
        made = sample(self.pipeline, (word,), [f"a photo of {word.token}"], seeds, SETTINGS)[0]
        edits = sample(self.pipeline, (word,), [p.format(word.token) for p in EDIT_PROMPTS], range(4), SETTINGS)
        return {
            "word_each": self.likeness_of_each(made, pictures_of(concept)),
            "word_text": self.text_similarity(edits, concept.class_name),
            "word_errors": self.errors(made, truth_of(concept)),
            "norm": float(next(iter(word.vectors.values())).norm(dim=-1).mean()),
        }


def _mean(rows: Sequence[Row], name: str, attribute: str | None = None) -> float:
    """Mean of a field over rows, or of one attribute in it."""
    values = [getattr(row, name) for row in rows]
    return float(np.mean(values if attribute is None else [value[attribute] for value in values]))


def _way(start: float, reached: float, goal: float) -> float:
    """Share of the way from ``start`` to ``goal``; of means, not a mean of shares: near the goal those mean nothing."""
    return (start - reached) / (start - goal)


def _gain(rows: Sequence[Row]) -> str:
    """What words gain over captions, and its standard error over noises: those are common to all trainings."""
    gains = np.mean([np.subtract(row.word_each, row.caption_each) for row in rows], axis=0)
    return f"{gains.mean():+.3f} ± {gains.std(ddof=1) / len(gains) ** 0.5:.3f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def read_rows(file: Path, made_by: str) -> list[Row]:
    """Read what an earlier call has measured of the same table; other rows of the file stay there."""
    entries = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [Row(**entry) for entry in entries if entry.get("made_by") == made_by]


def likeness_table(rows: Sequence[Row]) -> str:
    """Format CLIP similarities, means over the seeds of each concept, as Markdown, with the mean of all last."""
    shown = {
        "class word": "start_similarity",
        "caption": "caption_similarity",
        "word": "word_similarity",
        "real": "reference_similarity",
    }
    texts = {"text: caption": "caption_text", "text: word": "word_text"}
    head = ["concept", "seeds", *shown, "gain", "closed", *texts, "norm", "s"]
    lines = [_line(head), "|" + "---|" * len(head)]
    for concept in [*dict.fromkeys(row.concept for row in rows), None]:
        group = [row for row in rows if concept in (None, row.concept)]
        seeds = "all" if concept is None else " ".join(str(row.seed) for row in group)
        caption, word, real = (_mean(group, shown[name]) for name in ("caption", "word", "real"))
        closed = f"{_way(caption, word, real):.2f}" if real - caption >= LEAST_WAY else "-"
        means = [f"{_mean(group, name):.3f}" for name in shown.values()]
        ends = [*(f"{_mean(group, n):.3f}" for n in texts.values()), f"{_mean(group, 'norm'):.2f}"]
        seconds = f"{_mean(group, 'seconds'):.0f}"
        lines.append(_line([concept or "**mean**", seeds, *means, _gain(group), closed, *ends, seconds]))
    return "\n".join(lines)


def attribute_table(rows: Sequence[Row]) -> str:
    """Format the errors of identity attributes, means over all rows, as Markdown, one attribute a line."""
    subjects = {"class word": "start", "caption": "caption", "word": "word", "real": "true"}
    head = ["attribute", *subjects, "moved from the start", "moved from the caption"]
    lines = [_line(head), "|" + "---|" * len(head)]
    for name in rows[0].word_errors:
        far = {subject: _mean(rows, f"{field}_errors", name) for subject, field in subjects.items()}
        moved = [_way(far[origin], far["word"], far["real"]) for origin in ("class word", "caption")]
        lines.append(_line([name, *(f"{number:.3g}" for number in far.values()), *(f"{share:.2f}" for share in moved)]))
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
    fields = {"num_vectors": arguments.num_vectors}
    bench = Bench()
    rows = read_rows(arguments.results, bench.made_by(overrides, fields))
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    for concept in (c for c in OBJECTS if c.name in arguments.concepts):
        wanted = [s for s in arguments.seeds if not any((r.concept, r.seed) == (concept.name, s) for r in rows)]
        baseline = bench.baseline(concept) if wanted else {}
        for seed in wanted:
            rows.append(bench.learn(concept, seed, baseline, overrides, fields))
            with arguments.results.open("a") as file:
                file.write(json.dumps(asdict(rows[-1])) + "\n")
    print(likeness_table(rows), attribute_table(rows), sep="\n\n")


if __name__ == "__main__":
    main()
