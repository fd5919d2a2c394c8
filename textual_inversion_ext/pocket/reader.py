"""Reads what a pocket picture shows: subject, colours, proportions, accessory, scene, style (weights: benchmarks/)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

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
MOST_SHIFT = 0.2
"""Most by which the reader corrects a channel of a colour it points at, in 0..1."""
_ROUNDS = 10  # of 2-means; of 576 pictures every one had settled
_NEVER_EMPTY = 1e-6  # share of its own map that a colour keeps where no pixel is nearest to it
_SHARPNESS = 60.0  # of the choice among the named colours; their squared distances are small numbers


@dataclass(frozen=True, slots=True)
class Reading:
    """What the reader sees in a batch of pictures.

    Attributes:
        choices: Attribute -> recognised word of each picture.
        numbers: Attribute -> float32 (B, k); colours in 0..1, proportions in -1..1.
    """

    choices: dict[str, list[str]]
    numbers: dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class _Look:
    """What the reader makes of a batch before it names colours.

    Attributes:
        logits: Attribute -> (B, options), all but "colour".
        maps: (B, 2, P), where main and accent colour are seen; weights that sum to 1.
        seen: (B, P, 3), the pixels, in 0..1.
        shift: (B, 6), correction of both colours.
        proportions: (B, 2).
    """

    logits: dict[str, Tensor]
    maps: Tensor
    seen: Tensor
    shift: Tensor
    proportions: Tensor


class Reader(nn.Module):
    """A small convolutional network that points at colours instead of guessing them.

    For each subject it learns where the main and the accent colour are to be seen: two maps of weights over a
    picture. The colours are the two that the pixels there have, corrected by at most `MOST_SHIFT` for light and style,
    so colours between the trained ones are read as exactly as those. Proportions have a head per subject too: big
    ears and a big sail look nothing like each other.
    """

    named_colours: Tensor

    def __init__(self) -> None:
        super().__init__()
        widths, subjects = (32, 64, 128, 160), len(words.SUBJECTS)
        self.stages = nn.ModuleList(_narrowing(*pair) for pair in zip((3, *widths[:-1]), widths, strict=True))
        self.joins = nn.ModuleList([_joining(160 + 128, 96), _joining(96 + 64, 64), _joining(64 + 32, 48)])
        self.pointer = nn.Conv2d(48, 2 * subjects, 1)
        self.summary = nn.Sequential(nn.Flatten(), nn.Linear(160 * 16, 384), nn.ReLU(), nn.Dropout(0.1))
        self.choices = nn.ModuleDict({n: nn.Linear(384, len(o)) for n, o in CHOICES.items() if n != "colour"})
        self.shift = nn.Linear(384, NUMBERS["main"] + NUMBERS["accent"])
        self.proportions = nn.Linear(384, 2 * subjects)
        named = torch.tensor([words.COLOURS[name] for name in CHOICES["colour"]]) / 255.0
        self.register_buffer("named_colours", named, persistent=False)

    def forward(self, pixels: Tensor, subjects: Tensor | None = None) -> tuple[dict[str, Tensor], Tensor]:
        """Read pictures, every colour as the mean of what is pointed at: that has a gradient.

        Args:
            pixels: float32 (B, 3, 64, 64) in [0, 1].
            subjects: int64 (B,), the subjects whose maps and heads are asked; None for the recognised ones.

        Returns:
            Logits per attribute in the order of `CHOICES`, and (B, 8) numbers.
        """
        look = self._look(pixels, subjects)
        return self._told(look, look.maps @ look.seen)

    @torch.no_grad()
    def read(self, images: list[Image.Image]) -> Reading:
        """Read the attributes of pictures.

        Args:
            images: RGB pictures, 64x64.

        Returns:
            What it sees, in the order of the pictures.
        """
        self.eval()
        look = self._look(torch.stack([to_tensor(image) for image in images]))
        logits, numbers = self._told(look, _two_colours(look.maps, look.seen))
        split = numbers.split(list(NUMBERS.values()), dim=1)
        return Reading(
            {name: [CHOICES[name][i] for i in table.argmax(-1).tolist()] for name, table in logits.items()},
            {name: values.numpy() for name, values in zip(NUMBERS, split, strict=True)},
        )

    def _look(self, pixels: Tensor, subjects: Tensor | None = None) -> _Look:
        features, detail = pixels * 2 - 1, []
        for stage in self.stages:
            features = stage(features)
            detail.append(features)
        summary = self.summary(features)
        logits = {name: head(summary) for name, head in self.choices.items()}
        chosen = logits["subject"].argmax(-1) if subjects is None else subjects
        own = torch.arange(len(pixels), device=pixels.device), chosen
        for join, finer in zip(self.joins, detail[-2::-1], strict=True):
            features = join(torch.cat([functional.interpolate(features, scale_factor=2), finer], dim=1))
        return _Look(
            logits,
            maps=self.pointer(features).unflatten(1, (-1, 2))[own].flatten(2).softmax(-1),
            seen=functional.avg_pool2d(pixels, 2).flatten(2).transpose(1, 2),
            shift=MOST_SHIFT * torch.tanh(self.shift(summary)),
            proportions=self.proportions(summary).unflatten(1, (-1, 2))[own],
        )

    def _told(self, look: _Look, pointed: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Put together what `forward` returns; ``pointed`` (B, 2, 3) are main and accent colour as they are seen."""
        colours = pointed.flatten(1) + look.shift
        far = (colours[:, None, : NUMBERS["main"]] - self.named_colours).square().sum(-1)
        told = {**look.logits, "colour": -_SHARPNESS * far}
        return {name: told[name] for name in CHOICES}, torch.cat([colours, look.proportions], dim=1)


def _two_colours(maps: Tensor, seen: Tensor) -> Tensor:
    """Find the two colours that most of the pixels pointed at have (2-means): a mean over stripes is no colour of them.

    Args:
        maps: float32 (B, 2, P), weights of the pixels of main and accent colour.
        seen: float32 (B, P, 3), the pixels.

    Returns:
        (B, 2, 3), each beginning at the mean under its own map, so that the order stays.
    """
    weights, colours = maps.sum(1), maps @ seen
    for _ in range(_ROUNDS):
        nearest = torch.cdist(seen, colours).argmin(-1)
        shares = functional.one_hot(nearest, 2).transpose(1, 2) * weights[:, None] + _NEVER_EMPTY * maps
        colours = shares @ seen / shares.sum(-1, keepdim=True)
    return colours


def _narrowing(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, 2, 1),
        nn.BatchNorm2d(after),
        nn.ReLU(),
        nn.Conv2d(after, after, 3, 1, 1),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )


def _joining(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, 1, 1), nn.BatchNorm2d(after), nn.ReLU())


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
        file: Its weights: ``benchmarks/reader.safetensors`` of the repository.

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
            f"Cannot load the reader of pocket pictures {file}: {' '.join(str(error).split())[:200]} There is one in"
            " the repository: benchmarks/reader.safetensors"
        ) from error
    return reader.eval()
