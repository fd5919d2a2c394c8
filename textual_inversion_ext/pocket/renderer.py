"""From a `PictureSpec` to pixels."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from textual_inversion_ext.pocket.layers import Layers
from textual_inversion_ext.pocket.scenes import paint_scene
from textual_inversion_ext.pocket.specs import PictureSpec, Placement, SubjectSpec
from textual_inversion_ext.pocket.styles import HELD_OUT_STYLES, NAMED_STYLES
from textual_inversion_ext.pocket.subjects import DRAWERS, HEAD_TOPS, Pen
from textual_inversion_ext.pocket.subjects.pen import Material as M
from textual_inversion_ext.pocket.vocabulary import RGB

SIDE = 64
_OVERSAMPLE = 3
_CANVAS = SIDE * _OVERSAMPLE
_ASPECT = 1.28  # the widest subject is this much wider and flatter than the neutral one
_FEATURE = 1.7  # and its named part this many times bigger


def render(picture: PictureSpec) -> Image.Image:
    """Draw a picture.

    Args:
        picture: What to draw. The same spec always gives the same pixels.

    Returns:
        RGB picture of `SIDE` x `SIDE` pixels.
    """
    rng = np.random.default_rng(picture.seed)
    background = paint_scene(picture.scene, _CANVAS, rng)
    labels = np.zeros((_CANVAS, _CANVAS), dtype=np.uint8)
    colours = np.zeros((_CANVAS, _CANVAS, 3), dtype=np.float32)
    shadow = Image.new("L", (_CANVAS, _CANVAS), 255)
    for index, (subject, placement) in enumerate(zip(picture.subjects, picture.placements, strict=True)):
        materials = _draw_subject(subject, placement)
        inside = materials > 0
        labels[inside] = materials[inside] + 16 * index
        colours[inside] = _paint(subject, placement, materials)[inside]
        _cast_shadow(shadow, placement)
    soft = np.asarray(shadow.filter(ImageFilter.GaussianBlur(_CANVAS * 0.012)), dtype=np.float32) / 255.0
    layers = Layers(background, colours, labels > 0, labels, soft)
    style = {**NAMED_STYLES, **HELD_OUT_STYLES}[picture.style]
    image = style(layers, SIDE, rng)
    if picture.brightness == 1.0:
        return image
    pixels = np.asarray(image, dtype=np.float32) * picture.brightness
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def coverage(picture: PictureSpec, cells: int) -> np.ndarray:
    """Measure where the subjects are, and where the colours that a glance misses: accents and accessories.

    Args:
        picture: What would be drawn.
        cells: Cells along a side of the grid.

    Returns:
        float32 (2, cells, cells), the covered share of every cell: by subjects, and by their accents and accessories.
    """
    covered = np.zeros((2, _CANVAS, _CANVAS), dtype=bool)
    for subject, placement in zip(picture.subjects, picture.placements, strict=True):
        materials = _draw_subject(subject, placement)
        inside = materials > 0
        covered[0] |= inside
        # What stands in front hides what is behind it.
        covered[1, inside] = (_accented(subject, placement, materials) | (materials == M.ACCESSORY))[inside]
    size = _CANVAS // cells
    return covered.reshape(2, cells, size, cells, size).mean(axis=(2, 4), dtype=np.float32)


def _units(subject: SubjectSpec, placement: Placement) -> tuple[float, float]:
    half = placement.scale * _CANVAS / 2
    stretch = _ASPECT**subject.aspect
    return half * stretch * (-1 if placement.mirrored else 1), half / stretch


def _draw_subject(subject: SubjectSpec, placement: Placement) -> np.ndarray:
    label_map = Image.new("L", (_CANVAS, _CANVAS), int(M.NONE))
    draw = ImageDraw.Draw(label_map)
    ux, uy = _units(subject, placement)
    # The feet (y = 1) stay on the ground however tall the subject is.
    origin = (placement.x * _CANVAS, placement.ground * _CANVAS - uy)
    pen = Pen(draw, origin, (ux, uy))
    DRAWERS[subject.kind](pen, _FEATURE**subject.feature)
    if subject.accessory is not None:
        _draw_accessory(pen, subject)
    return np.asarray(label_map)


def _draw_accessory(pen: Pen, subject: SubjectSpec) -> None:
    x, y, width = HEAD_TOPS[subject.kind]
    half = width / 2
    if subject.accessory == "hat":
        pen.rectangle(x - half * 1.5, y - 0.06, x + half * 1.5, y + 0.08, M.ACCESSORY, 0.05)
        pen.rectangle(x - half * 0.9, y - 0.5, x + half * 0.9, y, M.ACCESSORY)
        pen.rectangle(x - half * 0.9, y - 0.16, x + half * 0.9, y - 0.06, M.INK)
    elif subject.accessory == "crown":
        spikes = [(x - half, y + 0.06), (x - half * 1.15, y - 0.36), (x - half * 0.5, y - 0.14), (x, y - 0.44)]
        spikes += [(x + half * 0.5, y - 0.14), (x + half * 1.15, y - 0.36), (x + half, y + 0.06)]
        pen.polygon(spikes, M.ACCESSORY)
        pen.ellipse(x, y - 0.06, 0.07, 0.07, M.WHITE)
    elif subject.accessory == "bow":
        pen.polygon([(x, y), (x - 0.4, y - 0.24), (x - 0.4, y + 0.24)], M.ACCESSORY)
        pen.polygon([(x, y), (x + 0.4, y - 0.24), (x + 0.4, y + 0.24)], M.ACCESSORY)
        pen.ellipse(x, y, 0.1, 0.1, M.INK)
    else:
        pen.stroke([(-0.6, 0.3), (-0.95, -0.5)], 0.035, M.INK)
        pen.ellipse(-1.0, -0.8, 0.3, 0.36, M.ACCESSORY)


def _paint(subject: SubjectSpec, placement: Placement, materials: np.ndarray) -> np.ndarray:
    palette = np.zeros((16, 3), dtype=np.float32)
    hair: RGB = (52, 36, 28) if subject.dark_hair else (232, 196, 110)
    palette[M.MAIN] = subject.main
    palette[M.MAIN_SHADE] = np.asarray(subject.main, dtype=np.float32) * 0.86
    palette[M.INK] = (24, 22, 28)
    palette[M.WHITE] = (248, 247, 242)
    palette[M.GLASS] = (186, 220, 238)
    palette[M.SKIN] = (240, 196, 160)
    palette[M.HAIR] = hair
    palette[M.ACCESSORY] = subject.accessory_colour
    palette[M.BEAK] = (240, 170, 40)
    colours = palette[materials]
    colours[_accented(subject, placement, materials)] = subject.accent
    return colours


def _accented(subject: SubjectSpec, placement: Placement, materials: np.ndarray) -> np.ndarray:
    accented = materials == M.ACCENT
    if subject.pattern != "plain":
        accented |= ((materials == M.MAIN) | (materials == M.MAIN_SHADE)) & _pattern(subject.pattern, placement)
    return accented


def _pattern(pattern: str, placement: Placement) -> np.ndarray:
    yy, xx = np.mgrid[0:_CANVAS, 0:_CANVAS].astype(np.float32)
    xx = (xx - placement.x * _CANVAS) / (placement.scale * _CANVAS)
    yy = (yy - placement.ground * _CANVAS) / (placement.scale * _CANVAS)
    if pattern == "striped":
        return (xx * 0.45 + yy) % 0.26 < 0.11
    if pattern == "checkered":
        return (np.floor(xx / 0.16) + np.floor(yy / 0.16)) % 2 == 0
    row = np.floor(yy / 0.2)
    u = (xx + 0.12 * (row % 2)) % 0.24 - 0.12
    v = yy - row * 0.2 - 0.1
    return u**2 + v**2 < 0.066**2


def _cast_shadow(shadow: Image.Image, placement: Placement) -> None:
    half, y, x = placement.scale * _CANVAS * 0.42, placement.ground * _CANVAS, placement.x * _CANVAS
    ImageDraw.Draw(shadow).ellipse((x - half, y - half * 0.16, x + half, y + half * 0.16), fill=150)
