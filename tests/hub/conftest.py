"""One server and one client of each mode for all test files here; each test starts with no faults and an empty log."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hub_server import Client, HubServer


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    with HubServer(tmp_path_factory.mktemp("hub")) as server:
        server.users.add("ann")
        server.users.add("bob")
        server.users.add_organisation("lab", ann="admin", bob="read")
        yield server


@pytest.fixture
def hub(server: HubServer) -> HubServer:
    """The server without faults and with an empty log; what earlier tests published is still there."""
    server.faults.clear()
    server.log.clear()
    return server


@pytest.fixture(scope="package")
def lfs_client(server: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with Client(server.endpoint, tmp_path_factory.mktemp("lfs"), "lfs", token="hf_ann_write") as client:
        yield client


@pytest.fixture(scope="package")
def xet_client(server: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with Client(server.endpoint, tmp_path_factory.mktemp("xet"), "xet", token="hf_ann_write") as client:
        yield client


@pytest.fixture(params=["lfs", "xet"])
def client(request: pytest.FixtureRequest) -> Client:
    """The same test with both ways of large files."""
    client: Client = request.getfixturevalue(f"{request.param}_client")
    return client
