"""One optimizer step: rows -> text encoding -> noise -> prediction -> loss -> gradient of the rows -> update."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from textual_inversion_ext.data.resident import ResidentSet
from textual_inversion_ext.families.base import FamilyAdapter
from textual_inversion_ext.parametrizations.base import Parametrization
from textual_inversion_ext.records import Draws, StepLog
from textual_inversion_ext.training.precision import LossScale


class TrainingStep(nn.Module):
    """The step, and everything on the device that a checkpoint must hold.

    ``state_dict()`` holds the rows, the optimizer's state, the ages, the loss scales and ``first_bad_step``: kilobytes.
    The frozen networks are not part of it. Call it inside ``with adapter.attached():``.

    The loss is the sum over concepts of the mean over that concept's samples, so a concept's gradient does not depend
    on who else is in the batch.

    Args:
        adapter: calls the networks.
        resident: the training set.
        parametrizations: encoder key -> its rows, N in each.
        row_concept: (N,) int64, position in the resident set of the concept that owns a row.
        loss_scaling: True for float16 networks.
        reduce: sums a tensor over all processes, None for a single one. Only row gradients and losses go through it.
        world_size: processes that ``reduce`` sums over.

    Attributes:
        first_bad_step: (C,) int64, first step at which the concept's loss or gradient was not finite; -1 for never.
    """

    first_bad_step: Tensor
    membership: Tensor
    row_concept: Tensor

    def __init__(
        self,
        adapter: FamilyAdapter,
        resident: ResidentSet,
        parametrizations: Mapping[str, Parametrization],
        row_concept: Tensor,
        *,
        loss_scaling: bool = False,
        reduce: Callable[[Tensor], Tensor] | None = None,
        world_size: int = 1,
    ) -> None:
        super().__init__()
        self.adapter = adapter
        self.resident = resident
        self.parametrizations = nn.ModuleDict(parametrizations)
        self._by_key: dict[str, Parametrization] = dict(parametrizations)
        self.reduce = reduce
        self.world_size = world_size
        self._positions: dict[tuple[int, ...], Tensor] = {}
        num_concepts = len(resident.tokens)
        self.loss_scale = LossScale(num_concepts, enabled=loss_scaling)
        self.register_buffer("first_bad_step", torch.full((num_concepts,), -1, dtype=torch.int64))
        self.register_buffer("row_concept", row_concept.clone(), persistent=False)
        owners = torch.arange(num_concepts, device=row_concept.device)[:, None] == row_concept[None, :]
        self.register_buffer("membership", owners, persistent=False)
        self.to(resident.device)

    @property
    def age(self) -> Tensor:
        """(N,) int64, updates each row has received; input of ``RowSchedule``."""
        return next(iter(self._by_key.values())).age

    def rows(self) -> dict[str, Tensor]:
        """Rows as the text encoders see them now.

        Returns:
            Encoder key -> (N, dim) float32, detached.
        """
        return {key: module().detach() for key, module in self._by_key.items()}

    def forward(self, micro_batches: Sequence[Draws], lr: Tensor, active: Tensor, step: int) -> StepLog:
        """Do one optimizer step; nothing in it synchronises the host.

        Args:
            micro_batches: from ``DrawSource.draw``; the same concepts in each.
            lr: (N,) float32 learning rate of each row, from ``RowSchedule``.
            active: (N,) bool, rows that may move. Rows of concepts that are not in the step never do.
            step: number of this step, to be recorded if it goes wrong.

        Returns:
            Losses by concept, on the device.
        """
        rows = {key: tensor.requires_grad_(True) for key, tensor in self.rows().items()}
        losses = torch.zeros(len(micro_batches[0].concepts), device=self.resident.device)
        for draws in micro_batches:
            losses += self._micro_batch(draws, rows, len(micro_batches))
        # A leaf that no prompt used has no gradient; that of an unused row is zero.
        grads = {key: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for key, leaf in rows.items()}
        if self.reduce is not None:
            grads, losses = _summed(self.reduce, grads, losses)
        return self._update(micro_batches[0].concepts, grads, losses, lr, active, step)

    def _micro_batch(self, draws: Draws, rows: Mapping[str, Tensor], num_micro_batches: int) -> Tensor:
        """Forward and backward of one micro-batch; gradients add up in ``rows``.

        Args:
            draws: its randomness.
            rows: encoder key -> (N, dim) leaves that require gradients.
            num_micro_batches: micro-batches of this step on this process.

        Returns:
            (S,) float32, this micro-batch's share of each concept's loss.
        """
        objective = self.adapter.objective
        batch = self.resident.gather(draws)
        noised = objective.noise(batch.latents, draws.noise, objective.sample_timesteps(draws.u))
        prediction = self.adapter.predict(noised.latents, noised.timesteps, self.adapter.encode(batch.ids, rows))
        per_sample = objective.loss(prediction, noised).view(len(draws.concepts), -1)
        share = per_sample.sum(1) / (per_sample.shape[1] * num_micro_batches * self.world_size)
        self.loss_scale.scaled(share, self._index(draws.concepts)).sum().backward()
        return share.detach()

    @torch.no_grad()
    def _update(
        self,
        concepts: tuple[int, ...],
        grads: Mapping[str, Tensor],
        losses: Tensor,
        lr: Tensor,
        active: Tensor,
        step: int,
    ) -> StepLog:
        """Move the rows of concepts whose loss and gradient are finite; remember the first that were not.

        Args:
            concepts: the S concepts of the step.
            grads: encoder key -> (N, dim) float32, still multiplied by the loss scale.
            losses: (S,) float32.
            lr: (N,) float32.
            active: (N,) bool.
            step: number of this step.

        Returns:
            The log.
        """
        index = self._index(concepts)
        nowhere = torch.zeros_like(self.first_bad_step, dtype=torch.bool)
        present = nowhere.index_fill(0, index, True)
        loss_bad = nowhere.scatter(0, index, ~losses.isfinite())
        unscaled = {key: self.loss_scale.unscaled(grad, self.row_concept) for key, grad in grads.items()}
        row_bad = torch.stack([~grad.isfinite().all(1) for grad in unscaled.values()]).any(0)
        grad_bad = (self.membership & row_bad).any(1) & present
        hopeless = self.loss_scale.update(present, grad_bad & ~loss_bad)
        diverged = (loss_bad | hopeless) & (self.first_bad_step < 0)
        self.first_bad_step.masked_fill_(diverged, step)
        held_back = loss_bad | grad_bad
        allowed = active & (present & ~held_back)[self.row_concept]
        for key, parametrization in self._by_key.items():
            parametrization.update(unscaled[key], lr, allowed)
        return StepLog(concepts, losses, ~held_back[index])

    def _index(self, concepts: tuple[int, ...]) -> Tensor:
        """Positions of concepts as a tensor; made once per set of concepts, because the copy waits for the device.

        Args:
            concepts: the S concepts of a step.

        Returns:
            (S,) int64 on the training device.
        """
        if concepts not in self._positions:
            self._positions = {concepts: torch.tensor(concepts, device=self.resident.device)}
        return self._positions[concepts]


def _summed(
    reduce: Callable[[Tensor], Tensor], grads: Mapping[str, Tensor], losses: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """Sum gradients and losses over the processes, in one message.

    Args:
        reduce: sums a tensor over all processes.
        grads: encoder key -> (N, dim).
        losses: (S,).

    Returns:
        The same, summed.
    """
    parts = [*grads.values(), losses]
    message = reduce(torch.cat([part.flatten() for part in parts]))
    pieces = message.split([part.numel() for part in parts])
    *tensors, losses = (piece.view_as(part) for piece, part in zip(pieces, parts, strict=True))
    return dict(zip(grads, tensors, strict=True)), losses
