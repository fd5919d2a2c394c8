"""Clients in processes of their own: the libraries read their settings once, when they are imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[2]
Mode = Literal["lfs", "xet"]


class ClientError(Exception):
    """What a call raised in the client's process: names of the class and its bases, and the text."""

    def __init__(self, classes: list[str], text: str) -> None:
        super().__init__(f"{classes[0]}: {text}")
        self.classes = classes
        self.text = text


def settings(endpoint: str, home: Path, mode: Mode = "lfs", token: str | None = None) -> dict[str, str]:
    """The environment of a client of a server: nothing of this process's Hugging Face settings is left in it.

    Args:
        endpoint: The server's address.
        home: A fresh folder for caches.
        mode: How large files go.
        token: The token that the client has by itself.
    """
    foreign = ("HF_", "HUGGING", "TRANSFORMERS_", "DIFFUSERS_")
    kept = {name: text for name, text in os.environ.items() if not name.startswith(foreign)}
    own = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "5",
        "NO_PROXY": "127.0.0.1,localhost",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if mode == "lfs":
        own["HF_HUB_DISABLE_XET"] = "1"
    if token is not None:
        own["HF_TOKEN"] = token
    return {**kept, **own}


class Client:
    """One process of the real clients; calls share it, and so its cache. As a context manager it starts and ends.

    Args:
        endpoint: The server's address.
        home: A fresh folder for caches.
        mode: How large files go.
        token: The token that the client has by itself.
        **more: Further settings of the environment.
    """

    def __init__(self, endpoint: str, home: Path, mode: Mode = "lfs", token: str | None = None, **more: str) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.mode = mode
        self.home = home
        self.errors = home / "stderr.txt"
        self._environment = {**settings(endpoint, home, mode, token), **more}

    def __enter__(self) -> Client:
        with self.errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.hub_server"],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        return self

    def __exit__(self, *details: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Call a function there; arguments and result go as JSON (paths as text).

        Args:
            function: A function at the top of a module that the other process can import.
            *arguments: Its arguments.
            **named: Its arguments by name.

        Returns:
            What it returned.

        Raises:
            ClientError: It raised.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        call = [function.__module__, function.__qualname__, arguments, named]
        self._process.stdin.write(json.dumps(call, default=os.fspath) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError(f"the client's process ended:\n{self.printed()[-4000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise ClientError(answer["classes"], answer["error"])
        return answer["result"]

    def printed(self) -> str:
        """All that the process has printed so far."""
        return self.errors.read_text(encoding="utf-8", errors="replace")
