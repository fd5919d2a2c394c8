"""Randomness: what a step draws, as a pure function of seed, token and step.

Nothing here has a state that must be saved: step ``k`` of a concept draws the same numbers whenever, wherever and
beside whomever it runs. That is what makes resumed == uninterrupted, N processes == one, 4x1 accumulation == 1x4 and
together == alone hold without bookkeeping.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from textual_inversion_ext.data.resident import ResidentSet
from textual_inversion_ext.records import Draws

ORDER_CHUNK = 4096  # image positions shuffled at a time: rare enough to cost nothing, small enough to cost no memory


def seed_for(seed: int, token: str, purpose: str, counter: int) -> int:
    """Seed of one use of randomness, unrelated to every other.

    Args:
        seed: the run's seed.
        token: placeholder token of the concept.
        purpose: what is drawn.
        counter: step or chunk number.

    Returns:
        An integer in [0, 2**63).
    """
    key = f"{seed}\0{token}\0{purpose}\0{counter}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1


class DrawSource:
    """Draws the randomness of a step for every concept in it.

    For each step and concept the whole global batch is drawn (``batch_size * accumulation * world_size`` samples), then
    sliced by micro-batch and process. Images are visited without replacement: each one once an epoch, in an order
    shuffled anew.

    Args:
        resident: the training set; everything is drawn on its device.
        seed: the run's seed.
        batch_size: samples of one concept in a micro-batch of one process.
        accumulation: micro-batches in an optimizer step.
        world_size: processes.
        rank: this process.
        flip_p: share of samples that are mirrored.
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
        flip_p: float = 0.5,
    ) -> None:
        self.resident = resident
        self.seed = seed
        self.batch_size = batch_size
        self.accumulation = accumulation
        self.world_size = world_size
        self.rank = rank
        self.flip_p = flip_p if resident.has_flips else 0.0
        self._generator = torch.Generator(device=resident.device)
        self._orders: dict[int, tuple[int, Tensor]] = {}

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
            One record for each micro-batch of this process.
        """
        drawn = [self._draw_concept(concept, step) for concept, step in zip(concepts, steps, strict=True)]
        return tuple(self._slice(drawn, tuple(concepts), micro) for micro in range(self.accumulation))

    def _draw_concept(self, concept: int, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw the global batch of one concept.

        Args:
            concept: position in the resident set.
            step: steps it has done.

        Returns:
            image (G,) int64, prompt (G,) int64, u (G,) float32, noises (2, G, C, h, w) float32.
        """
        resident, count = self.resident, self.global_batch
        self._generator.manual_seed(seed_for(self.seed, resident.tokens[concept], "step", step))
        uniform = torch.rand(3, count, generator=self._generator, device=resident.device)
        noises = torch.randn(2, count, *resident.latent_shape, generator=self._generator, device=resident.device)
        image = self._visit(concept, step * count, count)
        prompt = resident.prompt_start[image] + (uniform[1] * resident.prompt_count[image]).long()
        if self.flip_p > 0:
            image = image + (uniform[2] < self.flip_p) * resident.num_images
        return image, prompt, uniform[0], noises

    def _visit(self, concept: int, position: int, count: int) -> Tensor:
        """Images at positions of a concept's endless shuffled visit of its pictures.

        Args:
            concept: position in the resident set.
            position: first position.
            count: how many.

        Returns:
            (count,) int64 entries of unflipped images.
        """
        images = self.resident.image_count[concept]
        length = images * max(1, ORDER_CHUNK // images)
        pieces = []
        while count:
            chunk, offset = divmod(position, length)
            taken = min(count, length - offset)
            pieces.append(self._order(concept, chunk, images, length)[offset : offset + taken])
            position, count = position + taken, count - taken
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _order(self, concept: int, chunk: int, images: int, length: int) -> Tensor:
        """One chunk of the visit: whole epochs, each a fresh permutation.

        Args:
            concept: position in the resident set.
            chunk: number of the chunk.
            images: pictures of the concept.
            length: positions in a chunk, a multiple of ``images``.

        Returns:
            (length,) int64 entries of unflipped images.
        """
        cached = self._orders.get(concept)
        if cached is None or cached[0] != chunk:
            generator = torch.Generator(device=self.resident.device)
            generator.manual_seed(seed_for(self.seed, self.resident.tokens[concept], "order", chunk))
            keys = torch.rand(length // images, images, generator=generator, device=self.resident.device)
            cached = (chunk, keys.argsort(dim=1).flatten() + self.resident.image_start[concept])
            self._orders[concept] = cached
        return cached[1]

    def _slice(self, drawn: Sequence[tuple[Tensor, ...]], concepts: tuple[int, ...], micro: int) -> Draws:
        """The part of the global batches that this process sees in one micro-batch.

        Args:
            drawn: results of ``_draw_concept``.
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
            image=join([image[part] for image, _, _, _ in drawn]),
            prompt=join([prompt[part] for _, prompt, _, _ in drawn]),
            u=join([u[part] for _, _, u, _ in drawn]),
            posterior_noise=join([noises[0, part] for _, _, _, noises in drawn]),
            noise=join([noises[1, part] for _, _, _, noises in drawn]),
            concepts=concepts,
        )
