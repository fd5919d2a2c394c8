"""How well does the pocket denoiser know names? Those that it was trained on, measured like learned words.

    python -m benchmarks.pocket_names

Names get their rows from CLIP, which only has to tell them apart; a learned word gets its row from the denoiser itself.
So a word may come nearer to its identity than these names do to theirs: they say what the denoiser has made of CLIP's
rows so far, not what a word could reach at best.
"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks.pocket_learning import SCORE_SEEDS, Bench, pictures_of, truth_of
from textual_inversion_ext.pipelines.sampling import sample
from textual_inversion_ext.pocket import PocketConcept
from textual_inversion_ext.pocket.captions import with_article
from textual_inversion_ext.pocket.characters import CHARACTERS
from textual_inversion_ext.pocket.measure import SETTINGS


def chosen(count: int, seed: int = 5) -> list[PocketConcept]:
    """Some characters with an accessory, as the shipped concepts have, as if they were concepts."""
    known = list(CHARACTERS)
    fitting = [name for name, subject in CHARACTERS.items() if subject.accessory and subject.pattern != "checkered"]
    names = [str(name) for name in np.random.default_rng(seed).permutation(fitting)[:count]]
    return [
        PocketConcept(name, CHARACTERS[name].kind, "object", CHARACTERS[name], "photo", known.index(name))
        for name in names
    ]


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=8)
    bench, rows = Bench(), []
    print("| name | subject | caption | name | real | main: caption | name | real | accent: caption | name | real |")
    print("|" + "---|" * 11)
    for concept in chosen(parser.parse_args().count):
        before = bench.baseline(concept)
        prompt = f"a photo of {with_article(concept.name)}"
        made = sample(bench.pipeline, (), [prompt], SCORE_SEEDS, SETTINGS)[0]
        seen = bench.errors(made, truth_of(concept))
        likeness = bench.likeness(made, pictures_of(concept))
        row = [float(np.mean(before["caption_each"])), likeness, before["reference_similarity"]]
        for name in ("main", "accent"):
            row += [before["caption_errors"][name], seen[name], before["true_errors"][name]]
        rows.append(row)
        print(_line(concept.name, concept.class_name, row), flush=True)
    print(_line("**mean**", "", np.mean(rows, axis=0).tolist()))


def _line(name: str, kind: str, row: list[float]) -> str:
    return f"| {name} | {kind} | {' | '.join(f'{value:.3f}' for value in row)} |"


if __name__ == "__main__":
    main()
