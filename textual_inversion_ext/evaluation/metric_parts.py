"""What metrics are built of: networks that are loaded once and shared, and readers of pocket pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from textual_inversion_ext.evaluation.backbones import (
    BATCH_SIZE,
    DEFAULT_CLIP,
    DEFAULT_DINO,
    ImageBackbone,
    ImageTextBackbone,
    load_backbone,
    load_image_text_backbone,
)


class SubjectReading(Protocol):
    """What a reader saw in a batch of pictures.

    Attributes:
        choices: "accessory" (and whatever else it reads) -> the word for each picture, "none" included.
        numbers: "main" and "accent" -> (B, 3) colours in 0..1; "aspect" and "feature" -> (B, 1) in -1..1.
    """

    @property
    def choices(self) -> Mapping[str, Sequence[str]]:
        """Words."""

    @property
    def numbers(self) -> Mapping[str, np.ndarray]:
        """Colours and proportions."""


class SubjectReader(Protocol):
    """Reads the attributes of a pocket subject out of pictures; ``pocket/reader.py`` has one."""

    def read(self, images: list[Image.Image]) -> SubjectReading:
        """Read pictures.

        Args:
            images: RGB pictures, 64x64.

        Returns:
            What it saw, in the order of the pictures.
        """
        ...


@dataclass(slots=True)
class MetricParts:
    """What metrics are built of. A network is loaded when the first metric asks for it, and shared.

    Attributes:
        clip: the backbone of CLIP scores and of diversity; see `load_backbone` for what can be named.
        dino: the backbone of the DINO score.
        device: where networks go.
        dtype: number format of their weights; scores are float32 all the same.
        batch_size: pictures that go through a network at a time.
        reader: what identity errors are read with, if anything.
    """

    clip: str = DEFAULT_CLIP
    dino: str = DEFAULT_DINO
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32
    batch_size: int = BATCH_SIZE
    reader: SubjectReader | None = None
    _loaded: dict[str, ImageBackbone] = field(default_factory=dict, repr=False)

    def images_and_texts(self) -> ImageTextBackbone:
        """Load what ``clip`` names.

        Returns:
            The backbone, the same at every call.

        Raises:
            ModelError: it cannot be loaded, or it reads no texts.
        """
        backbone = self._loaded.get(self.clip)
        if not isinstance(backbone, ImageTextBackbone):
            backbone = load_image_text_backbone(
                self.clip, device=self.device, dtype=self.dtype, batch_size=self.batch_size
            )
            self._loaded[self.clip] = backbone
        return backbone

    def images(self) -> ImageBackbone:
        """Load what ``dino`` names.

        Returns:
            The backbone, the same at every call.

        Raises:
            ModelError: it cannot be loaded.
        """
        if self.dino not in self._loaded:
            self._loaded[self.dino] = load_backbone(
                self.dino, device=self.device, dtype=self.dtype, batch_size=self.batch_size
            )
        return self._loaded[self.dino]
