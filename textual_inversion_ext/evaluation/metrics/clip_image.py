"""Do the pictures look like the concept, in CLIP's eyes?"""

from __future__ import annotations

from textual_inversion_ext.evaluation.metric_parts import MetricParts
from textual_inversion_ext.evaluation.metrics.base import LikenessMetric


class ClipImageMetric(LikenessMetric):
    """CLIP image score (CLIP-I): mean cosine of a picture's CLIP embedding to those of the references.

    Source: Gal et al. 2022, section 5.2: "the average pair-wise CLIP-space cosine-similarity between the generated
    images and the images of the concept-specific training set".
    """

    key = "clip_image"
    title = "CLIP image score"
    citation = """@inproceedings{gal2023image,
  title     = {An Image is Worth One Word: Personalizing Text-to-Image Generation using Textual Inversion},
  author    = {Gal, Rinon and Alaluf, Yuval and Atzmon, Yuval and Patashnik, Or and Bermano, Amit Haim and
               Chechik, Gal and Cohen-Or, Daniel},
  booktitle = {International Conference on Learning Representations},
  year      = {2023}
}"""

    @classmethod
    def build(cls, parts: MetricParts) -> ClipImageMetric:
        """Take the CLIP backbone; see the base class.

        Args:
            parts: ``clip`` is used.

        Returns:
            The metric.
        """
        return cls(parts.images_and_texts())
