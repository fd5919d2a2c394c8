"""Which method when? Every recipe on the pocket world: likeness, prompt fidelity, identity, cost.

    python -m benchmarks.methods --most_steps 500 --seeds 0

The last three shipped concepts are shown apart, as a check: no setting is to be chosen by them. `--most_steps` shortens
longer recipes (the paper's take 5,000 steps), schedules and activations included.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pocket_learning import Bench, Row
from benchmarks.reader import CACHE
from textual_inversion_ext.config import DEFAULT_STEPS
from textual_inversion_ext.pocket import OBJECTS
from textual_inversion_ext.recipes import RECIPES

DEFAULT = "(default)"
CHECK = tuple(concept.name for concept in OBJECTS[-3:])
SPANS = {"main": 255.0, "accent": 255.0, "aspect": 2.0, "feature": 2.0}  # largest difference, to put them on one scale


def shortened(settings: Mapping[str, Any], most: int) -> dict[str, Any]:
    """Limit the steps of a recipe; its warm-up shrinks with them, and shares of the run stay as they are."""
    steps = settings.get("max_train_steps", DEFAULT_STEPS)
    share = min(1.0, most / steps)
    short = {**settings, "max_train_steps": round(steps * share)}
    if "lr_warmup_steps" in settings:
        short["lr_warmup_steps"] = round(settings["lr_warmup_steps"] * share)
    return short


def identity_error(row: Row) -> float:
    """Mean error of colours and proportions, as a share of what it could be, above what the reader misreads anyway."""
    return float(np.mean([(row.word_distances[n] - row.true_distances[n]) / span for n, span in SPANS.items()]))


def table(results: Sequence[tuple[str, int, Row]]) -> str:
    """Format the means per recipe as a Markdown table."""
    lines = [
        "| recipe | CLIP-I | CLIP-T | identity error | steps | seconds | norm | check: CLIP-I | check: CLIP-T |",
        "|" + "---|" * 9,
    ]
    groups: dict[str, list[tuple[int, Row]]] = {}
    for recipe, steps, row in results:
        groups.setdefault(recipe, []).append((steps, row))
    shown = [row for _, _, row in results]

    def mean(rows: Sequence[Row], value: Any) -> str:
        return f"{np.mean([value(row) for row in rows]):.3f}" if rows else ""

    for name, image, text in (
        ("*best caption*", lambda r: r.caption_similarity, lambda r: r.caption_text),
        ("*real pictures*", lambda r: r.reference_similarity, None),
    ):
        chosen, kept = ([r for r in shown if (r.concept in CHECK) == check] for check in (False, True))
        cells = [mean(chosen, image), mean(chosen, text) if text else "", "", "", "", ""]
        lines.append(f"| {name} | {' | '.join(cells)} | {mean(kept, image)} | {mean(kept, text) if text else ''} |")
    for recipe, entries in groups.items():
        rows = [row for _, row in entries]
        chosen, kept = ([r for r in rows if (r.concept in CHECK) == check] for check in (False, True))
        cells = [mean(chosen, lambda r: r.word_similarity), mean(chosen, lambda r: r.word_text)]
        cells += [mean(chosen, identity_error), str(entries[0][0]), f"{np.mean([r.seconds for r in rows]):.0f}"]
        cells += [mean(rows, lambda r: r.norm), mean(kept, lambda r: r.word_similarity)]
        lines.append(f"| {recipe} | {' | '.join(cells)} | {mean(kept, lambda r: r.word_text)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark; results are appended to a JSON-lines file, so an interrupted run goes on where it stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=[DEFAULT, *RECIPES])
    parser.add_argument("--concepts", nargs="+", default=[concept.name for concept in OBJECTS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--most_steps", type=int, default=10_000, help="shorten recipes that take more steps")
    parser.add_argument("--results", type=Path, default=CACHE / "methods.jsonl")
    arguments = parser.parse_args()
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    lines = arguments.results.read_text().splitlines() if arguments.results.exists() else []
    results = [(entry["recipe"], entry["steps"], Row(**entry["row"])) for entry in map(json.loads, lines)]
    bench = Bench()
    baselines: dict[str, dict[str, Any]] = {}
    for seed in arguments.seeds:
        for concept in (c for c in OBJECTS if c.name in arguments.concepts):
            for name in arguments.recipes:
                recipe = RECIPES.get(name)
                settings = shortened(recipe.settings if recipe else {}, arguments.most_steps)
                steps = settings["max_train_steps"]
                if any((n, s, r.concept, r.seed) == (name, steps, concept.name, seed) for n, s, r in results):
                    continue
                if concept.name not in baselines:
                    baselines[concept.name] = bench.baseline(concept)
                row = bench.learn(concept, seed, baselines[concept.name], settings, recipe.concept if recipe else {})
                results.append((name, steps, row))
                with arguments.results.open("a") as file:
                    file.write(json.dumps({"recipe": name, "steps": steps, "row": asdict(row)}) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
