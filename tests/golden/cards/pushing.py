"""What the tests of cards let a client's process do; arguments and results are JSON."""

from __future__ import annotations

from typing import Any, Literal


def push(name: str, repo_id: str, repo_type: Literal["model", "dataset"]) -> str:
    """Push an example with a file beside it; returns the commit."""
    from hub_cards.card import Card
    from hub_cards.publication import Publication
    from tests.golden.cards.examples import EXAMPLES

    files = {"token_identifier.txt": b"<corgi>"}
    return Card.of(EXAMPLES[name]).push(Publication(repo_id, files, "Add a card", repo_type)).commit


def metadata(repo_id: str, repo_type: Literal["model", "dataset"]) -> dict[str, Any]:
    """What the Hub's client reads of the card that is there."""
    from huggingface_hub import DatasetCard, ModelCard

    return (DatasetCard if repo_type == "dataset" else ModelCard).load(repo_id).data.to_dict()
