"""The networks that metrics measure pictures and texts with: CLIP, SigLIP and DINO of transformers, the pocket CLIP.

Scores of different networks are not comparable, so the network's name is part of every metric's name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError

from textual_inversion_ext.errors import MissingDependencyError, ModelError
from textual_inversion_ext.evaluation.embedding import BATCH_SIZE, ImageBackbone, ImageTextBackbone
from textual_inversion_ext.pocket import NAME as POCKET
from textual_inversion_ext.pocket import load_clip

__all__ = [
    "BATCH_SIZE",
    "DEFAULT_CLIP",
    "DEFAULT_DINO",
    "IMAGE_TEXT_TYPES",
    "IMAGE_TYPES",
    "ImageBackbone",
    "ImageTextBackbone",
    "default_backbone",
    "load_backbone",
    "load_image_text_backbone",
]

DEFAULT_CLIP = "openai/clip-vit-base-patch32"  # what Gal et al. 2022 and DreamBooth measure with
DEFAULT_DINO = "facebook/dino-vits16"  # what DreamBooth measures with

IMAGE_TEXT_TYPES = ("clip", "siglip", "siglip2")
IMAGE_TYPES = ("vit", "dinov2", "dinov2_with_registers", "dinov3_vit")

# What transformers raises for missing, damaged and unknown parts.
_BROKEN = (OSError, ValueError, KeyError, RuntimeError, AttributeError, TypeError, SafetensorError)
_RESIZED_TO = 256 / 224  # DINO's evaluation: the short side to 256, of which the middle 224 are seen
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def default_backbone(model_name_or_path: str | Path) -> str:
    """Name the CLIP model that pictures of a text-to-image model are measured with where nobody says otherwise.

    Args:
        model_name_or_path: the text-to-image model; "pocket" for the built-in world.

    Returns:
        "pocket" for the built-in world, whose pictures no other CLIP model has seen the like of; else `DEFAULT_CLIP`.
    """
    return POCKET if str(model_name_or_path) == POCKET else DEFAULT_CLIP


def load_backbone(
    name_or_path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    batch_size: int = BATCH_SIZE,
) -> ImageBackbone:
    """Load a network to measure with.

    Args:
        name_or_path: "pocket", the Hub id of a CLIP, SigLIP or DINO model, or its folder in transformers format.
        device: where it goes.
        dtype: number format of its weights.
        batch_size: pictures or texts that go through it at a time.

    Returns:
        An `ImageTextBackbone` for "pocket", CLIP and SigLIP; an `ImageBackbone` for DINO.

    Raises:
        ModelError: there is no such model here and it cannot be fetched, or it is of another kind.
        MissingDependencyError: its tokenizer needs a package that is not installed.
    """
    name = str(name_or_path)
    if name == POCKET:
        model, processor = load_clip()
        model.to(device, dtype)
        return ImageTextBackbone(model, processor.image_processor, processor.tokenizer, POCKET, batch_size)
    called = Path(name).resolve().name if Path(name).is_dir() else name  # reports do not tell where a user keeps models
    try:
        return _load(name, called, device, dtype, batch_size)
    except ModelError:
        raise
    except ImportError as error:  # of a tokenizer: SigLIP's needs sentencepiece
        raise MissingDependencyError(
            f"The backbone {name!r} needs a package that is not installed: {_first_lines(error)} For SigLIP: "
            "`pip install 'textual-inversion-ext[siglip]'`."
        ) from error
    except _BROKEN as error:
        raise ModelError(f"Cannot load the backbone {name!r}: {_first_lines(error)} {_ways_out(name)}") from error


def load_image_text_backbone(
    name_or_path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    batch_size: int = BATCH_SIZE,
) -> ImageTextBackbone:
    """Load a network that measures texts too; see `load_backbone`.

    Args:
        name_or_path: "pocket", a CLIP or a SigLIP model.
        device: where it goes.
        dtype: number format of its weights.
        batch_size: pictures or texts that go through it at a time.

    Returns:
        The backbone.

    Raises:
        ModelError: as for `load_backbone`, or the network does not read texts.
        MissingDependencyError: as for `load_backbone`.
    """
    backbone = load_backbone(name_or_path, device=device, dtype=dtype, batch_size=batch_size)
    if not isinstance(backbone, ImageTextBackbone):
        raise ModelError(
            f"{backbone.name!r} reads no texts; a CLIP or SigLIP model is needed, such as {DEFAULT_CLIP!r} or 'pocket'."
        )
    return backbone


def _load(name: str, called: str, device: torch.device | str, dtype: torch.dtype, batch_size: int) -> ImageBackbone:
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

    config = AutoConfig.from_pretrained(name)
    if config.model_type not in (*IMAGE_TEXT_TYPES, *IMAGE_TYPES):
        raise ModelError(
            f"{name!r} is a {config.model_type} model; pictures are measured with models of these types: "
            f"{', '.join((*IMAGE_TEXT_TYPES, *IMAGE_TYPES))} (DINO v1 is vit), or with 'pocket'."
        )
    model, told = AutoModel.from_pretrained(name, dtype=dtype, output_loading_info=True)
    # transformers makes up what it does not find. DINO's checkpoints have no pooler; the CLS token comes before it.
    missing = sorted(key for key in told["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise ModelError(f"{name!r} lacks weights of a {config.model_type} model: {', '.join(missing[:3])}, ...")
    model.to(device)
    if config.model_type == "vit":
        return ImageBackbone(model, _dino_processor(config.image_size), called, batch_size)
    # PIL's resampling, with which CLIP was trained, also where torchvision is installed.
    image_processor = AutoImageProcessor.from_pretrained(name, backend="pil")
    if config.model_type in IMAGE_TYPES:
        return ImageBackbone(model, image_processor, called, batch_size)
    return ImageTextBackbone(model, image_processor, AutoTokenizer.from_pretrained(name), called, batch_size)


def _dino_processor(side: int) -> Any:
    """The preprocessing of DINO's evaluation; the published processor file squashes pictures to a square instead.

    Source: https://github.com/facebookresearch/dino/blob/main/eval_knn.py: Resize(256, bicubic), CenterCrop(224).
    """
    from transformers import BitImageProcessorPil

    return BitImageProcessorPil(
        size={"shortest_edge": round(side * _RESIZED_TO)},
        crop_size={"height": side, "width": side},
        resample=Image.Resampling.BICUBIC,
        image_mean=_IMAGENET_MEAN,
        image_std=_IMAGENET_STD,
    )


def _ways_out(name: str) -> str:
    if Path(name).exists() or not _is_id(name):
        missing = "" if Path(name).exists() else f"There is no folder {name}. "
        fetch = f"{missing}Give a folder that `save_pretrained` wrote, or the id of a model on the Hub,"
    else:
        fetch = (
            f"Fetch it on a machine with network access (`hf download {name} --local-dir FOLDER`) and give the folder,"
        )
    return f"{fetch} or measure with 'pocket', the network of this library (made for pictures of the pocket world)."


def _is_id(name: str) -> bool:
    """Whether a name can be that of a model on the Hub, and not only that of a folder."""
    return name.count("/") <= 1 and "\\" not in name and not name.startswith(("/", ".", "~"))


def _first_lines(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:300] + " ..."
