"""What is kept of a picture: its cuts, mirror images, masks and sizes, each at the entry that is promised."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny import tiny_images, tiny_pipeline
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.data.latents import cuts_of, encode_pictures
from textual_inversion_ext.data.pictures.transforms import center_cut, cut_out
from textual_inversion_ext.data.sources.collect import Sample
from textual_inversion_ext.families import adapter_for
from textual_inversion_ext.families.base import FamilyAdapter


@pytest.fixture(scope="module")
def adapter() -> FamilyAdapter:
    return adapter_for(tiny_pipeline()).to("cpu", torch.float32)


def wide(count: int, mask: Any = None) -> list[Sample]:
    """Pictures of 40x16 pixels, all different."""
    pixels = np.random.default_rng(3).integers(0, 256, (count, 16, 40, 3), dtype=np.uint8)
    images = [Image.fromarray(picture) for picture in pixels]
    return [Sample(image, f"{place}.png", 0, image.size, "", mask=mask) for place, image in enumerate(images)]


def cuts(samples: list[Sample], **settings: Any) -> list[Any]:
    config = TextualInversionConfig(**settings)
    return [cuts_of(sample, (16, 16), "<tok>", place, config) for place, sample in enumerate(samples, start=1)]


def test_every_cut_is_at_its_entry(adapter: FamilyAdapter) -> None:
    samples = wide(3)
    own = cuts(samples, crop="random", random_crops=2)
    assert len({cut.box for pair in own for cut in pair}) > 3
    latents = encode_pictures(adapter, samples, own, mirrored=True, outside=0.0)
    assert latents.moments.shape == (12, 8, 8, 8) and latents.masks is None and latents.sizes.shape == (12, 6)
    for picture, sample in enumerate(samples):
        for number in range(2):
            cut = own[picture][number]
            pixels = cut_out(sample.open(), cut)[None]
            plain, mirror = picture + 3 * number, picture + 3 * (number + 2)
            torch.testing.assert_close(latents.moments[plain], adapter.moments(pixels)[0])
            torch.testing.assert_close(latents.moments[mirror], adapter.moments(pixels.flip(-1))[0])
            assert latents.sizes[plain].tolist() == list(cut.sizes())
            assert latents.sizes[mirror].tolist() == list(cut.sizes(mirrored=True))
            assert latents.sizes[plain][3] + latents.sizes[mirror][3] == 40 - 16


def test_random_cuts_depend_on_seed_token_and_picture_alone() -> None:
    two, three = wide(2), wide(3)
    assert cuts(two, crop="random") == cuts(three, crop="random")[:2]
    assert cuts(two, crop="random") != cuts(two, crop="random", seed=1)
    assert len(cuts(two, crop="random", random_crops=7)[0]) == 7
    assert [len(own) for crop in ("center", "none", "buckets") for own in cuts(two, crop=crop)] == [1] * 6


def test_masks_follow_cut_and_mirror(adapter: FamilyAdapter) -> None:
    mask = Image.new("L", (40, 16), 0)
    mask.paste(255, (12, 0, 16, 16))  # of the middle square, which begins at 12, the left quarter
    (sample,), (plain,) = wide(1, mask), wide(1)
    own = [(center_cut((40, 16), (16, 16)),)] * 2
    masks = encode_pictures(adapter, [sample, plain], own, mirrored=True, outside=0.25).masks
    assert masks is not None and masks.shape == (4, 1, 8, 8)
    assert torch.equal(masks[0, 0, :, :2], torch.ones(8, 2)) and torch.equal(
        masks[0, 0, :, 2:], torch.full((8, 6), 0.25)
    )
    assert torch.equal(masks[2], masks[0].flip(-1))
    assert torch.equal(masks[1], torch.ones(1, 8, 8)) and torch.equal(masks[3], masks[1])


def test_a_part_without_the_subject_counts_whole(adapter: FamilyAdapter, caplog: pytest.LogCaptureFixture) -> None:
    mask = Image.new("L", (40, 16), 0)
    mask.paste(255, (0, 0, 8, 16))  # outside of the middle square
    samples = wide(1, mask)
    masks = encode_pictures(adapter, samples, cuts(samples), mirrored=False, outside=0.0).masks
    assert torch.equal(masks, torch.ones(1, 1, 8, 8)) and "0.png: the part that is used shows nothing" in caplog.text


def test_a_small_picture_is_mentioned_once(adapter: FamilyAdapter, caplog: pytest.LogCaptureFixture) -> None:
    (image,) = tiny_images(1, size=8)
    samples = [Sample(image, "small.png", 0, image.size, "")]
    encode_pictures(adapter, samples, cuts(samples, crop="random"), mirrored=False, outside=0.0)
    assert caplog.text.count("small.png is 8x8") == 1
