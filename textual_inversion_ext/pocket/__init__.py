"""The embedded default: a pocket-sized text-to-image world of Stable Diffusion's classes (see CARD.md)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from textual_inversion_ext.errors import ModelError
from textual_inversion_ext.pocket.concepts import CONCEPTS, OBJECTS, STYLES, PocketConcept

if TYPE_CHECKING:
    import torch
    from diffusers import StableDiffusionPipeline
    from PIL import Image
    from transformers import CLIPModel, CLIPProcessor

__all__ = [
    "CONCEPTS",
    "NAME",
    "OBJECTS",
    "STYLES",
    "WEIGHTS",
    "PocketConcept",
    "load_clip",
    "load_pipeline",
    "render_concept",
    "write_concept",
]

NAME = "pocket"  # what `pretrained_model_name_or_path` is called for this world
WEIGHTS = Path(__file__).parent / "weights"
GUIDANCE_SCALE = 3.0  # 4 bleaches white things and exaggerates colours between the named ones
NUM_INFERENCE_STEPS = 30


def _weights(part: str) -> Path:
    folder = WEIGHTS / part
    if not folder.is_dir():
        raise ModelError(
            f"The pocket weights are not at {folder}. They are part of the package: install it again, "
            "or build them with `python -m textual_inversion_ext.pocket.build`."
        )
    return folder


def load_pipeline(dtype: torch.dtype | None = None) -> StableDiffusionPipeline:
    """Load the pocket text-to-image pipeline.

    Args:
        dtype: Of the weights; float32 when None. They are stored in float16.

    Returns:
        Pipeline on the CPU, without progress bar.

    Raises:
        ModelError: When the weights are missing.
    """
    import torch
    from diffusers import StableDiffusionPipeline

    from textual_inversion_ext.pipelines.quiet import move

    pipeline = StableDiffusionPipeline.from_pretrained(_weights("pipeline"), local_files_only=True)
    for network in (pipeline.text_encoder, pipeline.unet, pipeline.vae):  # not by a flag: releases name it differently
        move(network, "cpu", dtype or torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_clip() -> tuple[CLIPModel, CLIPProcessor]:
    """Load the pocket CLIP, whose text tower is the pipeline's text encoder.

    Returns:
        Model in float32 on the CPU, and its processor (64-pixel pictures, prompts of at most 32 tokens).

    Raises:
        ModelError: When the weights are missing.
    """
    import torch
    from safetensors.torch import load_file
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTextModel, CLIPTokenizer

    folder, pipeline = _weights("clip"), _weights("pipeline")
    model = CLIPModel(CLIPConfig.from_pretrained(folder, local_files_only=True)).float()
    text = CLIPTextModel.from_pretrained(pipeline / "text_encoder", dtype=torch.float32, local_files_only=True)
    # Only the vision side is stored here; the text tower is the pipeline's text encoder.
    state = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in text.state_dict().items()}
    state |= {name: tensor.float() for name, tensor in load_file(folder / "vision.safetensors").items()}
    model.load_state_dict(state)
    tokenizer = CLIPTokenizer.from_pretrained(pipeline / "tokenizer", local_files_only=True)
    images = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
    return model.eval(), CLIPProcessor(images, tokenizer)


def render_concept(name: str, count: int = 5, *, seed: int | None = None) -> list[Image.Image]:
    """Draw the pictures of a held-out concept.

    Args:
        name: A key of `CONCEPTS`.
        count: How many pictures.
        seed: Other than the concept's own, for fresh pictures of the same concept.

    Returns:
        RGB pictures, 64x64.
    """
    from textual_inversion_ext.pocket.renderer import render

    return [render(picture) for picture in CONCEPTS[name].pictures(count, seed=seed)]


def write_concept(name: str, folder: str | Path) -> list[Path]:
    """Write the pictures of a held-out concept as an ordinary image folder.

    Args:
        name: A key of `CONCEPTS`.
        folder: Created when missing.

    Returns:
        Paths of the PNG files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, image in enumerate(render_concept(name)):
        path = folder / f"{index:02}.png"
        image.save(path)
        paths.append(path)
    return paths
