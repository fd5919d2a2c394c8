from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from textual_inversion_ext.data.pictures.transforms import (
    Cut,
    center_cut,
    cut_out,
    mask_weights,
    random_cut,
    squash,
    to_tensor,
)
from textual_inversion_ext.errors import ConfigError


def test_the_tensor_keeps_the_aspect_ratio() -> None:
    circle = Image.new("RGB", (300, 100), "black")
    circle.paste("white", (110, 10, 190, 90))
    tensor = to_tensor(circle, 50)
    assert tensor.shape == (3, 50, 50) and tensor.dtype == torch.float32 and tensor.is_contiguous()
    white = (tensor[0] > 0).nonzero()
    assert torch.equal(white.min(0).values, torch.tensor([5, 5])) and torch.equal(
        white.max(0).values, torch.tensor([44, 44])
    )


@pytest.mark.parametrize("size", [(64, 64), (64, 90), (91, 64)])
def test_pixels_at_the_right_size_are_not_resampled(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    top, left = (size[1] - 64) // 2, (size[0] - 64) // 2
    tensor = to_tensor(Image.fromarray(noise), 64)
    back = tensor.add(1).mul(127.5).round().permute(1, 2, 0).numpy().astype(np.uint8)
    assert np.array_equal(back, noise[top : top + 64, left : left + 64])
    assert tensor.min() >= -1 and tensor.max() <= 1


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((512, 512, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    assert to_tensor(Image.fromarray(stripes), 64).abs().max() < 0.05  # without it: 1


def test_small_pictures_are_enlarged_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    tensor = to_tensor(Image.new("RGB", (3, 5), "white"), 16, name="tiny.png")
    assert torch.equal(tensor, torch.ones(3, 16, 16))
    assert "tiny.png is 3x5: enlarged to 16x16" in caplog.text
    caplog.clear()
    to_tensor(Image.new("RGB", (30, 16)), 16)
    assert not caplog.text


def test_an_extreme_shape_needs_no_giant_picture_in_between() -> None:
    assert to_tensor(Image.new("L", (200_000, 1)), 64).shape == (3, 64, 64)


@pytest.mark.parametrize("resolution", [0, -8, 1.5, True, "64"])
def test_a_resolution_that_is_none_is_refused(resolution: Any) -> None:
    with pytest.raises(ConfigError, match="resolution"):
        to_tensor(Image.new("RGB", (9, 8)), resolution)


@pytest.mark.parametrize(
    ("source", "target", "box"),
    [
        ((300, 100), (50, 50), (100, 0, 200, 100)),
        ((101, 300), (64, 64), (0, 99, 101, 200)),
        ((400, 300), (80, 48), (0, 30, 400, 270)),
        ((400, 300), (48, 80), (110, 0, 290, 300)),
        ((5000, 1), (8, 4), (2499, 0, 2501, 1)),
    ],
)
def test_the_largest_part_in_the_middle(
    source: tuple[int, int], target: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    assert center_cut(source, target) == Cut(source, box, target)


def test_random_cuts_are_as_large_and_everywhere() -> None:
    chance = random.Random(0)
    cuts = [random_cut((300, 100), (50, 50), chance) for _ in range(200)]
    lefts = {cut.box[0] for cut in cuts}
    assert min(lefts) < 20 and max(lefts) > 180 and len(lefts) > 80
    assert {(right - left, bottom - top) for left, top, right, bottom in (cut.box for cut in cuts)} == {(100, 100)}
    assert random_cut((100, 100), (50, 50), chance) == center_cut((100, 100), (50, 50))


def test_a_squashed_picture_loses_its_shape_and_nothing_else() -> None:
    picture = Image.new("RGB", (300, 100), "black")
    picture.paste("white", (0, 0, 150, 100))
    tensor = cut_out(picture, squash(picture.size, (50, 50)))
    assert tensor[:, :, :24].min() > 0.95 and tensor[:, :, 26:].max() < -0.95


def test_sizes_are_what_diffusers_tells_sdxl() -> None:
    # 1200x800 with 512: resized to 768x512, then 128 columns are cut off at each side
    cut = center_cut((1200, 800), (512, 512))
    assert cut.sizes() == (800, 1200, 0, 128, 512, 512)
    assert squash((1200, 800), (512, 512)).sizes() == (800, 1200, 0, 0, 512, 512)
    assert center_cut((400, 300), (80, 48)).sizes() == (300, 400, 6, 0, 48, 80)
    # a mirrored picture is cut at its other side
    off_center = Cut((1200, 800), (100, 0, 900, 800), (512, 512))
    assert off_center.sizes() == (800, 1200, 0, 64, 512, 512)
    assert off_center.sizes(mirrored=True) == (800, 1200, 0, 192, 512, 512)


def test_mask_weights_are_area_averages_of_the_same_part() -> None:
    mask = Image.new("L", (48, 16), 0)
    mask.paste(255, (16, 0, 28, 16))  # of the middle square the left three quarters
    weights = mask_weights(mask, center_cut(mask.size, (32, 32)), (2, 2), outside=0.2)
    assert weights.shape == (1, 2, 2) and weights.dtype == torch.float32
    torch.testing.assert_close(weights[0], torch.tensor([[1.0, 0.6], [1.0, 0.6]]))
    assert torch.equal(mask_weights(mask, center_cut(mask.size, (32, 32)), (4, 4), 1.0), torch.ones(1, 4, 4))
    white = Image.new("L", (48, 16), 255)
    assert torch.equal(mask_weights(white, squash(white.size, (32, 32)), (3, 5), 0.0), torch.ones(1, 3, 5))
