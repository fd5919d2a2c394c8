"""One optimizer step: rows -> text encoding -> noise -> prediction -> loss -> gradient of the rows -> update."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from textual_inversion_ext.data.resident import ResidentSet
from textual_inversion_ext.families.base import FamilyAdapter
from textual_inversion_ext.parametrizations.base import Parametrization
from textual_inversion_ext.records import Draws, StepLog
from textual_inversion_ext.training.penalties import Penalties
from textual_inversion_ext.training.pivotal.networks import PivotalNetworks
from textual_inversion_ext.training.row_state import RowState

MOST_SETS = 32  # sets of concepts whose places are remembered


class TrainingStep(RowState):
    """The step, and everything on the device that a checkpoint must hold.

    The frozen networks are not part of ``state_dict()``, a LoRA is. Call it inside ``with adapter.attached():``, and
    ``networks.attached()`` where there is a LoRA.

    The loss is the sum over concepts of the mean over that concept's samples, so a concept's gradient does not depend
    on who else is in the batch. Penalties of regularizers come on top of it, once a step; reported losses are without.
    A concept that has diverged (loss, gradient or a new row not finite) never moves again: its rows stay as they were.

    Args:
        adapter: calls the networks.
        resident: the training set.
        parametrizations: encoder key -> its rows, N in each.
        row_concept: (N,) int64, position in the resident set of the concept that owns a row.
        loss_scaling: True for float16 networks.
        reduce: sums a tensor over all processes, None for a single one. Only row gradients and losses go through it.
        world_size: processes that ``reduce`` sums over.
        networks: a LoRA that trains beside the rows of the only concept, or None.
        penalties: the regularizers, or None.
        max_grad_norm: limit of the norm of each row's gradient, or None.
        ema_decay: decay of the moving average of the rows, which is then what is exported; 0 for none.
    """

    switched = (*RowState.switched, "penalties.")

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
        networks: PivotalNetworks | None = None,
        penalties: Penalties | None = None,
        max_grad_norm: float | None = None,
        ema_decay: float = 0.0,
    ) -> None:
        super().__init__(
            parametrizations,
            row_concept,
            len(resident.tokens),
            resident.device,
            loss_scaling=loss_scaling,
            max_grad_norm=max_grad_norm,
            ema_decay=ema_decay,
        )
        self.adapter = adapter
        self.resident = resident
        self.reduce = reduce
        self.world_size = world_size
        self.networks = networks
        self.penalties = penalties
        self._known_places: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
        self.to(resident.device)  # the LoRA and the regularizers too

    def forward(self, micro_batches: Sequence[Draws], lr: Tensor, active: Tensor, step: int) -> StepLog:
        """Do one optimizer step; nothing in it synchronises the host.

        Args:
            micro_batches: from ``DrawSource.draw``; each concept is in as many of them.
            lr: (N,) float32 learning rate of each row, from ``RowSchedule``.
            active: (N,) bool, rows that may move. Rows of concepts that are not in the step never do.
            step: number of this step, which decides what a LoRA does in it.

        Returns:
            Losses by concept, on the device.
        """
        # Where a LoRA trains alone, nothing is differentiated down to the rows. Penalties are for rows, so they ask.
        alone = self.networks is not None and self.penalties is None and self.networks.train_alone(step)
        rows = {key: tensor.requires_grad_(not alone) for key, tensor in self.rows().items()}
        concepts = _concepts_of(micro_batches)
        of_all = torch.zeros(len(self.resident.tokens), device=self.resident.device)
        if self.networks is not None:
            self.networks.begin(step)
            lr, active = self.networks.for_rows(lr, active, step)
        for draws in micro_batches:
            # Pictures of several shapes make several forward passes of one micro-batch.
            passes = sum(draws.concepts[0] in other.concepts for other in micro_batches)
            of_all.index_add_(0, self._index(draws.concepts), self._micro_batch(draws, rows, passes))
        if self.penalties is not None:
            self._penalize(self.penalties, self._index(concepts), rows)
        # A leaf that no prompt used has no gradient; that of an unused row is zero.
        grads = {key: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for key, leaf in rows.items()}
        if self.networks is not None:
            grads |= self.networks.grads(step)
        if self.reduce is not None:
            grads, of_all = _summed(self.reduce, grads, of_all)
        return self._update(concepts, grads, of_all, lr, active)

    @torch.no_grad()
    def evaluate(self, draws: Draws, rows: Mapping[str, Tensor]) -> Tensor:
        """Score rows on a batch; moves nothing. Every process gives the same batch and gets the same losses.

        Args:
            draws: the batch, from ``DrawSource.fixed``.
            rows: encoder key -> (N, dim) float32 on the training device.

        Returns:
            (S,) float32, mean loss of each concept's samples.
        """
        losses = self._losses(draws, rows).mean(1)
        return losses if self.reduce is None else self.reduce(losses) / self.world_size

    def _micro_batch(self, draws: Draws, rows: Mapping[str, Tensor], num_micro_batches: int) -> Tensor:
        """Forward and backward of one micro-batch; gradients add up in ``rows``.

        Args:
            draws: its randomness.
            rows: encoder key -> (N, dim) leaves that require gradients.
            num_micro_batches: micro-batches of this step on this process in which its concepts are.

        Returns:
            (S,) float32, this micro-batch's share of each concept's loss.
        """
        per_sample = self._losses(draws, rows)
        share = per_sample.sum(1) / (per_sample.shape[1] * num_micro_batches * self.world_size)
        self.loss_scale.scaled(share, self._index(draws.concepts)).sum().backward()
        return share.detach()

    def _penalize(self, penalties: Penalties, concepts: Tensor, rows: Mapping[str, Tensor]) -> None:
        """Add the gradients of the regularizers; every process adds its share of the same.

        Args:
            penalties: the regularizers.
            concepts: (S,) int64, the concepts of the step.
            rows: encoder key -> (N, dim) leaves that require gradients.
        """
        penalty = penalties(rows, concepts, self.age[self.first_row])[concepts]
        (self.loss_scale.scaled(penalty, concepts).sum() / self.world_size).backward()

    def _losses(self, draws: Draws, rows: Mapping[str, Tensor]) -> Tensor:
        """Noise, predict and score; what training and evaluation share.

        Args:
            draws: the randomness of a batch.
            rows: encoder key -> (N, dim) rows.

        Returns:
            (S, B / S) float32, loss of every sample, by concept.
        """
        objective = self.adapter.objective
        batch = self.resident.gather(draws)
        noised = objective.noise(batch.latents, draws.noise, objective.sample_timesteps(draws.u))
        prediction = self.adapter.predict(noised, self.adapter.encode(batch.ids, rows), batch)
        return objective.loss(prediction, noised, batch.mask).view(len(draws.concepts), -1)

    @torch.no_grad()
    def _update(
        self,
        concepts: tuple[int, ...],
        grads: Mapping[str, Tensor],
        losses: Tensor,
        lr: Tensor,
        active: Tensor,
    ) -> StepLog:
        """Move the rows of concepts whose numbers are finite; remember when they were not for the first time.

        Args:
            concepts: the S concepts of the step.
            grads: encoder key -> (N, dim) float32, and LoRA component -> (1, P) float32; still multiplied by the loss
                scale.
            losses: (C,) float32, anything finite for concepts that are not in the step.
            lr: (N,) float32.
            active: (N,) bool.

        Returns:
            The log.
        """
        index, present = self._places(concepts)
        unscaled = {key: self.loss_scale.unscaled(grads[key], self.row_concept) for key in self._by_key}
        lora = {key: self.loss_scale.unscaled(grad, index) for key, grad in grads.items() if key not in unscaled}
        scored, good_grad = present & losses.isfinite(), self._all_finite(unscaled.values())
        for grad in lora.values():  # of the only concept: it moves with its LoRA, or neither does
            good_grad = good_grad & grad.isfinite().all(1)
        sound, alive = scored & good_grad, self.first_bad_step < 0
        wrong = present & ~scored | self.loss_scale.update(present, scored & ~sound)
        moving = sound & alive
        self.clock.add_(present)
        wrong |= self._move(unscaled, lr, active & moving[self.row_concept])
        if self.networks is not None:
            wrong |= ~self.networks.update(lora, moving)
        torch.where(alive & wrong, self.clock, self.first_bad_step, out=self.first_bad_step)
        return StepLog(concepts, losses[index], sound[index])

    def _index(self, concepts: tuple[int, ...]) -> Tensor:
        """Positions of concepts.

        Args:
            concepts: the S concepts of a step.

        Returns:
            (S,) int64 on the training device.
        """
        return self._places(concepts)[0]

    def _places(self, concepts: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Positions and mask of concepts, put together on the device: a copy from the host would wait for it.

        Args:
            concepts: the S concepts of a step.

        Returns:
            (S,) int64 and (C,) bool on the training device.
        """
        if concepts not in self._known_places:
            self._known_places = dict(list(self._known_places.items())[-MOST_SETS:])
            ids = self.resident.concept_ids
            index = torch.cat([ids[place : place + 1] for place in concepts])
            self._known_places[concepts] = index, torch.zeros_like(ids, dtype=torch.bool).index_fill(0, index, True)
        return self._known_places[concepts]


def _concepts_of(micro_batches: Sequence[Draws]) -> tuple[int, ...]:
    """The concepts of a step, in the order of its log.

    Args:
        micro_batches: its micro-batches.

    Returns:
        The order of the first micro-batch if it has all of them, else rising.
    """
    found = {concept for draws in micro_batches for concept in draws.concepts}
    first = micro_batches[0].concepts
    return first if len(first) == len(found) else tuple(sorted(found))


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
