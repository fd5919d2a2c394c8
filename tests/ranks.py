"""Two processes of one run, played by threads of this one: what they exchange is really exchanged."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from tests.tiny import TinyRun

T = TypeVar("T")
COUNT = 2


def ranks(make: Callable[..., TinyRun]) -> list[TinyRun]:
    """Set up the run of each rank.

    They are made here, one after the other, and not in the threads: they share the generator of the weights.

    Args:
        make: ``tiny_run`` or the like; gets ``world_size``, ``rank`` and ``reduce``.
    """
    barrier = threading.Barrier(COUNT)
    shared: dict[int, torch.Tensor] = {}

    def sums(rank: int) -> Callable[[torch.Tensor], torch.Tensor]:
        def reduce(tensor: torch.Tensor) -> torch.Tensor:
            shared[rank] = tensor
            barrier.wait(timeout=60)
            total = shared[0] + shared[1]
            barrier.wait(timeout=60)
            return total

        return reduce

    return [make(world_size=COUNT, rank=rank, reduce=sums(rank)) for rank in range(COUNT)]


def together(runs: list[TinyRun], work: Callable[[TinyRun], T]) -> list[T]:
    """Do something with the run of each rank at the same time; what fails in a thread fails here."""
    with ThreadPoolExecutor(len(runs)) as pool:
        return list(pool.map(work, runs))
