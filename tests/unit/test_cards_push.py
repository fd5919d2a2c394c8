"""Every golden card is taken by a server that speaks the Hub's protocol, and read from it again by the real client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pytest

from hub_cards.card import Card
from tests.golden.cards import pushing
from tests.golden.cards.examples import EXAMPLES
from tests.hub_server import Client, HubServer


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    with HubServer(tmp_path_factory.mktemp("hub")) as server:
        server.users.add("ann")
        yield server


@pytest.fixture(scope="module")
def client(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with Client(hub.endpoint, tmp_path_factory.mktemp("home"), "lfs", token="hf_ann_write") as client:
        yield client


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_card_arrives_whole_and_in_one_commit(name: str, hub: HubServer, client: Client) -> None:
    kind: Literal["model", "dataset"] = "dataset" if name == "dataset" else "model"
    hub.log.clear()
    client.call(pushing.push, name, f"ann/{name}", kind)
    card = Card.of(EXAMPLES[name])
    assert client.call(pushing.metadata, f"ann/{name}", kind) == card.data.to_dict()
    assert len(hub.log.lines("POST", "/commit/")) == 1
    repository = hub.repositories[f"datasets/ann/{name}" if kind == "dataset" else f"ann/{name}"]
    files = repository.files("main")
    assert hub.content(files["README.md"]) == card.beside({"token_identifier.txt": b"<corgi>"})["README.md"]
    assert "token_identifier.txt" in files
