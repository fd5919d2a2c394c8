"""Short runs that train a LoRA beside the word, and what plain diffusers makes of their files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.tiny import tiny_images, tiny_pipeline
from tests.tiny_families import tiny_sdxl
from textual_inversion_ext import ConceptSpec, TextualInversionConfig, TextualInversionTrainer
from textual_inversion_ext.files import load_concept
from textual_inversion_ext.pipelines.lora import LORA_FILE
from textual_inversion_ext.pipelines.sampling import stack_rows, word_encoders
from textual_inversion_ext.training.callbacks import Callback, Run

PROMPTS = ["a photo of a <tok>", "a red cat on the beach"]
SDXL_EOS = len(tiny_sdxl().tokenizer_2) - 1  # pools at the true end, so plain diffusers does too
PIPELINES: dict[str, Callable[[], Any]] = {"sd": tiny_pipeline, "sdxl": lambda: tiny_sdxl(eos_token_id=SDXL_EOS)}

FAST = {"lora_learning_rate": 1e-2, "text_encoder_lr": 1e-2}


class Seen(Callback):
    """What the live model answers when training is over, and how rows and LoRA looked at every step."""

    def __init__(self) -> None:
        self.rows: list[torch.Tensor] = []
        self.answers: tuple[torch.Tensor, ...] = ()
        self.frozen_in_use = True

    def on_step(self, run: Run) -> None:
        self.rows.append(torch.cat(list(run.learned()[0].vectors.values()), dim=1))

    @torch.no_grad()
    def on_end(self, run: Run) -> None:
        learned = run.learned()
        encoders = word_encoders(run.adapter, learned)
        ids = {key: encoder.encode(PROMPTS) for key, encoder in encoders.items()}
        conditioning = run.adapter.encode(ids, stack_rows(run.adapter, learned))
        self.answers = answers(run.adapter.pipeline, conditioning.hidden_states, conditioning.pooled)


def answers(pipeline: Any, hidden_states: torch.Tensor, pooled: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    """Encodings, and what the denoiser makes of them."""
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)).to(pipeline.unet.dtype)
    told = None
    if pooled is not None:
        told = {"text_embeds": pooled, "time_ids": torch.tensor([[16.0, 16, 0, 0, 16, 16]] * 2)}
    prediction = pipeline.unet(latents, torch.tensor([900, 5]), hidden_states, added_cond_kwargs=told)[0]
    return tuple(tensor for tensor in (hidden_states, pooled, prediction) if tensor is not None)


@torch.no_grad()
def plain_answers(pipeline: Any) -> tuple[torch.Tensor, ...]:
    """The same through diffusers' own pipeline."""
    pipeline.unet.to(memory_format=torch.channels_last)  # as in training: another layout rounds differently
    if hasattr(pipeline, "text_encoder_2"):
        encoded, _, pooled, _ = pipeline.encode_prompt(PROMPTS, device="cpu", do_classifier_free_guidance=False)
        return answers(pipeline, encoded, pooled)
    return answers(pipeline, pipeline.encode_prompt(PROMPTS, "cpu", 1, False)[0], None)


def load_plainly(pipeline: Any, out: Path) -> Any:
    """Load word and LoRA with diffusers alone, as its documentation says."""
    pipeline.load_lora_weights(str(out))
    pipeline.load_textual_inversion(str(out))
    if hasattr(pipeline, "text_encoder_2"):
        second = {"text_encoder": pipeline.text_encoder_2, "tokenizer": pipeline.tokenizer_2}
        pipeline.load_textual_inversion(str(out), weight_name="learned_embeds_2.safetensors", **second)
    return pipeline


def trained(
    out: Path, pipeline: Any = None, callbacks: tuple[Callback, ...] = (), initializer: str = "cat", **settings: Any
) -> Any:
    config = TextualInversionConfig(
        **{
            **{"output_dir": out, "max_train_steps": 6, "train_batch_size": 2, "logging_steps": 2, "eval_steps": 0},
            **{**FAST, **settings},
        }
    )
    concepts = [ConceptSpec("<tok>", tiny_images(3), initializer, num_vectors=2)]
    return TextualInversionTrainer(config, concepts, pipeline=pipeline or tiny_pipeline(), callbacks=callbacks).train()


def rows_of(out: Path) -> torch.Tensor:
    return torch.cat(list(load_concept(out).vectors.values()), dim=1)


def assert_same_files(one: Path, other: Path, **tolerance: float) -> None:
    """Rows and LoRA of two folders are equal, bit for bit unless a tolerance is given."""
    first, second = load_file(one / LORA_FILE), load_file(other / LORA_FILE)
    assert list(first) == list(second) and len(first) > 0
    pairs = [(rows_of(one), rows_of(other)), *((first[name], second[name]) for name in first)]
    for mine, yours in pairs:
        torch.testing.assert_close(mine, yours, **(tolerance or {"rtol": 0, "atol": 0}))


def everything(pipeline: Any) -> dict[str, Any]:
    """Weights, modules, what requires or has a gradient, and whether peft was here, of every network."""
    modules = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    return {
        name: (
            {key: value.clone() for key, value in module.state_dict().items()},
            {key: id(part) for key, part in module.named_modules()},
            [key for key, value in module.named_parameters() if value.requires_grad or value.grad is not None],
            hasattr(module, "peft_config"),
        )
        for name, module in modules.items()
    }
