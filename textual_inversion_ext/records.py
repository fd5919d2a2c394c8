"""What one stage hands to the next: frozen records, every field with its shape and dtype.

Importing this module imports no torch. Letters used in shapes: ``B`` samples in a micro-batch, ``S`` concepts in it,
``N`` learned rows of all concepts, ``L`` tokens in a prompt, ``D`` width of a text encoder, ``(C, h, w)`` latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from textual_inversion_ext.concept import LearnedConcept


@dataclass(frozen=True, slots=True)
class EncoderSlot:
    """One text encoder of a pipeline in which rows are learned.

    Attributes:
        key: the encoder's name in embedding files (``"clip_l"``, ``"clip_g"``, ``"t5"``).
        tokenizer: its tokenizer; never changed.
        text_encoder: its model; its input embedding is wrapped while training, its weights never change.
    """

    key: str
    tokenizer: PreTrainedTokenizerBase
    text_encoder: PreTrainedModel

    @property
    def dim(self) -> int:
        """Width ``D`` of a row."""
        return self.text_encoder.get_input_embeddings().weight.shape[1]

    @property
    def first_id(self) -> int:
        """Id of learned row 0. Not the table's height: a table may be longer than its tokenizer's vocabulary."""
        return len(self.tokenizer)


@dataclass(frozen=True, slots=True)
class Draws:
    """Everything random about one micro-batch of one process, drawn before the step.

    Samples are ordered by concept: ``B = S * train_batch_size``; the first ``train_batch_size`` are the first one's.

    Attributes:
        concept: (B,) int64, position of the sample's concept in the resident set.
        image: (B,) int64, entry of the bucket's latents (other cuts and flipped entries included).
        prompt: (B,) int64, entry of the resident set's prompt ids.
        u: (B,) float32 in [0, 1], becomes a timestep.
        posterior_noise: (B, C, h, w) float32, standard normal, for sampling the VAE posterior.
        noise: (B, C, h, w) float32, standard normal, what the denoiser has to find.
        concepts: the S distinct concepts, in the order of the samples (host integers); ``concept`` repeats them.
        bucket: which bucket of the resident set all of it comes from (host integer); pictures of two shapes cannot
            share a forward pass.
    """

    concept: Tensor
    image: Tensor
    prompt: Tensor
    u: Tensor
    posterior_noise: Tensor
    noise: Tensor
    concepts: tuple[int, ...]
    bucket: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch gathered from the resident set.

    Attributes:
        latents: (B, C, h, w) float32, clean, scaled as the denoiser expects.
        ids: encoder key -> (B, L) int64 prompt token ids; learned rows have ids from ``EncoderSlot.first_id`` on.
        concept: (B,) int64, position of the sample's concept in the resident set.
        mask: (B, 1, h, w) float32 weights of the loss at latent resolution, or None for 1 everywhere.
        sizes: (B, 6) float32, what Stable Diffusion XL is told of a picture: original height and width, crop top and
            left, target height and width, in pixels; or None for whole pictures of just the latents' size.
    """

    latents: Tensor
    ids: Mapping[str, Tensor]
    concept: Tensor
    mask: Tensor | None = None
    sizes: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Noised:
    """Latents on the way to noise, and what the denoiser should answer.

    Attributes:
        latents: (B, C, h, w) float32, noised.
        timesteps: (B,) int64 in [0, number of training timesteps).
        noise: (B, C, h, w) float32, what was added.
        target: (B, C, h, w) float32, the right answer for the objective's prediction type.
    """

    latents: Tensor
    timesteps: Tensor
    noise: Tensor
    target: Tensor


@dataclass(frozen=True, slots=True)
class Conditioning:
    """Prompts as the denoiser takes them.

    Attributes:
        hidden_states: (B, L, D) in the text encoder's dtype, one vector a token.
        pooled: (B, P) one vector a prompt, or None where the family has none.
    """

    hidden_states: Tensor
    pooled: Tensor | None = None


@dataclass(frozen=True, slots=True)
class StepLog:
    """What one optimizer step did; tensors stay on the device until somebody logs them.

    Attributes:
        concepts: the S concepts that were in the step (host integers), in the order of ``loss``.
        loss: (S,) float32, mean over the concept's samples of this step, all processes and micro-batches.
        finite: (S,) bool, False where the concept's update was held back because loss or gradient was not finite.
    """

    concepts: tuple[int, ...]
    loss: Tensor
    finite: Tensor


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a finished training run hands back.

    Attributes:
        concepts: the learned concepts, in the order they were given.
        losses: token -> losses at the logged steps.
        eval_losses: token -> steps and losses of its evaluations.
        steps: token -> optimizer steps done for it.
        best_steps: token -> step of its lowest evaluation loss; only tokens that were evaluated.
        seconds: wall seconds of the training loop.
        stop_reasons: token -> why it stopped.
        diverged: token -> step at which its numbers were no longer finite; its rows are those of the step before. Only
            tokens with which this happened.
    """

    concepts: tuple[LearnedConcept, ...]
    losses: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    eval_losses: Mapping[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    steps: Mapping[str, int] = field(default_factory=dict)
    best_steps: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    stop_reasons: Mapping[str, str] = field(default_factory=dict)
    diverged: Mapping[str, int] = field(default_factory=dict)
