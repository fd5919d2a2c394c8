"""What can go wrong with a card; every message says what was got, what is allowed and what to do."""

from __future__ import annotations

__all__ = ["CardError", "CardFileError", "HubCardsError"]


class HubCardsError(Exception):
    """Base of all errors of this package; never raised itself."""


class CardError(HubCardsError, ValueError):
    """A card cannot be made of what was given: its contents, its template, or the card that it should replace."""


class CardFileError(HubCardsError, OSError):
    """A card's file cannot be read or written."""
