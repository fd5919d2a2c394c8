"""Downloads: `resolve`, straight or by a redirect."""

from __future__ import annotations

from urllib.parse import quote

from tests.hub_server.hub import Hub
from tests.hub_server.messages import Answer, RefusedError, Request
from tests.hub_server.objects import Blob


def resolve(hub: Hub, request: Request, kind: str, id: str, revision: str, path: str) -> Answer:
    repository = hub.repositories.readable(kind, id, hub.token(request))
    commit = repository.head(revision)
    blob = commit.files.get(path)
    if blob is None:
        raise RefusedError(404, "Entry not found", "EntryNotFound", X_Repo_Commit=commit.oid)
    if blob.sha256 is not None:
        return _large(hub, blob, f"/api/{kind}s/{id}/xet-read-token/{commit.oid}", commit.oid)
    if hub.redirect_regular:
        place = f"/api/resolve-cache/{kind}s/{id}/{commit.oid}/{quote(path)}?etag={blob.oid}"
        return Answer(307, headers={"Location": place, "X-Repo-Commit": commit.oid, "ETag": f'"{blob.oid}"'})
    return _regular(blob, commit.oid)


def cached(hub: Hub, request: Request, kind: str, id: str, revision: str, path: str) -> Answer:
    """Where the redirect of an ordinary file leads. Clients read the headers of the last answer only."""
    repository = hub.repositories.readable(kind, id, hub.token(request))
    return _regular(repository.files(revision)[path], repository.head(revision).oid)


def _regular(blob: Blob, commit: str) -> Answer:
    headers = {"ETag": f'"{blob.oid}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
    return Answer(body=blob.content, headers={**headers, "Content-Type": "application/octet-stream"})


def _large(hub: Hub, blob: Blob, xet_route: str, commit: str) -> Answer:
    headers = {
        "ETag": f'"{blob.oid}"',
        "X-Repo-Commit": commit,
        "X-Linked-Etag": f'"{blob.sha256}"',
        "X-Linked-Size": str(blob.size),
        "Accept-Ranges": "bytes",
    }
    if xet_hash := hub.xet_hash(blob.sha256):
        headers["X-Xet-Hash"] = xet_hash
        headers["Link"] = f'<{hub.endpoint}{xet_route}>; rel="xet-auth"'
    content = hub.content(blob)
    if not hub.redirect_large:
        return Answer(body=content, headers=headers)
    return Answer(302, headers={**headers, "Location": hub.large.address(hub.storage, str(blob.sha256))})
