"""Directional rows: the norm stays what the vocabulary's is, only the direction is learned (Kim et al. 2026)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.optimizers import BUILT_IN, bias_correction
from textual_inversion_ext.parametrizations.base import Parametrization, UpdateSettings


class DirectionalRows(Parametrization):
    r"""Rows :math:`e = m v` of fixed norm :math:`m`, whose unit direction :math:`v` moves on the sphere.

    With the gradient :math:`g = \partial L / \partial v = m\, \partial L / \partial e`, the first direction
    :math:`\mu` and a row's own age :math:`k`, an update is

    .. math::
        g \leftarrow g - \kappa \mu, \quad g \leftarrow g - \langle g, v \rangle v, \quad
        s \leftarrow \beta s + (1 - \beta) \|g\|^2, \quad
        v \leftarrow \frac{v - \eta\, g / (\sqrt{s / (1 - \beta^k)} + \epsilon)}{\|\cdot\|}

    The prior is added before the step is normalised, so :math:`\kappa` is weighed against the loss and not against the
    step. With :math:`\beta = 0` every step turns a row by :math:`\arctan \eta`, to the very end: let the learning rate
    decay. Weight decay and the moments of Adam have no meaning here.

    Args:
        initial: (N, dim) start of every row; its direction is also the centre of the prior.
        settings: ``kappa``, ``direction_beta``, ``magnitude`` and ``epsilon`` are used.

    Attributes:
        direction: (N, dim) float32, unit length.
        centre: (N, dim) float32, first directions.
        magnitude: (N,) float32, norm of each row.
        second_moment: (N,) float32, mean squared length of the gradient.

    Raises:
        ConfigError: the settings name an optimizer; directional rows have their own.

    Source:
        Kim et al. 2026, "Directional Textual Inversion for Personalized Text-to-Image Generation" (arXiv:2512.13672),
        and its released code, ``SphericalSGD``.
    """

    name = "directional"
    citation = """@inproceedings{kim2026directional,
  title     = {Directional Textual Inversion for Personalized Text-to-Image Generation},
  author    = {Kim, Kunhee and Park, NaHyeon and Hong, Kibeom and Shim, Hyunjung},
  booktitle = {International Conference on Learning Representations},
  year      = {2026}
}"""

    direction: Tensor
    centre: Tensor
    magnitude: Tensor
    second_moment: Tensor

    def __init__(self, initial: Tensor, settings: UpdateSettings | None = None) -> None:
        super().__init__(initial, settings)
        if self.settings.optimizer != BUILT_IN or self.settings.optimizer_args:
            raise ConfigError(
                f"optimizer is {self.settings.optimizer!r} with arguments {self.settings.optimizer_args}, but "
                f"directional rows have one of their own; leave it at {BUILT_IN} without any, or choose "
                f"--parametrization free."
            )
        rows = initial.detach().to(torch.float32, copy=True)
        norms = torch.linalg.vector_norm(rows, dim=1)
        chosen = self.settings.magnitude
        self.register_buffer("direction", F.normalize(rows, dim=1))
        self.register_buffer("centre", self.direction.clone())
        self.register_buffer("magnitude", norms if chosen is None else torch.full_like(norms, chosen))
        self.register_buffer("second_moment", torch.zeros_like(norms))

    def forward(self) -> Tensor:
        """Directions times norms; see the base class.

        Returns:
            (N, dim) float32.
        """
        return self.magnitude.unsqueeze(1) * self.direction

    @torch.no_grad()
    def update(self, grad: Tensor, lr: Tensor, active: Tensor) -> None:
        """One step of Riemannian gradient descent of the active rows; see the base class.

        Args:
            grad: (N, dim) float32, at the rows and not at their directions.
            lr: (N,) float32.
            active: (N,) bool.
        """
        self.age.add_(active)
        beta, on = self.settings.direction_beta, active.unsqueeze(1)
        slope = self.magnitude.unsqueeze(1) * grad - self.settings.kappa * self.centre
        slope = slope - (slope * self.direction).sum(1, keepdim=True) * self.direction
        second_moment = beta * self.second_moment + (1 - beta) * slope.square().sum(1)
        # An inactive row may be of age 0, whose correction is 0: its quotient is thrown away below.
        root = (second_moment / bias_correction(beta, self.age.float())).sqrt()
        step = lr / (root + self.settings.epsilon)
        direction = F.normalize(self.direction - step.unsqueeze(1) * slope, dim=1)
        self.direction.copy_(torch.where(on, direction, self.direction))
        self.second_moment.copy_(torch.where(active, second_moment, self.second_moment))

    def nearest(self, rows: Tensor) -> Tensor:
        """Rows of the right norm in the same directions.

        Args:
            rows: (N, dim) float32.

        Returns:
            (N, dim) float32.
        """
        return self.magnitude.unsqueeze(1) * F.normalize(rows, dim=1)
