"""Ctrl-C that lets the running step finish."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

logger = logging.getLogger(__name__)

ECHO_SECONDS = 1.0
"""A second signal so soon after the first is not a second wish."""

LAUNCHED_ECHO_SECONDS = 10.0
"""The same below ``accelerate launch`` and ``torchrun``: a terminal sends Ctrl-C to every process, and the launcher
sends it to its workers once more. Should they not end, it kills them half a minute later."""


class InterruptGuard:
    """While it is open, the first SIGINT or SIGTERM only sets ``requested``; a second one acts as usual.

    Python allows signal handlers in the main thread only; in other threads the guard does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}
        self._launched = "TORCHELASTIC_RUN_ID" in os.environ

    def __enter__(self) -> InterruptGuard:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not (self.requested and self._launched):  # else the launcher's echo may still be on its way
            self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.requested, self._first = True, time.monotonic()
            logger.warning("Interrupted: finishing this step and saving. Once more stops at once and saves nothing.")
        elif time.monotonic() - self._first > (LAUNCHED_ECHO_SECONDS if self._launched else ECHO_SECONDS):
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)
