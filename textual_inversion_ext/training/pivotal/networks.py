"""Pivotal tuning: a LoRA on the frozen networks, trained together with the rows or after them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from textual_inversion_ext.pipelines.lora import LoraPart, save_lora
from textual_inversion_ext.training.averages import clip_rows
from textual_inversion_ext.training.pivotal.lora import NetworkLora
from textual_inversion_ext.training.schedule import RowSchedule


@dataclass(frozen=True, slots=True)
class Phases:
    """Which of rows and LoRA moves at a step: a function of its number alone, so a resumed run is in the right phase.

    Attributes:
        first_lora_step: Number of the first step, counted from 1, at which the LoRA moves.
        last_row_step: Number of the last step at which the rows move.
        later_row_rate: What the rows' learning rate is multiplied by once the LoRA moves.
    """

    first_lora_step: int = 1
    last_row_step: int = 2**63
    later_row_rate: float = 1.0

    def lora_moves(self, step: int) -> bool:
        """Whether the LoRA moves at a step.

        Args:
            step: Number of the step.

        Returns:
            True from ``first_lora_step`` on.
        """
        return step >= self.first_lora_step

    def row_rate(self, step: int) -> float:
        """What the rows' learning rate is multiplied by at a step.

        Args:
            step: Number of the step.

        Returns:
            0 where the rows stay as they are.
        """
        if step > self.last_row_step:
            return 0.0
        return self.later_row_rate if self.lora_moves(step) else 1.0


class PivotalNetworks(nn.Module):
    """The low-rank changes of a pipeline's networks, beside the rows of the one concept that they are trained with.

    A step whose loss or gradient is not finite holds back rows and LoRA together.

    Args:
        pipeline: the pipeline; its networks are changed only inside ``with attached()``.
        loras: name of a network in the pipeline -> its change.
        schedules: the same names -> learning rate of the change by its own age.
        phases: what moves when.
        max_grad_norm: limit of the norm of each network's gradient, or None.

    Source:
        Roich et al. 2022, "Pivotal Tuning for Latent-based Editing of Real Images", section 3 (the idea, for GANs);
        for text-to-image models cloneofsimo/lora, ``lora_pti``: the word first, then a LoRA of rank 1-4.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        loras: Mapping[str, NetworkLora],
        schedules: Mapping[str, RowSchedule],
        phases: Phases,
        *,
        max_grad_norm: float | None = None,
    ) -> None:
        super().__init__()
        self.pipeline, self.phases, self.max_grad_norm = pipeline, phases, max_grad_norm
        self._by_name, self._schedules = dict(loras), dict(schedules)
        self.loras = nn.ModuleDict(self._by_name)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Put the LoRA's layers into the networks for the length of a ``with`` block.

        Yields:
            Nothing; the networks now answer with their change.
        """
        with ExitStack() as stack:
            for lora in self._by_name.values():
                stack.enter_context(lora.attached())
            yield

    def begin(self, step: int) -> None:
        """Forget the gradients of the last step and decide what this one differentiates.

        Args:
            step: number of the step.
        """
        for lora in self._by_name.values():
            lora.begin(self.phases.lora_moves(step))

    def train_alone(self, step: int) -> bool:
        """Whether the rows stay as they are at a step at which the LoRA moves.

        Args:
            step: number of the step.

        Returns:
            True if no gradient of the rows is needed.
        """
        return self.phases.lora_moves(step) and self.phases.row_rate(step) == 0

    def for_rows(self, lr: Tensor, active: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """How the rows move beside the LoRA.

        Args:
            lr: (N,) float32 learning rates of the rows.
            active: (N,) bool, rows that may move.
            step: number of the step.

        Returns:
            Both, for this step.
        """
        rate = self.phases.row_rate(step)
        if rate == 1.0:
            return lr, active
        return (lr * rate, active) if rate else (lr, torch.zeros_like(active))

    def grads(self, step: int) -> dict[str, Tensor]:
        """Gradients of this step, still multiplied by the loss scale.

        Args:
            step: number of the step.

        Returns:
            Component -> (1, P) float32; empty while the LoRA waits.
        """
        return {name: lora.grad for name, lora in self._by_name.items()} if self.phases.lora_moves(step) else {}

    def update(self, grads: Mapping[str, Tensor], allowed: Tensor) -> Tensor:
        """Move the changes of the networks, on the device.

        Args:
            grads: component -> (1, P) float32, without the loss scale; only these components move.
            allowed: (1,) bool, False if loss or gradient of the step was not finite.

        Returns:
            (1,) bool, False if a change would not have been finite; it then stayed as it was.
        """
        finite = torch.ones_like(allowed)
        for name, grad in grads.items():
            lora = self._by_name[name]
            clipped = grad if self.max_grad_norm is None else clip_rows(grad, self.max_grad_norm)
            finite &= lora.update(clipped, self._schedules[name](lora.age), allowed)
        return finite

    def parts(self) -> tuple[LoraPart, ...]:
        """Copy the changes as they are now.

        Returns:
            One per network, on the CPU.
        """
        return tuple(LoraPart(name, lora.rank, lora.layers, lora.export()) for name, lora in self._by_name.items())

    def save(self, file: Path, facts: Mapping[str, str]) -> None:
        """Write the file that ``pipe.load_lora_weights`` reads.

        Args:
            file: where it goes.
            facts: metadata, all text.

        Raises:
            StorageError: It cannot be written.
        """
        save_lora(self.pipeline, self.parts(), file, facts)
