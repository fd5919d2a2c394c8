from __future__ import annotations

import pytest

from textual_inversion_ext.data.pictures.buckets import bucket_shapes, nearest_shape


@pytest.mark.parametrize(("resolution", "multiple"), [(512, 64), (768, 64), (1024, 32), (64, 16), (16, 4), (500, 64)])
def test_no_shape_has_more_pixels_than_the_square(resolution: int, multiple: int) -> None:
    shapes = bucket_shapes(resolution, multiple)
    assert shapes[0] == (resolution, resolution) and len(shapes) == len(set(shapes)) <= 7
    for width, height in shapes[1:]:
        assert width % multiple == height % multiple == 0
        assert 0.7 * resolution**2 < width * height <= resolution**2
        assert (height, width) in shapes


def test_shapes_of_stable_diffusion() -> None:
    assert bucket_shapes(512, 64) == ((512, 512), (576, 448), (448, 576), (640, 384), (384, 640))


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        ((3000, 3000), (512, 512)),
        ((4000, 3000), (576, 448)),
        ((3000, 4000), (448, 576)),
        ((1920, 1080), (640, 384)),
        ((9000, 100), (640, 384)),
        ((1050, 1000), (512, 512)),
    ],
)
def test_a_picture_goes_where_least_is_cut_off(size: tuple[int, int], shape: tuple[int, int]) -> None:
    assert nearest_shape(size, bucket_shapes(512, 64)) == shape
