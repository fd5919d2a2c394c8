"""A second publication takes away what the first one left, in the same commit, and nothing that is somebody else's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from hub_cards.card import Card
from hub_cards.listing import listed
from tests.hub import calls, publish_calls
from tests.hub_server import Client, ClientError, HubServer
from tests.hub_server.objects import Blob
from tests.publishing_runs import learn_without, write_run

WAITS = [0.01, 0.01]
HEADER = "---\nlicense: mit\ntags:\n- textual_inversion\n---\n# A word\n"
OURS = ("learned_embeds.safetensors", "learned_embeds_2.safetensors", "pictures/01.png", "pictures/02.png")


def publication(folder: Path, *names: str) -> dict[str, Path]:
    """Files here, with a card that lists them."""
    contents = {name: os.urandom(300) if name.endswith("safetensors") else name.encode() for name in names}
    files: dict[str, Path] = {}
    for name, content in Card.parse(HEADER).beside(contents).items():
        assert isinstance(content, bytes)
        files[name] = folder / name.replace("/", "_")
        folder.mkdir(exist_ok=True)
        files[name].write_bytes(content)
    return files


def change(hub: HubServer, repo: str, **contents: bytes) -> None:
    """What a user does on the repository's page."""

    def write(files: dict[str, Blob]) -> None:
        files.update({name: Blob.regular(content) for name, content in contents.items()})

    hub.repositories[repo].commit("main", [write], "theirs", "", "ann", "")


def names(hub: HubServer, repo: str, revision: str = "main") -> set[str]:
    return set(hub.repositories[repo].files(revision)) - {".gitattributes", "README.md"}


@pytest.fixture
def twice(client: Client, tmp_path: Path) -> tuple[str, dict[str, Path]]:
    """A repository with a first publication, and the files of a second."""
    repo = f"ann/{tmp_path.name.replace('_', '-')}"
    client.call(calls.push, repo, publication(tmp_path / "first", *OURS), WAITS)
    return repo, publication(tmp_path / "second", *OURS[::2])


def test_what_is_left_over_goes_with_the_same_commit(
    hub: HubServer, client: Client, twice: tuple[str, dict[str, Path]]
) -> None:
    repo, files = twice
    change(hub, repo, **{"pictures/mine.png": b"mine", "learned_embeds_3.safetensors": b"mine"})
    pushed = client.call(calls.push, repo, files, WAITS)
    assert pushed["removed"] == ["learned_embeds_2.safetensors", "pictures/02.png"]
    assert names(hub, repo) == {*OURS[::2], "pictures/mine.png", "learned_embeds_3.safetensors"}
    assert [commit.title for commit in hub.repositories[repo].history()][:2] == ["Publish", "theirs"]
    again = client.call(calls.push, repo, files, WAITS)
    assert (again["changed"], again["removed"]) == (False, [])


def test_a_file_that_its_user_changed_is_theirs(
    hub: HubServer, client: Client, twice: tuple[str, dict[str, Path]], tmp_path: Path
) -> None:
    repo, files = twice
    change(hub, repo, **{"pictures/02.png": b"a better one"})
    assert client.call(calls.push, repo, files, WAITS)["removed"] == ["learned_embeds_2.safetensors"]
    assert hub.read(repo, "pictures/02.png") == b"a better one"
    client.call(calls.push, repo, publication(tmp_path / "third", OURS[0]), WAITS)
    assert names(hub, repo) == {OURS[0], "pictures/02.png"}, "for good"


def test_a_card_without_a_list_takes_nothing_away(
    hub: HubServer, client: Client, twice: tuple[str, dict[str, Path]], tmp_path: Path
) -> None:
    repo, files = twice
    (tmp_path / "README.md").write_text(HEADER.replace("A word", "Mine"))
    assert client.call(calls.push, repo, {"README.md": tmp_path / "README.md"}, WAITS)["removed"] == []
    assert client.call(calls.push, repo, files, WAITS)["removed"] == [], "whose they are is not known any more"
    assert names(hub, repo) == set(OURS)


@pytest.mark.parametrize("kind", ["lose", "truncate", "cut"])
def test_a_lost_answer_changes_nothing_about_it(
    hub: HubServer, client: Client, twice: tuple[str, dict[str, Path]], kind: Any
) -> None:
    repo, files = twice
    fault = hub.faults.add(kind, "POST", "/commit/")
    assert len(client.call(calls.push, repo, files, WAITS)["removed"]) == 2
    assert fault.met == 1
    assert names(hub, repo) == set(OURS[::2])
    assert len(hub.repositories[repo].history()) == 3


def test_a_pull_request_proposes_it(hub: HubServer, client: Client, twice: tuple[str, dict[str, Path]]) -> None:
    repo, files = twice
    client.call(calls.push, repo, files, WAITS, create_pr=True)
    assert (names(hub, repo), names(hub, repo, "refs/pr/1")) == (set(OURS), set(OURS[::2]))


def test_a_card_that_cannot_be_read_stops_it(hub: HubServer, lfs_client: Client, tmp_path: Path) -> None:
    lfs_client.call(calls.push, "ann/unread", publication(tmp_path / "first", *OURS), WAITS)
    hub.faults.add("status", "HEAD", r"/README\.md", times=None, status=403)
    with pytest.raises(ClientError) as refused:
        lfs_client.call(calls.push, "ann/unread", publication(tmp_path / "second", OURS[0]), WAITS)
    assert refused.value.classes[0] == "PushError"
    assert names(hub, "ann/unread") == set(OURS)


def test_by_the_command(hub: HubServer, lfs_client: Client, tmp_path: Path) -> None:
    """Pictures of an evaluation that is gone, and of training pictures that were taken out."""
    run = write_run(tmp_path / "run", report=True)
    words = ["publish", str(run), "--repo_id", "ann/fewer", "--license", "mit", "--with_dataset"]
    assert lfs_client.call(publish_calls.command, *words)["code"] == 0, lfs_client.printed()[-3000:]
    assert {"pictures/01.png", "pictures/02.png", "evaluation/report.json"} < names(hub, "ann/fewer")
    text = hub.read("datasets/ann/fewer-images", "README.md").decode()
    own = "<!-- own section: about (kept when this card is written again) -->\n"
    change(hub, "datasets/ann/fewer-images", **{"README.md": text.replace(own, f"{own}In the garden.\n").encode()})
    (run / "evaluation" / "report.json").unlink()
    learn_without(run, "2.png")
    assert lfs_client.call(publish_calls.command, *words)["code"] == 0, lfs_client.printed()[-3000:]
    assert not {"pictures/02.png", "evaluation/report.json"} & names(hub, "ann/fewer")
    assert names(hub, "datasets/ann/fewer-images") == {"train/0001.png", "train/0002.png"}
    assert "In the garden." in hub.read("datasets/ann/fewer-images", "README.md").decode()
    assert "Removed there" in lfs_client.printed()
    assert len(hub.repositories["ann/fewer"].history()) == 3
    files = listed(hub.read("ann/fewer", "README.md").decode())
    assert files is not None
    assert set(files) == names(hub, "ann/fewer")
