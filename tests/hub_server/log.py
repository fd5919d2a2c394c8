"""The request log: what every client asked, in order."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass

from tests.hub_server.faults import Kind
from tests.hub_server.messages import Request


@dataclass
class Entry:
    """One request; `status` is what was answered, 0 where nothing was, and `fault` what went wrong on purpose."""

    request: Request
    status: int = 0
    fault: Kind | None = None

    @property
    def line(self) -> str:
        return f"{self.request.method} {self.request.target}"

    @property
    def token(self) -> str | None:
        return self.request.headers.get("authorization", "").removeprefix("Bearer ") or None


class RequestLog:
    """All requests since the last `clear()`."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._lock = threading.Lock()

    def add(self, request: Request) -> Entry:
        entry = Entry(request)
        with self._lock:
            self._entries.append(entry)
        return entry

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()

    def entries(self, method: str | None = None, pattern: str = "") -> list[Entry]:
        """Requests of a method (None: any) whose target matches a pattern (`re.search`)."""
        with self._lock:
            entries = list(self._entries)
        return [
            entry
            for entry in entries
            if method in (None, entry.request.method) and re.search(pattern, entry.request.target)
        ]

    def lines(self, method: str | None = None, pattern: str = "") -> list[str]:
        """The same as "METHOD /path?query"."""
        return [entry.line for entry in self.entries(method, pattern)]
