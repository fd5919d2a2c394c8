"""Pictures and texts as unit vectors: a model of transformers with what prepares its input."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

BATCH_SIZE = 32
_REMEMBERED_PICTURES = 8192  # at 768 float32 each, 25 MB


class ImageBackbone:
    """Turns pictures into unit vectors.

    A picture that was seen before is not computed again: metrics share references and samples. How many pictures go
    through the network at a time changes nothing but speed and memory.

    Args:
        model: a vision model of transformers whose first output token stands for the picture (DINO's CLS token); used
            on its own device and in its own dtype.
        image_processor: its image processor.
        name: what metrics and reports call it.
        batch_size: pictures that go through the network at a time.
    """

    def __init__(self, model: Any, image_processor: Any, name: str, batch_size: int = BATCH_SIZE) -> None:
        self.model = model.eval().requires_grad_(False)
        self.image_processor = image_processor
        self.name = name
        self.batch_size = batch_size
        self._remembered: dict[bytes, Tensor] = {}

    @torch.no_grad()
    def images(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Embed pictures.

        Args:
            pictures: of any size and mode.

        Returns:
            (n, d) float32 unit vectors on the CPU, in the order of the pictures.
        """
        keys = [_fingerprint(picture) for picture in pictures]
        known = self._remembered
        new = {key: picture for key, picture in zip(keys, pictures, strict=True) if key not in known}
        fresh: dict[bytes, Tensor] = {}
        for chunk in _chunks(list(new), self.batch_size):
            inputs = self.image_processor([new[key].convert("RGB") for key in chunk], return_tensors="pt")
            features = self._image_features(self._moved(inputs))
            fresh.update(zip(chunk, F.normalize(features.float(), dim=-1).cpu().unbind(), strict=True))
        if not keys:
            return torch.empty(0, 0)
        result = torch.stack([fresh[key] if key in fresh else known[key] for key in keys])
        if len(known) + len(fresh) > _REMEMBERED_PICTURES:
            known.clear()
        known.update(fresh)
        return result

    def _image_features(self, inputs: dict[str, Any]) -> Tensor:
        states: Tensor = self.model(**inputs).last_hidden_state
        return states[:, 0]

    def _moved(self, inputs: Any) -> dict[str, Any]:
        """Put a processor's output on the model's device, and what is not counted in integers into its dtype."""
        device, dtype = self.model.device, self.model.dtype
        return {k: v.to(device, dtype) if v.is_floating_point() else v.to(device) for k, v in inputs.items()}


class ImageTextBackbone(ImageBackbone):
    """Turns pictures and texts into unit vectors of one space.

    Args:
        model: a CLIP or SigLIP model of transformers.
        image_processor: its image processor.
        tokenizer: its tokenizer.
        name: what metrics and reports call it.
        batch_size: pictures or texts that go through the network at a time.
    """

    def __init__(
        self, model: Any, image_processor: Any, tokenizer: Any, name: str, batch_size: int = BATCH_SIZE
    ) -> None:
        super().__init__(model, image_processor, name, batch_size)
        self.tokenizer = tokenizer

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Embed texts.

        Args:
            prompts: what is longer than the network reads (CLIP: 77 tokens) is cut off.

        Returns:
            (n, d) float32 unit vectors on the CPU, in the order of the prompts.
        """
        length = self.model.config.text_config.max_position_embeddings
        parts = []
        for chunk in _chunks(list(prompts), self.batch_size):
            # Always padded to the full length and never masked: SigLIP was trained so, and to CLIP, which looks back
            # from the end token only, it makes no difference.
            tokens = self.tokenizer(
                chunk, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            )
            output = self.model.get_text_features(input_ids=tokens["input_ids"].to(self.model.device))
            parts.append(F.normalize(output.pooler_output.float(), dim=-1).cpu())
        return torch.cat(parts) if parts else torch.empty(0, 0)

    def _image_features(self, inputs: dict[str, Any]) -> Tensor:
        features: Tensor = self.model.get_image_features(**inputs).pooler_output
        return features


def _fingerprint(picture: Image.Image) -> bytes:
    size = f"{picture.mode} {picture.size}".encode()
    palette = picture.palette.tobytes() if picture.palette is not None else b""
    return hashlib.blake2b(size + palette + picture.tobytes(), digest_size=16).digest()


def _chunks(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
