"""What reads pocket pictures takes the colours that are there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from textual_inversion_ext.errors import ModelError
from textual_inversion_ext.pocket import OBJECTS, render_concept
from textual_inversion_ext.pocket.reader import MOST_SHIFT, Reader, _two_colours, read_reader
from textual_inversion_ext.pocket.vocabulary import nearest_colour

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


@pytest.mark.parametrize("colour", [(200, 90, 40), (64, 128, 160)])
def test_the_reader_takes_colours_from_the_picture(colour: tuple[int, int, int]) -> None:
    """Even an untrained one: where there is one colour only, it can point at no other."""
    torch.manual_seed(0)
    reader = Reader()
    pictures = [Image.new("RGB", (64, 64), colour)]
    for name in ("main", "accent"):
        off = reader.read(pictures).numbers[name][0] - np.array(colour) / 255
        assert 0 < np.abs(off).max() <= MOST_SHIFT
    for parameter in reader.shift.parameters():
        torch.nn.init.zeros_(parameter)
    seen = reader.read(pictures)
    assert np.allclose(seen.numbers["main"], np.array(colour) / 255, atol=1e-5)
    assert seen.choices["colour"] == [nearest_colour(colour)]


def test_a_reader_comes_from_its_file(tmp_path: Path) -> None:
    reader = Reader()
    save_file(reader.state_dict(), tmp_path / "reader.safetensors")
    pictures = render_concept("mochi", 2)
    again, first = read_reader(tmp_path / "reader.safetensors").read(pictures), reader.read(pictures)
    assert again.choices == first.choices
    assert all(np.array_equal(again.numbers[name], values) for name, values in first.numbers.items())
    save_file({"weight": torch.ones(1)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights", encoding="utf-8")
    for name in ("other", "text", "missing"):
        with pytest.raises(ModelError, match=rf"{name}\.safetensors.*benchmarks/reader\.safetensors"):
            read_reader(tmp_path / f"{name}.safetensors")


def test_the_reader_of_the_repository_reads_the_shipped_concepts() -> None:
    reader = read_reader(Path(__file__).parents[2] / "benchmarks" / "reader.safetensors")
    subjects: list[bool] = []
    off: dict[str, list[float]] = {"main": [], "accent": []}
    for concept in OBJECTS:
        assert (truth := concept.subject) is not None
        seen = reader.read(render_concept(concept.name, 8))
        subjects += [kind == truth.kind for kind in seen.choices["subject"]]
        for name, true in (("main", truth.main), ("accent", truth.accent)):
            off[name] += np.linalg.norm(seen.numbers[name] * 255 - true, axis=1).tolist()
    assert np.mean(subjects) > 0.95
    assert np.mean(off["main"]) < 30 and np.mean(off["accent"]) < 30
