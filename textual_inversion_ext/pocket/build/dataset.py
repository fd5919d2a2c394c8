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
from textual_inversion_ext.pocket.captions import caption, full_caption
from textual_inversion_ext.pocket.renderer import SIDE, coverage, render
from textual_inversion_ext.pocket.sampler import random_picture

CAPTIONS_PER_PICTURE = 5
CELLS = SIDE // 4
"""Cells along a side of the latents."""
_CHUNK = 500


@dataclass(frozen=True, slots=True)
class RenderedWorld:
    """Training pictures with captions.

    Attributes:
        pixels: uint8 (N, SIDE, SIDE, 3).
        coverage: float16 (N, 2, CELLS, CELLS), see `renderer.coverage`.
        captions: N lists of `CAPTIONS_PER_PICTURE` captions; the last names everything that may be named.
        characters: Positions of the pictures that show one named character and nobody else, rising.
    """

    pixels: np.ndarray
    coverage: np.ndarray
    captions: list[list[str]]
    characters: list[int]


@dataclass(frozen=True, slots=True)
class _Chunk:
    pixels: np.ndarray
    coverage: np.ndarray
    captions: list[list[str]]
    is_character: list[bool]


def _render_chunk(seed: int, chunk: int) -> _Chunk:
    rng = np.random.default_rng((seed, chunk))
    rendered = _Chunk(
        pixels=np.empty((_CHUNK, SIDE, SIDE, 3), dtype=np.uint8),
        coverage=np.empty((_CHUNK, 2, CELLS, CELLS), dtype=np.float16),
        captions=[],
        is_character=[],
    )
    for index in range(_CHUNK):
        picture, first, naming = random_picture(rng)
        rendered.pixels[index] = np.asarray(render(picture))
        rendered.coverage[index] = coverage(picture, CELLS)
        others = [caption(picture, rng, naming=naming) for _ in range(CAPTIONS_PER_PICTURE - 2)]
        rendered.captions.append([first, *others, full_caption(picture, naming)])
        rendered.is_character.append(len(naming) == 1 and naming[0].name is not None)
    return rendered


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
    pixel_file, coverage_file = (folder / f"{kind}-{count}-{seed}.npy" for kind in ("pixels", "coverage"))
    text_file = folder / f"texts-{count}-{seed}.json"  # written last
    if not text_file.exists():
        chunks = range(count // _CHUNK)
        pixels = np.lib.format.open_memmap(pixel_file, "w+", np.uint8, (count, SIDE, SIDE, 3))
        covered = np.lib.format.open_memmap(coverage_file, "w+", np.float16, (count, 2, CELLS, CELLS))
        captions: list[list[str]] = []
        is_character: list[bool] = []
        with ProcessPoolExecutor(workers) as pool:
            results = pool.map(partial(_render_chunk, seed), chunks)
            for chunk, rendered in enumerate(tqdm(results, total=len(chunks), desc="rendering", unit="chunk")):
                place = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
                pixels[place], covered[place] = rendered.pixels, rendered.coverage
                captions.extend(rendered.captions)
                is_character.extend(rendered.is_character)
        pixels.flush()
        covered.flush()
        characters = [place for place, named in enumerate(is_character) if named]
        atomic_write(text_file, json.dumps({"captions": captions, "characters": characters}))
    texts = json.loads(text_file.read_text())
    return RenderedWorld(np.load(pixel_file, mmap_mode="r"), np.load(coverage_file), **texts)
