"""The contract of a family: how to call the parts of a diffusers pipeline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from textual_inversion_ext.config import Pooling
from textual_inversion_ext.errors import ConfigError, ModelError
from textual_inversion_ext.objectives import DiffusionObjective
from textual_inversion_ext.pipelines.canvas import Canvas
from textual_inversion_ext.pipelines.quiet import move
from textual_inversion_ext.records import Batch, Conditioning, EncoderSlot, Noised
from textual_inversion_ext.tokens import PromptEncoder, RowEmbedding, attached


class FamilyAdapter(ABC):
    """Calls the parts of one family of pipelines; one training loop serves every family.

    Constructing it freezes the pipeline's networks (``requires_grad`` False everywhere, ``eval()``): T5 encoders have
    dropout, and weight gradients of a frozen network would double the cost of the backward pass.

    Args:
        pipeline: a loaded pipeline of one of ``pipeline_classes``; its modules are used in place, not copied.

    Attributes:
        name: the family's name in files and messages.
        pipeline_classes: class names of the pipelines it can call.
        pipeline: the pipeline it was made from.
        slots: the text encoders in which rows are learned.
        readers: the other text encoders of the pipeline, which read the new words as plain text.
        pooling: where a prompt is pooled, for families whose denoiser takes a pooled vector.
        zero_negative: whether guidance without a negative prompt means zeros instead of the empty prompt.
        objective: how latents are noised and what the denoiser predicts.
        lora_layers: ends of the names of the denoiser's layers that a LoRA changes unless the user says otherwise.
        encoder_lora_layers: the same for the text encoders.
        native_resolution: side length in pixels that the model was trained for.
    """

    name: ClassVar[str]
    pipeline_classes: ClassVar[tuple[str, ...]]
    lora_layers: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")  # diffusers' attention
    encoder_lora_layers: ClassVar[tuple[str, ...]] = ("q_proj", "k_proj", "v_proj", "out_proj")  # CLIP's

    pipeline: DiffusionPipeline
    slots: tuple[EncoderSlot, ...]
    readers: tuple[EncoderSlot, ...] = ()
    pooling: Pooling = "end"
    zero_negative: bool = False
    objective: DiffusionObjective
    native_resolution: int

    def __init__(self, pipeline: DiffusionPipeline) -> None:
        self.pipeline = pipeline
        self._vae_dtype = pipeline.vae.dtype
        for module in self.networks():
            module.requires_grad_(False)
            module.eval()
        self._embeddings: dict[str, RowEmbedding] = {}
        self._recomputes = False  # whether gradient checkpointing was switched on here

    # ---- what a family says

    @abstractmethod
    def networks(self) -> tuple[torch.nn.Module, ...]:
        """Every network of the pipeline that training uses (denoiser, text encoders, VAE)."""

    @property
    @abstractmethod
    def denoiser(self) -> torch.nn.Module:
        """The network that predicts the target."""

    @abstractmethod
    def latents(self, moments: Tensor, noise: Tensor) -> Tensor:
        """Sample the VAE posterior and scale it as the denoiser expects.

        Args:
            moments: (B, 2C, h, w) float32 from ``moments``.
            noise: (B, C, h, w) float32, standard normal.

        Returns:
            (B, C, h, w) float32 latents.
        """

    @abstractmethod
    def encode(self, ids: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> Conditioning:
        """Encode prompts with the learned rows in place; equals the pipeline's own ``encode_prompt``.

        Args:
            ids: encoder key -> (B, L) int64 from ``PromptEncoder``, for ``slots`` and ``readers``.
            rows: encoder key -> (N, D) float32 learned rows, for ``slots``; gradients flow to them.

        Returns:
            The conditioning of the B prompts.

        Raises:
            RuntimeError: outside of ``attached()``.
        """

    @abstractmethod
    def predict(self, noised: Noised, conditioning: Conditioning, batch: Batch) -> Tensor:
        """Call the denoiser.

        Args:
            noised: the latents on the way to noise, and their timesteps.
            conditioning: the B prompts.
            batch: where ``noised`` is from, for what a denoiser takes besides (sizes, clean latents).

        Returns:
            (B, C, h, w) prediction, in the denoiser's dtype.
        """

    # ---- what all families share

    @torch.no_grad()
    def moments(self, pixels: Tensor) -> Tensor:
        """Encode pictures once, before training.

        Args:
            pixels: (B, 3, H, W) float32 in [-1, 1], on any device.

        Returns:
            (B, 2C, h, w) float32 on the training device, mean and standard deviation of the VAE posterior.
        """
        vae = self.pipeline.vae
        posterior = vae.encode(pixels.to(self.device, vae.dtype)).latent_dist
        return torch.cat([posterior.mean, posterior.std], dim=1).float()

    def to(self, device: torch.device | str, dtype: torch.dtype) -> FamilyAdapter:
        """Move the networks to the training device.

        The VAE becomes float32 until ``release_vae``: it runs once per picture, and float16 VAEs are known to overflow.

        Args:
            device: the training device.
            dtype: dtype of the frozen denoiser and text encoders.

        Returns:
            Itself.
        """
        for module in self.networks():
            move(module, device, torch.float32 if module is self.pipeline.vae else dtype)
        # Convolutions are faster in this layout (3-8 % of a tiny UNet's step on CPU); results differ by rounding only.
        self.denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.objective.to(device)
        return self

    @torch.no_grad()
    def pixels(self, latents: Tensor) -> Tensor:
        """Decode latents as the pipeline does, in the VAE's own dtype.

        Args:
            latents: (B, C, h, w), scaled as the denoiser gives them, on the VAE's device.

        Returns:
            (B, 3, H, W) in [-1, 1].
        """
        vae = self.pipeline.vae
        return vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]

    def text_to_image(self, size: tuple[int, int] | None) -> tuple[Any, dict[str, Any]]:
        """What makes pictures from text alone.

        Args:
            size: width and height in pixels, or None for the model's own.

        Returns:
            A pipeline, and what it must be given beside a prompt and a size.
        """
        return self.pipeline, {}

    def learn_in(self, encoders: str) -> None:
        """Learn rows in some of the text encoders only.

        The others read a new word as the plain text of its name. So does every program that loads a file without rows
        for them, so what is trained is what is shown.

        Args:
            encoders: "all", or keys separated by commas.

        Raises:
            ConfigError: a key is none of the model's.
        """
        everything = (*self.slots, *self.readers)
        known = [slot.key for slot in everything]
        keys = known if encoders.strip() == "all" else [key.strip() for key in encoders.split(",")]
        if not set(keys) <= set(known):
            raise ConfigError(f"encoders is {encoders!r}; this model has {', '.join(known)} (or all of them: all).")
        self.slots = tuple(slot for slot in everything if slot.key in keys)
        self.readers = tuple(slot for slot in everything if slot.key not in keys)

    def plain_encoders(self) -> dict[str, PromptEncoder]:
        """Prompt encoders of the text encoders in which nothing is learned.

        Returns:
            Encoder key -> prompt encoder that knows no placeholder.
        """
        return {slot.key: PromptEncoder(slot.tokenizer, {}) for slot in self.readers}

    def release_vae(self) -> None:
        """Take the VAE's weights off the training device, in their own dtype, once all moments are cached."""
        move(self.pipeline.vae, "cpu", self._vae_dtype)

    def give_back(self) -> None:
        """Leave a pipeline in which everything is in one place and of one dtype, so that it can make pictures."""
        move(self.pipeline.vae, self.device, self.dtype)
        if not self._recomputes:
            return
        denoiser: Any = self.denoiser
        denoiser.disable_gradient_checkpointing()
        for module in self._checkpointed():
            module.gradient_checkpointing = module.training = False

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        return next(self.denoiser.parameters()).device

    @property
    def size_multiple(self) -> int:
        """Pixels of which both sides of a picture should be multiples, so that every level of the denoiser halves them.

        Squares of the model's own size are; other shapes are made to be.
        """
        config, factor = self.denoiser.config, self.pipeline.vae_scale_factor
        return factor * getattr(config, "patch_size", 1) * 2 ** (len(getattr(config, "block_out_channels", (0,))) - 1)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the denoiser's weights."""
        return next(self.denoiser.parameters()).dtype

    @contextmanager
    def attached(self) -> Iterator[FamilyAdapter]:
        """Wrap the text encoders' input embeddings for the length of a ``with`` block, then put them back.

        Yields:
            Itself, now able to ``encode``.
        """
        with ExitStack() as stack:
            self._embeddings = {
                slot.key: stack.enter_context(attached(slot.text_encoder, slot.first_id)) for slot in self.slots
            }
            try:
                yield self
            finally:
                self._embeddings = {}

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations of denoiser and text encoders in the backward pass: less memory, more time."""
        # Nothing in a step is random but what was drawn before it, so no generator's state needs to be kept. The
        # reentrant kind would lose the gradient of hidden states that are taken out of the middle of an encoder.
        recompute = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
        denoiser: Any = self.denoiser
        denoiser.enable_gradient_checkpointing(recompute)
        self._recomputes = True
        for module in self._checkpointed():
            module.gradient_checkpointing = True
            module._gradient_checkpointing_func = recompute
            # transformers looks at this flag of the layer itself; its parts, with dropout, stay in eval mode.
            module.training = True

    def _checkpointed(self) -> list[Any]:
        """The layers of the text encoders whose activations can be recomputed."""
        layers = [module for slot in self.slots for module in slot.text_encoder.modules()]
        return [module for module in layers if isinstance(module, GradientCheckpointingLayer)]

    def _set_rows(self, rows: Mapping[str, Tensor]) -> None:
        """Put learned rows into the text encoders.

        Args:
            rows: encoder key -> (N, D) float32.
        """
        for slot in self.slots:
            self._embedding(slot.key).rows = rows[slot.key]

    def _embedding(self, key: str) -> RowEmbedding:
        """The wrapped input embedding of an encoder.

        Args:
            key: the encoder's key.

        Returns:
            The embedding that takes rows.

        Raises:
            RuntimeError: outside of ``attached()``.
        """
        if key not in self._embeddings:
            raise RuntimeError(f"encode() of {key!r} outside of `with adapter.attached():`; wrap the calls in it")
        return self._embeddings[key]

    @classmethod
    def accepts(cls, pipeline: object) -> bool:
        """Whether this family can call a pipeline (by class name, sub-classes included).

        Args:
            pipeline: any object.

        Returns:
            True when one of its classes is named in ``pipeline_classes``.
        """
        return any(base.__name__ in cls.pipeline_classes for base in type(pipeline).__mro__)


class UNetAdapter(FamilyAdapter):
    """What families with a UNet and a KL autoencoder share; the UNet may be an inpainting one (see ``Canvas``).

    Args:
        pipeline: a loaded pipeline.

    Attributes:
        text_pipeline: the pipeline class that makes pictures from text alone.

    Raises:
        ModelError: the UNet takes what training cannot give (depth).
    """

    text_pipeline: ClassVar[type[DiffusionPipeline]]

    def __init__(self, pipeline: Any) -> None:
        super().__init__(pipeline)
        self.objective = DiffusionObjective.from_scheduler(pipeline.scheduler)
        self._canvas = Canvas(pipeline, self._scaled)
        self.native_resolution = self._canvas.native_resolution

    @property
    def denoiser(self) -> torch.nn.Module:
        """The UNet."""
        return self.pipeline.unet

    def moments(self, pixels: Tensor) -> Tensor:
        """Encode pictures, and for inpainting the empty picture of their size; see the base class.

        Args:
            pixels: (B, 3, H, W) float32 in [-1, 1].

        Returns:
            (B, 2C, h, w) float32.
        """
        moments = super().moments(pixels)
        self._canvas.prepare(*moments.shape[-2:])
        return moments

    def latents(self, moments: Tensor, noise: Tensor) -> Tensor:
        """Sample the VAE posterior and scale it; see the base class.

        Args:
            moments: (B, 2C, h, w) float32.
            noise: (B, C, h, w) float32.

        Returns:
            (B, C, h, w) float32.
        """
        mean, std = moments.chunk(2, dim=1)
        return self._scaled(torch.addcmul(mean, std, noise))

    def text_to_image(self, size: tuple[int, int] | None) -> tuple[Any, dict[str, Any]]:
        """Paint whole pictures, with an inpainting model too; see the base class.

        Args:
            size: width and height in pixels, or None.

        Returns:
            A pipeline and its arguments.
        """
        return self._canvas.text_to_image(self.text_pipeline, size)

    def _scaled(self, latents: Tensor) -> Tensor:
        return latents * self.pipeline.vae.config.scaling_factor


def require_components(pipeline: DiffusionPipeline, names: tuple[str, ...]) -> None:
    """Check that a pipeline was loaded with the parts that training calls.

    Args:
        pipeline: a pipeline.
        names: attributes that must not be None.

    Raises:
        ModelError: naming what is missing.
    """
    missing = [name for name in names if getattr(pipeline, name, None) is None]
    if missing:
        raise ModelError(
            f"{type(pipeline).__name__} has no {', '.join(missing)}; training needs {', '.join(names)}. "
            "Load the pipeline with all of its components."
        )
