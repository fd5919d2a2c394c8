"""Renders the training pictures once and keeps them on disk as plain arrays."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from textual_inversion_ext.atomic import atomic_write
from textual_inversion_ext.pocket.build.identities import IDENTITY_NUMBERS, STAND_IN, identity_numbers
from textual_inversion_ext.pocket.captions import caption, full_caption
from textual_inversion_ext.pocket.renderer import SIDE, coverage, render
from textual_inversion_ext.pocket.sampler import random_picture
from textual_inversion_ext.pocket.specs import Naming, PictureSpec

CAPTIONS_PER_PICTURE = 5
NAMELESS_PER_PICTURE = 4
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
        identities: float32 (N, IDENTITY_NUMBERS), who is shown; of two the left one.
        nameless: Per picture captions of which most have a stand-in for its subject; none where it shows two.
        characters: Positions of the pictures that show one named character and nobody else, rising.
    """

    pixels: np.ndarray
    coverage: np.ndarray
    captions: list[list[str]]
    identities: np.ndarray
    nameless: list[list[str]]
    characters: list[int]


@dataclass(frozen=True, slots=True)
class _Chunk:
    pixels: np.ndarray
    coverage: np.ndarray
    captions: list[list[str]]
    identities: np.ndarray
    nameless: list[list[str]]
    is_character: list[bool]


def _render_chunk(seed: int, chunk: int) -> _Chunk:
    rng, of_nameless = np.random.default_rng((seed, chunk)), np.random.default_rng((seed, chunk, 1))
    rendered = _Chunk(
        pixels=np.empty((_CHUNK, SIDE, SIDE, 3), dtype=np.uint8),
        coverage=np.empty((_CHUNK, 2, CELLS, CELLS), dtype=np.float16),
        captions=[],
        identities=np.empty((_CHUNK, IDENTITY_NUMBERS), dtype=np.float32),
        nameless=[],
        is_character=[],
    )
    for index in range(_CHUNK):
        picture, first, naming = random_picture(rng)
        rendered.pixels[index] = np.asarray(render(picture))
        rendered.coverage[index] = coverage(picture, CELLS)
        others = [caption(picture, rng, naming=naming) for _ in range(CAPTIONS_PER_PICTURE - 2)]
        rendered.captions.append([first, *others, full_caption(picture, naming)])
        rendered.identities[index] = identity_numbers(picture.subjects[0])
        rendered.nameless.append(_nameless(picture, naming[0], of_nameless))
        rendered.is_character.append(len(naming) == 1 and naming[0].name is not None)
    return rendered


def _nameless(picture: PictureSpec, naming: Naming, rng: np.random.Generator) -> list[str]:
    if len(picture.subjects) > 1:
        return []
    said = (replace(naming, name=STAND_IN, changed_colour=None),)
    return [caption(picture, rng, naming=said) for _ in range(NAMELESS_PER_PICTURE)]


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
    names = ("pixels", "coverage", "identities")
    pixel_file, coverage_file, identity_file = (folder / f"{name}-{count}-{seed}.npy" for name in names)
    text_file = folder / f"texts-{count}-{seed}.json"  # written last
    if not text_file.exists():
        chunks = range(count // _CHUNK)
        pixels = np.lib.format.open_memmap(pixel_file, "w+", np.uint8, (count, SIDE, SIDE, 3))
        covered = np.lib.format.open_memmap(coverage_file, "w+", np.float16, (count, 2, CELLS, CELLS))
        identities = np.lib.format.open_memmap(identity_file, "w+", np.float32, (count, IDENTITY_NUMBERS))
        captions: list[list[str]] = []
        nameless: list[list[str]] = []
        is_character: list[bool] = []
        with ProcessPoolExecutor(workers) as pool:
            results = pool.map(partial(_render_chunk, seed), chunks)
            for chunk, rendered in enumerate(tqdm(results, total=len(chunks), desc="rendering", unit="chunk")):
                place = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
                pixels[place], covered[place] = rendered.pixels, rendered.coverage
                identities[place] = rendered.identities
                captions.extend(rendered.captions)
                nameless.extend(rendered.nameless)
                is_character.extend(rendered.is_character)
        for array in (pixels, covered, identities):
            array.flush()
        characters = [place for place, named in enumerate(is_character) if named]
        texts = {"captions": captions, "nameless": nameless, "characters": characters}
        atomic_write(text_file, json.dumps(texts))
    texts = json.loads(text_file.read_text())
    return RenderedWorld(
        pixels=np.load(pixel_file, mmap_mode="r"),
        coverage=np.load(coverage_file),
        identities=np.load(identity_file),
        **texts,
    )
