"""Start from the pictures: a short search through the CLIP model that the text encoder was cut out of."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.data.prompts.templates import TEMPLATES
from textual_inversion_ext.embedding_table import mean_norm
from textual_inversion_ext.errors import ConceptError, ModelError
from textual_inversion_ext.initializers.base import (
    Initializer,
    InitializerContext,
    mean_row,
    rows_of_ids,
    spread,
    token_ids_of,
    words_of,
)
from textual_inversion_ext.pipelines.twins import ClipTwin, clip_twin
from textual_inversion_ext.records import EncoderSlot
from textual_inversion_ext.tokens import PromptEncoder

logger = logging.getLogger(__name__)

TEMPLATES_PER_STEP = 9
"""Prompts of one step of the search; the steps go through the list of templates in turn."""


class ImagesInitializer(Initializer):
    """Rows whose text lies, for CLIP, where the pictures lie. No denoiser is called, so it takes seconds.

    The search begins at the concept's word, laid out as ``spread`` says; without a word, at the vocabulary's mean, made
    as long as a row of it. It needs the CLIP model whose text tower is the encoder, see ``pipelines/twins.py``;
    ``clip_model`` names it where it is not known. Where there is none, or it cannot be loaded, the rows start from the
    word, and a warning says why.

    Source: the idea, the spherical distance and the 100 steps are those of QuickEmbedding, a project without a paper or
    published measurements; that the rows keep their length is ours.
    """

    name = "images"

    def __call__(self, concept: ConceptSpec, slot: EncoderSlot, context: InitializerContext) -> Tensor:
        """Search rows for the pictures; see the base class.

        Args:
            concept: what is to be learned.
            slot: the text encoder in which.
            context: ``clip_model``, ``clip_init_steps`` and ``clip_init_learning_rate``; the pictures; the loader.

        Returns:
            (num_vectors, dim) float32 on the CPU.

        Raises:
            ConceptError: there are no pictures; or there is no twin and no word to fall back to.
        """
        token, config = concept.placeholder_token, context.config
        if not context.samples:
            raise ConceptError(f"{token}: initialization='images' needs the concept's pictures; it was given none.")
        try:
            twin = clip_twin(slot, context.load_clip, config.clip_model)
        except ModelError as error:
            if not words_of(concept):
                raise ConceptError(
                    f"{token}: the rows of {slot.key} cannot start from the pictures, and there is no word to start "
                    f"from instead: {error} Or give a word that comes close (--initializer_token)."
                ) from error
            logger.warning(
                "%s: the rows of %s start from the word %r, not from the pictures: %s",
                token,
                slot.key,
                words_of(concept),
                error,
            )
            return spread(rows_of_ids(slot, token_ids_of(concept, slot)), concept.num_vectors)
        start = self._beginning(concept, slot)
        began = time.perf_counter()
        search = Search(twin, concept, (sample.open() for sample in context.samples))
        rows = search.run(start, config.clip_init_steps, config.clip_init_learning_rate)
        logger.info(
            "%s: the rows of %s start from the pictures: for CLIP, the word is %.2f alike to them instead of %.2f "
            "(%d steps, %.1f s)",
            token,
            slot.key,
            search.similarity(rows),
            search.similarity(start),
            config.clip_init_steps,
            time.perf_counter() - began,
        )
        return rows

    def _beginning(self, concept: ConceptSpec, slot: EncoderSlot) -> Tensor:
        if words_of(concept):
            return spread(rows_of_ids(slot, token_ids_of(concept, slot)), concept.num_vectors)
        # The search keeps lengths, and the mean of a vocabulary is far shorter than its rows.
        length = mean_norm(slot.text_encoder, slot.first_id)
        return F.normalize(mean_row(slot), dim=-1).repeat(concept.num_vectors, 1) * length


class Search:
    """Moves rows until their text, in the templates of training, is for CLIP what the pictures are.

    AdamW on the rows; what falls is the mean spherical distance between the texts' features and the pictures' mean
    feature. After each step a row gets its length back: CLIP's text tower normalises what comes in, so length is free
    to grow without any gain in likeness (2 to 10 times, in a trial on the built-in world), and long rows are what makes
    learned words drown the rest of a prompt.

    Args:
        twin: the CLIP model.
        concept: its placeholder, vectors and templates.
        pictures: RGB pictures of any size, at least one.
    """

    def __init__(self, twin: ClipTwin, concept: ConceptSpec, pictures: Iterable[Image.Image]) -> None:
        token, first = concept.placeholder_token, twin.slot.first_id
        encoder = PromptEncoder(twin.slot.tokenizer, {token: range(first, first + concept.num_vectors)})
        templates = dict.fromkeys(TEMPLATES[concept.learnable_property])  # each once
        self.twin = twin
        self.prompts = encoder.encode([template.format(token) for template in templates])
        self.target = F.normalize(twin.image_features(pictures).mean(0), dim=-1)

    def run(self, start: Tensor, steps: int, learning_rate: float) -> Tensor:
        """Search.

        Args:
            start: (n, D) float32 rows to begin with.
            steps: steps of AdamW.
            learning_rate: at the first step, falling to 0 in a straight line. It is counted in units of a row's mean
                size per dimension, so that one number suits every vocabulary.

        Returns:
            (n, D) float32 on the CPU, each as long as the row it began with.
        """
        unit = start.norm(dim=-1, keepdim=True).to(self.twin.device) / start.shape[1] ** 0.5
        scaled = (start.to(self.twin.device) / unit).requires_grad_(True)
        optimizer = torch.optim.AdamW([scaled], lr=learning_rate, weight_decay=0.0)
        count = len(self.prompts)
        size = min(TEMPLATES_PER_STEP, count)
        for step in range(steps):
            prompts = self.prompts[[(step * size + place) % count for place in range(size)]]
            loss = spherical_distance(self.twin.text_features(prompts, scaled * unit), self.target).mean()
            (scaled.grad,) = torch.autograd.grad(loss, [scaled])
            optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
            optimizer.step()
            with torch.no_grad():
                scaled.mul_(start.shape[1] ** 0.5 / scaled.norm(dim=-1, keepdim=True))
        return (scaled.detach() * unit).cpu()

    @torch.no_grad()
    def similarity(self, rows: Tensor) -> float:
        """How alike text and pictures are for CLIP.

        Args:
            rows: (n, D) float32.

        Returns:
            Mean cosine between the texts' features, over all templates, and the pictures' mean feature.
        """
        return float((self.twin.text_features(self.prompts, rows.to(self.twin.device)) @ self.target).mean())


def spherical_distance(texts: Tensor, target: Tensor) -> Tensor:
    """Squared angle between unit vectors, halved: unlike 1 - cosine its gradient does not fade where they differ most.

    Args:
        texts: (B, P) float32 unit vectors.
        target: (P,) float32 unit vector.

    Returns:
        (B,) float32.
    """
    return 2 * ((texts - target).norm(dim=-1) / 2).asin().square()
