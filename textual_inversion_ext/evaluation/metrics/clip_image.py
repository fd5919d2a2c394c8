"""Do the pictures look like the concept, in CLIP's eyes?"""

from __future__ import annotations

from textual_inversion_ext.evaluation.metric_parts import MetricParts
from textual_inversion_ext.evaluation.metrics.base import LikenessMetric
from textual_inversion_ext.papers import GAL_2022


class ClipImageMetric(LikenessMetric):
    """CLIP image score (CLIP-I): mean cosine of a picture's CLIP embedding to those of the references.

    Source: Gal et al. 2022, section 5.2: "the average pair-wise CLIP-space cosine-similarity between the generated
    images and the images of the concept-specific training set".
    """

    key = "clip_image"
    title = "CLIP image score"
    citation = GAL_2022

    @classmethod
    def build(cls, parts: MetricParts) -> ClipImageMetric:
        """Take the CLIP backbone; see the base class.

        Args:
            parts: ``clip`` is used.

        Returns:
            The metric.
        """
        return cls(parts.images_and_texts())
