"""The order in which a concept's pictures are shown: a pure function of seed, token and position."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

from textual_inversion_ext.data.resident import ResidentSet
from textual_inversion_ext.data.seeds import seed_for

ORDER_CHUNK = 4096  # image positions shuffled at a time: rare enough to cost nothing, small enough to cost no memory


class Visits:
    """Shows pictures without replacement: each one once an epoch, in an order shuffled anew.

    The batch of a step comes from one bucket. Buckets take turns in proportion to their pictures, so that each picture
    is shown as often as any other, in an order that is shuffled anew as well.

    Args:
        resident: the training set.
        seed: the run's seed.
    """

    def __init__(self, resident: ResidentSet, seed: int) -> None:
        self.resident = resident
        self.seed = seed
        self._orders: dict[tuple[int, int], tuple[int, Tensor]] = {}
        self._turns: dict[int, tuple[int, list[int]]] = {}

    def bucket(self, concept: int, step: int) -> tuple[int, int]:
        """Which bucket serves a step.

        Args:
            concept: position in the resident set.
            step: steps it has done.

        Returns:
            The bucket, and how many earlier steps of the concept it has served.
        """
        counts = [bucket.image_count[concept] for bucket in self.resident.buckets]
        used = [place for place, count in enumerate(counts) if count]
        if len(used) == 1:
            return used[0], step
        common = math.gcd(*counts)
        cycle, place = divmod(step, sum(counts) // common)
        cached = self._turns.get(concept)
        if cached is None or cached[0] != cycle:
            turns = [bucket for bucket in used for _ in range(counts[bucket] // common)]
            random.Random(seed_for(self.seed, self.resident.tokens[concept], "bucket", cycle)).shuffle(turns)
            cached = self._turns[concept] = (cycle, turns)
        bucket = cached[1][place]
        return bucket, cycle * (counts[bucket] // common) + cached[1][:place].count(bucket)

    def images(self, concept: int, bucket: int, position: int, count: int) -> Tensor:
        """Images at positions of a concept's endless shuffled visit of its pictures in a bucket.

        Args:
            concept: position in the resident set.
            bucket: which bucket.
            position: first position.
            count: how many.

        Returns:
            (count,) int64 entries of unflipped images in their first cut.
        """
        images = self.resident.buckets[bucket].image_count[concept]
        length = images * max(1, ORDER_CHUNK // images)
        pieces = []
        while count:
            chunk, offset = divmod(position, length)
            taken = min(count, length - offset)
            pieces.append(self._order(concept, bucket, chunk, length)[offset : offset + taken])
            position, count = position + taken, count - taken
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _order(self, concept: int, bucket: int, chunk: int, length: int) -> Tensor:
        """One chunk of the visit: whole epochs, each a fresh permutation.

        Args:
            concept: position in the resident set.
            bucket: which bucket.
            chunk: number of the chunk.
            length: positions in a chunk, a multiple of the concept's pictures in the bucket.

        Returns:
            (length,) int64 entries of unflipped images in their first cut.
        """
        cached = self._orders.get((concept, bucket))
        if cached is None or cached[0] != chunk:
            pictures = self.resident.buckets[bucket]
            images = pictures.image_count[concept]
            # Named after its shape, not its number: which buckets there are depends on the other concepts too.
            alone = images == self.resident.image_count[concept]
            purpose = "order" if alone else f"order of {pictures.latent_shape}"
            generator = torch.Generator(device=self.resident.device)
            generator.manual_seed(seed_for(self.seed, self.resident.tokens[concept], purpose, chunk))
            keys = torch.rand(length // images, images, generator=generator, device=self.resident.device)
            cached = (chunk, keys.argsort(dim=1).flatten() + pictures.image_start[concept])
            self._orders[concept, bucket] = cached
        return cached[1]
