"""Reads what a pocket picture shows: subject, colours, proportions, accessory, scene, style (weights: not shipped)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from textual_inversion_ext.errors import ModelError
from textual_inversion_ext.pocket import vocabulary as words

__all__ = ["CHOICES", "NUMBERS", "Reader", "Reading", "read_reader", "to_tensor"]

CHOICES: dict[str, tuple[str, ...]] = {
    "subject": words.SUBJECTS,
    "colour": tuple(words.COLOURS),
    "pattern": words.PATTERNS,
    "scene": (*words.SCENES, words.STUDIO),
    "style": words.STYLES,
    "accessory": ("none", *words.ACCESSORIES),
}
"""Attribute -> the words it can be."""
NUMBERS = {"main": 3, "accent": 3, "aspect": 1, "feature": 1}
"""Attribute -> how many numbers it is."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the reader sees in a batch of pictures.

    Attributes:
        choices: Attribute -> recognised word of each picture.
        numbers: Attribute -> float32 (B, k); colours in 0..1, proportions in -1..1.
    """

    choices: dict[str, list[str]]
    numbers: dict[str, np.ndarray]


class Reader(nn.Module):
    """A small convolutional network with one head per attribute.

    Big ears and a big sail look nothing like each other, and the main colour of a chef is elsewhere than that of a cat:
    colours and numbers are therefore read by a head per subject.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 128, 160)
        blocks: list[nn.Module] = []
        for before, after in zip(widths[:-1], widths[1:], strict=True):
            blocks += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
            blocks += [nn.Conv2d(after, after, 3, 1, 1), nn.BatchNorm2d(after), nn.ReLU()]
        self.body = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(160 * 16, 384), nn.ReLU(), nn.Dropout(0.1))
        self.choices = nn.ModuleDict({n: nn.Linear(384, len(o)) for n, o in CHOICES.items() if n != "colour"})
        self.colour = nn.Linear(384, len(words.SUBJECTS) * len(words.COLOURS))
        self.numbers = nn.Linear(384, len(words.SUBJECTS) * sum(NUMBERS.values()))

    def forward(self, pixels: Tensor, subjects: Tensor | None = None) -> tuple[dict[str, Tensor], Tensor]:
        """Read pictures.

        Args:
            pixels: float32 (B, 3, 64, 64) in [0, 1].
            subjects: int64 (B,), the subjects whose heads are asked; None for the recognised ones.

        Returns:
            Logits per attribute in the order of `CHOICES`, and (B, 8) numbers.
        """
        features = self.body(pixels * 2 - 1)
        read = {name: head(features) for name, head in self.choices.items()}
        rows = (
            torch.arange(len(pixels), device=pixels.device),
            read["subject"].argmax(-1) if subjects is None else subjects,
        )
        read["colour"] = self.colour(features).unflatten(1, (len(words.SUBJECTS), -1))[rows]
        numbers = self.numbers(features).unflatten(1, (len(words.SUBJECTS), -1))[rows]
        return {name: read[name] for name in CHOICES}, numbers

    @torch.no_grad()
    def read(self, images: list[Image.Image]) -> Reading:
        """Read the attributes of pictures.

        Args:
            images: RGB pictures, 64x64.

        Returns:
            What it sees, in the order of the pictures.
        """
        self.eval()
        pixels = torch.stack([to_tensor(image) for image in images])
        logits, numbers = self(pixels)
        split = numbers.split(list(NUMBERS.values()), dim=1)
        return Reading(
            {name: [CHOICES[name][i] for i in table.argmax(-1).tolist()] for name, table in logits.items()},
            {name: values.numpy() for name, values in zip(NUMBERS, split, strict=True)},
        )


def to_tensor(image: Image.Image) -> Tensor:
    """Turn an RGB picture into float32 (3, H, W) in [0, 1].

    Args:
        image: The picture.

    Returns:
        Its pixels.
    """
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255.0).permute(2, 0, 1)


def read_reader(file: str | Path) -> Reader:
    """Load a trained reader.

    Args:
        file: Its weights, as ``python -m benchmarks.reader FILE`` of the repository writes them.

    Returns:
        The reader, on the CPU.

    Raises:
        ModelError: There is no such file, or it holds something else.
    """
    reader = Reader()
    try:
        reader.load_state_dict(load_file(file))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"Cannot load the reader of pocket pictures {file}: {' '.join(str(error).split())[:200]} Train one in a"
            " checkout of the repository: python -m benchmarks.reader reader.safetensors"
        ) from error
    return reader.eval()
