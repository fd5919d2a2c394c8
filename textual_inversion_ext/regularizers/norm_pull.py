"""Keep the length of rows near that of the vocabulary."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from textual_inversion_ext.regularizers.base import Regularizer, RegularizerContext


class NormPullRegularizer(Regularizer):
    r"""Squared difference of each row's norm to the vocabulary's mean norm, summed over rows and text encoders.

    .. math:: \sum_k (\|v_k\| - \bar m)^2

    Free rows grow to several times the vocabulary's norm, and prompts are followed less for it. This is the soft form
    of two known remedies: to move the norm towards 0.4 (CLIP's) after each step, and to fix it at the mean norm
    (directional rows).

    Source:
        Ryu 2023, code of "Low-rank Adaptation for Fast Text-to-Image Diffusion Fine-tuning"
        (https://github.com/cloneofsimo/lora, ``clip_ti_decay``); Kim et al. 2026, "Directional Textual Inversion".
    """

    name = "norm_pull"
    citation = """@misc{ryu2023lora,
  title  = {Low-rank Adaptation for Fast Text-to-Image Diffusion Fine-tuning},
  author = {Ryu, Simo},
  year   = {2023},
  url    = {https://github.com/cloneofsimo/lora}
}"""

    def __call__(self, rows: Mapping[str, Tensor], context: RegularizerContext) -> Tensor:
        """Sum the squared differences; see the base class.

        Args:
            rows: encoder key -> (N, D) float32.
            context: ``mean_norm`` is used.

        Returns:
            (C,) float32.
        """
        differences = [
            (torch.linalg.vector_norm(tensor, dim=1) - context.mean_norm[key]).square() for key, tensor in rows.items()
        ]
        return context.by_concept(torch.stack(differences).sum(0))
