"""Repositories: commits, branches, tags and pull requests, and who may see them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from tests.hub_server.messages import RefusedError
from tests.hub_server.objects import Blob, Commit
from tests.hub_server.users import Token, Users

RepoKind = Literal["model", "dataset", "space"]
FIRST_SECOND = 1_767_225_600  # 2026-01-01: commits are a second apart, so ids repeat from run to run
LARGE = 10 * 2**20  # a file of more bytes is a large one whatever its name
SUFFIXES = "7z arrow bin bz2 ckpt gz h5 joblib model msgpack npy npz onnx parquet pb pickle pkl pt pth rar safetensors"
SUFFIXES += " tar tflite tgz wasm xz zip zst gif jpeg jpg png webp"
ATTRIBUTES = "".join(f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in SUFFIXES.split()).encode()
STALE = "The branch was updated since you opened this page. Please refresh and try again."

Change = Callable[[dict[str, Blob]], None]
"""One line of a commit: changes the files in place."""


@dataclass
class Repository:
    """One repository. `refs` maps "main", "refs/pr/1" and so on to commits; tags are apart."""

    kind: RepoKind
    id: str
    private: bool = False
    gated: bool = False
    admitted: set[str] = field(default_factory=set)  # users who accepted a gated repository's terms
    refs: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    pull_requests: list[str] = field(default_factory=list)  # their titles

    def __post_init__(self) -> None:
        first = Commit({".gitattributes": Blob.regular(ATTRIBUTES)}, None, "initial commit", "", "hub", FIRST_SECOND)
        self.commits[first.oid] = first
        self.refs["main"] = first.oid

    @property
    def namespace(self) -> str:
        return self.id.split("/")[0]

    @property
    def page(self) -> str:
        """Path of its page: "/user/name", "/datasets/user/name"."""
        return f"/{'' if self.kind == 'model' else self.kind + 's/'}{self.id}"

    def head(self, revision: str = "main") -> Commit:
        """The commit that a branch, tag, pull request or (short) commit id names.

        Raises:
            RefusedError: There is no such revision.
        """
        oid = self.refs.get(revision) or self.refs.get(revision.removeprefix("refs/heads/")) or self.tags.get(revision)
        if oid is None and re.fullmatch("[0-9a-f]{7,40}", revision):
            oid = next((known for known in self.commits if known.startswith(revision)), None)
        if oid is None:
            raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def history(self, revision: str = "main") -> list[Commit]:
        """Commits, newest first."""
        found = [self.head(revision)]
        while found[-1].parent is not None:
            found.append(self.commits[found[-1].parent])
        return found

    def files(self, revision: str = "main") -> Mapping[str, Blob]:
        return self.head(revision).files

    def is_large(self, path: str, size: int, sample: bytes, revision: str = "main") -> bool:
        """Whether a file is to be stored beside git: by the patterns of .gitattributes, its size or its bytes."""
        attributes = self.head(revision).files.get(".gitattributes", Blob.regular(b"")).content.decode()
        patterns = [line.split()[0] for line in attributes.splitlines() if "filter=lfs" in line]
        name = path.rsplit("/", 1)[-1]
        by_name = any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        return by_name or size > LARGE or b"\0" in sample

    def open_pull_request(self, title: str, start: str) -> int:
        """Open a pull request at a commit; returns its number."""
        self.pull_requests.append(title)
        self.refs[f"refs/pr/{len(self.pull_requests)}"] = start
        return len(self.pull_requests)

    def commit(self, ref: str, changes: list[Change], title: str, message: str, author: str, parent: str) -> Commit:
        """Add a commit to a branch, all of it or nothing.

        Raises:
            RefusedError: `parent` is given and no longer the branch's head, or a change is impossible.
        """
        before = self.head(ref)
        if parent and not before.oid.startswith(parent):
            raise RefusedError(412, STALE)
        files = dict(before.files)
        for change in changes:
            change(files)
        commit = Commit(files, before.oid, title, message, author, FIRST_SECOND + len(self.commits))
        self.commits[commit.oid] = commit
        self.refs[ref] = commit.oid
        return commit


class Repositories:
    """All repositories and the rules of who may reach them."""

    def __init__(self, users: Users) -> None:
        self._users = users
        self._all: dict[tuple[str, str], Repository] = {}

    def __getitem__(self, place: str) -> Repository:
        """For tests: `["user/name"]` or `["datasets/user/name"]`."""
        kind, _, rest = place.partition("s/")
        return self._all[(kind, rest) if kind in ("dataset", "space", "model") else ("model", place)]

    def __contains__(self, place: str) -> bool:
        kind, _, rest = place.partition("s/")
        return ((kind, rest) if kind in ("dataset", "space", "model") else ("model", place)) in self._all

    def all(self) -> list[Repository]:
        return list(self._all.values())

    def add(self, repository: Repository) -> Repository:
        self._all[repository.kind, repository.id] = repository
        return repository

    def get(self, kind: str, id: str) -> Repository | None:
        return self._all.get((kind, id))

    def remove(self, kind: str, id: str) -> None:
        del self._all[kind, id]

    def move(self, kind: str, old: str, new: str) -> None:
        repository = self._all.pop((kind, old))
        repository.id = new
        self.add(repository)

    def clear(self) -> None:
        self._all.clear()

    def seen(self, kind: str, id: str, token: Token | None) -> Repository:
        """A repository whose page somebody may see.

        Raises:
            RefusedError: It does not exist, or is private and not theirs; the answer does not tell which.
        """
        repository = self._all.get((kind, id))
        if repository is None or (repository.private and not self._users.may_read(token, repository.namespace)):
            # The public Hub answers the anonymous with a bare 401, which clients understand on https only. On http
            # the error code is needed beside it.
            if token is None:
                raise RefusedError(401, "Invalid username or password.", "RepoNotFound")
            raise RefusedError(404, "Repository not found", "RepoNotFound")
        return repository

    def readable(self, kind: str, id: str, token: Token | None) -> Repository:
        """A repository whose files somebody may read.

        Raises:
            RefusedError: As `seen()`, or its terms were not accepted.
        """
        repository = self.seen(kind, id, token)
        if repository.gated and not self._users.may_read(token, repository.namespace):
            if token is None or token.user not in repository.admitted:
                text = (
                    f"Access to {repository.kind} {id} is restricted. You must have access to it and be authenticated"
                )
                raise RefusedError(401 if token is None else 403, text, "GatedRepo")
        return repository

    def writable(self, kind: str, id: str, token: Token | None) -> Repository:
        """A repository that somebody may change.

        Raises:
            RefusedError: As `readable()`, or the user or the token may only read.
        """
        repository = self.readable(kind, id, token)
        self.require_write(token, repository.namespace, f"You don't have the rights to write to {kind} {id}")
        return repository

    def require_write(self, token: Token | None, namespace: str, text: str) -> Token:
        """The token, if it may write in a namespace.

        Raises:
            RefusedError: It may not.
        """
        if token is None:
            raise RefusedError(401, "Invalid username or password.")
        if not self._users.may_write(token, namespace):
            raise RefusedError(403, text)
        return token
