"""Load a diffusers pipeline, with an answer to what usually goes wrong."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from safetensors import SafetensorError

from textual_inversion_ext.errors import ModelError, StorageError
from textual_inversion_ext.families.base import FamilyAdapter
from textual_inversion_ext.files import load_concept
from textual_inversion_ext.pipelines.lora import fuse_lora
from textual_inversion_ext.pipelines.quiet import move, unwarned
from textual_inversion_ext.pipelines.words.pooling import pool_at_end
from textual_inversion_ext.pipelines.words.slots import slots_of


def load_pipeline(
    name_or_path: str | Path = "pocket",
    *,
    revision: str | None = None,
    variant: str | None = None,
    tokenizer_name: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    safety_checker: bool = True,
) -> DiffusionPipeline:
    """Load a whole pipeline.

    Args:
        name_or_path: Hub id, folder in diffusers format, or "pocket" for the built-in world.
        revision: Branch, tag or commit on the Hub; holds for every part of the model.
        variant: Variant of the weight files, for example "fp16".
        tokenizer_name: Another tokenizer than the model's own (id or folder).
        dtype: Number format of the weights.
        device: Where the weights go.
        safety_checker: Whether to load the model's safety checker if it has one; training has no use for it.

    Returns:
        The pipeline.

    Raises:
        ModelError: There is no such model, or it is no diffusers pipeline.
    """
    pipeline: Any  # diffusers leaves most of a pipeline's methods untyped.
    name = str(name_or_path)
    extra = {} if tokenizer_name is None else {"tokenizer": _load_tokenizer(tokenizer_name)}
    if name == "pocket":
        # Imported here: the built-in world is an application of this library, and only this name asks for it.
        from textual_inversion_ext.pocket import load_pipeline as load_pocket

        pipeline = load_pocket()
        pipeline.register_modules(**extra)
        pipeline.register_to_config(_name_or_path=name)
    else:
        pipeline = _load_from_files(name, revision, variant, safety_checker, extra)
    return move(pipeline, device, dtype)


def load_clip(name_or_path: str | Path) -> tuple[Any, Any]:
    """Load a CLIP model with both of its towers.

    Args:
        name_or_path: Hub id, folder in transformers format, or "pocket" for the built-in world's.

    Returns:
        ``CLIPModel`` in float32 on the CPU, frozen and in ``eval()``, and its ``CLIPProcessor``.

    Raises:
        ModelError: There is no such model, or it is no CLIP model.
    """
    name = str(name_or_path)
    if name == "pocket":
        from textual_inversion_ext.pocket import load_clip as load_pocket

        model, processor = load_pocket()
        return model.requires_grad_(False), processor
    # Not CLIPModel itself: it reads the weights of any other model too, and makes up what it does not find.
    from transformers import AutoConfig, CLIPModel, CLIPProcessor

    try:
        kind = AutoConfig.from_pretrained(name).model_type
        if kind != "clip":
            raise ModelError(
                f"{name!r} is a {kind} model; a CLIP model is needed, such as 'openai/clip-vit-base-patch32'."
            )
        model, told = CLIPModel.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
        if told["missing_keys"]:
            raise ModelError(
                f"{name!r} lacks weights of a CLIP model: {', '.join(sorted(told['missing_keys'])[:3])}, ..."
            )
        return model.eval().requires_grad_(False), CLIPProcessor.from_pretrained(name)
    except ModelError:
        raise
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"Cannot load the CLIP model {name!r}: {_first_lines(error)}") from error


def documented_sampling(name_or_path: str | Path, pipeline: DiffusionPipeline | None = None) -> tuple[int, float]:
    """How a model is sampled where the user does not say.

    Args:
        name_or_path: As for `load_pipeline`.
        pipeline: The loaded model.

    Returns:
        Denoising steps and guidance scale: those of the built-in world for "pocket", else the defaults of diffusers'
        pipeline class (7.5 for Stable Diffusion, 5.0 for Stable Diffusion XL); without a pipeline the former.
    """
    if str(name_or_path) == "pocket":
        from textual_inversion_ext.pocket import GUIDANCE_SCALE, NUM_INFERENCE_STEPS

        return NUM_INFERENCE_STEPS, GUIDANCE_SCALE
    told = {} if pipeline is None else inspect.signature(type(pipeline).__call__).parameters
    steps, guidance = (
        told[name].default if name in told else None for name in ("num_inference_steps", "guidance_scale")
    )
    return (steps if isinstance(steps, int) else 50, float(guidance) if isinstance(guidance, int | float) else 7.5)


def save_full_pipeline(
    adapter: FamilyAdapter, embedding_files: Sequence[Path], folder: Path, lora: Path | None = None
) -> None:
    """Save a whole model with learned words built in, for ``from_pretrained(folder)``.

    The pipeline itself is left as it was: tokenizers and text encoders are copied before the words are added.

    Args:
        adapter: Calls the pipeline.
        embedding_files: Files in diffusers format, one per concept; those of further encoders are found beside them.
        folder: Where the model goes.
        lora: A LoRA file to be added to the weights for good, or None.

    Raises:
        StorageError: The model cannot be written.
    """
    pipeline: Any = adapter.pipeline
    ours = [part for slot in slots_of(pipeline).values() for part in (slot.tokenizer, slot.text_encoder)]
    ours += [adapter.denoiser] if lora is not None else []
    parts = {
        name: copy.deepcopy(part) if any(part is own for own in ours) else part
        for name, part in pipeline.components.items()
    }
    kept = ("requires_safety_checker", "force_zeros_for_empty_prompt", "requires_aesthetics_score")
    settings = {name: pipeline.config[name] for name in kept if name in pipeline.config}
    whole: Any = type(pipeline)(**parts, **settings)
    for concept in [load_concept(file) for file in embedding_files]:
        for slot in slots_of(whole).values():
            if slot.key in concept.vectors:
                rows = {concept.token: concept.vectors[slot.key]}
                whole.load_textual_inversion(rows, tokenizer=slot.tokenizer, text_encoder=slot.text_encoder)
    if lora is not None:
        fuse_lora(whole, lora)
    if adapter.pooling == "end":  # as it was trained; the saved configuration says so to plain diffusers, too
        for slot in slots_of(whole).values():
            pool_at_end(slot)
    try:
        whole.save_pretrained(folder)
    except OSError as error:
        raise StorageError(
            f"cannot write the model to {folder}: {error}. Free some space, or save it later."
        ) from error


def _load_from_files(
    name: str,
    revision: str | None,
    variant: str | None,
    safety_checker: bool,
    extra: dict[str, Any],
) -> DiffusionPipeline:
    if Path(name).is_dir() and not (Path(name) / "model_index.json").is_file():
        raise ModelError(
            f"{name} is no diffusers pipeline: it has no model_index.json. Give the folder that"
            " `pipeline.save_pretrained(folder)` wrote, a Hub id, or 'pocket'."
        )
    if Path(name).is_file():
        raise ModelError(f"{name} is a file; give the folder of a diffusers pipeline, a Hub id, or 'pocket'.")
    try:
        with unwarned("The `local_dir_use_symlinks` argument"):  # which diffusers itself gives
            index = DiffusionPipeline.load_config(name, revision=revision)
        if not safety_checker and index.get("safety_checker", (None, None))[0] is not None:
            extra = {**extra, "safety_checker": None, "requires_safety_checker": False}
        return DiffusionPipeline.from_pretrained(name, revision=revision, variant=variant, **extra)
    except (OSError, ValueError, AttributeError, ImportError, TypeError, KeyError, RuntimeError) as error:
        # diffusers raises all of these for damaged, missing or unknown parts; one type with the cause serves better.
        raise ModelError(
            f"Cannot load the model {name!r}: {_first_lines(error)} Give a Hub id (log in with `hf auth login` if it is"
            " gated), the folder of a diffusers pipeline, or 'pocket'."
        ) from error


def _load_tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"Cannot load the tokenizer {name!r}: {_first_lines(error)}") from error


def _first_lines(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:300] + " ..."
