"""What reads pocket pictures takes the colours that are there."""

from __future__ import annotations

import pytest
import torch

from textual_inversion_ext.pocket.reader import _two_colours

ORANGE, BLUE = (0.9, 0.5, 0.1), (0.1, 0.2, 0.8)


def striped(share_of_main_map: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Stripes of two colours; the maps tell them apart only a little."""
    seen = torch.tensor([ORANGE, BLUE] * 8)[None]
    main = torch.tensor([share_of_main_map, 1 - share_of_main_map] * 8) / 8
    return torch.stack([main, main.flip(0)])[None], seen


@pytest.mark.parametrize("share, first, second", [(0.6, ORANGE, BLUE), (0.4, BLUE, ORANGE)])
def test_stripes_have_two_colours_and_not_their_mean(
    share: float, first: tuple[float, ...], second: tuple[float, ...]
) -> None:
    found = _two_colours(*striped(share))
    torch.testing.assert_close(found[0], torch.tensor([first, second]), atol=1e-4, rtol=0)


def test_a_thing_of_one_colour_has_that_one_twice() -> None:
    maps, seen = striped(0.6)
    found = _two_colours(maps, torch.full_like(seen, 0.3))
    torch.testing.assert_close(found, torch.full((1, 2, 3), 0.3))


def test_every_picture_for_itself() -> None:
    (maps, seen), (others, _) = striped(0.6), striped(0.4)
    together = _two_colours(torch.cat([maps, others]), torch.cat([seen, seen]))
    torch.testing.assert_close(together, torch.cat([_two_colours(maps, seen), _two_colours(others, seen)]))
