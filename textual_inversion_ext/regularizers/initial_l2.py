"""Stay close to where the row started (Gal et al. 2022, section 5.2, "Regularization")."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from textual_inversion_ext.papers import GAL_2022
from textual_inversion_ext.regularizers.base import Regularizer, RegularizerContext


class InitialL2Regularizer(Regularizer):
    r"""Squared distance of each row to its first value, summed over a concept's rows and over the text encoders.

    .. math:: \sum_k \|v_k - v_k^0\|^2

    The weight that the paper used is not published, and 0 in its released configurations. The released code averages
    the whole Gram matrix of the differences, so with several rows the products of different rows leak in; with one row
    it is the same as this.

    Source:
        Gal et al. 2022, section 5.2; released code, ``embedding_to_coarse_loss``.
    """

    name = "initial_l2"
    citation = GAL_2022

    def __call__(self, rows: Mapping[str, Tensor], context: RegularizerContext) -> Tensor:
        """Sum the squared distances; see the base class.

        Args:
            rows: encoder key -> (N, D) float32.
            context: ``initial`` is used.

        Returns:
            (C,) float32.
        """
        distances = [(tensor - context.initial[key]).square().sum(1) for key, tensor in rows.items()]
        return context.by_concept(torch.stack(distances).sum(0))
