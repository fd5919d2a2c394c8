"""Faults on demand: which request goes wrong, how, and how often."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from typing import Literal

from tests.hub_server.messages import Request

Kind = Literal["status", "delay", "cut", "truncate", "lose"]
"""What goes wrong.

status    the request is refused with `status`, `headers` and `body`; nothing is done
delay     the request is answered, `seconds` later
cut       the connection is closed at once; nothing is done
truncate  the request is done, and half of the answer's body arrives before the connection is closed
lose      the request is done, and the connection is closed without an answer
"""


@dataclass
class Fault:
    """One fault, for requests of a method (None: any) whose target matches a pattern (`re.search`; query included)."""

    kind: Kind
    method: str | None = None
    pattern: str = ""
    times: int | None = 1  # how many matching requests it meets; None: all
    skip: int = 0  # how many matching requests pass before
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b'{"error": "injected fault"}'
    seconds: float = 0.0
    met: int = 0  # how many requests it has met so far

    def matches(self, request: Request) -> bool:
        return self.method in (None, request.method) and re.search(self.pattern, request.target) is not None


class FaultList:
    """The faults in force, in order: a request meets the first one that wants it."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, kind: Kind, method: str | None = None, pattern: str = "", **how: object) -> Fault:
        """Put a fault in force; see `Fault` for `how`. Its field `met` tells afterwards whether it was met."""
        fault = Fault(kind, method, pattern, **how)  # type: ignore[arg-type]
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def meet(self, request: Request) -> Fault | None:
        """The fault that a request meets, counted."""
        with self._lock:
            for fault in self._faults:
                if not fault.matches(request) or (fault.times is not None and fault.met >= fault.times):
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.met += 1
                return fault
        return None
