"""Every fault on every request of a push: one commit or none, all of the files or none, and a message that helps.

The faulty pushes sleep more than they work (the clients wait before they try again), so they run side by side, each
kind of fault with a server and a client of its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.hub import calls
from tests.hub_server import Client, ClientError, HubServer, Mode

CARD = "---\nlicense: mit\ntags:\n- textual_inversion\n---\n# A word\n"
WAITS = [0.01, 0.01, 0.01]
TOKEN = "hf_ann_write"


@dataclass(frozen=True)
class Case:
    """A kind of fault. A push gets over one of it, or says something that matches `told`."""

    name: str
    kind: str
    how: dict[str, Any] = field(default_factory=dict)
    told: str = ""
    mode: Mode = "lfs"


CASES = (
    Case("503", "status", {"status": 503}),
    Case("429", "status", {"status": 429}),
    Case("cut", "cut"),
    Case("lose", "lose"),
    Case("truncate", "truncate"),
    Case("delay", "delay", {"seconds": 0.02}),
    Case("401", "status", {"status": 401}, "does not know this token"),
    Case("403", "status", {"status": 403, "body": b'{"error": "no rights"}'}, "may not write to ann/repo.*no rights"),
    Case("413", "status", {"status": 413}, "larger than the Hub takes"),
    Case("pause", "status", {"status": 429, "headers": {"Retry-After": "3600"}}, "asks for a pause .*3601 seconds"),
    # The client's other way of large files differs in few requests, and is slow to give up.
    Case("xet 503", "status", {"status": 503}, mode="xet"),
    Case("xet lose", "lose", mode="xet"),
    Case("xet 403", "status", {"status": 403}, "may not write to ann/repo", mode="xet"),
)
"""The client's own requests wait as long as the Hub asks, so "pause" is not asked of those; see `SLOW`."""

SLOW = r"/preupload/|info/lfs|/lfs/|xet-"
STORAGE = r"PUT /lfs/|/lfs/verify"


@dataclass
class Outcome:
    """What came of one push with one fault, and of the push after it without."""

    request: str
    case: Case
    met: int
    error: ClientError | None
    result: list[Any] | None
    commits: list[int]  # after the first push, after the second; -1: no repository
    whole: list[bool]  # all files there, likewise
    printed: str

    @property
    def place(self) -> str:
        return f"{self.case.name} at {self.request}: {self.error or self.result}"


class Pusher:
    """A server and a client of its own, and pushes of fresh files to fresh repositories."""

    def __init__(self, hub: HubServer, client: Client, folder: Path) -> None:
        self.hub, self.client, self.folder = hub, client, folder
        self.count = 0

    def files(self) -> dict[str, Path]:
        """What a concept's repository holds, with bytes that the server has never seen."""
        place = self.folder / str(self.count)
        place.mkdir(parents=True)
        contents = {"README.md": CARD.encode(), "token_identifier.txt": b"<tok>", "config.json": b"{}"}
        contents |= {"learned_embeds.safetensors": os.urandom(3_000)}
        for name, content in contents.items():
            (place / name.replace("/", "_")).write_bytes(content)
        return {name: place / name.replace("/", "_") for name in contents}

    def fresh(self) -> tuple[str, dict[str, Path]]:
        self.count += 1
        self.hub.faults.clear()
        self.hub.log.clear()
        return f"ann/repo-{self.count}", self.files()

    def state(self, repo: str, files: dict[str, Path]) -> tuple[int, bool]:
        """Commits after the first, and whether all files are there as they are here."""
        if repo not in self.hub.repositories:
            return -1, False
        repository = self.hub.repositories[repo]
        there = {path: self.hub.content(blob) for path, blob in repository.files().items()}
        there.pop(".gitattributes")
        assert not there or set(there) == set(files), "half of a push is there"
        whole = there == {name: file.read_bytes() for name, file in files.items()}
        return len(repository.history()) - 1, whole

    def push(self, repo: str, files: dict[str, Path]) -> tuple[ClientError | None, list[Any] | None]:
        try:
            return None, self.client.call(calls.push, repo, files, WAITS)
        except ClientError as error:
            return error, None

    def sequence(self) -> list[str]:
        """The requests of a push without faults, by name: method and path without what changes."""
        repo, files = self.fresh()
        error, _ = self.push(repo, files)
        assert error is None, error
        return [re.sub(r"[0-9a-f]{64}|\?.*", "*", line).replace(repo, "REPO") for line in self.hub.log.lines()]

    def outcome(self, number: int, request: str, case: Case) -> Outcome:
        """Push with a fault at one request, then again without."""
        repo, files = self.fresh()
        fault = self.hub.faults.add(case.kind, skip=number, **case.how)  # type: ignore[arg-type]
        error, result = self.push(repo, files)
        first = self.state(repo, files)
        self.hub.faults.clear()
        again, _ = self.push(repo, files)
        assert again is None, f"the second push failed: {again}"
        second = self.state(repo, files)
        states = [[first[0], second[0]], [first[1], second[1]]]
        return Outcome(request, case, fault.met, error, result, *states, self.client.printed())  # type: ignore[arg-type]


def outcomes_of(case: Case, folder: Path) -> list[Outcome]:
    with HubServer(folder / "hub") as hub:
        hub.users.add("ann")
        with Client(hub.endpoint, folder / "home", case.mode, token=TOKEN) as client:
            pusher = Pusher(hub, client, folder)
            requests = list(enumerate(pusher.sequence()))
            slow = [entry for entry in requests if case.name == "pause" and re.search(SLOW, entry[1])]
            return [pusher.outcome(number, name, case) for number, name in requests if (number, name) not in slow]


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
        assert outcome.result[3] is True, f"a commit was made: {outcome.place}"


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
