"""Where a row starts: one file per idea, and this table is the only list, asked in its order."""

from __future__ import annotations

from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.initializers.base import Initializer
from textual_inversion_ext.initializers.file import FileInitializer
from textual_inversion_ext.initializers.words import WordsInitializer

__all__ = ["INITIALIZERS", "FileInitializer", "Initializer", "WordsInitializer", "resolve"]

INITIALIZERS: dict[str, type[Initializer]] = {
    FileInitializer.name: FileInitializer,
    WordsInitializer.name: WordsInitializer,  # takes any text, so it comes last
}


def resolve(concept: ConceptSpec) -> Initializer:
    """The initializer that a concept's ``initializer`` asks for.

    Args:
        concept: what is to be learned.

    Returns:
        The first in the table that recognises it.
    """
    return next(kind() for kind in INITIALIZERS.values() if kind.recognises(concept.initializer))
