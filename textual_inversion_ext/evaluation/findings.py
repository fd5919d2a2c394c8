"""What a report tells without any picture: rows beside the vocabulary, the training's losses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from textual_inversion_ext.evaluation.facts import EncoderRows

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import Tensor

    from textual_inversion_ext.concept import LearnedConcept

STEP_LOG = "steps.jsonl"
"""Name of a run's step log."""

_MOST_LOSSES = 400  # more points than a page has pixels for them would only make the file large
_DECIMALS = 4


def rows_beside_vocabulary(
    pipeline: DiffusionPipeline, concept: LearnedConcept, count: int = 5
) -> tuple[EncoderRows, ...]:
    """Compare learned rows with the words that a model knows.

    Args:
        pipeline: The model.
        concept: The concept.
        count: Nearest words per row.

    Returns:
        One record for each text encoder for which the concept has rows of its width.
    """
    from textual_inversion_ext.pipelines.vocabularies import vocabularies_of

    found = []
    for key, vocabulary in vocabularies_of(pipeline).items():
        rows = concept.vectors.get(key)
        if rows is None or rows.shape[1] != vocabulary.table.shape[1]:
            continue
        low, middle, high = (round(norm, _DECIMALS) for norm in vocabulary.norms())
        nearest = vocabulary.nearest(rows, count)
        found.append(
            EncoderRows(
                encoder=key,
                norms=tuple(round(norm, _DECIMALS) for norm in rows.norm(dim=1).tolist()),
                vocabulary_norms=(low, middle, high),
                nearest=tuple(tuple((word, round(cosine, _DECIMALS)) for word, cosine in words) for words in nearest),
            )
        )
    return tuple(found)


def rows_hash(vectors: Mapping[str, Tensor]) -> str:
    """Name rows by what is in them.

    Args:
        vectors: Encoder key -> (n, dim) float32 rows.

    Returns:
        16 hexadecimal digits; the same for the same rows, whatever file they came from.
    """
    digest = hashlib.sha256()
    for key in sorted(vectors):
        rows = vectors[key].detach().float().cpu().contiguous()
        digest.update(f"{key} {tuple(rows.shape)}".encode())
        digest.update(rows.numpy().tobytes())
    return digest.hexdigest()[:16]


def losses_of(run: Path | None, token: str) -> tuple[tuple[int, float], ...]:
    """Read a training's losses.

    Args:
        run: Folder of the run, or of one of its concepts; None for a concept that came without its run.
        token: The concept's placeholder.

    Returns:
        Steps and losses, at most 400: of a longer log, means of neighbours. Empty where there is no log.
    """
    logs = [] if run is None else [run / STEP_LOG, run.parent / STEP_LOG]
    for log in logs:
        found = _logged(log, token)
        if found:
            return _thinned(found)
    return ()


def _logged(log: Path, token: str) -> list[tuple[int, float]]:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            entry = json.loads(line)
            # A step in which the loss was not finite is in the log as NaN; it has no place in a curve.
            step, loss = int(entry["step"]), float(entry["loss"][token])
        except (ValueError, TypeError, KeyError, OverflowError):  # half a line of a killed process; another concept's
            continue
        if abs(loss) < float("inf"):
            found.append((step, loss))
    return found


def _thinned(points: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    size = -(-len(points) // _MOST_LOSSES)
    parts = [points[first : first + size] for first in range(0, len(points), size)]
    return tuple((part[-1][0], round(sum(loss for _, loss in part) / len(part), 6)) for part in parts)
