"""Stay close to the class word (Zhang et al. 2024, Compositional Inversion, semantic part)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from textual_inversion_ext.regularizers.base import Regularizer, RegularizerContext


class AnchorRegularizer(Regularizer):
    r"""Mean squared difference between a prompt's input embeddings and those of the same prompt with the class word.

    Only the rows of the word differ, so with :math:`L` tokens of width :math:`D` it is

    .. math:: \frac{1}{L D} \sum_k \|v_k - e_k\|^2

    where :math:`e_k` is the embedding of the class word in the place of row :math:`k`. Rows of single pictures have no
    class word and are left alone. The released code weighs it 0.95 against 0.05 of the diffusion loss, so its
    ``anchor_weight`` is 19. It differs from ``initial_l2`` in scale, and in its target where rows start elsewhere.

    Source:
        Zhang et al. 2024, "Compositional Inversion for Stable Diffusion Models", semantic inversion; released code,
        ``anchor_loss``.
    """

    name = "anchor"
    needs_class_word = True
    citation = """@inproceedings{zhang2024compositional,
  title     = {Compositional Inversion for Stable Diffusion Models},
  author    = {Zhang, Xulu and Wei, Xiao-Yong and Wu, Jinlin and Zhang, Tianyi and Zhang, Zhaoxiang and Lei, Zhen and
               Li, Qing},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year      = {2024}
}"""

    def __call__(self, rows: Mapping[str, Tensor], context: RegularizerContext) -> Tensor:
        """Sum over the text encoders; see the base class.

        Args:
            rows: encoder key -> (N, D) float32.
            context: ``class_rows``, ``is_word`` and ``prompt_length`` are used.

        Returns:
            (C,) float32.
        """
        differences = [
            (tensor - context.class_rows[key]).square().mean(1) / context.prompt_length[key]
            for key, tensor in rows.items()
        ]
        return context.by_concept(torch.where(context.is_word, torch.stack(differences).sum(0), 0.0))
