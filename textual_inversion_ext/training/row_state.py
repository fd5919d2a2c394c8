"""What of a run's rows lies on the training device and in a checkpoint, and how the rows move."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from textual_inversion_ext.parametrizations.base import Parametrization
from textual_inversion_ext.training.averages import RowAverages, clip_rows
from textual_inversion_ext.training.precision import LossScale


class RowState(nn.Module):
    """The learned rows of all concepts, with everything that must be saved to go on.

    ``state_dict()`` holds the rows, the optimizer's state, the ages, the loss scales, ``clock`` and ``first_bad_step``:
    kilobytes.

    Args:
        parametrizations: encoder key -> its rows, N in each.
        row_concept: (N,) int64, position of the concept that owns a row.
        num_concepts: C.
        device: the training device.
        loss_scaling: True for float16 networks.
        max_grad_norm: limit of the norm of each row's gradient, or None.
        ema_decay: decay of the moving average of the rows, which is then what is exported; 0 for none.

    Attributes:
        clock: (C,) int64, steps each concept has been in.
        first_bad_step: (C,) int64, step of its own at which the concept diverged; -1 for never.
        switched: beginnings of the names in ``state_dict()`` that a session may add or leave out.
    """

    switched: ClassVar[tuple[str, ...]] = ("averages.", "loss_scale.")

    clock: Tensor
    first_bad_step: Tensor
    first_row: Tensor
    membership: Tensor
    row_concept: Tensor

    def __init__(
        self,
        parametrizations: Mapping[str, Parametrization],
        row_concept: Tensor,
        num_concepts: int,
        device: torch.device,
        *,
        loss_scaling: bool,
        max_grad_norm: float | None,
        ema_decay: float,
    ) -> None:
        super().__init__()
        self.parametrizations = nn.ModuleDict(parametrizations)
        self._by_key: dict[str, Parametrization] = dict(parametrizations)
        self.max_grad_norm = max_grad_norm
        self.loss_scale = LossScale(num_concepts, enabled=loss_scaling)
        self.register_buffer("clock", torch.zeros(num_concepts, dtype=torch.int64))
        self.register_buffer("first_bad_step", torch.full((num_concepts,), -1, dtype=torch.int64))
        self.register_buffer("row_concept", row_concept.clone(), persistent=False)
        owners = torch.arange(num_concepts, device=row_concept.device)[:, None] == row_concept[None, :]
        self.register_buffer("membership", owners, persistent=False)
        self.register_buffer("first_row", owners.int().argmax(1), persistent=False)
        self.to(device)
        self.averages = RowAverages(self.rows(), ema_decay) if ema_decay else None

    @property
    def age(self) -> Tensor:
        """(N,) int64, updates each row has received; input of ``RowSchedule``."""
        return next(iter(self._by_key.values())).age

    def diverged(self) -> dict[int, int]:
        """Concepts that have diverged. The host waits for the device here.

        Returns:
            Position of the concept -> step of its own at which it did.
        """
        return {place: step for place, step in enumerate(self.first_bad_step.tolist()) if step >= 0}

    def rows(self) -> dict[str, Tensor]:
        """Rows as the text encoders see them now.

        Returns:
            Encoder key -> (N, dim) float32, detached.
        """
        return {key: module().detach() for key, module in self._by_key.items()}

    def results(self) -> dict[str, Tensor]:
        """Rows as they would be exported now: their moving averages where there are any.

        Returns:
            Encoder key -> (N, dim) float32 on the training device, detached.
        """
        if self.averages is None:
            return self.rows()
        return {key: self._by_key[key].nearest(average) for key, average in self.averages().items()}

    def exported(self) -> dict[str, Tensor]:
        """Rows as embedding files get them.

        Returns:
            Encoder key -> (N, dim) float32 on the CPU, an independent copy.
        """
        if self.averages is None:
            return {key: module.export() for key, module in self._by_key.items()}
        return {key: tensor.to("cpu", copy=True) for key, tensor in self.results().items()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take back what ``state_dict`` gave.

        Averages and first rows belong to settings that may be switched on and off between two sessions of a run: what
        is missing starts from the loaded rows or from the first rows of this session, what is not needed is left out.

        Args:
            state_dict: tensors by name.
            strict: whether all other names must be the same.
            assign: as for every module.

        Returns:
            Names that were missing or too many, as for every module.
        """
        own = self.state_dict()
        needed = {
            name: value for name, value in state_dict.items() if name in own or not name.startswith(self.switched)
        }
        missing = {name: own[name] for name in own.keys() - needed.keys() if name.startswith(self.switched)}
        result = super().load_state_dict({**needed, **missing}, strict, assign)
        if self.averages is not None and any(name.startswith("averages.") for name in missing):
            self.averages.restart(self.rows())
        return result

    def _move(self, grads: Mapping[str, Tensor], lr: Tensor, allowed: Tensor) -> Tensor:
        """Move rows, all of a concept or none: at an absurd learning rate a finite gradient leads beyond float32.

        Args:
            grads: encoder key -> (N, dim) float32, without the loss scale.
            lr: (N,) float32.
            allowed: (N,) bool, rows that are to move.

        Returns:
            (C,) bool, concepts of which a row would not have been finite; their rows stay as they were.
        """
        state = [buffer for rows in self._by_key.values() for buffer in rows.buffers(recurse=False)]
        before = [buffer.clone() for buffer in state]
        for key, parametrization in self._by_key.items():
            grad = grads[key] if self.max_grad_norm is None else clip_rows(grads[key], self.max_grad_norm)
            parametrization.update(grad, lr, allowed)
        good = self._all_finite(self.rows().values())
        keeps = good[self.row_concept]
        for buffer, old in zip(state, before, strict=True):
            torch.where(keeps.view(-1, *(1,) * (buffer.dim() - 1)), buffer, old, out=buffer)
        if self.averages is not None:
            self.averages.update(self.rows(), self.age, allowed & keeps)
        return ~good

    def _all_finite(self, of_rows: Iterable[Tensor]) -> Tensor:
        """Which concepts have finite numbers only.

        Args:
            of_rows: (N, dim) float32 each, one for every encoder.

        Returns:
            (C,) bool.
        """
        # Zero times a number is zero unless it is infinite or none: one sum instead of four passes of isfinite().
        zeros = [(numbers * 0).sum(1) for numbers in of_rows]
        return (self.membership <= (sum(zeros[1:], zeros[0]) == 0)).all(1)  # being a concept's row implies being finite
