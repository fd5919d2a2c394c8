"""Every golden card is taken by a server that speaks the Hub's protocol, and read from it again by the real client."""

from __future__ import annotations

from typing import Literal

import pytest

from hub_cards.card import Card
from tests.golden.cards import pushing
from tests.golden.cards.examples import EXAMPLES
from tests.hub_server import Client, HubServer


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_card_arrives_whole_and_in_one_commit(name: str, hub: HubServer, lfs_client: Client) -> None:
    kind: Literal["model", "dataset"] = "dataset" if name == "dataset" else "model"
    lfs_client.call(pushing.push, name, f"ann/card-{name}", kind)
    card = Card.of(EXAMPLES[name])
    assert lfs_client.call(pushing.metadata, f"ann/card-{name}", kind) == card.data.to_dict()
    assert len(hub.log.lines("POST", "/commit/")) == 1
    repository = hub.repositories[f"datasets/ann/card-{name}" if kind == "dataset" else f"ann/card-{name}"]
    files = repository.files("main")
    assert hub.content(files["README.md"]) == card.beside({"token_identifier.txt": b"<corgi>"})["README.md"]
    assert "token_identifier.txt" in files
