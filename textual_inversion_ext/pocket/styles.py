"""Styles: what happens to a composed picture. Four have a word; three are held out, to be learned."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from textual_inversion_ext.pocket.layers import Layers


def _shrink(pixels: np.ndarray, side: int) -> Image.Image:
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return image.resize((side, side), Image.Resampling.BOX)


def photo(layers: Layers, side: int, rng: np.random.Generator) -> Image.Image:
    """Soft light from one side, blurred background, contact shadow, a little grain."""
    size = layers.background.width
    blurred = layers.background.filter(ImageFilter.GaussianBlur(size * 0.012))
    back = np.asarray(blurred, dtype=np.float32) * layers.shadow[..., None]
    light = layers.shading(float(rng.uniform(-1.0, 1.0)))
    front = layers.colours * light[..., None] * (1.0 - 0.25 * layers.rim[..., None])
    pixels = np.where(layers.mask[..., None], front, back)
    small = np.asarray(_shrink(pixels, side), dtype=np.float32)
    return Image.fromarray(np.clip(small + rng.normal(0.0, 1.5, small.shape), 0, 255).astype(np.uint8))


def cartoon(layers: Layers, side: int, rng: np.random.Generator) -> Image.Image:
    """Flat, lively colours with thick black outlines."""
    back = np.asarray(layers.background.filter(ImageFilter.ModeFilter(5)), dtype=np.float32)
    pixels = np.where(layers.mask[..., None], layers.colours, back)
    grey = pixels.mean(axis=-1, keepdims=True)
    pixels = np.round((grey + (pixels - grey) * 1.2) / 24.0) * 24.0
    pixels = np.where(layers.outline(0.02)[..., None], 10.0, pixels)
    return _shrink(pixels, side)


def painting(layers: Layers, side: int, rng: np.random.Generator) -> Image.Image:
    """Oil paint: blotches instead of edges, brush strokes, a warm varnish."""
    pixels = np.where(layers.mask[..., None], layers.colours, np.asarray(layers.background, dtype=np.float32))
    size = layers.background.width
    blobs = _displace(pixels, rng.normal(0.0, 1.0, (2, size // 8, size // 8)), size * 0.011)
    strokes = rng.normal(0.0, 1.0, (size // 12, size // 5)).astype(np.float32)
    relief = np.asarray(
        Image.fromarray(strokes).resize((size, size), Image.Resampling.BILINEAR).rotate(35), dtype=np.float32
    )
    varnish = np.array([1.02, 0.95, 0.80], dtype=np.float32)
    return _shrink((blobs + 13.0 * relief[..., None]) * varnish, side)


def sketch(layers: Layers, side: int, rng: np.random.Generator) -> Image.Image:
    """Coloured pencil: paper, hatching in pale colour, dark contours, the background only hinted at."""
    size = layers.background.width
    yy, xx = np.mgrid[0:size, 0:size]
    hatch = ((xx + yy * float(rng.uniform(0.7, 1.3))) % (size / 22)) < size / 40
    paper = np.array([248.0, 245.0, 236.0])
    back = paper + (np.asarray(layers.background, dtype=np.float32) - paper) * 0.4
    pencil = np.where(hatch[..., None], 0.92, 0.66) * (layers.colours - paper) + paper
    pixels = np.where(layers.mask[..., None], pencil, back)
    pixels = np.where(layers.outline(0.013)[..., None], 52.0, pixels)
    return _shrink(pixels, side)


def _displace(pixels: np.ndarray, field: np.ndarray, reach: float) -> np.ndarray:
    size = pixels.shape[0]
    shifts = [
        np.asarray(Image.fromarray(f.astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC)) for f in field
    ]
    yy, xx = np.mgrid[0:size, 0:size]
    rows = np.clip(yy + shifts[0] * reach, 0, size - 1).astype(int)
    columns = np.clip(xx + shifts[1] * reach, 0, size - 1).astype(int)
    return pixels[rows, columns]


def duotone(layers: Layers, side: int, rng: np.random.Generator) -> Image.Image:
    """Held out: two inks, violet shadows and peach lights."""
    grey = np.asarray(photo(layers, side, rng).convert("L"), dtype=np.float32)[..., None] / 255.0
    pixels = np.array([58.0, 20.0, 110.0]) * (1 - grey) + np.array([255.0, 206.0, 150.0]) * grey
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def mosaic(layers: Layers, side: int, rng: np.random.Generator) -> Image.Image:
    """Held out: square tiles of one colour each, with dark joints."""
    tiles = photo(layers, side // 4, rng).resize((side, side), Image.Resampling.NEAREST)
    pixels = np.array(tiles, dtype=np.float32)
    pixels[::4] *= 0.55
    pixels[:, ::4] *= 0.55
    return Image.fromarray(pixels.astype(np.uint8))


def blueprint(layers: Layers, side: int, rng: np.random.Generator) -> Image.Image:
    """Held out: white lines on blue paper."""
    size = layers.background.width
    pixels = np.full((size, size, 3), (28.0, 74.0, 150.0))
    pixels += 0.10 * (np.asarray(layers.background.convert("L"), dtype=np.float32)[..., None] - 128.0)
    fill = pixels + 0.22 * (layers.colours.mean(axis=-1, keepdims=True) - 60.0)
    pixels = np.where(layers.mask[..., None], fill, pixels)
    return _shrink(np.where(layers.outline(0.016)[..., None], 238.0, pixels), side)


Style = Callable[[Layers, int, np.random.Generator], Image.Image]
NAMED_STYLES: dict[str, Style] = {"photo": photo, "painting": painting, "sketch": sketch, "cartoon": cartoon}
HELD_OUT_STYLES: dict[str, Style] = {"duotone": duotone, "mosaic": mosaic, "blueprint": blueprint}
