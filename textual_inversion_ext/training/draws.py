"""Randomness: what a step draws, as a pure function of seed, token and step.

Nothing here has a state that must be saved: step ``k`` of a concept draws the same numbers whenever, wherever and
beside whomever it runs. That is what makes resumed == uninterrupted, N processes == one, 4x1 accumulation == 1x4 and
together == alone hold without bookkeeping.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.data.resident import ResidentSet
from textual_inversion_ext.data.seeds import seed_for
from textual_inversion_ext.records import Draws
from textual_inversion_ext.training.activation import Activation
from textual_inversion_ext.training.visits import Visits

__all__ = ["DrawSource", "make_draws"]

# A pass of the denoiser leaves a CPU's caches full of its weights. Draws in a row, from caches of their own, take a
# quarter of the time of draws between two passes; large ones are not worth the memory.
AHEAD_STEPS, AHEAD_BYTES = 8, 2**20


@dataclass(frozen=True, slots=True)
class _Drawn:
    """The global batch of one concept.

    Attributes:
        bucket: which bucket all of it comes from.
        image: (G,) int64.
        prompt: (G,) int64.
        u: (G,) float32.
        noises: (2, G, C, h, w) float32.
    """

    bucket: int
    image: Tensor
    prompt: Tensor
    u: Tensor
    noises: Tensor


class DrawSource:
    """Draws the randomness of a step for every concept in it.

    For each step and concept the whole global batch is drawn (``batch_size * accumulation * world_size`` samples), then
    sliced by micro-batch and process. Which pictures it holds, `Visits` says; all of them have one shape, so it can be
    sliced in any way. Concepts whose pictures differ in shape become separate forward passes.

    Args:
        resident: the training set; everything is drawn on its device.
        seed: the run's seed.
        batch_size: samples of one concept in a micro-batch of one process.
        accumulation: micro-batches in an optimizer step.
        world_size: processes.
        rank: this process.
        flip_p: share of samples that are mirrored.
        activation: when vectors become active; None for all from the first step.
        stratified: spread the timesteps of each concept's global batch evenly: one in each of as many equal intervals.
            Every timestep stays as likely as before, and the loss of a batch varies less.
        timestep_bias: draw timesteps with a density proportional to their power of this; 0 draws all alike.
        noise_offset: scale of a normal number that is added to all of a channel's noise.

    Source:
        Noise offset: Guttenberg 2023, "Diffusion with Offset Noise" (https://www.crosslabs.org/blog).
    """

    def __init__(
        self,
        resident: ResidentSet,
        *,
        seed: int,
        batch_size: int,
        accumulation: int = 1,
        world_size: int = 1,
        rank: int = 0,
        flip_p: float = 0.0,
        activation: Activation | None = None,
        stratified: bool = False,
        timestep_bias: float = 0.0,
        noise_offset: float = 0.0,
    ) -> None:
        self.resident = resident
        self.seed = seed
        self.batch_size = batch_size
        self.accumulation = accumulation
        self.world_size = world_size
        self.rank = rank
        self.flip_p = flip_p
        self.activation = activation
        self.stratified = stratified
        self.timestep_bias = timestep_bias
        self.noise_offset = noise_offset
        self._generator = torch.Generator(device=resident.device)
        self._visits = Visits(resident, seed)
        largest = max(math.prod(bucket.latent_shape) for bucket in resident.buckets)
        self._steps_at_once = min(AHEAD_STEPS, max(1, AHEAD_BYTES // (self.global_batch * 2 * 4 * largest)))
        self._ahead: dict[int, dict[int, _Drawn]] = {}

    @property
    def global_batch(self) -> int:
        """Samples of one concept in an optimizer step, all processes and micro-batches."""
        return self.batch_size * self.accumulation * self.world_size

    def draw(self, concepts: Sequence[int], steps: Sequence[int]) -> tuple[Draws, ...]:
        """Draw one optimizer step.

        Args:
            concepts: positions in the resident set of the concepts that take part.
            steps: for each of them how many steps it has done, its own clock (host integers).

        Returns:
            For each micro-batch of this process one record, or one for each bucket in it.
        """
        self._ahead = {concept: self._ahead.get(concept, {}) for concept in concepts}
        drawn = {concept: self._take(concept, step) for concept, step in zip(concepts, steps, strict=True)}
        together: dict[int, list[int]] = {}
        for concept in concepts:
            together.setdefault(drawn[concept].bucket, []).append(concept)
        return tuple(
            self._slice([drawn[concept] for concept in alike], tuple(alike), micro)
            for micro in range(self.accumulation)
            for alike in together.values()
        )

    def fixed(self, concept: int, count: int, done: int | None = None) -> Draws:
        """The evaluation batch of a concept: the same whatever the run's seed, batch size, processes and step.

        Pictures and prompts are the first ones in turn, never mirrored, from the bucket with most of the concept's
        pictures; timesteps are distinct thousandths of the schedule, drawn once.

        Args:
            concept: position in the resident set.
            count: samples, at most 1000.
            done: steps that the concept has done, on which it depends how many vectors take part; None for all.

        Returns:
            The batch.

        Source:
            Voronov et al. 2023 (DVAR), section 4 and released code: one fixed batch, 4 samples.
        """
        resident, generator = self.resident, self._generator
        place = max(range(len(resident.buckets)), key=lambda number: resident.buckets[number].image_count[concept])
        bucket = resident.buckets[place]
        generator.manual_seed(seed_for(0, resident.tokens[concept], "evaluation", 0))
        thousandths = torch.randperm(1000, generator=generator, device=resident.device)[:count]
        noises = torch.randn(2, count, *bucket.latent_shape, generator=generator, device=resident.device)
        turn = torch.arange(count, device=resident.device)
        image = bucket.image_start[concept] + turn % bucket.image_count[concept]
        first = bucket.prompt_start[image] + self._prompts_before(concept, None if done is None else max(0, done - 1))
        return Draws(
            concept=resident.concept_ids[concept].expand(count),
            image=image,
            prompt=first + turn % bucket.prompt_count[image],
            u=(thousandths + 0.5) / 1000,
            posterior_noise=noises[0],
            noise=noises[1],
            concepts=(concept,),
            bucket=place,
        )

    def _take(self, concept: int, step: int) -> _Drawn:
        """Take the global batch of one concept; those of the steps that follow are drawn in one go with it.

        Args:
            concept: position in the resident set, one that ``_ahead`` has an entry for.
            step: steps it has done.

        Returns:
            The batch.
        """
        if step not in self._ahead[concept]:
            coming = range(step, step + self._steps_at_once)
            self._ahead[concept] = {later: self._draw_concept(concept, later) for later in coming}
        return self._ahead[concept].pop(step)

    def _draw_concept(self, concept: int, step: int) -> _Drawn:
        """Draw the global batch of one concept.

        Args:
            concept: position in the resident set.
            step: steps it has done.

        Returns:
            The batch.
        """
        place, turn = self._visits.bucket(concept, step)
        bucket, count, device = self.resident.buckets[place], self.global_batch, self.resident.device
        self._generator.manual_seed(seed_for(self.seed, self.resident.tokens[concept], "step", step))
        uniform = torch.rand(3, count, generator=self._generator, device=device)
        noises = torch.randn(2, count, *bucket.latent_shape, generator=self._generator, device=device)
        u = self._biased(self._spread(uniform[0]))
        image = self._visits.images(concept, place, turn * count, count)
        first = bucket.prompt_start[image] + self._prompts_before(concept, step)
        prompt = first + (uniform[1] * bucket.prompt_count[image]).long()
        if bucket.num_crops > 1:
            self._generator.manual_seed(seed_for(self.seed, self.resident.tokens[concept], "crop", step))
            chosen = torch.rand(count, generator=self._generator, device=device)
            image = image + (chosen * bucket.num_crops).long() * bucket.num_images
        if bucket.has_flips and self.flip_p > 0:
            image = image + (uniform[2] < self.flip_p) * (bucket.num_images * bucket.num_crops)
        return _Drawn(place, image, prompt, u, self._offset(concept, step, noises))

    def _spread(self, u: Tensor) -> Tensor:
        """Put the uniform numbers of a global batch into as many equal intervals, one in each, in random order.

        Args:
            u: (G,) float32 in [0, 1).

        Returns:
            (G,) float32 in [0, 1); ``u`` itself unless ``stratified``.
        """
        if not self.stratified:
            return u
        # Of the generator as it stands after the noises: other settings that draw seed it anew, so they change nothing.
        strata = torch.randperm(len(u), generator=self._generator, device=u.device)
        return (strata + u) / len(u)

    def _biased(self, u: Tensor) -> Tensor:
        """Move uniform numbers towards 1, the noisiest timestep: what a word means is decided there.

        Args:
            u: (G,) float32 in [0, 1), uniform.

        Returns:
            (G,) float32 in [0, 1] with the density ``(1 + timestep_bias) * u ** timestep_bias``.
        """
        return u ** (1 / (1 + self.timestep_bias)) if self.timestep_bias else u

    def _offset(self, concept: int, step: int, noises: Tensor) -> Tensor:
        """Add to all of a channel's noise the same normal number.

        Args:
            concept: position in the resident set.
            step: steps it has done.
            noises: (2, G, C, h, w) float32.

        Returns:
            The same, with the offset in the second; ``noises`` itself where there is none.
        """
        if not self.noise_offset:
            return noises
        self._generator.manual_seed(seed_for(self.seed, self.resident.tokens[concept], "noise offset", step))
        shift = torch.randn(*noises.shape[1:3], 1, 1, generator=self._generator, device=noises.device)
        return torch.stack([noises[0], noises[1] + self.noise_offset * shift])

    def _prompts_before(self, concept: int, step: int | None) -> int:
        """How far a concept's prompts for its active vectors are from those for the fewest.

        Args:
            concept: position in the resident set.
            step: steps it has done, or None for all vectors.

        Returns:
            A number of prompts.
        """
        if self.activation is None:
            return 0
        if step is None:
            return (len(self.activation.levels[concept]) - 1) * self.resident.prompt_stride[concept]
        return self.activation.level(concept, step) * self.resident.prompt_stride[concept]

    def _slice(self, drawn: Sequence[_Drawn], concepts: tuple[int, ...], micro: int) -> Draws:
        """The part of the global batches that this process sees in one micro-batch.

        Args:
            drawn: results of ``_draw_concept``, all from one bucket.
            concepts: their positions in the resident set.
            micro: number of the micro-batch.

        Returns:
            The record.
        """
        first = (micro * self.world_size + self.rank) * self.batch_size
        part = slice(first, first + self.batch_size)

        def join(tensors: list[Tensor]) -> Tensor:
            return tensors[0] if len(tensors) == 1 else torch.cat(tensors)

        return Draws(
            concept=join([self.resident.concept_ids[c].expand(self.batch_size) for c in concepts]),
            image=join([own.image[part] for own in drawn]),
            prompt=join([own.prompt[part] for own in drawn]),
            u=join([own.u[part] for own in drawn]),
            posterior_noise=join([own.noises[0, part] for own in drawn]),
            noise=join([own.noises[1, part] for own in drawn]),
            concepts=concepts,
            bucket=drawn[0].bucket,
        )


def make_draws(
    config: TextualInversionConfig, resident: ResidentSet, activation: Activation, world_size: int, rank: int
) -> DrawSource:
    """The randomness that a run's settings ask for.

    Args:
        config: seed, batches, flips, timesteps and noise.
        resident: the training set.
        activation: when vectors become active.
        world_size: processes that share a step.
        rank: this process.

    Returns:
        The source.
    """
    return DrawSource(
        resident,
        seed=config.seed,
        batch_size=config.train_batch_size,
        accumulation=config.gradient_accumulation_steps,
        world_size=world_size,
        rank=rank,
        flip_p=config.flip_p,
        activation=activation,
        stratified=config.timestep_sampling == "stratified",
        timestep_bias=config.timestep_bias,
        noise_offset=config.noise_offset,
    )
