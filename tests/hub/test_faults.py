"""Each kind of fault does what it says, and what the real clients make of it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.hub import calls
from tests.hub_server import Client, ClientError, HubServer

COMMIT = "/commit/main"


@pytest.fixture
def one(tmp_path: Path) -> dict[str, Path]:
    """One file to commit."""
    (tmp_path / "notes.txt").write_text("words")
    return {"notes.txt": tmp_path / "notes.txt"}


def made(hub: HubServer, repo: str) -> int:
    """Commits after the first."""
    return len(hub.repositories[repo].history()) - 1


def repository(client: Client, name: str) -> str:
    client.call(calls.api, "create_repo", f"ann/{name}")
    return f"ann/{name}"


def test_status(hub: HubServer, lfs_client: Client, one: dict[str, Path]) -> None:
    """Nothing is done; the headers and the body are those of the test."""
    repo = repository(lfs_client, "status")
    headers = {"RateLimit": '"api";r=0;t=7', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
    fault = hub.faults.add("status", "POST", COMMIT, status=429, headers=headers, body=b'{"error": "slow down"}')
    with pytest.raises(ClientError, match="Retry after 7 seconds") as refused:
        lfs_client.call(calls.create_commit, repo, one)
    assert "HfHubHTTPError" in refused.value.classes
    assert (fault.met, made(hub, repo)) == (1, 0)
    assert [entry.status for entry in hub.log.entries("POST", COMMIT)] == [429]
    lfs_client.call(calls.create_commit, repo, one)
    assert made(hub, repo) == 1, "the fault was for one request"


def test_cut(hub: HubServer, lfs_client: Client, one: dict[str, Path]) -> None:
    """The connection ends before anything is done."""
    repo = repository(lfs_client, "cut")
    hub.faults.add("cut", "POST", COMMIT)
    with pytest.raises(ClientError) as cut:
        lfs_client.call(calls.create_commit, repo, one)
    assert cut.value.classes[0] in ("ReadError", "RemoteProtocolError")
    assert made(hub, repo) == 0
    assert [(entry.status, entry.fault) for entry in hub.log.entries("POST", COMMIT)] == [(0, "cut")]


def test_lose(hub: HubServer, lfs_client: Client, one: dict[str, Path]) -> None:
    """For the client the same as a cut connection; on the server the commit is there."""
    repo = repository(lfs_client, "lose")
    hub.faults.add("lose", "POST", COMMIT)
    with pytest.raises(ClientError) as lost:
        lfs_client.call(calls.create_commit, repo, one)
    assert lost.value.classes[0] in ("ReadError", "RemoteProtocolError")
    assert made(hub, repo) == 1


def test_truncate(hub: HubServer, lfs_client: Client, one: dict[str, Path]) -> None:
    """The answer's head arrives, and half of its body; a client that reads files goes on after the break."""
    repo = repository(lfs_client, "truncate")
    hub.faults.add("truncate", "POST", COMMIT)
    with pytest.raises(ClientError, match="peer closed connection without sending complete message body"):
        lfs_client.call(calls.create_commit, repo, one)
    assert made(hub, repo) == 1
    hub.log.clear()
    fault = hub.faults.add("truncate", "GET", "/resolve/")
    lfs_client.call(calls.download, repo, "notes.txt")
    assert fault.met == 1
    assert len(hub.log.lines("GET", "/resolve/")) == 2


def test_delay(hub: HubServer, lfs_client: Client, one: dict[str, Path]) -> None:
    repo = repository(lfs_client, "delay")
    hub.faults.add("delay", "POST", COMMIT, seconds=0.3)
    start = time.monotonic()
    lfs_client.call(calls.create_commit, repo, one)
    assert time.monotonic() - start >= 0.3
    assert made(hub, repo) == 1


def test_which_requests_meet_a_fault(hub: HubServer, lfs_client: Client) -> None:
    """By method, by pattern (query included), after some that pass, and as often as told."""
    fault = hub.faults.add("status", "GET", r"/api/whoami.*again=1", status=418, times=2, skip=1)

    def status(path: str, method: str = "GET") -> int:
        answer: dict[str, int] = lfs_client.call(calls.raw, method, path, None, {})
        return answer["status"]

    asked = [status("/api/whoami-v2?again=1") for _ in range(4)]
    assert asked == [200, 418, 418, 200]
    assert fault.met == 2
    hub.faults.add("status", "GET", "whoami", status=418, times=None)
    assert {status("/api/whoami-v2") for _ in range(3)} == {418}
    assert status("/api/agent-harnesses") == 200
    hub.faults.clear()
    assert status("/api/whoami-v2") == 200


def test_a_large_file_that_breaks_on_the_way_is_sent_again(hub: HubServer, lfs_client: Client, tmp_path: Path) -> None:
    """The client's own retries are left as they are: one cut upload costs a second and no more."""
    repo = repository(lfs_client, "again")
    (tmp_path / "w.bin").write_bytes(b"\0again")
    hub.faults.add("cut", "PUT", "/lfs/")
    lfs_client.call(calls.create_commit, repo, {"w.bin": tmp_path / "w.bin"})
    assert len(hub.log.lines("PUT", "/lfs/")) == 2
    assert hub.read(repo, "w.bin") == b"\0again"


def test_a_fault_of_xet(hub: HubServer, xet_client: Client, tmp_path: Path) -> None:
    repo = repository(xet_client, "xet-fault")
    (tmp_path / "w.bin").write_bytes(b"\0xet fault")
    hub.faults.add("status", "GET", "xet-write-token", status=403, times=None)
    with pytest.raises(ClientError) as refused:
        xet_client.call(calls.create_commit, repo, {"w.bin": tmp_path / "w.bin"})
    assert refused.value.classes[0] in ("ConnectionError", "HfHubHTTPError"), refused.value
    assert made(hub, repo) == 0
