"""Tiny real pipelines, built in memory in hundredths of a second: no test needs a network or a file of weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.config import Pooling, TextualInversionConfig
from textual_inversion_ext.data.resident import ResidentSet, build_resident_set
from textual_inversion_ext.data.sources.collect import collect_samples
from textual_inversion_ext.families import FamilyAdapter, adapter_for
from textual_inversion_ext.initializers import InitializerContext, initial_rows
from textual_inversion_ext.parametrizations import FreeRows, UpdateSettings
from textual_inversion_ext.records import StepLog
from textual_inversion_ext.row_layout import prompt_encoders
from textual_inversion_ext.training.draws import DrawSource, make_draws
from textual_inversion_ext.training.image_words import with_image_rows
from textual_inversion_ext.training.methods import make_parametrizations
from textual_inversion_ext.training.penalties import make_penalties
from textual_inversion_ext.training.plan import Plan, make_plan
from textual_inversion_ext.training.step import TrainingStep

MAX_LENGTH = 24  # room for the longest template and 8 vectors
WORDS = ("cat", "dog", "clock", "teapot", "photo", "painting", "red", "blue", "beach")


def tiny_tokenizer(max_length: int = MAX_LENGTH) -> CLIPTokenizer:
    """Real CLIP tokenizer whose vocabulary is the letters, a few whole words and the two special tokens."""
    letters = [chr(code) for code in range(33, 127)]
    vocabulary = [*letters, *(letter + "</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            pair = (pieces[0], pieces[1])
            if pair not in merges:
                merges.append(pair)
                vocabulary.append("".join(pair))
            pieces[:2] = ["".join(pair)]
    vocabulary = [*dict.fromkeys(vocabulary), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={piece: number for number, piece in enumerate(vocabulary)}, merges=merges, model_max_length=max_length
    )


def tiny_text_encoder(tokenizer: CLIPTokenizer, width: int = 16, layers: int = 2) -> CLIPTextModel:
    """Real CLIP text model that fits the tokenizer."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config).eval()


def tiny_unet(width: int = 16, sample_size: int = 8, in_channels: int = 4) -> UNet2DConditionModel:
    """Real conditional UNet with cross-attention on its lower level; inpainting ones have 9 input channels."""
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=4,
        norm_num_groups=4,
    ).eval()


def tiny_vae() -> AutoencoderKL:
    """Real KL autoencoder that halves the picture."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
    ).eval()


def tiny_pipeline(prediction_type: str = "epsilon", seed: int = 0, **components: Any) -> StableDiffusionPipeline:
    """A whole Stable Diffusion pipeline with random weights: 16x16 pictures, 8x8 latents, prompts of 24 tokens.

    Args:
        prediction_type: "epsilon" or "v_prediction".
        seed: seed of the weights; the global generator is left as it was.
        **components: components to use instead of the tiny ones.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = components.pop("tokenizer", None) or tiny_tokenizer()
        parts = {
            "tokenizer": tokenizer,
            "text_encoder": components.pop("text_encoder", None) or tiny_text_encoder(tokenizer),
            "unet": tiny_unet(),
            "vae": tiny_vae(),
            "scheduler": DDIMScheduler(
                beta_schedule="scaled_linear",
                beta_start=0.00085,
                beta_end=0.012,
                clip_sample=False,
                set_alpha_to_one=False,
                steps_offset=1,
                prediction_type=prediction_type,
            ),
        }
    pipeline = StableDiffusionPipeline(
        **{**parts, **components},
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_images(count: int = 3, size: int = 16, seed: int = 0) -> list[Image.Image]:
    """Noise pictures, all different."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return [Image.fromarray(picture) for picture in pixels]


@dataclass
class TinyRun:
    """Everything that a training step needs, around one tiny pipeline."""

    adapter: FamilyAdapter
    specs: list[ConceptSpec]
    resident: ResidentSet
    draws: DrawSource
    step: TrainingStep
    plan: Plan
    done: int = 0
    logs: list[StepLog] = field(default_factory=list)

    def steps(
        self, count: int, lr: float = 1e-2, concepts: tuple[int, ...] | None = None, frozen: Sequence[int] = ()
    ) -> None:
        """Do optimizer steps with all rows active but the frozen ones; logs are kept in `logs`."""
        concepts = tuple(range(len(self.specs))) if concepts is None else concepts
        rows = self.step.age.shape[0]
        active = torch.tensor([row not in frozen for row in range(rows)])
        self.logs = []
        with self.adapter.attached():
            for _ in range(count):
                drawn = self.draws.draw(concepts, [self.done] * len(concepts))
                joined = self.plan.activation.mask([self.done] * len(self.specs))
                self.logs.append(self.step(drawn, torch.full((rows,), lr), active & joined, self.done))
                self.done += 1

    @property
    def rows(self) -> torch.Tensor:
        """Copy of the learned rows, (N, dim); those of several text encoders side by side."""
        return torch.cat(list(self.step.rows().values()), dim=1).clone()


def tiny_run(
    specs: list[ConceptSpec] | None = None,
    *,
    batch_size: int = 2,
    accumulation: int = 1,
    pipeline: Any = None,
    encoders: str = "all",
    pooling: Pooling = "end",
    gradient_checkpointing: bool = False,
    dtype: torch.dtype = torch.float32,
    settings: UpdateSettings | None = None,
    config: TextualInversionConfig | None = None,
    reduce: Callable[[torch.Tensor], torch.Tensor] | None = None,
    world_size: int = 1,
    rank: int = 0,
) -> TinyRun:
    """Set up training of some concepts (default: one of two vectors) on a tiny pipeline.

    What a method is made of (rows, optimizer, penalties, weights of the loss) comes from `config`; `settings` replaces
    the rows by free ones with these hyper-parameters.
    """
    config = config or TextualInversionConfig()
    specs = specs or [ConceptSpec("<corgi>", tiny_images(3), "dog", num_vectors=2)]
    adapter = adapter_for(pipeline or tiny_pipeline()).to("cpu", dtype)
    adapter.learn_in(encoders)
    adapter.pooling = pooling
    adapter.objective = adapter.objective.weighted(config.snr_gamma)
    if gradient_checkpointing:
        adapter.enable_gradient_checkpointing()
    samples = [sample for i, spec in enumerate(specs) for sample in collect_samples(spec, config, concept=i)[0]]
    plan = make_plan(config, specs, samples, batch_size * accumulation * world_size, "cpu")
    readers = {**prompt_encoders(adapter.slots, specs, plan.image_counts), **adapter.plain_encoders()}
    resident = build_resident_set(adapter, specs, samples, readers, config, plan.activation.levels)
    context = InitializerContext()
    initial = {slot.key: torch.cat([initial_rows(spec, slot, context) for spec in specs]) for slot in adapter.slots}
    initial = with_image_rows(initial, adapter.slots, specs, plan.image_counts)
    drawn = replace(config, seed=0, train_batch_size=batch_size, gradient_accumulation_steps=accumulation)
    draws = make_draws(drawn, resident, plan.activation, world_size, rank)
    rows = make_parametrizations(config, adapter, initial, resident.device)
    if settings is not None:
        rows = {key: FreeRows(first, settings) for key, first in initial.items()}
    step = TrainingStep(
        adapter,
        resident,
        rows,
        plan.row_concept,
        loss_scaling=dtype == torch.float16,
        reduce=reduce,
        world_size=world_size,
        penalties=make_penalties(config, specs, adapter, readers, initial, plan.rows, plan.row_concept),
        max_grad_norm=config.max_grad_norm,
        ema_decay=config.ema_decay,
    )
    return TinyRun(adapter, specs, resident, draws, step, plan)
