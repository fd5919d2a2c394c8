"""A headless Chromium that opens a page of ours: what it shows, what it runs, what it would fetch.

Spoken to over two pipes in the protocol of its developer tools, so that no driver has to be installed.
"""

from __future__ import annotations

import base64
import io
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from PIL import Image

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome", "chrome") if (found := shutil.which(name))),
    None,
)
NO_CHROMIUM = "no Chromium or Chrome is installed (Debian and Ubuntu: apt-get install chromium)"
SECONDS = 60.0
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--remote-debugging-pipe",
)
# The browser reads descriptor 3 and writes to descriptor 4; ours may have any numbers, these two among them.
LAUNCH = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
for place, end in enumerate(ends, start=3):
    os.dup2(end, place)
os.execvp(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One page in one browser; use it in ``with``.

    Attributes:
        requests: Address of everything that the page asked for, ``data:`` left out.
        messages: What the page's console said: errors of scripts and of its policy.
    """

    def __init__(self, profile: Path) -> None:
        self.requests: list[str] = []
        self.messages: list[str] = []
        self._loaded = False
        self._count = 0
        self._rest = b""
        theirs, self._to = os.pipe()
        self._from, answers = os.pipe()
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                LAUNCH,
                str(theirs),
                str(answers),
                str(CHROMIUM),
                *FLAGS,
                f"--user-data-dir={profile}",
            ],
            pass_fds=(theirs, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(answers)
        self._session: str | None = None
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(SECONDS)
        os.close(self._to)
        os.close(self._from)

    def open(self, page: Path, width: int = 1200, dark: bool = False) -> None:
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self.requests.clear()
        self.messages.clear()
        self._loaded = False
        self._call("Page.navigate", url=page.resolve().as_uri())
        self._until(lambda _: self._loaded)

    def evaluate(self, script: str) -> Any:
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def screenshot(self) -> Image.Image:
        """The whole page, below the window's edge too."""
        answer = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return Image.open(io.BytesIO(base64.b64decode(answer["data"]))).convert("RGB")

    def _call(self, method: str, **parameters: object) -> dict[str, Any]:
        self._count += 1
        number = self._count
        message: dict[str, object] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        answer = self._until(lambda heard: heard.get("id") == number)
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        return answer["result"]

    def _until(self, wanted: Any) -> dict[str, Any]:
        end = time.monotonic() + SECONDS
        while True:
            while b"\0" not in self._rest:
                if not select.select([self._from], [], [], max(0.0, end - time.monotonic()))[0]:
                    raise AssertionError("the browser does not answer")
                heard = os.read(self._from, 1 << 20)
                if not heard:
                    raise AssertionError("the browser has ended")
                self._rest += heard
            line, self._rest = self._rest.split(b"\0", 1)
            message = json.loads(line)
            self._note(message)
            if wanted(message):
                return message

    def _note(self, message: dict[str, Any]) -> None:
        method, told = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent" and not told["request"]["url"].startswith("data:"):
            self.requests.append(told["request"]["url"])
        elif method in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            self.messages.append(json.dumps(told)[:500])
        elif method == "Page.loadEventFired":
            self._loaded = True
