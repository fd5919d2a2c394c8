"""What are rows worth that the training of the pocket denoiser makes of true attributes?

    python -m benchmarks.pocket_rows pocket-build/unet.safetensors

`pocket/build/identities.py` makes them. They say, while that training goes on or afterwards, what the denoiser has
learned to paint of a single row: a learned word is found with no knowledge of the truth. Denoiser and rows are the
averaged ones of the checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from benchmarks.pocket_learning import Bench, truth_of
from textual_inversion_ext import LearnedConcept
from textual_inversion_ext.pocket import OBJECTS, PocketConcept
from textual_inversion_ext.pocket.build.identities import IdentityRows, identity_numbers
from textual_inversion_ext.pocket.build.loop import averaged

SEEDS = range(32)
ERRORS = ("main", "accent", "colours", "aspect", "feature", "proportions", "accessory")


class Rows:
    """Rows of concepts, from a checkpoint, and what measures them.

    Args:
        checkpoint: Of the denoiser's training.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.bench = Bench()
        pipeline = self.bench.pipeline
        self.network = IdentityRows(pipeline.tokenizer, pipeline.text_encoder)
        for module, part in ((pipeline.unet, "unet"), (self.network, "rows")):
            module.load_state_dict(averaged(checkpoint, part))

    @torch.no_grad()
    def measure(self, concept: PocketConcept) -> list[float]:
        """Likeness, obedience of edited prompts, norm, and the errors of the identity."""
        row = self.network.rows(torch.from_numpy(identity_numbers(truth_of(concept)))[None])[0]
        scores = self.bench.word_scores(LearnedConcept(concept.placeholder_token, {"clip_l": row}), concept, SEEDS)
        errors = [scores["word_errors"][name] for name in ERRORS]
        return [float(np.mean(scores["word_each"])), scores["word_text"], scores["norm"], *errors]


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    rows, table = Rows(parser.parse_args().checkpoint), []
    heads = ("concept", "likeness", "text", "norm", *ERRORS)
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for concept in OBJECTS:
        table.append(rows.measure(concept))
        print(_line(concept.name, table[-1]), flush=True)
    print(_line("**mean**", np.mean(table, axis=0).tolist()))


def _line(name: str, row: list[float]) -> str:
    return f"| {name} | {' | '.join(f'{value:.3f}' for value in row)} |"


if __name__ == "__main__":
    main()
