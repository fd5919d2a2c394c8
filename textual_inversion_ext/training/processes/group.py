"""The processes of a run, as ``accelerate launch`` starts them, and how they share its work."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed
from accelerate import Accelerator
from torch import Tensor

from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.config import Distribution, TextualInversionConfig
from textual_inversion_ext.errors import ConfigError, DistributedError
from textual_inversion_ext.training.processes.division import are_split, deal

PATIENCE = timedelta(days=30)
"""How long a process waits for one that works: longer than any run. One that is gone is noticed at once."""

T = TypeVar("T")


class Processes:
    """The processes of a run and what each of them does.

    Either every process trains **every concept**, on its own part of a batch that is as many times larger: gradients
    are summed over all processes in each step, and all of them hold the same rows. Or the **concepts are split**: each
    process trains its own, as if it were alone, and they speak to each other only before the first step and after the
    last. Which of the two: see ``are_split``.

    The main process watches itself: with split concepts, progress bar, previews, trackers and callbacks show its own
    concepts. Every process logs its steps in its own folder, and the main one joins these logs at the end.

    Args:
        accelerator: Knows device and processes.
        distribute: The setting: "auto", "concepts" or "batch".
        concepts: What the run learns.
        main_words: Text whose words the main process should train, because it makes the previews.

    Attributes:
        concepts: All concepts of the run.
        own: Those that this process trains.
        split: Whether concepts are split.
        world_size: Processes that share a step; 1 when concepts are split.
        rank: Place of this process among those.

    Raises:
        ConfigError: Concepts are to be split over more processes than there are concepts; or the processes are those of
            TPUs.
    """

    def __init__(
        self, accelerator: Accelerator, distribute: Distribution, concepts: Sequence[ConceptSpec], main_words: str = ""
    ) -> None:
        self.accelerator = accelerator
        self.concepts = tuple(concepts)
        count = accelerator.num_processes
        if count > 1 and not torch.distributed.is_initialized():
            raise ConfigError(f"{count} processes that torch.distributed does not connect (TPUs); start only one.")
        self.split = are_split(distribute, len(self.concepts), count)
        words = main_words.casefold()
        named = [place for place, spec in enumerate(self.concepts) if spec.placeholder_token.casefold() in words]
        self.shares = deal(len(self.concepts), count, named) if self.split else (tuple(range(len(self.concepts))),)
        share = self.shares[accelerator.process_index] if self.split else self.shares[0]
        self.own = tuple(self.concepts[place] for place in share)
        self.world_size = 1 if self.split else count
        self.rank = 0 if self.split else accelerator.process_index
        # A group of its own for words between hosts: the device's (NCCL) may run minutes behind, and gives up on a
        # process that works longer than ten minutes by itself.
        self._group = torch.distributed.new_group(backend="gloo", timeout=PATIENCE) if count > 1 else None

    @property
    def is_main(self) -> bool:
        """Whether this process writes what all share: ``config.json``, previews, trackers."""
        return bool(self.accelerator.is_main_process)

    @property
    def writes(self) -> bool:
        """Whether this process writes checkpoints, step log and embedding files of its concepts."""
        return self.split or self.is_main

    @property
    def part(self) -> int | None:
        """Number of this process's own folder in the output folder; None when all share one."""
        return self.accelerator.process_index if self.split else None

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over the processes that share a step.

        Args:
            tensor: On the training device, of one shape in all processes.

        Returns:
            The sum.

        Raises:
            DistributedError: Another process has gone.
        """
        if self.world_size == 1:
            return tensor
        return _among_others(lambda: self.accelerator.reduce(tensor, reduction="sum"))

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any of the processes that share a step; does not wait for the device.

        Args:
            flag: This process's flag.

        Returns:
            The same in all of them.

        Raises:
            DistributedError: Another process has gone.
        """
        if self.world_size == 1:
            return flag
        flags = torch.tensor([float(flag)])
        _among_others(lambda: torch.distributed.all_reduce(flags, group=self._group))
        return bool(flags.item())

    def gather(self, mine: T) -> list[T]:
        """Collect one object from every process, however long that takes.

        Args:
            mine: This process's object.

        Returns:
            All of them, by process, in every process.

        Raises:
            DistributedError: Another process has gone.
        """
        if self._group is None:
            return [mine]
        everyones: list[Any] = [None] * self.accelerator.num_processes
        _among_others(lambda: torch.distributed.all_gather_object(everyones, mine, group=self._group))
        return everyones

    def joined(self, mine: Sequence[T]) -> list[T]:
        """What all processes have found about their concepts.

        Args:
            mine: What this process has found.

        Returns:
            The same in every process; ``mine`` if all of them train every concept.

        Raises:
            DistributedError: Another process has gone.
        """
        return [one for part in self.gather(mine) for one in part] if self.split else list(mine)

    def wait(self) -> None:
        """Wait until all processes are here, however long that takes.

        Raises:
            DistributedError: Another process has gone.
        """
        self.gather(None)

    def description(self, config: TextualInversionConfig) -> str:
        """One sentence on who does what; empty for a single process.

        Args:
            config: For the batch size.

        Returns:
            The sentence.
        """
        count = self.accelerator.num_processes
        if count == 1:
            return ""
        if not self.split:
            batch = config.train_batch_size * config.gradient_accumulation_steps
            return f"{count} processes share every step: {batch * count} pictures of each concept, {batch} in each."
        words = [" ".join(self.concepts[place].placeholder_token for place in share) for share in self.shares]
        shown = "; ".join(f"process {number}: {text}" for number, text in enumerate(words))
        return f"{count} processes split the concepts; each trains its own. {shown}."


def _among_others(call: Callable[[], T]) -> T:
    """Run a call that needs the other processes.

    Args:
        call: The call.

    Returns:
        What it returns.

    Raises:
        DistributedError: Another process has gone.
    """
    try:
        return call()
    except RuntimeError as error:  # gloo's are plain RuntimeErrors, those of NCCL are derived from it
        # Without gloo's advice and the place in its source.
        reason = re.sub(r"^\[[^]]*] ", "", " ".join(str(error).split()).split(". This is")[0])
        raise DistributedError(
            f"Another process of this run has ended, so this one stops too; see that process's own message. ({reason})"
        ) from error
