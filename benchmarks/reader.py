"""Reads the ground truth out of pocket pictures: a classifier trained on fresh renderings, not the pocket CLIP."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from textual_inversion_ext.pocket import vocabulary as words
from textual_inversion_ext.pocket.renderer import render
from textual_inversion_ext.pocket.sampler import random_picture
from textual_inversion_ext.pocket.specs import PictureSpec

CACHE = Path(__file__).parent / ".cache"
CHOICES: dict[str, tuple[str, ...]] = {
    "subject": words.SUBJECTS,
    "colour": tuple(words.COLOURS),
    "pattern": words.PATTERNS,
    "scene": (*words.SCENES, words.STUDIO),
    "style": words.STYLES,
    "accessory": ("none", *words.ACCESSORIES),
}
# Squared errors of colours in 0..1 are small beside the cross-entropies of the choices.
NUMBERS_WEIGHT = 20.0
NUMBERS = {"main": 3, "accent": 3, "aspect": 1, "feature": 1}
PICTURES, STEPS, BATCH, SEED = 24_000, 4_000, 64, 77


@dataclass(frozen=True, slots=True)
class Reading:
    """What the reader sees in a batch of pictures.

    Attributes:
        choices: Attribute -> recognised word of each picture.
        numbers: Attribute -> float32 (B, k); colours in 0..1, proportions in -1..1.
    """

    choices: dict[str, list[str]]
    numbers: dict[str, np.ndarray]


def truth(picture: PictureSpec) -> tuple[list[int], list[float]]:
    """Return a one-subject picture's labels in the order of `CHOICES` and `NUMBERS`."""
    subject = picture.subjects[0]
    named = (
        subject.kind,
        words.nearest_colour(subject.main),
        subject.pattern,
        picture.scene,
        picture.style,
        subject.accessory or "none",
    )
    labels = [options.index(word) for options, word in zip(CHOICES.values(), named, strict=True)]
    colours = [c / 255 for c in (*subject.main, *subject.accent)]
    return labels, [*colours, subject.aspect, subject.feature]


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
        """Read the attributes of 64x64 RGB pictures."""
        self.eval()
        pixels = torch.stack([to_tensor(image) for image in images])
        logits, numbers = self(pixels)
        split = numbers.split(list(NUMBERS.values()), dim=1)
        return Reading(
            {name: [CHOICES[name][i] for i in table.argmax(-1).tolist()] for name, table in logits.items()},
            {name: values.numpy() for name, values in zip(NUMBERS, split, strict=True)},
        )


def to_tensor(image: Image.Image) -> Tensor:
    """Turn an RGB picture into float32 (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255.0).permute(2, 0, 1)


def _render_chunk(count: int, seed: tuple[int, int]) -> tuple[np.ndarray, list[list[int]], list[list[float]]]:
    rng = np.random.default_rng(seed)
    pixels, labels, numbers = [], [], []
    while len(pixels) < count:
        # Every fourth picture is a combination that the generator was never trained on.
        picture = random_picture(rng, held_out=len(pixels) % 4 == 0)[0]
        if len(picture.subjects) == 2:
            continue
        label, number = truth(picture)
        pixels.append(np.asarray(render(picture)))
        labels.append(label)
        numbers.append(number)
    return np.stack(pixels), labels, numbers


def _renderings(count: int, seed: int, chunk: int = 250) -> tuple[Tensor, Tensor, Tensor]:
    """Render pictures with one subject: uint8 (N, 3, H, W), int64 (N, attributes), float32 (N, 8)."""
    jobs = range(-(-count // chunk))
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(_render_chunk, [chunk] * len(jobs), [(seed, job) for job in jobs])
        parts = list(tqdm(results, total=len(jobs), desc="rendering for the reader", unit="chunk"))
    pixels = torch.from_numpy(np.concatenate([part[0] for part in parts])).permute(0, 3, 1, 2)
    labels = torch.tensor([label for part in parts for label in part[1]])
    return pixels, labels, torch.tensor([number for part in parts for number in part[2]])


def _augmented(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half; blur and noise a little, as a VAE does, so that the reader does not depend on crisp edges."""
    pixels = pixels.float() / 255.0
    one_each: dict[str, Any] = {"size": (len(pixels), 1, 1, 1), "generator": generator, "device": pixels.device}
    mirrored = torch.rand(**one_each) < 0.5
    pixels = torch.where(mirrored, pixels.flip(-1), pixels)
    share = torch.rand(**one_each) * 0.8
    blurred = nn.functional.avg_pool2d(pixels, 3, 1, 1, count_include_pad=False)
    noise = torch.randn(pixels.shape, generator=generator, device=pixels.device) * 0.02
    return (pixels * (1 - share) + blurred * share + noise).clamp(0, 1)


def load_reader() -> Reader:
    """Load the reader, or train it on fresh renderings and keep it in `benchmarks/.cache`."""
    path = CACHE / "reader.safetensors"
    torch.manual_seed(SEED)
    reader = Reader()
    if path.exists():
        reader.load_state_dict(load_file(path))
        return reader.eval()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # Rendered before the device is touched: the rendering processes are forks of this one.
    pixels, labels, numbers = (tensor.to(device) for tensor in _renderings(PICTURES, SEED))
    reader.to(device)
    generator = torch.Generator(device).manual_seed(SEED)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=STEPS)
    for _ in tqdm(range(STEPS), desc="training the reader"):
        rows = torch.randint(len(pixels), (BATCH,), generator=generator, device=device)
        logits, predicted = reader(_augmented(pixels[rows], generator), labels[rows, 0])
        loss = NUMBERS_WEIGHT * nn.functional.mse_loss(predicted, numbers[rows])
        for column, table in enumerate(logits.values()):
            loss = loss + nn.functional.cross_entropy(table, labels[rows, column])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    CACHE.mkdir(exist_ok=True)
    reader.cpu()
    save_file(reader.state_dict(), path)
    return reader.eval()


def accuracy(reader: Reader, count: int = 1_000) -> dict[str, float]:
    """Measure the reader itself on renderings it has not seen."""
    pixels, labels, numbers = _renderings(count, SEED + 1)
    reader.eval()
    with torch.no_grad():
        logits, predicted = reader(pixels.float() / 255.0)
    scores = {n: (t.argmax(-1) == labels[:, i]).float().mean().item() for i, (n, t) in enumerate(logits.items())}
    errors = (predicted - numbers).abs().split(list(NUMBERS.values()), dim=1)
    return scores | {f"{n} (mean error)": e.mean().item() for n, e in zip(NUMBERS, errors, strict=True)}
