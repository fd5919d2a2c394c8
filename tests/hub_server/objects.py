"""Git's objects, as far as their ids go: blobs, trees and commits with the ids that git itself would give them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass


def object_id(kind: str, content: bytes) -> str:
    """Sha1 of a git object: `git hash-object -t KIND`."""
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content).hexdigest()


@dataclass(frozen=True)
class Blob:
    """One file of a commit.

    `content` is what git keeps: the file's bytes, or for a large file the text that points to it. `sha256` and `size`
    are those of the large file; an ordinary file has no sha256.
    """

    content: bytes
    size: int
    sha256: str | None = None

    @property
    def oid(self) -> str:
        return object_id("blob", self.content)

    @classmethod
    def regular(cls, content: bytes) -> Blob:
        return cls(content, len(content))

    @classmethod
    def large(cls, sha256: str, size: int) -> Blob:
        """Source: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md ("The Pointer")."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
        return cls(pointer.encode(), size, sha256)


def tree_id(files: Mapping[str, Blob]) -> str:
    """Id of the tree object that holds these paths, with the tree objects of its folders inside."""
    folders: dict[str, dict[str, Blob]] = {}
    entries: list[tuple[str, bytes]] = []
    for path, blob in files.items():
        first, slash, rest = path.partition("/")
        if slash:
            folders.setdefault(first, {})[rest] = blob
        else:
            entries.append((first, b"100644 " + first.encode() + b"\0" + bytes.fromhex(blob.oid)))
    for name, inside in folders.items():
        # Git sorts a folder as if its name ended in a slash.
        entries.append((f"{name}/", b"40000 " + name.encode() + b"\0" + bytes.fromhex(tree_id(inside))))
    return object_id("tree", b"".join(entry for _, entry in sorted(entries, key=lambda entry: entry[0].encode())))


@dataclass(frozen=True)
class Commit:
    """One state of a repository, with all its files."""

    files: Mapping[str, Blob]
    parent: str | None
    title: str
    message: str
    author: str
    seconds: int

    @property
    def oid(self) -> str:
        parent = f"parent {self.parent}\n" if self.parent else ""
        who = f"{self.author} <{self.author}@users.noreply.hub> {self.seconds} +0000"
        text = f"tree {tree_id(self.files)}\n{parent}author {who}\ncommitter {who}\n\n{self.title}"
        return object_id("commit", (text + (f"\n\n{self.message}" if self.message else "") + "\n").encode())
