"""The contract of a metric: one score per generated picture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from PIL import Image
from torch import Tensor

from textual_inversion_ext.errors import DataError
from textual_inversion_ext.evaluation.backbones import ImageBackbone, ImageTextBackbone
from textual_inversion_ext.evaluation.metric_parts import MetricParts
from textual_inversion_ext.pocket.specs import SubjectSpec


@dataclass(frozen=True, slots=True)
class Scored:
    """What a metric looks at: generated pictures and what they are held against.

    Attributes:
        images: generated pictures, RGB; of one prompt or of several.
        prompts: the text that each image is held against, see ``evaluation/texts.py``: its prompt, in which the
            concept's word was left out or replaced by the class word. Images with the same text are samples of one
            prompt.
        references: real pictures of the concept, RGB.
        truth: what the concept really looks like, where it is known: objects of the pocket world.
    """

    images: tuple[Image.Image, ...]
    prompts: tuple[str, ...] = ()
    references: tuple[Image.Image, ...] = ()
    truth: SubjectSpec | None = None

    def samples(self) -> list[list[int]]:
        """Group the images by prompt.

        Returns:
            The indices of each prompt's images, prompts in the order of their first image; all in one group where
            there are no prompts.
        """
        if not self.prompts:
            return [list(range(len(self.images)))]
        groups: dict[str, list[int]] = {}
        for index, prompt in enumerate(self.prompts):
            groups.setdefault(prompt, []).append(index)
        return list(groups.values())


class Metric(ABC):
    """Scores generated pictures, one number each; the mean over pictures is what reports print.

    Scores do not depend on the order of the pictures, nor on how many go through a network at a time. Cosines are
    stored as they are; ``evaluation/views.py`` shows them in the scales of other papers and tools.

    Attributes:
        key: key in ``METRICS``.
        title: what a table's head calls it.
        citation: BibTeX of the paper, for cards; empty for what is ours.
        higher_is_better: whether a better word has a higher score.
        aspect: what the score says something about: whether pictures look like the concept, whether they obey the
            prompt, or how much they vary.
        needs: what it cannot do without: fields of `Scored`, or "samples" for two pictures of every prompt.
        samples_matter: whether a picture's score depends on the other samples of its prompt as well.
        backbone: name of what it measures with.
        name: key and backbone. Scores with different names are not comparable.

    Args:
        backbone: name of what it measures with.
    """

    key: ClassVar[str]
    title: ClassVar[str]
    citation: ClassVar[str] = ""
    higher_is_better: ClassVar[bool] = True
    aspect: ClassVar[Literal["likeness", "obedience", "diversity"]] = "likeness"
    needs: ClassVar[frozenset[str]] = frozenset()
    samples_matter: ClassVar[bool] = False

    def __init__(self, backbone: str) -> None:
        self.backbone = backbone
        self.name = f"{self.key} ({backbone})"

    @classmethod
    @abstractmethod
    def build(cls, parts: MetricParts) -> Metric:
        """Make the metric by its name in the table.

        Args:
            parts: what there is to build it of.

        Returns:
            The metric.

        Raises:
            ModelError: its backbone cannot be loaded.
            MissingDependencyError: an optional package is missing.
            ConfigError: it needs something that was not given.
        """

    @abstractmethod
    def score(self, scored: Scored) -> Tensor:
        """Score pictures; called with what it needs, and with at least one picture.

        Args:
            scored: the pictures and what they are held against.

        Returns:
            (n,) finite scores in the order of the images.
        """

    def __call__(self, scored: Scored) -> Tensor:
        """Score pictures.

        Args:
            scored: the pictures and what they are held against.

        Returns:
            (n,) float32 on the CPU, in the order of the images.

        Raises:
            DataError: there is no picture, something it needs is missing, or there is not one text per image.
        """
        if not scored.images:
            raise DataError(f"{self.name}: there are no pictures to score.")
        if scored.prompts and len(scored.prompts) != len(scored.images):
            raise DataError(
                f"{self.name}: {len(scored.images)} pictures and {len(scored.prompts)} prompts; give one per picture."
            )
        if lacking := self.lacks(scored):
            raise DataError(f"{self.name} needs {' and '.join(lacking)}. {_HELP[lacking[0]]}")
        return self.score(scored).float().cpu()

    def lacks(self, scored: Scored) -> tuple[str, ...]:
        """List what the metric needs and was not given.

        Args:
            scored: what it would be asked to score.

        Returns:
            Words of ``needs``; empty where it can be scored.
        """
        given = {need for need in ("prompts", "references", "truth") if getattr(scored, need)}
        if all(len(group) > 1 for group in scored.samples()):
            given.add("samples")
        return tuple(sorted(self.needs - given))


_HELP = {
    "prompts": "Give the prompt of each picture.",
    "references": "Give real pictures of the concept.",
    "samples": "Give at least two pictures of each prompt.",
    "truth": "Only objects of the pocket world have a known truth; leave this metric out for others.",
}


class ClipMetric(Metric):
    """A metric in the eyes of the CLIP backbone.

    Args:
        backbone: embeds pictures and texts.
    """

    def __init__(self, backbone: ImageTextBackbone) -> None:
        super().__init__(backbone.name)
        self.network = backbone

    @classmethod
    def build(cls, parts: MetricParts) -> ClipMetric:
        """Take the CLIP backbone; see the base class.

        Args:
            parts: ``clip`` is used.

        Returns:
            The metric.
        """
        return cls(parts.images_and_texts())


class LikenessMetric(Metric):
    """Mean cosine of each picture to the references, in some backbone's eyes.

    The mean over pictures is the mean over all pairs of a picture and a reference.

    Args:
        backbone: embeds the pictures.
    """

    needs = frozenset({"references"})

    def __init__(self, backbone: ImageBackbone) -> None:
        super().__init__(backbone.name)
        self.network = backbone

    def score(self, scored: Scored) -> Tensor:
        """Compare with every reference; see the base class.

        Args:
            scored: ``images`` and ``references`` are used.

        Returns:
            (n,) cosines.
        """
        return (self.network.images(scored.images) @ self.network.images(scored.references).t()).mean(1)

    def bound(self, references: Sequence[Image.Image], *, self_pairs: bool = False) -> Tensor:
        """Score the references against themselves: what a perfect word could reach.

        Args:
            references: real pictures of the concept.
            self_pairs: whether each counts as a reference for itself too, at a cosine of 1. Gal et al. 2022 give no
                formula for their "Image Only" bound; without self-pairs is the fair one for pictures not seen before.

        Returns:
            (m,) float32, one per reference; their mean is the mean over all pairs. Empty where there are no pairs: a
            single reference has none without self-pairs.
        """
        features = self.network.images(references)
        if len(features) < (1 if self_pairs else 2):
            return features.new_empty(0)
        cosines = features @ features.t()
        if self_pairs:
            return cosines.mean(1)
        return (cosines.sum(1) - cosines.diagonal()) / (len(features) - 1)
