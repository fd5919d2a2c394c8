"""The measured numbers as a table: one line for each whose pictures were scored, one column for each metric."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hub_cards.contents import CardContents
from hub_cards.escape import Markdown, code, text
from hub_cards.facts import Metric, Protocol, Score

__all__ = ["ScoreTable", "prompt_scores", "protocol_sentence", "score_tables"]

# In the order of the table: the word first, then what it has to beat, then what nothing beats.
_SUBJECTS = {
    "word": "the learned word",
    "class word": "its class word instead",
    "caption": "the best caption without the word",
    "initial rows": "the word before training",
    "real pictures": "the real pictures among themselves",
}


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """The scores of one word.

    Attributes:
        token: The word.
        header: What stands above each column.
        rows: The cells, line by line, as Markdown.
    """

    token: str
    header: tuple[Markdown, ...]
    rows: tuple[tuple[Markdown, ...], ...]


def score_tables(contents: CardContents) -> list[ScoreTable]:
    """Lays the scores over all prompts out as tables.

    Args:
        contents: What the card tells.

    Returns:
        One table for each word that was measured.
    """
    tables = []
    for word in contents.words:
        scores = [
            score
            for score in contents.scores
            if score.prompt is None and (score.token or contents.words[0].token) == word.token
        ]
        if scores:
            tables.append(_table(word.token, scores, _metrics(contents, scores)))
    return tables


def prompt_scores(contents: CardContents, prompt: str) -> Markdown:
    """Tells the scores of the words' pictures of one prompt.

    Args:
        contents: What the card tells.
        prompt: The prompt.

    Returns:
        A line; empty where this prompt has no scores of its own.
    """
    scores = [score for score in contents.scores if score.subject == "word" and score.prompt == prompt]
    cells = [
        f"{_title(metric)} {_cell(score)}"
        for metric in _metrics(contents, scores)
        for score in scores
        if score.metric == metric.name
    ]
    return Markdown(", ".join(cells))


def protocol_sentence(protocol: Protocol) -> Markdown:
    """Says in words how the scored pictures were made.

    Args:
        protocol: The protocol.

    Returns:
        A sentence; what is not known is not in it.
    """
    source = f" ({text(protocol.source)})" if protocol.source else ""
    facts = [
        _counted(protocol.prompts, "prompt"),
        "" if protocol.seeds is None else f"{_counted(protocol.seeds, 'picture')} each",
        _counted(protocol.steps, "sampling step"),
        "" if protocol.guidance_scale is None else f"guidance scale {protocol.guidance_scale:g}",
    ]
    known = ", ".join(fact for fact in facts if fact)
    start = f"Protocol: {code(protocol.name)}{source}"
    where = "Where a picture was compared with its prompt, this stood in the word's place:"
    compared = f" {where} {text(protocol.text)}." if protocol.text else ""
    programs = text(", ".join(f"{name} {version}" for name, version in protocol.versions.items()))
    measured = f" Measured with {programs}." if programs else ""
    return Markdown(f"{start}{f', {known}' if known else ''}.{compared}{measured}")


def _table(token: str, scores: list[Score], metrics: list[Metric]) -> ScoreTable:
    subjects = sorted(dict.fromkeys(score.subject for score in scores), key=_order)
    header = [Markdown("pictures of"), *(_title(metric) for metric in metrics)]
    cell_of = {(score.subject, score.metric): _cell(score) for score in scores}
    rows = [
        (_subject(subject, token), *(cell_of.get((subject, metric.name), Markdown("")) for metric in metrics))
        for subject in subjects
    ]
    return ScoreTable(token, tuple(header), tuple(rows))


def _metrics(contents: CardContents, scores: list[Score]) -> list[Metric]:
    told = {metric.name: metric for metric in contents.metrics}
    measured = dict.fromkeys(score.metric for score in scores)
    return [metric for name, metric in told.items() if name in measured] + [
        Metric(name) for name in measured if name not in told
    ]


def _title(metric: Metric) -> Markdown:
    return Markdown(f"{text(metric.title or metric.name)} {'↑' if metric.higher_is_better else '↓'}")


def _subject(subject: str, token: str) -> Markdown:
    if subject == "word":
        return Markdown(f"**{_SUBJECTS[subject]} {code(token)}**")
    return text(_SUBJECTS.get(subject, subject))


def _cell(score: Score) -> Markdown:
    if not math.isfinite(score.mean):
        return Markdown("not a number")
    error = score.standard_error
    spread = f" ± {error:.3f}" if error is not None and math.isfinite(error) else ""
    return Markdown(f"{score.mean:.3f}{spread}")


def _order(subject: str) -> tuple[int, str]:
    known = list(_SUBJECTS)
    return (known.index(subject), "") if subject in _SUBJECTS else (len(known), subject)


def _counted(number: int | None, noun: str) -> str:
    if number is None:
        return ""
    return f"{number} {noun}{'' if number == 1 else 's'}"
