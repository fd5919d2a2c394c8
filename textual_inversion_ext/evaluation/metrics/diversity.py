"""How much do the samples of a prompt vary, in CLIP's eyes?"""

from __future__ import annotations

import torch
from torch import Tensor

from textual_inversion_ext.evaluation.metrics.base import ClipMetric, Scored


class DiversityMetric(ClipMetric):
    """Mean cosine distance of a picture's embedding to those of the other samples of its prompt.

    The mean over the samples of a prompt is the mean over all pairs of different samples. A word that was learned too
    well repeats its training pictures: its likeness is high and its diversity low.

    Source: ours; pairwise distances among samples are common, mostly by LPIPS (``lpips``).

    Args:
        backbone: embeds the pictures.
    """

    key = "diversity"
    title = "diversity"
    aspect = "diversity"
    needs = frozenset({"samples"})
    samples_matter = True

    def score(self, scored: Scored) -> Tensor:
        """Compare each picture with the other samples of its prompt; see the base class.

        Args:
            scored: ``images`` and ``prompts`` are used.

        Returns:
            (n,) distances in [0, 2].
        """
        features = self.network.images(scored.images)
        scores = torch.empty(len(features))
        for group in scored.samples():
            # Rounding puts a picture and its copy at a distance that is not quite 0, on either side.
            distances = (1 - features[group] @ features[group].t()).clamp(min=0.0)
            scores[group] = distances.fill_diagonal_(0.0).sum(1) / (len(group) - 1)
        return scores
