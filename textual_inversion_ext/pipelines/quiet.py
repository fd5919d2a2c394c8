"""Remarks of diffusers that would mislead whoever reads them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def unsaid(module: str, words: str) -> Iterator[None]:
    """Leave out one of diffusers' warnings.

    Args:
        module: The module that warns.
        words: What the warning says.

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
