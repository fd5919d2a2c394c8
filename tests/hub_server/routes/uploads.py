"""Uploads: how each file is to go, and the commit."""

from __future__ import annotations

import base64
import json
from typing import Any

from tests.hub_server.hub import Hub
from tests.hub_server.messages import Answer, RefusedError, Request
from tests.hub_server.objects import Blob
from tests.hub_server.repositories import Change, Repository
from tests.hub_server.users import Token


def _open_repository(hub: Hub, request: Request, kind: str, id: str) -> tuple[Repository, Token]:
    """The repository that may be changed, or with `create_pr` be read, and whose token it is."""
    token = hub.token(request)
    pull_request = request.flag("create_pr")
    find = hub.repositories.readable if pull_request else hub.repositories.writable
    repository = find(kind, id, token)
    if token is None:
        raise RefusedError(401, "Invalid username or password.")
    return repository, token


def preupload(hub: Hub, request: Request, kind: str, id: str, revision: str) -> Answer:
    repository, _ = _open_repository(hub, request, kind, id)
    files = repository.files(revision)
    values = request.json()["files"]
    if len(values) > 256:
        raise RefusedError(400, "more than 256 files")
    told = []
    for value in values:
        large = repository.is_large(value["path"], value["size"], base64.b64decode(value["sample"]), revision)
        known = files.get(value["path"])
        oid = (known.sha256 or known.oid) if known else None
        mode = "lfs" if large else "regular"
        told.append({"path": value["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return Answer.of({"files": told})


def _write(hub: Hub, value: dict[str, Any]) -> Change:
    path, content = _path(value), base64.b64decode(value["content"], validate=True)

    def change(files: dict[str, Blob]) -> None:
        files[path] = Blob.regular(content)

    return change


def _write_large(hub: Hub, value: dict[str, Any]) -> Change:
    path, oid = _path(value), value["oid"]
    if not hub.has_large(oid):
        raise RefusedError(400, f"LFS pointer pointed to a file that does not exist: {path} ({oid})")

    def change(files: dict[str, Blob]) -> None:
        sizes = {blob.sha256: blob.size for repository in hub.repositories.all() for blob in _blobs(repository)}
        files[path] = Blob.large(oid, value.get("size", sizes.get(oid)))

    return change


def _blobs(repository: Repository) -> list[Blob]:
    return [blob for commit in repository.commits.values() for blob in commit.files.values()]


def _delete(hub: Hub, value: dict[str, Any]) -> Change:
    def change(files: dict[str, Blob]) -> None:
        if files.pop(value["path"], None) is None:
            raise RefusedError(404, f"A file with this name doesn't exist: {value['path']}", "EntryNotFound")

    return change


def _delete_folder(hub: Hub, value: dict[str, Any]) -> Change:
    def change(files: dict[str, Blob]) -> None:
        inside = [path for path in files if path.startswith(value["path"].rstrip("/") + "/")]
        if not inside:
            raise RefusedError(404, f"A file with this name doesn't exist: {value['path']}", "EntryNotFound")
        for path in inside:
            del files[path]

    return change


CHANGES = {"file": _write, "lfsFile": _write_large, "deletedFile": _delete, "deletedFolder": _delete_folder}


def _path(value: dict[str, Any]) -> str:
    path: str = value["path"]
    if not path or path.startswith("/") or ".." in path.split("/") or ".git" in path.split("/"):
        raise RefusedError(400, f"Invalid path: {path}")
    return path


def commit(hub: Hub, request: Request, kind: str, id: str, revision: str) -> Answer:
    repository, token = _open_repository(hub, request, kind, id)
    lines = [json.loads(line) for line in request.body.splitlines() if line.strip()]
    if not lines or lines[0]["key"] != "header":
        raise RefusedError(400, "the first line must be the header")
    header = lines[0]["value"]
    if not header.get("summary"):
        raise RefusedError(400, "the summary is empty")
    changes = [CHANGES[line["key"]](hub, line["value"]) for line in lines[1:]]
    parent = header.get("parentCommit") or ""
    told: dict[str, Any] = {"success": True, "hookOutput": ""}
    ref = revision.removeprefix("refs/heads/")
    if request.flag("create_pr"):
        number = repository.open_pull_request(header["summary"], repository.head(parent or revision).oid)
        ref = f"refs/pr/{number}"
        told["pullRequestUrl"] = f"{hub.endpoint}{repository.page}/discussions/{number}"
    elif ref not in repository.refs:
        raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    made = repository.commit(ref, changes, header["summary"], header.get("description") or "", token.user, parent)
    told |= {"commitOid": made.oid, "commitUrl": f"{hub.endpoint}{repository.page}/commit/{made.oid}"}
    return Answer.of(told)
