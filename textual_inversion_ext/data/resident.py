"""The training set as tensors on the training device: computed once, then only indexed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.data.latents import Latents, MomentEncoder, cuts_of, encode_pictures
from textual_inversion_ext.data.pictures.buckets import bucket_shapes, nearest_shape
from textual_inversion_ext.data.prompts.layout import ConceptPrompts, concept_prompts, encode_prompts, own_encoders
from textual_inversion_ext.data.sources.collect import Sample
from textual_inversion_ext.errors import DataError
from textual_inversion_ext.records import Batch, Draws
from textual_inversion_ext.tokens import PromptEncoder

__all__ = ["Bucket", "MomentEncoder", "ResidentSet", "build_resident_set"]


@dataclass(frozen=True, slots=True)
class Bucket:
    """All pictures of one shape, concept after concept.

    Attributes:
        latents: the encoded pictures; which entry is which, it says itself.
        prompt_start: (M,) int64, first prompt of each picture, for the fewest active vectors of its concept.
        prompt_count: (M,) int64, number of prompts of each picture.
        image_start: first picture of each concept (host integers, for drawing without a synchronisation).
        image_count: number of pictures of each concept; 0 for a concept that has none of this shape.
        num_crops: K, cuts of each picture.
        has_flips: whether mirrored pictures are there.
    """

    latents: Latents
    prompt_start: Tensor
    prompt_count: Tensor
    image_start: tuple[int, ...]
    image_count: tuple[int, ...]
    num_crops: int
    has_flips: bool

    @property
    def num_images(self) -> int:
        """M, pictures without their other cuts and their mirror images."""
        return self.prompt_start.shape[0]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one picture's latents."""
        _, channels, height, width = self.latents.moments.shape
        return channels // 2, height, width


@dataclass(frozen=True, slots=True)
class ResidentSet:
    """All pictures and prompts of a run, on one device.

    Attributes:
        buckets: the pictures by shape; one bucket unless ``crop`` is ``buckets``.
        prompt_ids: encoder key -> (P, L) int64, prompts of all concepts.
        prompt_stride: for each concept, how much further on its prompts for the next number of active vectors are.
        concept_ids: (number of concepts,) int64, 0, 1, 2, ...
        tokens: placeholder token of each concept.
        to_latents: the adapter's ``latents``.
    """

    buckets: tuple[Bucket, ...]
    prompt_ids: Mapping[str, Tensor]
    prompt_stride: tuple[int, ...]
    concept_ids: Tensor
    tokens: tuple[str, ...]
    to_latents: Callable[[Tensor, Tensor], Tensor]

    @property
    def device(self) -> torch.device:
        """Where everything is."""
        return self.concept_ids.device

    @property
    def image_count(self) -> tuple[int, ...]:
        """Number of pictures of each concept, in all buckets."""
        return tuple(sum(counts) for counts in zip(*(bucket.image_count for bucket in self.buckets), strict=True))

    def gather(self, draws: Draws) -> Batch:
        """Collect a micro-batch; nothing leaves the device.

        Args:
            draws: which pictures and prompts, and the noise that samples the posterior.

        Returns:
            The micro-batch.
        """
        latents = self.buckets[draws.bucket].latents
        return Batch(
            latents=self.to_latents(latents.moments[draws.image], draws.posterior_noise),
            ids={key: ids[draws.prompt] for key, ids in self.prompt_ids.items()},
            concept=draws.concept,
            mask=None if latents.masks is None else latents.masks[draws.image],
            sizes=latents.sizes[draws.image],
        )


@dataclass(frozen=True, slots=True)
class _Picture:
    """A picture, its number within its concept from 1, its first prompt, and the number of its prompts."""

    sample: Sample
    number: int
    prompt_start: int
    prompt_count: int


def build_resident_set(
    adapter: MomentEncoder,
    specs: Sequence[ConceptSpec],
    samples: Sequence[Sample],
    prompt_encoders: Mapping[str, PromptEncoder],
    config: TextualInversionConfig,
    levels: Sequence[Sequence[int]] | None = None,
) -> ResidentSet:
    """Encode every picture and prompt of a run.

    Args:
        adapter: the family adapter, its VAE on the training device.
        specs: the concepts.
        samples: pictures of all concepts, in any order; ``Sample.concept`` says whose.
        prompt_encoders: encoder key -> encoder that knows the placeholders.
        config: ``resolution`` and the settings about pictures and sentences are used.
        levels: for each concept the numbers of active vectors that occur, rising; all vectors at once by default.

    Returns:
        The training set on the adapter's device.

    Raises:
        DataError: a concept has no pictures, or captions are asked for and it has none.
    """
    groups = [[sample for sample in samples if sample.concept == position] for position in range(len(specs))]
    for spec, group in zip(specs, groups, strict=True):
        if not group:
            raise DataError(f"{spec.placeholder_token}: no pictures; give 3 or more (1 works, 5 is a good number).")
    # Prompts first: they are quick, and what is wrong with them shows before the slow part.
    laid_out = [concept_prompts(spec, group, config) for spec, group in zip(specs, groups, strict=True)]
    levels = levels or [(spec.num_vectors,) for spec in specs]
    prompt_ids, prompt_start = _encode_all(specs, laid_out, levels, prompt_encoders)
    pictures = [
        [_Picture(sample, place + 1, first + own.start[place], own.count[place]) for place, sample in enumerate(group)]
        for group, own, first in zip(groups, laid_out, prompt_start, strict=True)
    ]
    return ResidentSet(
        buckets=_fill_buckets(adapter, specs, pictures, config),
        prompt_ids={key: ids.to(adapter.device) for key, ids in prompt_ids.items()},
        prompt_stride=tuple(len(own.prompts) for own in laid_out),
        concept_ids=torch.arange(len(specs), device=adapter.device),
        tokens=tuple(spec.placeholder_token for spec in specs),
        to_latents=adapter.latents,
    )


def _encode_all(
    specs: Sequence[ConceptSpec],
    laid_out: Sequence[ConceptPrompts],
    levels: Sequence[Sequence[int]],
    encoders: Mapping[str, PromptEncoder],
) -> tuple[dict[str, Tensor], list[int]]:
    """Token ids of all prompts.

    Args:
        specs: the concepts.
        laid_out: prompts of each.
        levels: numbers of active vectors of each.
        encoders: encoder key -> prompt encoder.

    Returns:
        Encoder key -> (P, L) int64 on the CPU, and the position of each concept's first prompt.
    """
    encoded = [
        encode_prompts(own.prompts, spec, counts, own_encoders(own, spec, encoders))
        for spec, own, counts in zip(specs, laid_out, levels, strict=True)
    ]
    start, total = [], 0
    for own, counts in zip(laid_out, levels, strict=True):
        start.append(total)
        total += len(own.prompts) * len(counts)
    return {key: torch.cat([ids[key] for ids in encoded]) for key in encoders}, start


def _fill_buckets(
    adapter: MomentEncoder,
    specs: Sequence[ConceptSpec],
    pictures: Sequence[Sequence[_Picture]],
    config: TextualInversionConfig,
) -> tuple[Bucket, ...]:
    """Sort pictures by shape and encode them.

    Args:
        adapter: the family adapter.
        specs: the concepts.
        pictures: pictures of each.
        config: ``resolution`` and the settings about pictures are used.

    Returns:
        The buckets that have pictures.
    """
    resolution = config.resolution or adapter.native_resolution
    square = ((resolution, resolution),)
    shapes = bucket_shapes(resolution, adapter.size_multiple) if config.crop == "buckets" else square
    of_shape: dict[tuple[int, int], list[list[_Picture]]] = {shape: [[] for _ in specs] for shape in shapes}
    for concept, group in enumerate(pictures):
        for picture in group:
            of_shape[nearest_shape(picture.sample.size, shapes)][concept].append(picture)
    crops = config.random_crops if config.crop == "random" else 1
    # disable=None: no bar where nobody is looking (output into a file)
    total = crops * sum(len(group) for group in pictures)
    with tqdm(total=total, desc="encoding pictures", delay=2, leave=False, disable=None) as bar:
        return tuple(
            _fill(adapter, shape, specs, groups, config, bar) for shape, groups in of_shape.items() if any(groups)
        )


def _fill(
    adapter: MomentEncoder,
    shape: tuple[int, int],
    specs: Sequence[ConceptSpec],
    groups: Sequence[Sequence[_Picture]],
    config: TextualInversionConfig,
    bar: tqdm,
) -> Bucket:
    """Encode the pictures of one shape.

    Args:
        adapter: the family adapter.
        shape: width and height.
        specs: the concepts.
        groups: pictures of this shape of each.
        config: the run's settings.
        bar: shows the progress.

    Returns:
        The bucket.
    """
    owned = [(spec, picture) for spec, group in zip(specs, groups, strict=True) for picture in group]
    cuts = [cuts_of(picture.sample, shape, spec.placeholder_token, picture.number, config) for spec, picture in owned]
    mirrored, device = config.flip_p > 0, adapter.device
    latents = encode_pictures(
        adapter,
        [picture.sample for _, picture in owned],
        cuts,
        mirrored=mirrored,
        outside=config.mask_outside_weight,
        bar=bar,
    )
    count = tuple(len(group) for group in groups)
    return Bucket(
        latents=latents,
        prompt_start=torch.tensor([picture.prompt_start for _, picture in owned], device=device),
        prompt_count=torch.tensor([picture.prompt_count for _, picture in owned], device=device),
        image_start=tuple(sum(count[:position]) for position in range(len(specs))),
        image_count=count,
        num_crops=len(cuts[0]),
        has_flips=mirrored,
    )
