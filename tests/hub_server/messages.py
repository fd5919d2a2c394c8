"""What goes over the wire: a request as the server reads it, an answer, and a refusal that becomes one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs


@dataclass
class Request:
    """One request. `path` is as it came, still quoted: `refs%2Fpr%2F1` is one segment and must stay one."""

    method: str
    path: str
    query: str
    headers: dict[str, str]  # names in lower case
    body: bytes
    host: str

    def json(self) -> Any:
        return json.loads(self.body or b"{}")

    def options(self) -> dict[str, list[str]]:
        return parse_qs(self.query)

    def flag(self, name: str) -> bool:
        return self.options().get(name, ["false"])[0].lower() in ("1", "true")

    @property
    def target(self) -> str:
        return f"{self.path}?{self.query}" if self.query else self.path


@dataclass
class Answer:
    """One answer. `size` is given when the headers speak of more bytes than `body` holds (HEAD)."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Any, status: int = 200, **headers: str) -> Answer:
        """A JSON answer; the underscores of header names are dashes."""
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        return cls(status, json.dumps(value).encode(), {"Content-Type": "application/json; charset=utf-8", **named})


class RefusedError(Exception):
    """The request is refused: `status`, the Hub's error code for the client's choice of exception, and a text."""

    def __init__(self, status: int, text: str, code: str | None = None, **headers: str) -> None:
        super().__init__(text)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.headers["X-Error-Message"] = text.replace("\n", " ").encode("ascii", "replace").decode()
        if code:
            self.headers["X-Error-Code"] = code

    def answer(self) -> Answer:
        return Answer.of({"error": str(self)}, self.status, **self.headers)
