"""Renders the training pictures once and keeps them on disk as plain arrays."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from textual_inversion_ext.atomic import atomic_write
from textual_inversion_ext.pocket.captions import caption
from textual_inversion_ext.pocket.renderer import SIDE, render
from textual_inversion_ext.pocket.sampler import random_picture

CAPTIONS_PER_PICTURE = 4
_CHUNK = 500


@dataclass(frozen=True, slots=True)
class RenderedWorld:
    """Training pictures with captions.

    Attributes:
        pixels: uint8 (N, SIDE, SIDE, 3).
        captions: N lists of `CAPTIONS_PER_PICTURE` captions.
    """

    pixels: np.ndarray
    captions: list[list[str]]


def _render_chunk(seed: int, chunk: int) -> tuple[np.ndarray, list[list[str]]]:
    rng = np.random.default_rng((seed, chunk))
    pixels = np.empty((_CHUNK, SIDE, SIDE, 3), dtype=np.uint8)
    captions: list[list[str]] = []
    for index in range(_CHUNK):
        picture, first, naming = random_picture(rng)
        pixels[index] = np.asarray(render(picture))
        others = [caption(picture, rng, naming=naming) for _ in range(CAPTIONS_PER_PICTURE - 1)]
        captions.append([first, *others])
    return pixels, captions


def rendered_world(folder: Path, count: int, seed: int, workers: int) -> RenderedWorld:
    """Render the world, or read it back if that was done before.

    Args:
        folder: Where the arrays are kept.
        count: Number of pictures, a multiple of 500.
        seed: Seed of the world.
        workers: Processes to render with; the result does not depend on it.

    Returns:
        Pictures and captions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pixel_file, caption_file = folder / f"pixels-{count}-{seed}.npy", folder / f"captions-{count}-{seed}.json"
    if not caption_file.exists():
        chunks = range(count // _CHUNK)
        pixels = np.lib.format.open_memmap(pixel_file, "w+", np.uint8, (count, SIDE, SIDE, 3))
        captions: list[list[str]] = []
        with ProcessPoolExecutor(workers) as pool:
            results = pool.map(partial(_render_chunk, seed), chunks)
            for chunk, (drawn, texts) in enumerate(tqdm(results, total=len(chunks), desc="rendering", unit="chunk")):
                pixels[chunk * _CHUNK : (chunk + 1) * _CHUNK] = drawn
                captions.extend(texts)
        pixels.flush()
        atomic_write(caption_file, json.dumps(captions))
    return RenderedWorld(np.load(pixel_file, mmap_mode="r"), json.loads(caption_file.read_text()))
