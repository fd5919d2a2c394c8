"""A push against a hub that has a life of its own: others commit meanwhile, rights end, answers get lost."""

from __future__ import annotations

import os
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.hub import calls
from tests.hub_server import Client, ClientError, HubServer
from tests.hub_server.objects import Blob

CARD = "---\nlicense: mit\ntags:\n- textual_inversion\n---\n# A word\n"
WAITS = [0.01, 0.01]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    contents = {"README.md": CARD.encode(), "token_identifier.txt": b"<tok>", "words.safetensors": os.urandom(2_000)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return {name: tmp_path / name for name in contents}


def titles(hub: HubServer, repo: str, revision: str = "main") -> list[str]:
    """Titles of the commits after the first, newest first."""
    return [commit.title for commit in hub.repositories[repo].history(revision)[:-1]]


def holds(hub: HubServer, repo: str, files: dict[str, Path], revision: str = "main") -> bool:
    there = hub.repositories[repo].files(revision)
    return all(name in there and hub.content(there[name]) == file.read_bytes() for name, file in files.items())


def commit_as_somebody_else(hub: HubServer, repo: str) -> None:
    def change(there: dict[str, Blob]) -> None:
        there["theirs.txt"] = Blob.regular(b"theirs")

    hub.repositories[repo].commit("main", [change], "theirs", "", "bob", "")


def meanwhile(hub: HubServer, method: str, pattern: str, seconds: float = 20) -> None:
    """Wait until a request has arrived."""
    end = time.monotonic() + seconds
    while not hub.log.lines(method, pattern):
        assert time.monotonic() < end, hub.log.lines()
        time.sleep(0.005)


def start_push(client: Client, repo: str, files: dict[str, Path], **named: Any) -> Future[Any]:
    return ThreadPoolExecutor(1).submit(client.call, calls.push, repo, files, WAITS, **named)


def test_twice_the_same_is_one_commit(hub: HubServer, client: Client, files: dict[str, Path]) -> None:
    repo = f"ann/twice-{client.mode}"
    first = client.call(calls.push, repo, files, WAITS)
    place = {"repo_id": repo, "commit": hub.repositories[repo].head().oid, "url": f"{hub.endpoint}/{repo}"}
    assert first == {**place, "changed": True, "removed": []}
    assert client.call(calls.push, repo, files, WAITS) == {**first, "changed": False}
    assert titles(hub, repo) == ["Publish"]
    files["token_identifier.txt"].write_bytes(b"<other>")
    assert client.call(calls.push, repo, files, WAITS)["changed"] is True
    assert titles(hub, repo) == ["Publish", "Publish"]
    assert holds(hub, repo, files)


def test_a_name_without_a_user_is_the_token_s(hub: HubServer, lfs_client: Client, files: dict[str, Path]) -> None:
    assert lfs_client.call(calls.push, "short", files, WAITS)["repo_id"] == "ann/short"
    assert lfs_client.call(calls.push, "lab/other", files, WAITS)["repo_id"] == "lab/other"
    assert "lab/other" in hub.repositories


def test_files_of_others_stay(hub: HubServer, client: Client, files: dict[str, Path]) -> None:
    repo = f"ann/others-{client.mode}"
    client.call(calls.api, "create_repo", repo)
    commit_as_somebody_else(hub, repo)
    client.call(calls.push, repo, files, WAITS)
    assert titles(hub, repo) == ["Publish", "theirs"]
    assert hub.read(repo, "theirs.txt") == b"theirs"


def test_a_change_under_way_stops_the_push(hub: HubServer, lfs_client: Client, files: dict[str, Path]) -> None:
    """Somebody commits after the push has looked at the branch, and before its own commit arrives."""
    lfs_client.call(calls.api, "create_repo", "ann/race")
    hub.faults.add("delay", "POST", "/commit/main", seconds=0.4)
    push = start_push(lfs_client, "ann/race", files)
    meanwhile(hub, "POST", "/commit/main")
    commit_as_somebody_else(hub, "ann/race")
    with pytest.raises(ClientError, match="changed by somebody else.*nothing was sent") as refused:
        push.result()
    assert refused.value.classes[0] == "PushError"
    assert titles(hub, "ann/race") == ["theirs"]
    lfs_client.call(calls.push, "ann/race", files, WAITS)
    assert titles(hub, "ann/race") == ["Publish", "theirs"]


def test_a_stale_parent(hub: HubServer, client: Client, files: dict[str, Path]) -> None:
    repo = f"ann/parent-{client.mode}"
    client.call(calls.api, "create_repo", repo)
    old = hub.repositories[repo].head().oid
    commit_as_somebody_else(hub, repo)
    with pytest.raises(ClientError, match=f"and not at {old} .*nothing was sent: it was changed by somebody else"):
        client.call(calls.push, repo, files, WAITS, parent_commit=old)
    assert titles(hub, repo) == ["theirs"]
    assert not hub.log.lines("POST", "/commit/")
    with pytest.raises(ClientError, match="'main' is no commit"):
        client.call(calls.push, repo, files, WAITS, parent_commit="main")
    client.call(calls.push, repo, files, WAITS, parent_commit=hub.repositories[repo].head().oid[:7])
    commit_as_somebody_else(hub, repo)
    # That an older commit holds the files is not that they were sent now.
    with pytest.raises(ClientError, match="nothing was sent"):
        client.call(calls.push, repo, files, WAITS, parent_commit=old)


def test_a_lost_answer_with_somebody_else_s_commit_on_top(
    hub: HubServer, lfs_client: Client, files: dict[str, Path]
) -> None:
    """The branch's head is theirs by then; ours lies under it and is found there."""
    lfs_client.call(calls.api, "create_repo", "ann/under")
    hub.faults.add("lose", "POST", "/commit/main")
    hub.faults.add("delay", "GET", "^/api/models/ann/under$|/revision/", skip=1, seconds=0.4)
    push = start_push(lfs_client, "ann/under", files)
    meanwhile(hub, "POST", "/commit/main")
    while "words.safetensors" not in hub.repositories["ann/under"].files():
        time.sleep(0.005)
    ours = hub.repositories["ann/under"].head().oid
    commit_as_somebody_else(hub, "ann/under")
    assert push.result()["commit"] == ours
    assert titles(hub, "ann/under") == ["theirs", "Publish"]


@pytest.mark.parametrize("kind", ["lose", "truncate", "cut"])
def test_a_pull_request_is_opened_once(hub: HubServer, client: Client, files: dict[str, Path], kind: Any) -> None:
    repo = f"ann/pr-{kind}-{client.mode}"
    client.call(calls.api, "create_repo", repo)
    before = hub.repositories[repo].head().oid
    fault = hub.faults.add(kind, "POST", "/commit/")
    pushed = client.call(calls.push, repo, files, WAITS, create_pr=True)
    assert fault.met == 1
    assert hub.repositories[repo].pull_requests == ["Publish"]
    assert pushed["url"] == f"{hub.endpoint}/{repo}/discussions/1"
    assert holds(hub, repo, files, "refs/pr/1")
    assert hub.repositories[repo].head().oid == before


def test_a_hub_that_stays_down(hub: HubServer, lfs_client: Client, files: dict[str, Path]) -> None:
    lfs_client.call(calls.api, "create_repo", "ann/down")
    fault = hub.faults.add("status", "POST", "/commit/", times=None, status=502)
    with pytest.raises(ClientError, match=r"trouble at the moment \(502: injected fault\)"):
        lfs_client.call(calls.push, "ann/down", files, WAITS)
    assert fault.met == len(WAITS) + 1
    assert titles(hub, "ann/down") == []
    hub.faults.clear()
    lfs_client.call(calls.push, "ann/down", files, WAITS)
    assert titles(hub, "ann/down") == ["Publish"]


def test_who_may_not(hub: HubServer, lfs_client: Client, files: dict[str, Path]) -> None:
    lfs_client.call(calls.api, "create_repo", "ann/mine")
    lfs_client.call(calls.api, "create_repo", "ann/hidden", private=True)
    lfs_client.call(calls.api, "create_repo", "ann/terms")
    hub.repositories["ann/terms"].gated = True
    refused = [
        ("ann/mine", "hf_ann_read", {}, "The token of ann may only read; make one that may write"),
        ("ann/new", "hf_ann_read", {}, "The token of ann may only read"),
        ("ann/mine", "hf_bob_write", {}, "You are bob and may publish under bob, lab; name the repository bob/"),
        ("lab/new", "hf_bob_write", {}, "has no right to write there"),
        ("ann/hidden", "hf_bob_write", {}, "may not write to ann/hidden"),
        ("ann/terms", "hf_bob_write", {"create_pr": True}, "gated: accept its terms"),
        ("ann/nowhere", "hf_ann_write", {"create_pr": True}, "no repository ann/nowhere"),
        ("ann/mine", "hf_nobodysays", {}, "does not know this token"),
        ("ann/mine", "hf_ann_write", {"private": True}, "exists and is public; nothing was sent"),
        ("ann/mine", "hf_ann_write", {"revision": "nowhere"}, "no such branch"),
        ("ann/a b", "hf_ann_write", {}, "is no name of a repository"),
        ("a/b/c", "hf_ann_write", {}, "is no name of a repository"),
    ]
    for repo, token, named, text in refused:
        with pytest.raises(ClientError) as error:
            lfs_client.call(calls.push, repo, files, WAITS, token=token, **named)
        assert error.value.classes[0] == "PushError", (repo, error.value)
        assert text in error.value.text, (repo, token, error.value.text)
        assert token not in error.value.text
    assert "ann/new" not in hub.repositories
    assert titles(hub, "ann/mine") == []
    assert "hf_" not in lfs_client.printed()
    # What bob may do in ann's repository is to propose.
    lfs_client.call(calls.push, "ann/mine", files, WAITS, token="hf_bob_write", create_pr=True)
    assert holds(hub, "ann/mine", files, "refs/pr/1")


def test_a_private_repository(hub: HubServer, client: Client, files: dict[str, Path]) -> None:
    repo = f"ann/private-{client.mode}"
    client.call(calls.push, repo, files, WAITS, private=True)
    assert hub.repositories[repo].private
    client.call(calls.push, repo, files, WAITS, private=True)
    assert client.call(calls.api, "repo_exists", repo, token=False) is False
    assert holds(hub, repo, files)


def test_a_data_set(hub: HubServer, client: Client, files: dict[str, Path]) -> None:
    pushed = client.call(calls.push, f"ann/data-{client.mode}", files, WAITS, repo_type="dataset")
    assert pushed["url"] == f"{hub.endpoint}/datasets/ann/data-{client.mode}"
    assert holds(hub, f"datasets/ann/data-{client.mode}", files)


def test_a_card_that_the_hub_refuses(hub: HubServer, lfs_client: Client, files: dict[str, Path]) -> None:
    """Found out before there is a repository."""
    files["README.md"].write_text("---\nlicense: mit\ntags:\n- 1\n---\n# A word\n")
    with pytest.raises(ClientError, match="does not accept the card.*tags"):
        lfs_client.call(calls.push, "ann/bad-card", files, WAITS)
    files["README.md"].write_text("---\nlicense: [\n---\n")
    with pytest.raises(ClientError, match="metadata.*cannot be read"):
        lfs_client.call(calls.push, "ann/bad-card", files, WAITS)
    assert "ann/bad-card" not in hub.repositories


def test_a_file_that_is_too_large(hub: HubServer, lfs_client: Client, files: dict[str, Path], tmp_path: Path) -> None:
    with (tmp_path / "huge.bin").open("wb") as stream:
        stream.truncate(3 * 2**30)  # takes no room
    with pytest.raises(ClientError, match="huge.bin has 3.0 GiB"):
        lfs_client.call(calls.push, "ann/huge", {**files, "huge.bin": tmp_path / "huge.bin"}, WAITS)
    assert hub.log.lines() == []


def test_no_hub_no_login_no_connection(hub: HubServer, files: dict[str, Path], tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{unused.getsockname()[1]}"
    asked = [
        (Client(nowhere, tmp_path / "a", token="hf_ann_write"), "the Hub cannot be reached"),
        (Client(hub.endpoint, tmp_path / "b"), "not logged in"),
        (Client(hub.endpoint, tmp_path / "c", token="hf_ann_write", HF_HUB_OFFLINE="1"), "offline mode is on"),
    ]
    for client, text in asked:
        with client, pytest.raises(ClientError, match=text) as refused:
            client.call(calls.push, "ann/x", files, WAITS)
        assert refused.value.classes[0] == "PushError"
    assert hub.log.lines() == []
