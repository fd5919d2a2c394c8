"""Repositories as wholes: make, remove, move, settings, branches, tags."""

from __future__ import annotations

import re
from typing import Any

from tests.hub_server.hub import Hub
from tests.hub_server.messages import Answer, RefusedError, Request
from tests.hub_server.repositories import Repository


def _named(hub: Hub, request: Request) -> tuple[dict[str, Any], str, str]:
    """The request's values, the kind and the whole id of the repository that it names."""
    values = request.json()
    token = hub.token(request)
    if token is None:
        raise RefusedError(401, "Invalid username or password.")
    return values, values.get("type") or "model", f"{values.get('organization') or token.user}/{values['name']}"


def create(hub: Hub, request: Request) -> Answer:
    values, kind, id = _named(hub, request)
    namespace, name = id.split("/")
    if not re.fullmatch(r"[\w.-]{1,96}", name) or name.endswith(".git"):
        raise RefusedError(400, f"Invalid repo name: {name}")
    text = f'You don\'t have the rights to create a {kind} under the namespace "{namespace}"'
    hub.repositories.require_write(hub.token(request), namespace, text)
    known = hub.repositories.get(kind, id)
    if known is not None:
        told = {"error": f"You already created this {kind} repo: {id}", "url": hub.endpoint + known.page}
        return Answer.of(told, 409)
    repository = hub.repositories.add(Repository(kind, id, private=values.get("visibility") == "private"))  # type: ignore[arg-type]
    return Answer.of({"url": hub.endpoint + repository.page, "name": id, "id": f"id-{id}"})


def delete(hub: Hub, request: Request) -> Answer:
    _, kind, id = _named(hub, request)
    hub.repositories.writable(kind, id, hub.token(request))
    hub.repositories.remove(kind, id)
    return Answer.of({})


def move(hub: Hub, request: Request) -> Answer:
    values = request.json()
    token = hub.token(request)
    kind = values.get("type") or "model"
    hub.repositories.writable(kind, values["fromRepo"], token)
    hub.repositories.require_write(token, values["toRepo"].split("/")[0], "You don't have the rights to move it there")
    if hub.repositories.get(kind, values["toRepo"]):
        raise RefusedError(409, f"{values['toRepo']} exists")
    hub.repositories.move(kind, values["fromRepo"], values["toRepo"])
    return Answer.of({})


def settings(hub: Hub, request: Request, kind: str, id: str) -> Answer:
    repository = hub.repositories.writable(kind, id, hub.token(request))
    values = request.json()
    if "visibility" in values:
        repository.private = values["visibility"] == "private"
    if "gated" in values:
        repository.gated = bool(values["gated"])
    return Answer.of(values)


def create_branch(hub: Hub, request: Request, kind: str, id: str, name: str) -> Answer:
    repository = hub.repositories.writable(kind, id, hub.token(request))
    if name in repository.refs:
        raise RefusedError(409, f"Reference already exists: refs/heads/{name}")
    repository.refs[name] = repository.head(request.json().get("startingPoint") or "main").oid
    return Answer.of({})


def delete_branch(hub: Hub, request: Request, kind: str, id: str, name: str) -> Answer:
    repository = hub.repositories.writable(kind, id, hub.token(request))
    if name not in repository.refs or name == "main":
        raise RefusedError(404, f"Invalid rev id: {name}", "RevisionNotFound")
    del repository.refs[name]
    return Answer.of({})


def create_tag(hub: Hub, request: Request, kind: str, id: str, revision: str) -> Answer:
    repository = hub.repositories.writable(kind, id, hub.token(request))
    tag = request.json()["tag"]
    if tag in repository.tags:
        raise RefusedError(409, f"Tag already exists: {tag}")
    repository.tags[tag] = repository.head(revision).oid
    return Answer.of({})


def delete_tag(hub: Hub, request: Request, kind: str, id: str, name: str) -> Answer:
    repository = hub.repositories.writable(kind, id, hub.token(request))
    if repository.tags.pop(name, None) is None:
        raise RefusedError(404, f"Invalid rev id: {name}", "RevisionNotFound")
    return Answer.of({})
