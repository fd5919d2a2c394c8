"""The contract of a parametrization: what a row is and how it moves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class UpdateSettings:
    """Hyper-parameters of the row optimizer; the learning rate is not here, every row has its own.

    Attributes:
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        epsilon: added to the denominator.
        weight_decay: decoupled weight decay; 0 means that rows are never pulled to zero.
        optimizer: ``AdamW``, or the full name of another optimizer's class, for parametrizations that let it be chosen.
        optimizer_args: further arguments of that class, a JSON object.
        kappa: directional rows: concentration of the von Mises-Fisher prior around the first direction.
        direction_beta: directional rows: decay of the mean squared gradient of a row.
        magnitude: directional rows: norm of every row; None for each row's own first norm.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    optimizer: str = "AdamW"
    optimizer_args: str | None = None
    kappa: float = 1e-4
    direction_beta: float = 0.0
    magnitude: float | None = None


class Parametrization(nn.Module, ABC):
    """The N learned rows of one text encoder, of all concepts, with everything that must be saved to go on.

    All state lives in buffers, so ``state_dict()`` is the checkpoint and ``load_state_dict()`` the resume. Rows and
    optimizer state are float32 whatever the network's dtype is. Every row has its own clock.

    Args:
        initial: (N, dim) float32 start of every row; copied.
        settings: hyper-parameters.

    Attributes:
        name: value of ``--parametrization``.
        citation: BibTeX of the paper, for cards.
        age: (N,) int64, updates each row has received.
    """

    name: ClassVar[str]
    citation: ClassVar[str] = ""
    age: Tensor

    def __init__(self, initial: Tensor, settings: UpdateSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or UpdateSettings()
        self.register_buffer("age", torch.zeros(initial.shape[0], dtype=torch.int64, device=initial.device))

    @abstractmethod
    def forward(self) -> Tensor:
        """Rows as the text encoder sees them.

        Returns:
            (N, dim) float32, on the training device, without graph: the step takes the gradient at this point.
        """

    @abstractmethod
    def update(self, grad: Tensor, lr: Tensor, active: Tensor) -> None:
        """Move the rows once, on the device, without synchronising the host.

        Rows that are not active keep every bit: value, moments and age.

        Args:
            grad: (N, dim) float32, gradient of the loss at ``forward()``'s result; may be non-finite where not active.
            lr: (N,) float32 learning rate of each row.
            active: (N,) bool, rows that take this update (in a slot, not frozen, loss and gradient finite).
        """

    def nearest(self, rows: Tensor) -> Tensor:
        """Rows of this kind that are closest to some others, such as to an average of rows over time.

        Args:
            rows: (N, dim) float32.

        Returns:
            (N, dim) float32; the same where any row will do.
        """
        return rows

    def export(self) -> Tensor:
        """Rows to be written to a file.

        Returns:
            (N, dim) float32 on the CPU, an independent copy.
        """
        return self().detach().to("cpu", torch.float32, copy=True)
