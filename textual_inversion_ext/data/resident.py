"""The training set as tensors on the training device: computed once, then only indexed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from tqdm.auto import tqdm

from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.data.sources import Sample
from textual_inversion_ext.data.templates import TEMPLATES
from textual_inversion_ext.data.transforms import to_tensor
from textual_inversion_ext.errors import DataError
from textual_inversion_ext.records import Batch, Draws
from textual_inversion_ext.tokens import PromptEncoder

VAE_BATCH = 4  # pictures a VAE call: larger ones gain little and need gigabytes at 1024 px


class MomentEncoder(Protocol):
    """What building a resident set needs of a family adapter."""

    native_resolution: int

    @property
    def device(self) -> torch.device:
        """The training device."""

    def moments(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) pictures in [-1, 1] to (B, 2C, h, w) posterior moments."""

    def latents(self, moments: Tensor, noise: Tensor) -> Tensor:
        """(B, 2C, h, w) moments and (B, C, h, w) noise to latents."""


@dataclass(frozen=True, slots=True)
class ResidentSet:
    """All pictures and prompts of a run, on one device.

    ``M`` pictures of all concepts, ``P`` prompts. A picture's moments are at its own entry, those of its mirror image
    ``M`` further on.

    Attributes:
        moments: (M, 2C, h, w) or, with mirrored pictures, (2M, 2C, h, w) float32.
        prompt_ids: encoder key -> (P, L) int64.
        prompt_start: (M,) int64, first prompt of each picture.
        prompt_count: (M,) int64, number of prompts of each picture.
        concept_ids: (number of concepts,) int64, 0, 1, 2, ...
        tokens: placeholder token of each concept.
        image_start: first picture of each concept (host integers, for drawing without a synchronisation).
        image_count: number of pictures of each concept.
        has_flips: whether mirrored pictures are there.
        to_latents: the adapter's ``latents``.
    """

    moments: Tensor
    prompt_ids: Mapping[str, Tensor]
    prompt_start: Tensor
    prompt_count: Tensor
    concept_ids: Tensor
    tokens: tuple[str, ...]
    image_start: tuple[int, ...]
    image_count: tuple[int, ...]
    has_flips: bool
    to_latents: Callable[[Tensor, Tensor], Tensor]

    @property
    def device(self) -> torch.device:
        """Where everything is."""
        return self.moments.device

    @property
    def num_images(self) -> int:
        """M, pictures without their mirror images."""
        return self.prompt_start.shape[0]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one picture's latents."""
        _, channels, height, width = self.moments.shape
        return channels // 2, height, width

    def gather(self, draws: Draws) -> Batch:
        """Collect a micro-batch; nothing leaves the device.

        Args:
            draws: which pictures and prompts, and the noise that samples the posterior.

        Returns:
            The micro-batch.
        """
        return Batch(
            latents=self.to_latents(self.moments[draws.image], draws.posterior_noise),
            ids={key: ids[draws.prompt] for key, ids in self.prompt_ids.items()},
            concept=draws.concept,
        )


def build_resident_set(
    adapter: MomentEncoder,
    specs: Sequence[ConceptSpec],
    samples: Sequence[Sample],
    prompt_encoders: Mapping[str, PromptEncoder],
    config: TextualInversionConfig,
) -> ResidentSet:
    """Encode every picture and prompt of a run.

    Args:
        adapter: the family adapter, its VAE on the training device.
        specs: the concepts.
        samples: pictures of all concepts, in any order; ``Sample.concept`` says whose.
        prompt_encoders: encoder key -> encoder that knows the placeholders.
        config: ``resolution`` and ``flip_p`` are used.

    Returns:
        The training set on the adapter's device.

    Raises:
        DataError: a concept has no pictures.
    """
    groups = [[sample for sample in samples if sample.concept == position] for position in range(len(specs))]
    for spec, group in zip(specs, groups, strict=True):
        if not group:
            raise DataError(f"{spec.placeholder_token}: no pictures; give 3 or more (1 works, 5 is a good number).")
    ordered = [sample for group in groups for sample in group]
    has_flips = config.flip_p > 0
    moments = _encode_pictures(adapter, ordered, config.resolution or adapter.native_resolution, has_flips)
    prompts, prompt_start, prompt_count = _lay_out_prompts(specs, groups)
    image_count = tuple(len(group) for group in groups)
    device = adapter.device
    return ResidentSet(
        moments=moments,
        prompt_ids={key: encoder.encode(prompts).to(device) for key, encoder in prompt_encoders.items()},
        prompt_start=torch.tensor(prompt_start, device=device),
        prompt_count=torch.tensor(prompt_count, device=device),
        concept_ids=torch.arange(len(specs), device=device),
        tokens=tuple(spec.placeholder_token for spec in specs),
        image_start=tuple(sum(image_count[:position]) for position in range(len(specs))),
        image_count=image_count,
        has_flips=has_flips,
        to_latents=adapter.latents,
    )


def _encode_pictures(adapter: MomentEncoder, samples: Sequence[Sample], resolution: int, has_flips: bool) -> Tensor:
    """Moments of all pictures, then of their mirror images.

    A mirror image is encoded by itself: a VAE does not commute with mirroring.

    Args:
        adapter: the family adapter.
        samples: M pictures.
        resolution: side length in pixels.
        has_flips: whether mirror images are wanted.

    Returns:
        (M or 2M, 2C, h, w) float32 on the adapter's device.
    """
    plain, flipped = [], []
    # disable=None: no bar where nobody is looking (output into a file)
    with tqdm(total=len(samples), desc="encoding pictures", delay=2, leave=False, disable=None) as bar:
        for pixels in _batches(samples, resolution):
            plain.append(adapter.moments(pixels))
            if has_flips:
                flipped.append(adapter.moments(pixels.flip(-1)))
            bar.update(len(pixels))
    return torch.cat([*plain, *flipped])


def _batches(samples: Sequence[Sample], resolution: int) -> Iterator[Tensor]:
    """Pictures in batches, so that only a few are decoded at a time.

    Args:
        samples: the pictures.
        resolution: side length in pixels.

    Yields:
        (up to VAE_BATCH, 3, resolution, resolution) float32 in [-1, 1].
    """
    for start in range(0, len(samples), VAE_BATCH):
        chunk = samples[start : start + VAE_BATCH]
        yield torch.stack([to_tensor(sample.open(), resolution, name=sample.name) for sample in chunk])


def _lay_out_prompts(
    specs: Sequence[ConceptSpec], groups: Sequence[Sequence[Sample]]
) -> tuple[list[str], list[int], list[int]]:
    """Prompts of all concepts, and which of them each picture may be shown with.

    Args:
        specs: the concepts.
        groups: pictures of each.

    Returns:
        P prompts, and for each picture its first prompt and their number.
    """
    prompts: list[str] = []
    start: list[int] = []
    count: list[int] = []
    for spec, group in zip(specs, groups, strict=True):
        templates = TEMPLATES[spec.learnable_property]
        start += [len(prompts)] * len(group)
        count += [len(templates)] * len(group)
        prompts += [template.format(spec.placeholder_token) for template in templates]
    return prompts, start, count
