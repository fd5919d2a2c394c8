"""What decides how pictures turn out: the rows of the words, the settings, and the model with all that is loaded in it.

Two galleries share a picture only where all of it agrees, so a fingerprint may change too often but never too seldom.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.evaluation.findings import rows_hash
from textual_inversion_ext.pipelines.sampling import SampleSettings

__all__ = ["fingerprint_of", "model_fingerprint", "rows_fingerprint"]

_SAMPLED = 32  # values of each tensor; training and merging change nearly all of them
_LENGTH = 16  # hexadecimal digits


def fingerprint_of(facts: object) -> str:
    """Fingerprint JSON values.

    Args:
        facts: Texts, numbers, None, and lists and dicts of them.

    Returns:
        16 hexadecimal digits.
    """
    text = json.dumps(facts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:_LENGTH]


def rows_fingerprint(concepts: Sequence[LearnedConcept]) -> str:
    """Fingerprint learned words.

    Args:
        concepts: The concepts; their order counts.

    Returns:
        16 hexadecimal digits; metadata do not enter.
    """
    total = hashlib.sha256()
    for concept in concepts:
        total.update(json.dumps([concept.token, rows_hash(concept.vectors)], ensure_ascii=False).encode("utf-8"))
    return total.hexdigest()[:_LENGTH]


def settings_facts(settings: SampleSettings) -> dict[str, Any]:
    """The settings that a picture depends on.

    Args:
        settings: How it is made.

    Returns:
        JSON values; how many pictures are made at a time is none of them.
    """
    return {
        "num_inference_steps": settings.num_inference_steps,
        "guidance_scale": settings.guidance_scale,
        "negative_prompt": settings.negative_prompt,
        "size": None if settings.size is None else list(settings.size),
    }


@torch.no_grad()
def model_fingerprint(pipeline: DiffusionPipeline) -> str:
    """Fingerprint a pipeline as it is now: weights, LoRAs and their strength, sampler, tokenizers, number format.

    Of each tensor a few values are read, evenly spread, so that a model of gigabytes takes a moment; rows of words that
    were added to a tokenizer are read whole. The device does not enter: pictures of one seed differ between devices by
    rounding only.

    Args:
        pipeline: A loaded pipeline.

    Returns:
        16 hexadecimal digits.
    """
    total = hashlib.sha256(f"{type(pipeline).__name__} {_options(pipeline.config)}".encode())
    for name, part in sorted(pipeline.components.items()):
        total.update(f"\n{name} {type(part).__name__}".encode())
        if isinstance(part, nn.Module):
            _add_module(total, part)
            tokenizer = pipeline.components.get(name.replace("text_encoder", "tokenizer"))
            if name.startswith("text_encoder") and tokenizer is not None:
                _add_new_rows(total, part, tokenizer)
        elif hasattr(part, "backend_tokenizer"):
            state = json.loads(part.backend_tokenizer.to_str())
            # How the last caller wanted its texts padded and cut is kept there too.
            words = {key: value for key, value in state.items() if key not in ("padding", "truncation")}
            total.update(json.dumps(words, sort_keys=True).encode("utf-8"))
        elif name == "scheduler":
            total.update(_options(part.config).encode("utf-8"))
    return total.hexdigest()[:_LENGTH]


def _options(config: Any) -> str:
    # Names with an underscore are about the file, and one of them is a set in another order in every process.
    return str(sorted((name, str(value)) for name, value in config.items() if not name.startswith("_")))


def _add_module(total: Any, module: nn.Module) -> None:
    values: list[Tensor] = []
    for name, tensor in _tensors(module):
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().reshape(-1)
        # Not a whole divisor of the widths of layers: else only the first values of rows would be read.
        stride = max(1, flat.numel() // _SAMPLED) | 1
        values.append(flat[::stride].float())
    if values:
        total.update(torch.cat(values).cpu().numpy().tobytes())
    for name, layer in module.named_modules():
        # The strength of a LoRA is no tensor; see `BaseTunerLayer` of peft.
        if isinstance(getattr(layer, "scaling", None), dict):
            active = sorted(getattr(layer, "active_adapters", []))
            off = getattr(layer, "disable_adapters", False)
            total.update(f"{name} {sorted(layer.scaling.items())} {active} {off}".encode())


def _add_new_rows(total: Any, encoder: Any, tokenizer: Any) -> None:
    """Read the rows of words that are not the tokenizer's own: another word in their place changes nothing else."""
    rows = encoder.get_input_embeddings().weight.detach()[tokenizer.vocab_size :]
    total.update(rows.float().cpu().numpy().tobytes())


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()
