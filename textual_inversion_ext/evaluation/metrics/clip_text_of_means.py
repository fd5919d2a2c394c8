"""Do the samples of a prompt obey it on average, in CLIP's eyes?"""

from __future__ import annotations

import torch
from torch import Tensor

from textual_inversion_ext.evaluation.metrics.base import ClipMetric, Scored
from textual_inversion_ext.papers import GAL_2022


class ClipTextOfMeansMetric(ClipMetric):
    r"""Cosine between a text and the mean CLIP embedding of its samples, dealt out to the samples.

    A sample's share is its own cosine divided by the length of the mean embedding, so that the mean over the samples of
    a prompt is

    .. math:: \cos\Big(t, \tfrac1n \sum_i x_i\Big) = \frac1n \sum_i \frac{t \cdot x_i}{\|\tfrac1n \sum_j x_j\|}

    It is larger than the mean of cosines (``clip_text``) and grows with the spread of the samples.

    Source: the wording of Gal et al. 2022, section 5.2: "the average CLIP-space embedding of the generated images" and
    its cosine to the text's. Their code takes the mean of cosines instead.

    Args:
        backbone: embeds the pictures and the texts.
    """

    key = "clip_text_of_means"
    title = "CLIP text score of mean embeddings"
    citation = GAL_2022
    aspect = "obedience"
    needs = frozenset({"prompts"})
    samples_matter = True

    def score(self, scored: Scored) -> Tensor:
        """Compare each prompt's samples with its text; see the base class.

        Args:
            scored: ``images`` and ``prompts`` are used.

        Returns:
            (n,) shares; their mean over the samples of a prompt is the cosine.
        """
        groups = scored.samples()
        features = self.network.images(scored.images)
        texts = self.network.texts([scored.prompts[group[0]] for group in groups])
        scores = torch.empty(len(features))
        for group, text in zip(groups, texts, strict=True):
            own = features[group]
            scores[group] = (own @ text) / own.mean(0).norm()
        return scores
