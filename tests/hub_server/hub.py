"""What a hub is apart from HTTP: its accounts, its repositories, its stores, and the choices a test may make."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.hub_server.faults import FaultList
from tests.hub_server.lfs import LargeFiles
from tests.hub_server.log import RequestLog
from tests.hub_server.messages import Request
from tests.hub_server.objects import Blob
from tests.hub_server.repositories import RepoKind, Repositories, Repository
from tests.hub_server.users import Token, Users
from tests.hub_server.xet import XetStore


class Hub:
    """The state that the routes work on.

    Args:
        folder: Where the Xet store lies.
        xet: Whether Xet is spoken; a client in Xet mode cannot upload large files without.
    """

    def __init__(self, folder: Path, *, xet: bool = True) -> None:
        self.users = Users()
        self.repositories = Repositories(self.users)
        self.large = LargeFiles()
        self.xet = XetStore(folder / "cas") if xet else None
        self.faults = FaultList()
        self.log = RequestLog()
        self.endpoint = ""  # http://127.0.0.1:PORT
        self.storage = ""  # http://localhost:PORT, for clients another origin, so no token goes there
        # How files come: large ones by a redirect to the storage or at once, others at once or by a redirect on the
        # same origin, as the public Hub is reported to do.
        self.redirect_large = True
        self.redirect_regular = False
        self.page_size = 1000
        self.warnings: list[str] = []  # of validate-yaml, for every README

    def token(self, request: Request) -> Token | None:
        """Who asks.

        Raises:
            RefusedError: The token is nobody's.
        """
        return self.users.who(request.headers.get("authorization"))

    def content(self, blob: Blob) -> bytes:
        """The bytes of a file, wherever they are stored."""
        if blob.sha256 is None:
            return blob.content
        if blob.sha256 not in self.large.objects and self.xet is not None:
            content = self.xet.read(blob.sha256, blob.size)
            if content is not None:
                self.large.keep(blob.sha256, content, blob.size)
        return self.large.objects[blob.sha256]

    def has_large(self, sha256: str) -> bool:
        return sha256 in self.large.objects or self.xet_hash(sha256) is not None

    def xet_hash(self, sha256: str | None) -> str | None:
        """The Xet hash of a large file that came by Xet."""
        if sha256 is None or self.xet is None:
            return None
        return self.xet.hashes().get(sha256)

    def read(self, place: str, path: str, revision: str = "main") -> bytes:
        """For tests: the bytes of a file of "user/name" or "datasets/user/name"."""
        return self.content(self.repositories[place].files(revision)[path])

    def put(
        self, place: str, files: Mapping[str, bytes | Blob], *, private: bool = False, gated: bool = False
    ) -> Repository:
        """For tests: a repository "user/name" or "datasets/user/name" with these files, ordinary ones or blobs."""
        kind: RepoKind = "dataset" if place.startswith("datasets/") else "model"
        repository = Repository(kind, place.removeprefix("datasets/"), private=private, gated=gated)
        blobs = {name: Blob.regular(file) if isinstance(file, bytes) else file for name, file in files.items()}
        repository.commit("main", [lambda there: there.update(blobs)], "add", "", repository.namespace, "")
        return self.repositories.add(repository)

    def clear(self) -> None:
        """Forget all repositories, large files, faults and requests; accounts and the Xet store stay."""
        self.repositories.clear()
        self.large.clear()
        self.faults.clear()
        self.log.clear()
