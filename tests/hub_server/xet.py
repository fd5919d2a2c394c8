"""Xet storage by its `local://` backend: the client writes to a folder, the server reads what came.

The backend is internal to hf_xet (seen with 1.8.0); the protocol of the real storage service is not spoken here.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RECORD = 48  # bytes of every record of a shard
HAS_VERIFICATION = 1 << 31
HAS_METADATA = 1 << 30


class XetStore:
    """The folder that clients write to, and the ids of the files in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def token(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Answer of the token routes: body (read by uploads) and headers (read by downloads)."""
        expires = int(time.time()) + 3600
        url = f"local://{self.folder.resolve()}"
        body = {"accessToken": "xet-token", "exp": expires, "casUrl": url}
        headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": "xet-token", "X-Xet-Token-Expiration": str(expires)}
        return body, headers

    def hashes(self) -> dict[str, str]:
        """Sha256 of every file in the store -> its Xet hash, 64 hex digits each."""
        found: dict[str, str] = {}
        for shard in self.folder.glob("xet/xorbs/shards/*.mdb"):
            found.update(_files_of_shard(shard.read_bytes()))
        return found

    def read(self, sha256: str, size: int) -> bytes | None:
        """A file's bytes, or None if the store has no such file."""
        xet_hash = self.hashes().get(sha256)
        if xet_hash is None:
            return None
        import hf_xet

        with tempfile.TemporaryDirectory() as place:
            # A client may still hold the lock on the folder, so a copy is read.
            copy = Path(place, "cas")
            shutil.copytree(self.folder, copy)
            target = Path(place, "file")
            session = hf_xet.XetSession()
            with session.new_file_download_group(endpoint=f"local://{copy}") as group:
                group.start_download_file(hf_xet.XetFileInfo(xet_hash, size), str(target))
            content = target.read_bytes()
        return content if hashlib.sha256(content).hexdigest() == sha256 else None


def _files_of_shard(shard: bytes) -> Iterator[tuple[str, str]]:
    """Yield (sha256, Xet hash) of the files that a shard lists.

    After a header of 48 bytes, every file is a record (hash, flags, number of segments), its segments, as many
    verification records if flagged, and a record with the sha256 if flagged. A hash of ones ends the list.
    """
    place = RECORD
    while shard[place : place + 32] != b"\xff" * 32:
        file_hash = shard[place : place + 32]
        flags = int.from_bytes(shard[place + 32 : place + 36], "little")
        segments = int.from_bytes(shard[place + 36 : place + 40], "little")
        place += RECORD * (1 + segments * (2 if flags & HAS_VERIFICATION else 1))
        if flags & HAS_METADATA:
            yield _text(shard[place : place + 32]), _text(file_hash)
            place += RECORD


def _text(digest: bytes) -> str:
    """A hash as Xet writes it: each word of 8 bytes is a little-endian number."""
    return "".join(digest[start : start + 8][::-1].hex() for start in range(0, 32, 8))
