"""All routes: method, pattern of the raw path, and what answers. The first that matches wins.

Paths are matched as they came and unquoted afterwards: `refs%2Fpr%2F1` is one segment.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote

from tests.hub_server.hub import Hub
from tests.hub_server.messages import Answer, RefusedError, Request
from tests.hub_server.routes import accounts, downloads, metadata, pull_requests, repos, storage, uploads

Route = Callable[..., Answer]

REPO = "/api/(?P<kind>model|dataset|space)s/(?P<id>[^/]+/[^/]+)"
PAGE = "/((?P<kind>dataset|space)s/)?(?P<id>[^/]+/[^/]+)"
REV = "(?P<revision>[^/]+)"
OID = "(?P<oid>[0-9a-f]{64})"

TABLE: tuple[tuple[str, str, Route], ...] = (
    ("GET", "/api/whoami-v2", accounts.whoami),
    ("POST", "/api/validate-yaml", accounts.validate_yaml),
    ("GET", "/api/agent-harnesses", accounts.agent_harnesses),
    ("HEAD", "/api/telemetry/.*", accounts.telemetry),
    ("POST", "/api/repos/create", repos.create),
    ("DELETE", "/api/repos/delete", repos.delete),
    ("POST", "/api/repos/move", repos.move),
    ("PUT", f"{REPO}/settings", repos.settings),
    ("POST", f"{REPO}/branch/(?P<name>[^/]+)", repos.create_branch),
    ("DELETE", f"{REPO}/branch/(?P<name>[^/]+)", repos.delete_branch),
    ("POST", f"{REPO}/tag/{REV}", repos.create_tag),
    ("DELETE", f"{REPO}/tag/(?P<name>[^/]+)", repos.delete_tag),
    ("POST", f"{REPO}/discussions", pull_requests.open_one),
    ("GET", f"{REPO}/discussions/(?P<number>[0-9]+)", pull_requests.details),
    ("GET", f"{REPO}/auth-check", metadata.auth_check),
    ("GET", f"{REPO}/refs", metadata.refs),
    ("GET", f"{REPO}/commits/{REV}", metadata.commits),
    ("GET", f"{REPO}/tree/{REV}(/(?P<path>.*))?", metadata.tree),
    ("POST", f"{REPO}/paths-info/{REV}", metadata.paths_info),
    ("GET", f"{REPO}/xet-(?P<purpose>write|read)-token/{REV}", storage.xet_token),
    ("POST", f"{REPO}/preupload/{REV}", uploads.preupload),
    ("POST", f"{REPO}/commit/{REV}", uploads.commit),
    ("GET", f"{REPO}/revision/{REV}", metadata.info),
    ("GET", REPO, metadata.info),
    ("POST", f"{PAGE}\\.git/info/lfs/objects/batch", storage.batch),
    ("POST", f"{PAGE}\\.git/info/lfs/verify", storage.verify),
    ("PUT", f"/lfs/{OID}", storage.put),
    ("PUT", f"/lfs/{OID}/(?P<number>[0-9]+)", storage.put_part),
    ("POST", f"/lfs/{OID}/complete", storage.join),
    ("GET", f"/cdn/{OID}", storage.get),
    (
        "GET",
        f"/api/resolve-cache/(?P<kind>model|dataset|space)s/(?P<id>[^/]+/[^/]+)/{REV}/(?P<path>.*)",
        downloads.cached,
    ),
    ("GET", f"{PAGE}/resolve/{REV}/(?P<path>.*)", downloads.resolve),
)
COMPILED = [(method, re.compile(pattern), route) for method, pattern, route in TABLE]


def answer(hub: Hub, request: Request) -> Answer:
    """Answer a request. HEAD is answered as GET; the server leaves the body out."""
    asked = "GET" if request.method == "HEAD" else request.method
    try:
        for method, pattern, route in COMPILED:
            found = pattern.fullmatch(request.path) if method in (asked, request.method) else None
            if found:
                parts = {name: unquote(part) for name, part in found.groupdict().items() if part is not None}
                if "kind" in pattern.groupindex:
                    parts.setdefault("kind", "model")
                return route(hub, request, **parts)
    except RefusedError as refusal:
        return refusal.answer()
    # Without an error code: clients must notice that a route is missing rather than a file.
    return Answer.of({"error": f"this server has no route {request.method} {request.path}"}, 404)
