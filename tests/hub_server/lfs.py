"""Large files: bytes by sha256, uploads in one piece or in parts, addresses that carry their own permission."""

from __future__ import annotations

import hashlib
import hmac
import math
import threading
from typing import Any
from urllib.parse import urlencode

from tests.hub_server.messages import RefusedError

SECRET = b"signs the addresses of uploads and downloads"


def signature(*parts: object) -> str:
    return hmac.new(SECRET, "\n".join(map(str, parts)).encode(), "sha256").hexdigest()[:32]


class LargeFiles:
    """The store. Files of `multipart_threshold` bytes or more go in parts of `chunk_size`."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.multipart_threshold = 2**62
        self.chunk_size = 2**20
        self._parts: dict[str, dict[int, bytes]] = {}
        self._lock = threading.Lock()

    def clear(self) -> None:
        self.objects.clear()
        self._parts.clear()

    def offer(self, storage: str, verify: str, oid: str, size: int) -> dict[str, Any]:
        """One object of a batch's answer: where to put it, or nothing to do if it is here."""
        told: dict[str, Any] = {"oid": oid, "size": size, "authenticated": True}
        if oid in self.objects:
            return told
        header: dict[str, str] = {}
        href = f"{storage}/lfs/{oid}?" + urlencode({"size": size, "sig": signature("put", oid, size)})
        if size >= self.multipart_threshold:
            header["chunk_size"] = str(self.chunk_size)
            for number in range(1, math.ceil(size / self.chunk_size) + 1):
                query = urlencode({"sig": signature("part", oid, number)})
                header[str(number)] = f"{storage}/lfs/{oid}/{number}?{query}"
            href = f"{storage}/lfs/{oid}/complete?" + urlencode({"size": size, "sig": signature("join", oid, size)})
        told["actions"] = {"upload": {"href": href, "header": header}, "verify": {"href": verify, "header": {}}}
        return told

    def put(self, oid: str, size: int, sig: str, content: bytes) -> None:
        """Take a file.

        Raises:
            RefusedError: The address is not signed, or the bytes are others than announced.
        """
        self._check(sig, "put", oid, size)
        self.keep(oid, content, size)

    def put_part(self, oid: str, number: int, sig: str, content: bytes) -> str:
        """Take a part; returns its tag."""
        self._check(sig, "part", oid, number)
        with self._lock:
            self._parts.setdefault(oid, {})[number] = content
        return f'"{hashlib.md5(content).hexdigest()}"'

    def join(self, oid: str, size: int, sig: str, tags: list[tuple[int, str]]) -> None:
        """Join the parts to a file."""
        self._check(sig, "join", oid, size)
        parts = self._parts.get(oid, {})
        expected = [(number, f'"{hashlib.md5(parts[number]).hexdigest()}"') for number in sorted(parts)]
        if tags != expected or len(tags) != math.ceil(size / self.chunk_size):
            raise RefusedError(400, f"parts {tags} are not those received: {expected}")
        self.keep(oid, b"".join(parts[number] for number in sorted(parts)), size)
        del self._parts[oid]

    def keep(self, oid: str, content: bytes, size: int) -> None:
        """Store bytes that must have this sha256 and size."""
        if len(content) != size or hashlib.sha256(content).hexdigest() != oid:
            raise RefusedError(400, f"the {len(content)} bytes received are not the file {oid} of {size} bytes")
        self.objects[oid] = content

    def address(self, storage: str, oid: str) -> str:
        """Where a file can be had without a token."""
        return f"{storage}/cdn/{oid}?" + urlencode({"sig": signature("get", oid)})

    def get(self, oid: str, sig: str) -> bytes:
        self._check(sig, "get", oid)
        return self.objects[oid]

    @staticmethod
    def _check(sig: str, *parts: object) -> None:
        if not hmac.compare_digest(sig, signature(*parts)):
            raise RefusedError(403, "the address is not signed")
