"""What the templates may write: the contents themselves, and what is worked out from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from hub_cards.concept_index import IndexContents
from hub_cards.contents import CardContents, License, Picture
from hub_cards.dataset import DatasetContents
from hub_cards.escape import Markdown, address, code, text
from hub_cards.facts import Training
from hub_cards.scores import prompt_scores, protocol_sentence, score_tables
from hub_cards.usage import diffusers_code, places

__all__ = ["dataset_view", "index_view", "model_view"]

_FIRST_SCREEN = 4
_COLUMNS = 4


def model_view(contents: CardContents) -> dict[str, Any]:
    """Collects what the template of a model card may write.

    Args:
        contents: What the card tells.

    Returns:
        Every field of `contents` by its name, and: ``heading``, ``first_pictures`` (a table), ``gallery`` (prompt, its
        scores, table of its pictures), ``reference_table``, ``usage`` (Python), ``places``, ``tables`` (scores),
        ``protocol_sentence``, ``training_facts``, ``license_sentence``, ``limits`` (all of them), ``citations`` (each
        once).
    """
    return {
        **_fields_of(contents),
        "heading": text(contents.title) if contents.title else Markdown(", ".join(map(code, contents.tokens))),
        "first_pictures": _table(contents.opening_pictures[:_FIRST_SCREEN]),
        "gallery": _gallery(contents),
        "reference_table": _table(contents.references),
        "usage": diffusers_code(contents),
        # A model with lines of its own is none that other programs load.
        "places": [] if contents.base_model.load_lines else [(word, places(word)) for word in contents.words],
        "tables": score_tables(contents),
        "protocol_sentence": None if contents.protocol is None else protocol_sentence(contents.protocol),
        "training_facts": _training_facts(contents.training),
        "license_sentence": _license_sentence(contents.license),
        "limits": [*_general_limits(contents), *contents.limits],
        "citations": list(dict.fromkeys(citation.strip() for citation in contents.citations if citation.strip())),
    }


def index_view(contents: IndexContents) -> dict[str, Any]:
    """Collects what the template of an index card may write.

    Args:
        contents: What the card tells.

    Returns:
        Every field of `contents` by its name, and: ``metrics`` (titles of all metrics), ``rows`` (an entry and the
        cells of its scores), ``license_sentence``.
    """
    metrics = list(dict.fromkeys(title for entry in contents.entries for title in entry.scores))
    rows = [(entry, [_number(entry.scores.get(title)) for title in metrics]) for entry in contents.entries]
    view = {"metrics": metrics, "rows": rows, "license_sentence": _license_sentence(contents.license)}
    return {**_fields_of(contents), **view}


def dataset_view(contents: DatasetContents) -> dict[str, Any]:
    """Collects what the template of a data set's card may write.

    Args:
        contents: What the card tells.

    Returns:
        Every field of `contents` by its name, and: ``picture_table``, ``license_sentence``.
    """
    view = {"picture_table": _table(contents.pictures), "license_sentence": _license_sentence(contents.license)}
    return {**_fields_of(contents), **view}


def _fields_of(contents: Any) -> dict[str, Any]:
    return {field.name: getattr(contents, field.name) for field in fields(contents)}


def _gallery(contents: CardContents) -> list[tuple[str, Markdown, Markdown]]:
    """Prompt, its scores, its pictures; nothing where that would only repeat the first screen."""
    rows = [
        (prompt, prompt_scores(contents, prompt), _table(pictures, seeds=True))
        for prompt, pictures in _by_prompt(contents.pictures)
    ]
    adds = contents.pictures != contents.opening_pictures[:_FIRST_SCREEN] or any(scores for _, scores, _ in rows)
    return rows if adds else []


def _by_prompt(pictures: Sequence[Picture]) -> list[tuple[str, list[Picture]]]:
    groups: dict[str, list[Picture]] = {}
    for picture in pictures:
        groups.setdefault(picture.prompt, []).append(picture)
    return list(groups.items())


def _table(pictures: Sequence[Picture], seeds: bool = False) -> Markdown:
    """Pictures side by side, each with its prompt (or its seed) above it; empty without pictures."""
    parts = []
    for start in range(0, len(pictures), _COLUMNS):
        row = pictures[start : start + _COLUMNS]
        titles = [_seed(picture) if seeds else code(picture.prompt) for picture in row]
        shown = [f"![{text(picture.prompt)}]({address(picture.path)})" for picture in row]
        parts.append(f"{_line(titles)}\n{_line(['---'] * len(row))}\n{_line(shown)}")
    return Markdown("\n\n".join(parts))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _seed(picture: Picture) -> str:
    return "" if picture.seed is None else f"seed {picture.seed}"


def _training_facts(training: Training) -> list[tuple[Markdown, Markdown]]:
    """What is known about the training, as pairs of name and value."""
    facts: list[tuple[str, object]] = [
        ("pictures", training.images),
        ("recipe", None if training.recipe is None else code(training.recipe)),
        ("optimizer steps", training.steps),
        ("time of the training loop", None if training.seconds is None else _duration(training.seconds)),
        ("ended by", training.stopped),
        ("hardware", training.hardware),
        ("fingerprint of the pictures", None if training.digest is None else code(training.digest)),
        ("versions", ", ".join(f"{name} {version}" for name, version in training.versions.items()) or None),
    ]
    told = [(Markdown(name), text(value)) for name, value in facts if value is not None]
    return told + [(code(name), code(value)) for name, value in training.settings.items()]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _license_sentence(license: License | None) -> Markdown:
    if license is None:
        return Markdown("No licence was given. Ask the publisher before you use the files for more than looking.")
    name = text(license.name or license.id)
    shown = f"[{name}]({address(license.link)})" if license.link else name
    if license.inherited_from is None:
        return Markdown(f"{shown}.")
    return Markdown(f"{shown}, taken over from the base model {code(license.inherited_from)}.")


def _general_limits(contents: CardContents) -> list[str]:
    """What is true of every learned word, and of every score like these."""
    always = [
        "A word works with the model that learned it and with models that share its text encoders; elsewhere it means "
        "little or nothing.",
        "A word adds no knowledge to the model. What the model draws badly it still draws badly, and the biases of "
        "the model and of the pictures stay.",
    ]
    # Shown on plain diffusers by tests/unit/test_pipelines_traps.py.
    always += [
        f"{word.token} has capitals and several vectors: plain diffusers uses only one of them."
        for word in contents.words
        if word.num_vectors > 1 and word.token != word.token.lower()
    ]
    if not contents.scores:
        return always
    measured = [
        "The scores are similarities of whole pictures in the eyes of one network. They do not say whether a person "
        "would take the two for the same thing, and a copied background raises them, too.",
        "Scores of another network, of other prompts or of other pictures cannot be compared with these.",
        "One training was measured. Another one, with another seed or other pictures, gives another word.",
    ]
    return always + measured


def _number(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.3f}"
