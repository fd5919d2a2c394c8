"""Do the pictures obey their prompt, in CLIP's eyes?"""

from __future__ import annotations

from torch import Tensor

from textual_inversion_ext.evaluation.metrics.base import ClipMetric, Scored


class ClipTextMetric(ClipMetric):
    """CLIP text score (CLIP-T): cosine of a picture's CLIP embedding to that of its text.

    The mean over pictures is the mean of cosines, as in the code of Gal et al. (``evaluation/clip_eval.py``); the
    wording of their paper is ``clip_text_of_means``.

    Source: Gal et al. 2022, section 5.2 ("omitting the placeholder S* from the prompt"); Hessel et al. 2021.

    Args:
        backbone: embeds the pictures and the texts.
    """

    key = "clip_text"
    title = "CLIP text score"
    citation = """@inproceedings{hessel2021clipscore,
  title     = {{CLIPScore}: A Reference-free Evaluation Metric for Image Captioning},
  author    = {Hessel, Jack and Holtzman, Ari and Forbes, Maxwell and Le Bras, Ronan and Choi, Yejin},
  booktitle = {Conference on Empirical Methods in Natural Language Processing},
  year      = {2021}
}"""
    aspect = "obedience"
    needs = frozenset({"prompts"})

    def score(self, scored: Scored) -> Tensor:
        """Compare each picture with its text; see the base class.

        Args:
            scored: ``images`` and ``prompts`` are used.

        Returns:
            (n,) cosines.
        """
        distinct = {prompt: place for place, prompt in enumerate(dict.fromkeys(scored.prompts))}
        texts = self.network.texts(list(distinct))[[distinct[prompt] for prompt in scored.prompts]]
        return (self.network.images(scored.images) * texts).sum(1)
