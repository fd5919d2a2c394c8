"""Every fault on every request of a push: one commit or none, all of the files or none, and a message that helps.

With both ways of large files; into a new repository, and over an earlier publication of which something is to go. The
faulty pushes sleep more than they work (the clients wait before they try again), so they run side by side, each kind of
fault with a server and a client of its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from hub_cards.card import Card
from tests.hub import calls
from tests.hub_server import Client, ClientError, HubServer, Mode
from tests.hub_server.faults import Kind
from tests.hub_server.objects import Blob
from tests.hub_server.repositories import Repository

CARD = "---\nlicense: mit\ntags:\n- textual_inversion\n---\n# A word\n"
WAITS = [0.01, 0.01, 0.01]
TOKEN = "hf_ann_write"
COMMIT = "/commit/main"


@dataclass(frozen=True)
class Case:
    """A kind of fault. A push gets over one of it, or says something that matches `told`."""

    fault: str
    kind: Kind
    how: dict[str, Any] = field(default_factory=dict)
    told: str = ""
    mode: Mode = "lfs"

    @property
    def name(self) -> str:
        return f"{self.mode} {self.fault}"


FAULTS = (
    Case("503", "status", {"status": 503}),
    Case("429", "status", {"status": 429}),
    Case("cut", "cut"),
    Case("lose", "lose"),
    Case("truncate", "truncate"),
    Case("delay", "delay", {"seconds": 0.02}),
    Case("401", "status", {"status": 401}, "does not know this token"),
    Case("403", "status", {"status": 403, "body": b'{"error": "no rights"}'}, "may not write to (ann/)?repo"),
    Case("413", "status", {"status": 413}, "larger than the Hub takes"),
    Case("pause", "status", {"status": 429, "headers": {"Retry-After": "3600"}}, "asks for a pause .*3601 seconds"),
)
CASES = tuple(replace(case, mode=mode) for mode in ("lfs", "xet") for case in FAULTS)

WAITS_AS_LONG_AS_ASKED = r"/preupload/|/tree/|info/lfs|/lfs/|xet-|/resolve/"
"""The client's own requests wait for whatever pause the Hub asks for, so "pause" is not asked of those."""

STORAGE = r"PUT /lfs/|/lfs/verify"


@dataclass
class Outcome:
    """What came of one push with one fault, and of the push after it without."""

    request: str
    case: Case
    met: int
    error: ClientError | None
    result: dict[str, Any] | None
    commits: list[int]  # after the first push, after the second; -1: no repository
    whole: list[bool]  # all files there, likewise
    printed: str

    @property
    def place(self) -> str:
        return f"{self.case.name} at {self.request}: {self.error or self.result}"


@dataclass
class Push:
    """A publication, and what its repository holds before."""

    repo: str
    contents: dict[str, bytes | Path]
    earlier: dict[str, bytes | Path]
    files: dict[str, Path]


class Pusher:
    """A server and a client of its own, and pushes of fresh files to fresh repositories."""

    def __init__(self, hub: HubServer, client: Client, folder: Path) -> None:
        self.hub, self.client, self.folder = hub, client, folder
        self.count = 0

    def fresh(self, again: bool) -> Push:
        """A push of bytes that the server has never seen, into a new repository or over an earlier publication."""
        self.count += 1
        self.hub.faults.clear()
        repo = f"ann/repo-{self.count}"
        contents: dict[str, bytes | Path] = {"token_identifier.txt": b"<tok>", "config.json": b"{}"}
        earlier: dict[str, bytes | Path] = {}
        if again:
            earlier = Card.parse(CARD).beside({**contents, "old.txt": b"to go"})
            self.put(repo, earlier)
        contents = Card.parse(CARD).beside({**contents, "learned_embeds.safetensors": os.urandom(3_000)})
        place = self.folder / str(self.count)
        place.mkdir(parents=True)
        for name, content in contents.items():
            (place / name).write_bytes(content)  # type: ignore[arg-type]
        self.hub.log.clear()
        return Push(repo, contents, earlier, {name: place / name for name in contents})

    def put(self, repo: str, contents: Mapping[str, bytes | Path]) -> None:
        """Make a repository with an earlier publication."""

        def write(files: dict[str, Blob]) -> None:
            files.update({name: Blob.regular(content) for name, content in contents.items()})  # type: ignore[arg-type]

        repository = self.hub.repositories.add(Repository("model", repo))
        repository.commit("main", [write], "Earlier", "", "ann", "")

    def state(self, push: Push) -> tuple[int, bool]:
        """Commits after those that were there, and whether what is there is all of the publication and no more."""
        if push.repo not in self.hub.repositories:
            return -1, False
        repository = self.hub.repositories[push.repo]
        there = {path: self.hub.content(blob) for path, blob in repository.files().items()}
        there.pop(".gitattributes")
        assert there in (push.earlier, push.contents), "half of a push is there"
        return len(repository.history()) - (2 if push.earlier else 1), there == push.contents

    def send(self, push: Push) -> tuple[ClientError | None, dict[str, Any] | None]:
        # Whose it is has to be asked for, too, where the name does not tell.
        name = push.repo if push.earlier else push.repo.removeprefix("ann/")
        try:
            return None, self.client.call(calls.push, name, push.files, WAITS)
        except ClientError as error:
            return error, None

    def sequence(self, again: bool) -> list[str]:
        """The requests of a push without faults, by name: method and path without what changes."""
        push = self.fresh(again)
        error, _ = self.send(push)
        assert error is None, error
        lines = [re.sub(r"[0-9a-f]{40,64}|\?.*", "*", line) for line in self.hub.log.lines()]
        return [line.replace(push.repo, "REPO") for line in lines]

    def outcome(self, number: int, request: str, again: bool, case: Case) -> Outcome:
        """Push with a fault at one request, then once more without."""
        push = self.fresh(again)
        fault = self.hub.faults.add(case.kind, skip=number, **case.how)
        error, result = self.send(push)
        first = self.state(push)
        self.hub.faults.clear()
        repeated, _ = self.send(push)
        assert repeated is None, f"the second push failed: {repeated}"
        second = self.state(push)
        commits, whole = [first[0], second[0]], [first[1], second[1]]
        return Outcome(request, case, fault.met, error, result, commits, whole, self.client.printed())


def outcomes_of(case: Case, folder: Path) -> list[Outcome]:
    with HubServer(folder / "hub") as hub:
        hub.users.add("ann")
        with Client(hub.endpoint, folder / "home", case.mode, token=TOKEN) as client:
            pusher, found, known = Pusher(hub, client, folder), [], set[str]()
            for again in (False, True):
                requests = pusher.sequence(again)
                for number, name in enumerate(requests):
                    slow = case.fault == "pause" and re.search(WAITS_AS_LONG_AS_ASKED, name)
                    # What both pushes ask is asked in the same way.
                    if not slow and (name not in known or COMMIT in name):
                        found.append(pusher.outcome(number, name, again, case))
                known.update(requests)
            return found


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[Outcome]]]:
    folder = tmp_path_factory.mktemp("faults")
    with ThreadPoolExecutor(len(CASES)) as pool:
        futures = {case.name: pool.submit(outcomes_of, case, folder / case.name) for case in CASES}
        yield {name: future.result() for name, future in futures.items()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_nothing_is_half_done_or_done_twice(outcomes: dict[str, list[Outcome]], case: Case) -> None:
    """One commit with everything, or none with anything; and a second push makes it whole."""
    assert len(outcomes[case.name]) >= 4
    for outcome in outcomes[case.name]:
        assert outcome.met == 1, outcome.place
        assert outcome.commits[0] <= 1, outcome.place
        assert outcome.whole[0] == (outcome.commits[0] == 1), outcome.place
        assert (outcome.commits[1], outcome.whole[1]) == (1, True), outcome.place


@pytest.mark.parametrize("case", [case for case in CASES if not case.told], ids=lambda case: case.name)
def test_a_passing_fault_is_got_over(outcomes: dict[str, list[Outcome]], case: Case) -> None:
    failed = [outcome.place for outcome in outcomes[case.name] if outcome.error or not outcome.whole[0]]
    assert failed == []
    for outcome in outcomes[case.name]:
        assert outcome.result is not None
        assert outcome.result["changed"] is True, f"a commit was made: {outcome.place}"


@pytest.mark.parametrize("case", [case for case in CASES if case.told], ids=lambda case: case.name)
def test_a_refusal_is_explained(outcomes: dict[str, list[Outcome]], case: Case) -> None:
    for outcome in outcomes[case.name]:
        assert outcome.error is not None, outcome.place
        assert outcome.error.classes[0] == "PushError", outcome.place
        assert outcome.commits[0] <= 0, outcome.place
        # What the storage said is told as the client tells it: with the file's name.
        stored = re.search(STORAGE, outcome.request)
        assert re.search("a file was not accepted" if stored else case.told, outcome.error.text), outcome.place


def test_no_token_is_shown(outcomes: dict[str, list[Outcome]]) -> None:
    for outcome in (outcome for case in CASES for outcome in outcomes[case.name]):
        assert TOKEN not in outcome.printed
        assert TOKEN not in str(outcome.error)
