"""What metrics are tested with: readers of pocket pictures that need no training, and a network of known features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPImageProcessorPil

from textual_inversion_ext.evaluation.backbones import ImageTextBackbone, load_image_text_backbone
from textual_inversion_ext.pocket import CONCEPTS, OBJECTS, render_concept

EXAMPLES_SEED = 7_000  # apart from the seeds of the pictures that tests score


@dataclass(frozen=True)
class Reading:
    """What a reader saw; the fields of `SubjectReading`."""

    choices: dict[str, list[str]]
    numbers: dict[str, np.ndarray]


@cache
def pocket_clip() -> ImageTextBackbone:
    return load_image_text_backbone("pocket")


@cache
def _examples() -> tuple[Tensor, list[str]]:
    names = [concept.name for concept in OBJECTS for _ in range(4)]
    pictures = [picture for concept in OBJECTS for picture in render_concept(concept.name, 4, seed=EXAMPLES_SEED)]
    return pocket_clip().images(pictures), names


class NearestExampleReader:
    """Reads a picture as the shipped concept whose labelled example is nearest, in the pocket CLIP's eyes."""

    name = "nearest example"

    def read(self, images: list[Image.Image]) -> Reading:
        features, names = _examples()
        nearest = (pocket_clip().images(images) @ features.t()).argmax(1).tolist()
        subjects = [CONCEPTS[names[place]].subject for place in nearest]
        return Reading(
            {"accessory": [subject.accessory or "none" for subject in subjects if subject]},
            {
                "main": np.array([subject.main for subject in subjects if subject], dtype=np.float32) / 255,
                "accent": np.array([subject.accent for subject in subjects if subject], dtype=np.float32) / 255,
                "aspect": np.array([[subject.aspect] for subject in subjects if subject], dtype=np.float32),
                "feature": np.array([[subject.feature] for subject in subjects if subject], dtype=np.float32),
            },
        )


def mean_absolute_difference(first: Tensor, second: Tensor) -> Tensor:
    """A distance for the metric `lpips` where the package is not installed."""
    return (first - second).abs().flatten(1).mean(1)


class MeanColour(nn.Module):
    """A network whose feature of a picture is its mean colour and of a text the colour that it names."""

    colours = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0), "yellow": (1.0, 1.0, 0.0)}
    device, dtype = torch.device("cpu"), torch.float32
    config = SimpleNamespace(text_config=SimpleNamespace(max_position_embeddings=1))

    def get_image_features(self, pixel_values: Tensor) -> Any:
        return SimpleNamespace(pooler_output=pixel_values.mean((2, 3)))

    def get_text_features(self, input_ids: Tensor) -> Any:
        table = torch.tensor(list(self.colours.values()))
        return SimpleNamespace(pooler_output=table[input_ids[:, 0]])


def name_tokens(prompts: Sequence[str], **_: Any) -> dict[str, Tensor]:
    """The number of the colour that each prompt names."""
    names = list(MeanColour.colours)
    return {"input_ids": torch.tensor([[names.index(name) for name in names if name in prompt] for prompt in prompts])}


def mean_colour_backbone() -> ImageTextBackbone:
    processor = CLIPImageProcessorPil(do_resize=False, do_center_crop=False, do_normalize=False)
    return ImageTextBackbone(MeanColour(), processor, name_tokens, "mean-colour")


def plain(*names: str) -> tuple[Image.Image, ...]:
    """Pictures of one colour each."""
    return tuple(
        Image.new("RGB", (4, 4), tuple(int(255 * part) for part in MeanColour.colours[name]))  # type: ignore[arg-type]
        for name in names
    )
