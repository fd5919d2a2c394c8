"""Large files: LFS uploads and downloads on the storage's own origin, and tokens for Xet."""

from __future__ import annotations

from tests.hub_server.hub import Hub
from tests.hub_server.messages import Answer, RefusedError, Request

LFS_TYPE = "application/vnd.git-lfs+json"


def _refuse_token(request: Request) -> None:
    """The storage is somebody else's machine: a client that sends its token there has given it away."""
    if "authorization" in request.headers:
        raise RefusedError(400, "a token was sent to the storage")


def _option(request: Request, name: str) -> str:
    return request.options().get(name, [""])[0]


def batch(hub: Hub, request: Request, kind: str, id: str) -> Answer:
    token = hub.token(request)
    # Large files of a pull request come before the pull request does, and readers may open one.
    repository = hub.repositories.readable(kind, id, token)
    if token is None:
        raise RefusedError(401, "Invalid username or password.")
    values = request.json()
    if values["operation"] != "upload" or len(values["objects"]) > 256 or values.get("hash_algo", "sha256") != "sha256":
        raise RefusedError(400, "uploads of at most 256 files by sha256 are what this server knows")
    verify = f"{hub.endpoint}{repository.page}.git/info/lfs/verify"
    objects = [hub.large.offer(hub.storage, verify, value["oid"], value["size"]) for value in values["objects"]]
    answer = Answer.of({"transfer": "basic", "objects": objects})
    answer.headers["Content-Type"] = LFS_TYPE
    return answer


def verify(hub: Hub, request: Request, kind: str, id: str) -> Answer:
    hub.repositories.readable(kind, id, hub.token(request))
    values = request.json()
    content = hub.large.objects.get(values["oid"])
    if content is None or len(content) != values["size"]:
        raise RefusedError(404, f"no object {values['oid']} of {values['size']} bytes")
    return Answer()


def put(hub: Hub, request: Request, oid: str) -> Answer:
    _refuse_token(request)
    hub.large.put(oid, int(_option(request, "size")), _option(request, "sig"), request.body)
    return Answer()


def put_part(hub: Hub, request: Request, oid: str, number: str) -> Answer:
    _refuse_token(request)
    tag = hub.large.put_part(oid, int(number), _option(request, "sig"), request.body)
    return Answer(headers={"ETag": tag})


def join(hub: Hub, request: Request, oid: str) -> Answer:
    _refuse_token(request)
    parts = [(part["partNumber"], part["etag"]) for part in request.json()["parts"]]
    hub.large.join(oid, int(_option(request, "size")), _option(request, "sig"), parts)
    return Answer.of({})


def get(hub: Hub, request: Request, oid: str) -> Answer:
    _refuse_token(request)
    headers = {"ETag": f'"{oid}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    return Answer(body=hub.large.get(oid, _option(request, "sig")), headers=headers)


def xet_token(hub: Hub, request: Request, kind: str, id: str, purpose: str, revision: str) -> Answer:
    if hub.xet is None:
        raise RefusedError(404, "this server has no Xet storage")
    token = hub.token(request)
    writes = purpose == "write" and not request.flag("create_pr") and not revision.startswith("refs/pr/")
    (hub.repositories.writable if writes else hub.repositories.readable)(kind, id, token)
    body, headers = hub.xet.token()
    answer = Answer.of(body)
    answer.headers |= headers
    return answer
