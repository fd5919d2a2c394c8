"""The CLIP model whose text tower is a pipeline's text encoder: it can compare words with pictures.

Stable Diffusion's text encoders are the text towers of published CLIP models. The pipelines ship without the other
half, the vision tower and the projections; a model's name promises that it is that half, its weights prove it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from textual_inversion_ext.errors import ModelError
from textual_inversion_ext.records import EncoderSlot
from textual_inversion_ext.tokens import attached

CLIP_OF_WIDTH: dict[int, str] = {
    768: "openai/clip-vit-large-patch14",  # Stable Diffusion 1.x, the first encoder of SDXL
    1024: "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",  # Stable Diffusion 2.x, without the tower's last layer
    1280: "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",  # the second encoder of SDXL
}
"""Width of a CLIP text encoder -> the published model that it was cut out of."""

DEFAULT_CLIP = "pocket"
"""Asked for every other width: it is always there, and the check of the weights refuses what it does not fit."""

# Half precision rounds by up to 0.4 % (bfloat16); other training changes a tower by far more.
_TOLERANCE = 0.01
_PICTURES_AT_ONCE = 8


class ClipTwin:
    """A CLIP model whose text tower is a pipeline's text encoder.

    The pipeline is only read: texts with learned rows go through the CLIP model's own copy of the tower, in float32.

    Args:
        model: a ``CLIPModel``; moved to the encoder's device.
        processor: its ``CLIPProcessor``.
        slot: the text encoder.
        name: what messages call the model.

    Raises:
        ModelError: the weights are not the same.
    """

    def __init__(self, model: Any, processor: Any, slot: EncoderSlot, name: str) -> None:
        self.device = slot.text_encoder.device
        self.model = model.to(self.device)
        self.processor = processor
        self.slot = slot
        _check_weights(self.model, slot, name)

    @torch.no_grad()
    def image_features(self, pictures: Iterable[Image.Image]) -> Tensor:
        """Embed pictures.

        Args:
            pictures: at least one RGB picture of any size; taken a few at a time.

        Returns:
            (n, P) float32 unit vectors on the model's device.
        """
        features = []
        rest = iter(pictures)
        while some := list(islice(rest, _PICTURES_AT_ONCE)):
            pixels = self.processor.image_processor(images=some, return_tensors="pt")["pixel_values"].to(self.device)
            pooled = self.model.vision_model(pixel_values=pixels).pooler_output
            features.append(F.normalize(self.model.visual_projection(pooled), dim=-1))
        return torch.cat(features)

    def text_features(self, ids: Tensor, rows: Tensor) -> Tensor:
        """Embed prompts with learned rows in them.

        Args:
            ids: (B, L) int64 from a ``PromptEncoder``; learned rows have ids from the slot's ``first_id`` on.
            rows: (N, D) float32; gradients flow to them.

        Returns:
            (B, P) float32 unit vectors.
        """
        # Not the model's own pooling, which with an old configuration takes the learned row for the end of the prompt.
        is_end = ids == self.slot.tokenizer.eos_token_id
        end = is_end.int().argmax(dim=-1)
        # The tower looks back only, so whatever follows the last end changes nothing and need not be computed.
        ids = ids[:, : int(end.max()) + 1].to(self.device)
        with attached(self.model.text_model, self.slot.first_id) as embedding:
            embedding.rows = rows
            states = self.model.text_model(input_ids=ids).last_hidden_state
        pooled = states[torch.arange(len(ids), device=self.device), end.to(self.device)]
        return F.normalize(self.model.text_projection(pooled), dim=-1)


def clip_twin(slot: EncoderSlot, load: Callable[[str], tuple[Any, Any]], name: str | None = None) -> ClipTwin:
    """Find the CLIP model of a text encoder.

    Args:
        slot: the text encoder.
        load: loads a ``CLIPModel`` and its ``CLIPProcessor`` by name, see ``loading.load_clip``.
        name: the CLIP model to take; default: the one known for an encoder of this width.

    Returns:
        The twin.

    Raises:
        ModelError: it cannot be loaded, or is not this encoder's twin.
    """
    if slot.text_encoder.config.model_type not in ("clip_text_model", "clip"):
        raise ModelError(f"the {slot.key} encoder is a {slot.text_encoder.config.model_type}, no CLIP text tower.")
    chosen = name or CLIP_OF_WIDTH.get(slot.dim, DEFAULT_CLIP)
    model, processor = load(chosen)
    return ClipTwin(model, processor, slot, chosen)


def _check_weights(model: Any, slot: EncoderSlot, name: str) -> None:
    """Compare a text encoder with a CLIP model's text tower; the tower may go on where the encoder ends."""
    tower = dict(model.text_model.state_dict())
    tower["text_projection.weight"] = model.text_projection.weight
    for key, weight in slot.text_encoder.state_dict().items():
        if not weight.is_floating_point():
            continue
        other = tower.get(key.removeprefix("text_model."))
        if other is not None and key.endswith("token_embedding.weight"):
            weight = weight[: len(other)]  # behind them are words that were loaded into the pipeline
        if other is None or not _alike(weight, other):
            shapes = f"{tuple(weight.shape)} against {tuple(other.shape)}" if other is not None else "missing there"
            raise ModelError(
                f"the text tower of {name!r} is not the {slot.key} encoder of this model ({key}: {shapes}); "
                "name the CLIP model it was cut out of with clip_model."
            )


def _alike(weight: Tensor, other: Tensor) -> bool:
    if weight.shape != other.shape:
        return False
    other = other.float()
    return bool((weight.float() - other).norm() <= _TOLERANCE * other.norm())
