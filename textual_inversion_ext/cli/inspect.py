"""``textual-inversion inspect``: what an embedding file is, what it holds, and who loads it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual_inversion_ext.errors import EmbeddingFileError

if TYPE_CHECKING:
    from textual_inversion_ext.concept import LearnedConcept
    from textual_inversion_ext.pipelines.vocabularies import Vocabulary

HELP = "Show what embedding files hold: format, word, vectors, and which tools load them as they are."

_WORDS = 3
_WIDEST = 44


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags.

    Args:
        parser: The verb's parser.
    """
    parser.add_argument(
        "place",
        nargs="+",
        metavar="FILE|FOLDER|REPO",
        help="Embedding files, folders of them, repositories of the Hub.",
    )
    parser.add_argument(
        "--model", default=None, help="Hub id, folder or 'pocket': compare norms, and show the nearest words."
    )
    parser.add_argument("--revision", default=None, help="Revision of the repositories on the Hub.")
    parser.add_argument("--json", action="store_true", help="Write JSON, with all metadata.")


def run(flags: argparse.Namespace) -> None:
    """Show the files.

    Args:
        flags: The parsed flags.

    Raises:
        EmbeddingFileError: Nothing can be read.
    """
    from textual_inversion_ext.pipelines.vocabularies import open_vocabularies

    vocabularies = open_vocabularies(flags.model) if flags.model else []
    found = [entry for place in flags.place for entry in _entries(place, flags.revision, vocabularies)]
    errors = [entry for entry in found if "error" in entry]
    if len(errors) == len(found) and not flags.json:
        raise EmbeddingFileError("\n".join(entry["error"] for entry in errors))
    if flags.json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        _show(found)
    if len(errors) == len(found):
        raise EmbeddingFileError(f"none of the {len(errors)} file(s) can be read.")


def describe(concept: LearnedConcept, vocabularies: Sequence[Vocabulary] = ()) -> dict[str, Any]:
    """Sums a concept up as JSON values.

    Args:
        concept: As `load_concept` returned it.
        vocabularies: Text encoders of a model to compare with.

    Returns:
        Token, format, vectors per encoder with their norms, metadata, and the tools that load its file as it is. Norms
        and nearest words of a vocabulary only where one of the vectors' width is given.
    """
    from textual_inversion_ext.files import tools_for

    vectors: dict[str, dict[str, Any]] = {}
    for key, rows in concept.vectors.items():
        facts: dict[str, Any] = {
            "vectors": rows.shape[0],
            "dim": rows.shape[1],
            "norms": [round(norm, 4) for norm in rows.norm(dim=1).tolist()],
        }
        match = next((words for words in vocabularies if words.table.shape[1] == rows.shape[1]), None)
        if match is not None:
            facts["vocabulary_norms"] = [round(norm, 4) for norm in match.norms()]
            facts["nearest"] = [
                [{"word": word, "cosine": round(cosine, 4)} for word, cosine in words]
                for words in match.nearest(rows, _WORDS)
            ]
        vectors[key] = facts
    names = {"format": "file_format", "variant": "file_variant", "dtype": "file_dtype"}
    return {
        "token": concept.token,
        **{name: concept.metadata.get(key, "") for name, key in names.items()},
        "vectors": vectors,
        "tools": tools_for(concept.metadata),
        "metadata": dict(concept.metadata),
    }


def _entries(place: str, revision: str | None, vocabularies: Sequence[Vocabulary]) -> Iterable[dict[str, Any]]:
    from tqdm import tqdm

    from textual_inversion_ext.files import scan

    try:
        for file, result in tqdm(scan(place, revision=revision), desc="reading", unit="file", delay=2, leave=False):
            if isinstance(result, EmbeddingFileError):
                yield {"file": str(file), "error": str(result)}
            else:
                yield from ({"file": str(file), **describe(concept, vocabularies)} for concept in result)
    except EmbeddingFileError as error:
        yield {"file": place, "error": str(error)}


def _show(entries: Sequence[dict[str, Any]]) -> None:
    """Print a table, a line per concept, then what does not fit into one."""
    readable = [entry for entry in entries if "error" not in entry]
    rows: list[tuple[str, ...]] = [("FILE", "FORMAT", "WORD", "VECTORS", "TYPE", "NORM", "LOADED AS IT IS BY")]
    rows += [_row(entry) for entry in readable]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for entry in readable:
        lines = [line for key, facts in entry["vectors"].items() for line in _nearest_lines(key, facts)]
        notes = [f"not read: {entry['metadata']['not_read']}"] if "not_read" in entry["metadata"] else []
        if lines or notes:
            print(f"\n{entry['token']} ({Path(entry['file']).name})")
            print("\n".join(f"  {line}" for line in lines + notes))
    for entry in entries:
        if "error" in entry:
            print(f"\nnot readable: {entry['error']}")


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    kind = f"{entry['format']} ({entry['variant']})" if entry["variant"] else entry["format"]
    vectors = ", ".join(f"{key} {facts['vectors']}x{facts['dim']}" for key, facts in entry["vectors"].items())
    norms = ", ".join(_norm(facts) for facts in entry["vectors"].values())
    tools = [tool if how == "yes" else f"{tool} ({how})" for tool, how in entry["tools"].items()]
    return (_cut(entry["file"]), kind, entry["token"], vectors, entry["dtype"], norms, ", ".join(tools) or "none")


def _norm(facts: dict[str, Any]) -> str:
    low, high = min(facts["norms"]), max(facts["norms"])
    own = f"{low:.3g}" if len(facts["norms"]) == 1 else f"{low:.3g}-{high:.3g}"
    if "vocabulary_norms" not in facts:
        return own
    low, _, high = facts["vocabulary_norms"]
    return f"{own} (words {low:.3g}-{high:.3g})"


def _nearest_lines(key: str, facts: dict[str, Any]) -> list[str]:
    return [
        f"{key} {number}: " + ", ".join(f"{word['word']} {word['cosine']:.2f}" for word in words)
        for number, words in enumerate(facts.get("nearest", []), start=1)
    ]


def _cut(path: str) -> str:
    return path if len(path) <= _WIDEST else f"...{path[3 - _WIDEST :]}"
