from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from textual_inversion_ext.data.transforms import to_tensor
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


def test_an_unknown_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="allowed: 'crop'"):
        to_tensor(Image.new("RGB", (9, 8)), 8, fit="squash")  # type: ignore[arg-type]
