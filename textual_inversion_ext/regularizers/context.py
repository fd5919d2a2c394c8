"""Leave the other words of a prompt alone (Wu et al. 2025, CoRe, context embedding regularization)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from textual_inversion_ext.regularizers.base import Regularizer, RegularizerContext

PROMPTS_PER_STEP = 4
"""Prompts of each concept in a step. The paper has one for each of 6 samples; they cost passes of the text encoder."""


class ContextRegularizer(Regularizer):
    r"""How much the new word changes the encodings of the words around it, compared with its class word.

    .. math:: \frac{1}{|I|} \sum_{i \in I} 1 - \cos\big(E(y^*)_i,\, E(y^{class})_i\big)

    with :math:`I` all positions of the prompt but the word's own, averaged over prompts. The word itself stays free.
    Prompts need no pictures, so they are more varied than those of the training; each step takes the next ones of the
    list. A word of several vectors stands beside its class word laid out over as many; vectors that have not joined yet
    stand in the prompt as they are.

    The paper's weight is 1.5e-4, beside an attention term (0.05) that is not here and a second stage that trains the
    UNet: this term alone may want more.

    Source:
        Wu et al. 2025, "CoRe: Context-Regularized Text Embedding Learning for Text-to-Image Personalization", eq. 3.
    """

    name = "context"
    needs_class_word = True
    citation = """@inproceedings{wu2025core,
  title     = {{CoRe}: Context-Regularized Text Embedding Learning for Text-to-Image Personalization},
  author    = {Wu, Feize and Pang, Yun and Zhang, Junyi and Pang, Lianyu and Yin, Jian and Zhao, Baoquan and Li, Qing
               and Mao, Xudong},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year      = {2025}
}"""

    def __call__(self, rows: Mapping[str, Tensor], context: RegularizerContext) -> Tensor:
        """Encode some prompts twice and compare; see the base class.

        Args:
            rows: encoder key -> (N, D) float32.
            context: ``prompts``, ``in_word``, ``class_rows``, ``clock`` and ``encode`` are used.

        Returns:
            (C,) float32.
        """
        ids = {key: self._shown(prompts, context) for key, prompts in context.prompts.items()}
        with torch.no_grad():
            expected = context.encode(ids, context.class_rows).hidden_states
        actual = context.encode(ids, rows).hidden_states
        similarity = F.cosine_similarity(actual.float(), expected.float(), dim=-1)
        # Encoders whose encodings are concatenated token by token put the word in the same places.
        around = ~self._shown(next(iter(context.in_word.values())), context)
        per_prompt = ((1 - similarity) * around).sum(1) / around.sum(1)
        penalty = per_prompt.view(-1, PROMPTS_PER_STEP).mean(1)
        return torch.zeros(context.present.shape, device=penalty.device).index_copy(0, context.concepts, penalty)

    def _shown(self, table: Tensor, context: RegularizerContext) -> Tensor:
        """What belongs to the prompts of this step.

        Args:
            table: (C, P, L).
            context: ``concepts`` and ``clock`` are used.

        Returns:
            (S * PROMPTS_PER_STEP, L).
        """
        first = context.clock[context.concepts] * PROMPTS_PER_STEP
        places = first.unsqueeze(1) + torch.arange(PROMPTS_PER_STEP, device=first.device)
        return table[context.concepts.unsqueeze(1), places % table.shape[1]].flatten(0, 1)
