"""Remarks of diffusers and what it stands on that would mislead whoever reads them."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def unsaid(module: str, words: str) -> Iterator[None]:
    """Leave out something that a module logs.

    Args:
        module: The module.
        words: Part of what it says.

    Yields:
        Nothing.
    """

    def is_another(record: logging.LogRecord) -> bool:
        return words not in record.getMessage()

    logger = logging.getLogger(module)
    logger.addFilter(is_another)
    try:
        yield
    finally:
        logger.removeFilter(is_another)


@contextmanager
def unwarned(words: str) -> Iterator[None]:
    """Leave out a warning of Python's kind.

    Args:
        words: Its beginning.

    Yields:
        Nothing.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=re.escape(words))
        yield


def move(part: Any, device: torch.device | str, dtype: torch.dtype) -> Any:
    """Move a network or a whole pipeline and change its number format.

    diffusers warns of layers that should stay float32 whenever it is told a number format, mostly of an empty list.

    Args:
        part: A network or a pipeline; changed in place.
        device: Where it goes.
        dtype: Number format of its weights.

    Returns:
        The same.
    """
    with unsaid("diffusers.models.modeling_utils", "should be kept in float32: []"):
        return part.to(device, dtype)
