"""Asking the Hub again: what may be repeated is repeated, after a pause that grows or that the Hub asks for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from hub_cards.problems import CLIENT_ERRORS, is_transient, seconds_asked, status_of

__all__ = ["LONGEST_WAIT", "WAITS", "patiently", "pause_before", "rest"]

logger = logging.getLogger(__name__)

WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before the second, third, ... try."""

LONGEST_WAIT = 60.0
"""Seconds; if the Hub asks for a longer pause, that is told instead of waited for."""

Answer = TypeVar("Answer")


def patiently(request: Callable[[], Answer], waits: Sequence[float] = WAITS) -> Answer:
    """Ask something that may be asked twice.

    Args:
        request: Asks it.
        waits: Seconds before the second, third, ... try.

    Returns:
        The answer; the last try's error passes.
    """
    for wait in waits:
        try:
            return request()
        except CLIENT_ERRORS as error:
            pause = pause_before(error, wait)
            if pause is None:
                raise
            rest(error, pause)
    return request()


def pause_before(error: BaseException, wait: float | None) -> float | None:
    """How long to wait until the next try.

    Args:
        error: What the last one raised.
        wait: Seconds to wait unless the Hub asks for more; None when there are no more tries.

    Returns:
        Seconds; None where there is to be no further try.
    """
    asked = seconds_asked(error)
    return None if wait is None or not is_transient(error) or asked > LONGEST_WAIT else max(wait, asked)


def rest(error: BaseException, pause: float) -> None:
    """Say why, and wait.

    Args:
        error: What the last try raised.
        pause: Seconds.
    """
    why = f"answered {status_of(error)}" if status_of(error) else "gave no answer"
    logger.warning("The Hub %s; trying again in %.0f s.", why, pause)
    time.sleep(pause)
