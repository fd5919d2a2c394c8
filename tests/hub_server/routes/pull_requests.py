"""Pull requests: `refs/pr/1` and on. Readers may open them."""

from __future__ import annotations

from typing import Any

from tests.hub_server.hub import Hub
from tests.hub_server.messages import Answer, RefusedError, Request
from tests.hub_server.repositories import Repository


def _told(repository: Repository, number: int, author: str) -> dict[str, Any]:
    return {
        "num": number,
        "title": repository.pull_requests[number - 1],
        "author": {"name": author},
        "createdAt": "2026-01-01T00:00:00.000Z",
        "status": "draft",
        "repo": {"name": repository.id, "type": repository.kind},
        "isPullRequest": True,
        "changes": {"base": "refs/heads/main"},
        "filesWithConflicts": [],
        "events": [],
        "diff": "",
    }


def open_one(hub: Hub, request: Request, kind: str, id: str) -> Answer:
    token = hub.token(request)
    repository = hub.repositories.readable(kind, id, token)
    values = request.json()
    if token is None:
        raise RefusedError(401, "Invalid username or password.")
    if not values.get("pullRequest"):
        raise RefusedError(400, "this server knows pull requests, and no discussions")
    number = repository.open_pull_request(values["title"], repository.head().oid)
    return Answer.of(_told(repository, number, token.user))


def details(hub: Hub, request: Request, kind: str, id: str, number: str) -> Answer:
    repository = hub.repositories.readable(kind, id, hub.token(request))
    if not 1 <= int(number) <= len(repository.pull_requests):
        raise RefusedError(404, f"No discussion {number}")
    return Answer.of(_told(repository, int(number), repository.namespace))
