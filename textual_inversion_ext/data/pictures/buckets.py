"""Aspect-ratio buckets: shapes of about the same number of pixels, so that no picture loses much to the crop.

Source: NovelAI 2022, "Aspect ratio bucketing", and kohya-ss/sd-scripts, whose buckets never hold more pixels than the
square. Those use every shape in steps of 64 pixels. With 3-100 pictures most of them would hold one picture, and a
batch comes from one bucket: here there are only the shapes that cameras and screens have.
"""

from __future__ import annotations

import math

__all__ = ["ASPECT_RATIOS", "bucket_shapes", "nearest_shape"]

ASPECT_RATIOS: tuple[float, ...] = (1.0, 4 / 3, 3 / 4, 3 / 2, 2 / 3, 16 / 9, 9 / 16)
"""Width over height: square, most cameras and phones, small-picture film, screens; each also upright."""


def bucket_shapes(resolution: int, multiple: int) -> tuple[tuple[int, int], ...]:
    """The shapes that pictures may have.

    Args:
        resolution: side of the square in pixels.
        multiple: every side but those of the square is a multiple of it.

    Returns:
        Width and height of each, the square first; none has more pixels than the square.
    """
    area = resolution * resolution
    possible = [(resolution, resolution)]
    for width in range(multiple, area // multiple + 1, multiple):
        height = area // width // multiple * multiple
        if height:
            possible += [(width, height), (height, width)]
    # Several ratios may share a shape where the multiple is coarse; `dict` keeps their order.
    return tuple(dict.fromkeys(_nearest(possible, ratio) for ratio in ASPECT_RATIOS))


def nearest_shape(size: tuple[int, int], shapes: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """The shape that cuts least off a picture.

    Args:
        size: width and height of the picture.
        shapes: from ``bucket_shapes``.

    Returns:
        One of the shapes; the first of equally good ones.
    """
    return _nearest(shapes, size[0] / size[1])


def _nearest(shapes: list[tuple[int, int]] | tuple[tuple[int, int], ...], ratio: float) -> tuple[int, int]:
    # Logarithms: too wide by a third is as far off as too tall by a third. Of equals, the larger or the first.
    return min(shapes, key=lambda shape: (round(abs(math.log(shape[0] / shape[1] / ratio)), 9), -shape[0] * shape[1]))
