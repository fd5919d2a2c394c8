"""LoRA files beside learned words: written in diffusers' own layout, and loaded by diffusers' own loader."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, LORA_WEIGHT_NAME_SAFE
from safetensors import SafetensorError
from torch import Tensor

from textual_inversion_ext.atomic import atomic_write
from textual_inversion_ext.errors import EmbeddingFileError, ModelError
from textual_inversion_ext.files.places import parse_hub
from textual_inversion_ext.pipelines.quiet import unsaid, unwarned

logger = logging.getLogger(__name__)

LORA_FILE = LORA_WEIGHT_NAME_SAFE
"""File name that diffusers' ``load_lora_weights(folder)`` looks for: ``pytorch_lora_weights.safetensors``."""

_WORD_STEM, _LORA_STEM = "learned_embeds", Path(LORA_FILE).stem


@dataclass(frozen=True, slots=True)
class LoraPart:
    """The low-rank change of one network of a pipeline.

    Attributes:
        component: Name of the network in the pipeline: ``unet``, ``transformer``, ``text_encoder``, ...
        rank: Rank of every layer's change.
        layers: Ends of the names of the changed layers, such as ``to_q``; peft calls them ``target_modules``.
        weights: For every changed layer ``NAME.lora_A.weight`` (rank, in) and ``NAME.lora_B.weight`` (out, rank),
            float32 on the CPU; the layer's weight changes by ``lora_B @ lora_A``.
    """

    component: str
    rank: int
    layers: tuple[str, ...]
    weights: Mapping[str, Tensor]


def lora_components(pipeline: Any) -> tuple[str, ...]:
    """Say which networks of a pipeline diffusers can load a LoRA into.

    Args:
        pipeline: Any pipeline.

    Returns:
        Names of components that it has.

    Raises:
        ModelError: It can load none.
    """
    names = tuple(name for name in getattr(pipeline, "_lora_loadable_modules", ()) if getattr(pipeline, name, None))
    if not names:
        raise ModelError(
            f"diffusers cannot load a LoRA into a {type(pipeline).__name__}; train the word alone (lora_rank 0,"
            " lora_text_encoder_rank 0)."
        )
    return names


def save_lora(pipeline: Any, parts: Sequence[LoraPart], file: Path, facts: Mapping[str, str]) -> None:
    """Write a LoRA as ``save_lora_weights`` of the pipeline's class lays it out; the file is there whole or not at all.

    Its alpha equals its rank, so that tools which know of no alpha read the same change.

    Args:
        pipeline: The pipeline that the LoRA is for; only its class is used.
        parts: The changed networks.
        file: The file.
        facts: Further metadata, all text.

    Raises:
        StorageError: It cannot be written.
    """

    def write(tensors: Mapping[str, Tensor], path: str) -> None:
        plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
        atomic_write(
            path, safetensors.torch.save(plain, metadata={"format": "pt", **facts, **_adapter_metadata(parts)})
        )

    layers = {f"{part.component}_lora_layers": _diffusers_names(part) for part in parts}
    # diffusers' own writing is not atomic and would leave half a file behind on a full disk.
    type(pipeline).save_lora_weights(str(file.parent), **layers, weight_name=file.name, save_function=write)


def lora_beside(place: Path) -> Path | None:
    """Find the LoRA that was trained together with a word.

    Args:
        place: The folder of a run, or an embedding file: ``learned_embeds.safetensors`` or a snapshot of a step.

    Returns:
        ``pytorch_lora_weights.safetensors`` in it or beside it (the snapshot of the same step), or None where there is
        none.
    """
    if place.is_dir():
        place = place / f"{_WORD_STEM}.safetensors"
    if not place.name.startswith(_WORD_STEM):
        return None
    candidate = place.with_name(place.name.replace(_WORD_STEM, _LORA_STEM, 1))
    return candidate if candidate.is_file() else None


def lora_on_hub(place: str) -> Path | None:
    """Find the LoRA that was published together with a word.

    Args:
        place: A repository of the Hub, ``user/name`` or its address.

    Returns:
        ``pytorch_lora_weights.safetensors`` in the Hub's cache, or None where the repository has none, or where neither
        the Hub nor the cache can tell.

    Raises:
        EmbeddingFileError: There is one, and it cannot be had.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

    hub = parse_hub(place)
    if hub is None or hub.path:  # One file of a repository stands for the word alone.
        return None
    try:
        return Path(hf_hub_download(hub.repo_id, LORA_FILE, revision=hub.revision))
    except RemoteEntryNotFoundError:
        return None
    except LocalEntryNotFoundError:  # neither an answer nor a file in the cache, which knows of some that there is none
        if try_to_load_from_cache(hub.repo_id, LORA_FILE, revision=hub.revision) is None:
            logger.warning("notice: the Hub cannot be asked whether %s has a LoRA; its word is used alone.", place)
        return None
    # A refusal is the Hub's error, a lost connection one of its HTTP library, which it has exchanged before.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise EmbeddingFileError(
            f"the LoRA {LORA_FILE} of {place} cannot be downloaded ({reason}); try again later, or leave it out with"
            " --lora_scale 0."
        ) from error


def load_loras(pipeline: Any, files: Sequence[Path], scale: float = 1.0) -> None:
    """Load LoRA files into a pipeline through diffusers; all of them act at once, and no other adapter does.

    Args:
        pipeline: A loaded pipeline.
        files: The files; with none, nothing happens.
        scale: Strength of each; 1 is as trained.

    Raises:
        EmbeddingFileError: A file is damaged or was made for another kind of model.
        ModelError: The pipeline takes no LoRA.
    """
    if not files:
        return
    lora_components(pipeline)
    names = [f"learned_{number}" for number in range(len(files))]
    for name, file in zip(names, files, strict=True):
        try:
            # A LoRA of the denoiser alone has nothing for the text encoders; several words have a LoRA each.
            with unsaid("diffusers.loaders.lora_base", "No LoRA keys associated to"), unwarned("Already found a `peft"):
                pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=name)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
            # diffusers and peft raise all of these for damaged files and for those of another model.
            reason = " ".join(str(error).split())[:300]
            raise EmbeddingFileError(
                f"cannot load the LoRA {file}: {reason}. Load the model it was trained on, or leave it out with"
                " --lora_scale 0."
            ) from error
    pipeline.set_adapters(names, [scale] * len(names))


def fuse_lora(pipeline: Any, file: Path) -> None:
    """Add a LoRA to a pipeline's weights for good.

    Args:
        pipeline: A loaded pipeline; its networks are changed.
        file: The file.

    Raises:
        EmbeddingFileError: The file is damaged or was made for another kind of model.
        ModelError: The pipeline takes no LoRA.
    """
    load_loras(pipeline, [file])
    changed = [name for name in lora_components(pipeline) if getattr(getattr(pipeline, name), "peft_config", None)]
    pipeline.fuse_lora(components=changed)
    pipeline.unload_lora_weights()


def _diffusers_names(part: LoraPart) -> dict[str, Tensor]:
    """Tensors under the names of diffusers' training scripts, without the component's name.

    Not by diffusers' ``convert_state_dict_to_diffusers``: it leaves layers beside attention as peft names them, and the
    loader, which looks at the first name to tell the two apart, would drop one kind without a word.
    """
    in_encoder = part.component.startswith("text_encoder")
    layer = ".lora_linear_layer" if in_encoder else ".lora"
    named = {
        name.replace(".lora_A.", f"{layer}.down.").replace(".lora_B.", f"{layer}.up."): rows
        for name, rows in part.weights.items()
    }
    if not in_encoder:
        return named
    # transformers 5 has no `text_model` level in some CLIP models. Other tools and older versions look for it, and
    # diffusers removes it where the model has none.
    return {name if name.startswith("text_model.") else f"text_model.{name}": rows for name, rows in named.items()}


def _adapter_metadata(parts: Sequence[LoraPart]) -> dict[str, str]:
    """What diffusers writes into the file's header from a peft config, in the few fields that every version knows."""
    told: dict[str, object] = {}
    for part in parts:
        config = {"r": part.rank, "lora_alpha": part.rank, "target_modules": sorted(part.layers)}
        told |= {f"{part.component}.{name}": value for name, value in config.items()}
    return {LORA_ADAPTER_METADATA_KEY: json.dumps(told, indent=2, sort_keys=True)}
