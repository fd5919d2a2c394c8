"""Do the pictures look like the concept, in DINO's eyes?"""

from __future__ import annotations

from textual_inversion_ext.evaluation.metric_parts import MetricParts
from textual_inversion_ext.evaluation.metrics.base import LikenessMetric


class DinoMetric(LikenessMetric):
    """DINO score: mean cosine of a picture's DINO embedding to those of the references.

    DINO was trained without labels and tells pictures of one class apart that CLIP calls alike. The first version
    (ViT-S/16, the default) is the one of published tables; ``facebook/dinov2-small`` and the like can be named too.

    Source: Ruiz et al. 2023, section 4.2: "the average pairwise cosine similarity between the ViT-S/16 DINO embeddings
    of generated and real images".
    """

    key = "dino"
    title = "DINO score"
    citation = """@inproceedings{ruiz2023dreambooth,
  title     = {DreamBooth: Fine Tuning Text-to-Image Diffusion Models for Subject-Driven Generation},
  author    = {Ruiz, Nataniel and Li, Yuanzhen and Jampani, Varun and Pritch, Yael and Rubinstein, Michael and
               Aberman, Kfir},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2023}
}
@inproceedings{caron2021emerging,
  title     = {Emerging Properties in Self-Supervised Vision Transformers},
  author    = {Caron, Mathilde and Touvron, Hugo and Misra, Ishan and J\\'egou, Herv\\'e and Mairal, Julien and
               Bojanowski, Piotr and Joulin, Armand},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year      = {2021}
}"""

    @classmethod
    def build(cls, parts: MetricParts) -> DinoMetric:
        """Take the DINO backbone; see the base class.

        Args:
            parts: ``dino`` is used.

        Returns:
            The metric.
        """
        return cls(parts.images())
