"""Trains what reads the ground truth out of pocket pictures: a classifier of fresh renderings, not the pocket CLIP.

`python -m benchmarks.reader reader.safetensors` writes its weights, which are not part of the package. They are for
`textual-inversion evaluate --metrics identity_error clip_text --reader reader.safetensors --concept out`.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm

from textual_inversion_ext.atomic import atomic_write
from textual_inversion_ext.pocket import vocabulary as words
from textual_inversion_ext.pocket.reader import CHOICES, NUMBERS, Reader, Reading, read_reader, to_tensor
from textual_inversion_ext.pocket.renderer import render
from textual_inversion_ext.pocket.sampler import random_picture
from textual_inversion_ext.pocket.specs import PictureSpec

__all__ = ["CACHE", "CHOICES", "NUMBERS", "Reader", "Reading", "accuracy", "load_reader", "to_tensor"]

CACHE = Path(__file__).parent / ".cache"
WEIGHTS = Path(__file__).with_suffix(".safetensors")
# Squared errors of colours in 0..1 are small beside the cross-entropies of the choices.
NUMBERS_WEIGHT = 20.0
PICTURES, STEPS, BATCH, SEED = 48_000, 5_000, 64, 177


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


def _render_chunk(count: int, seed: tuple[int, int]) -> tuple[np.ndarray, list[list[int]], list[list[float]]]:
    rng = np.random.default_rng(seed)
    pixels: list[np.ndarray] = []
    labels: list[list[int]] = []
    numbers: list[list[float]] = []
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
    """Load the reader that all benchmarks share."""
    return read_reader(WEIGHTS)


def train_reader() -> Reader:
    """Train a reader on fresh renderings."""
    torch.manual_seed(SEED)
    reader = Reader()
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
    return reader.cpu().eval()


def accuracy(reader: Reader, count: int = 1_000) -> dict[str, float]:
    """Measure the reader itself on renderings it has not seen."""
    pixels, labels, numbers = _renderings(count, SEED + 1)
    reading = reader.read([Image.fromarray(picture) for picture in pixels.permute(0, 2, 3, 1).numpy()])
    scores = {
        name: float(np.mean([CHOICES[name].index(word) == label for word, label in zip(seen, true, strict=True)]))
        for (name, seen), true in zip(reading.choices.items(), labels.T.tolist(), strict=True)
    }
    true_numbers = numbers.split(list(NUMBERS.values()), dim=1)
    for (name, seen), true in zip(reading.numbers.items(), true_numbers, strict=True):
        scores[f"{name} (mean error)"] = float(np.abs(seen - true.numpy()).mean())
    return scores


def main() -> None:
    """Train the reader and write its weights, in half precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", default=WEIGHTS, help="where the weights go")
    file: Path = parser.parse_args().file
    state = train_reader().state_dict()
    atomic_write(file, save({n: value.half() if value.is_floating_point() else value for n, value in state.items()}))
    print(f"The reader's weights are in {file}")


if __name__ == "__main__":
    main()
