"""What is known about a repository without its files."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any
from urllib.parse import parse_qs, urlencode

from tests.hub_server.hub import Hub
from tests.hub_server.messages import Answer, RefusedError, Request
from tests.hub_server.objects import Blob, Commit, tree_id
from tests.hub_server.repositories import FIRST_SECOND
from tests.hub_server.routes.accounts import metadata_of


def _date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _large(blob: Blob) -> dict[str, Any]:
    """What both listings tell of a large file."""
    return {"size": blob.size, "pointerSize": len(blob.content)}


def info(hub: Hub, request: Request, kind: str, id: str, revision: str = "main") -> Answer:
    repository = hub.repositories.seen(kind, id, hub.token(request))
    commit = repository.head(revision)
    siblings: list[dict[str, Any]] = [{"rfilename": path} for path in sorted(commit.files)]
    if request.flag("blobs"):
        for entry in siblings:
            blob = commit.files[entry["rfilename"]]
            entry |= {"size": blob.size, "blobId": blob.oid}
            if blob.sha256:
                entry["lfs"] = {"sha256": blob.sha256, **_large(blob)}
    readme = commit.files.get("README.md")
    try:
        card = metadata_of(hub.content(readme).decode("utf-8", "replace")) if readme else {}
    except RefusedError:
        card = {}
    tags = card.get("tags") or []
    told = {
        "_id": f"id-{id}",
        "id": id,
        "author": repository.namespace,
        "sha": commit.oid,
        "private": repository.private,
        "gated": "auto" if repository.gated else False,
        "disabled": False,
        "lastModified": _date(commit.seconds),
        "createdAt": _date(FIRST_SECOND),
        "downloads": 0,
        "likes": 0,
        "tags": tags if isinstance(tags, list) else [tags],
        "cardData": card,
        "library_name": card.get("library_name"),
        "pipeline_tag": card.get("pipeline_tag"),
        "siblings": siblings,
    }
    # Dates inside a card's YAML are not JSON.
    return Answer.of(_json_safe(told))


def _json_safe(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json_safe(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_json_safe(item) for item in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def auth_check(hub: Hub, request: Request, kind: str, id: str) -> Answer:
    hub.repositories.readable(kind, id, hub.token(request))
    return Answer.of({})


def refs(hub: Hub, request: Request, kind: str, id: str) -> Answer:
    repository = hub.repositories.seen(kind, id, hub.token(request))
    told: dict[str, list[dict[str, str]]] = {"branches": [], "tags": [], "converts": []}
    requests = []
    for name, oid in repository.refs.items():
        if name.startswith("refs/pr/"):
            requests.append({"name": name.rsplit("/", 1)[-1], "ref": name, "targetCommit": oid})
        else:
            told["branches"].append({"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid})
    for name, oid in repository.tags.items():
        told["tags"].append({"name": name, "ref": f"refs/tags/{name}", "targetCommit": oid})
    if request.flag("include_prs"):
        told["pullRequests"] = requests
    return Answer.of(told)


def _paged(hub: Hub, request: Request, values: list[Any], size: int) -> Answer:
    """One page of a list, with the address of the next in a header."""
    options = request.options()
    start = int(options.get("cursor", ["0"])[0])
    answer = Answer.of(values[start : start + size])
    if start + size < len(values):
        kept = [(name, text) for name, texts in options.items() if name != "cursor" for text in texts]
        following = f"{hub.endpoint}{request.path}?{urlencode([*kept, ('cursor', start + size)])}"
        answer.headers["Link"] = f'<{following}>; rel="next"'
    return answer


def commits(hub: Hub, request: Request, kind: str, id: str, revision: str) -> Answer:
    repository = hub.repositories.readable(kind, id, hub.token(request))
    told = [
        {
            "id": commit.oid,
            "title": commit.title,
            "message": commit.message,
            "date": _date(commit.seconds),
            "authors": [{"user": commit.author}],
        }
        for commit in repository.history(revision)
    ]
    return _paged(hub, request, told, hub.page_size)


def _nodes(hub: Hub, commit: Commit, paths: list[str], expand: bool) -> list[dict[str, Any]]:
    """Files and folders as the listings tell them."""
    last = {"id": commit.oid, "title": commit.title, "date": _date(commit.seconds)}
    nodes = []
    for path in paths:
        blob = commit.files.get(path)
        if blob is None:
            inside = {name[len(path) + 1 :]: item for name, item in commit.files.items() if name.startswith(path + "/")}
            node: dict[str, Any] = {"type": "directory", "path": path, "oid": tree_id(inside), "size": 0}
        else:
            node = {"type": "file", "path": path, "size": blob.size, "oid": blob.oid}
            if blob.sha256:
                node["lfs"] = {"oid": blob.sha256, **_large(blob)}
            if xet_hash := hub.xet_hash(blob.sha256):
                node["xetHash"] = xet_hash
        nodes.append({**node, "lastCommit": last} if expand else node)
    return nodes


def _folders(commit: Commit) -> set[str]:
    parts = [path.split("/") for path in commit.files]
    return {"/".join(names[:depth]) for names in parts for depth in range(1, len(names))}


def tree(hub: Hub, request: Request, kind: str, id: str, revision: str, path: str = "") -> Answer:
    repository = hub.repositories.readable(kind, id, hub.token(request))
    commit = repository.head(revision)
    folders = _folders(commit)
    if path and path not in folders:
        raise RefusedError(404, f"{path} does not exist on {revision!r}", "EntryNotFound", X_Repo_Commit=commit.oid)
    inside = [name for name in sorted({*commit.files, *folders}) if not path or name.startswith(path + "/")]
    if not request.flag("recursive"):
        inside = [name for name in inside if "/" not in name[len(path) + 1 if path else 0 :]]
    expand = request.flag("expand")
    return _paged(hub, request, _nodes(hub, commit, inside, expand), min(hub.page_size, 50 if expand else 1000))


def paths_info(hub: Hub, request: Request, kind: str, id: str, revision: str) -> Answer:
    repository = hub.repositories.readable(kind, id, hub.token(request))
    commit = repository.head(revision)
    form = parse_qs(request.body.decode())
    asked = [path.rstrip("/") for path in form.get("paths", [])]
    known = [path for path in asked if path in commit.files or path in _folders(commit)]
    return Answer.of(_nodes(hub, commit, known, form.get("expand", ["false"])[0].lower() == "true"))
