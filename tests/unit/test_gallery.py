"""The gallery: what was made once is not made again, what differs is made anew, what a kill left half is remade."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from PIL import Image

from tests.runs import ROOT, wait_until
from tests.tiny import tiny_pipeline
from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.errors import EmbeddingFileError
from textual_inversion_ext.evaluation.fingerprint import model_fingerprint, rows_fingerprint
from textual_inversion_ext.evaluation.gallery import Gallery, Wanted
from textual_inversion_ext.pipelines.sampling import SampleSettings, sample

SETTINGS = SampleSettings(num_inference_steps=2, guidance_scale=2.0)
PROMPTS = ("a photo of <tok>", "a photo of a cat")
SEEDS = (0, 1, 2)


def concept(seed: int = 0, token: str = "<tok>") -> LearnedConcept:
    return LearnedConcept(token, {"clip_l": torch.randn(2, 16, generator=torch.Generator().manual_seed(seed))})


@pytest.fixture(scope="module")
def pipeline() -> DiffusionPipeline:
    return tiny_pipeline()


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    return Gallery(tmp_path / "pictures")


def pixels(pictures: list[list[Image.Image]]) -> list[Any]:
    return [[np.asarray(picture).tolist() for picture in row] for row in pictures]


def test_pictures_are_those_that_sample_makes(pipeline: DiffusionPipeline, gallery: Gallery) -> None:
    made = gallery.pictures(pipeline, Wanted([concept()], PROMPTS, SEEDS, SETTINGS))
    assert pixels(made) == pixels(sample(pipeline, [concept()], PROMPTS, SEEDS, SETTINGS))
    assert (gallery.made, gallery.reused) == (6, 0)


def test_a_second_call_makes_nothing(pipeline: DiffusionPipeline, gallery: Gallery) -> None:
    first = gallery.pictures(pipeline, Wanted([concept()], PROMPTS, SEEDS, SETTINGS))
    assert gallery.missing(pipeline, Wanted([concept()], PROMPTS, SEEDS, SETTINGS)) == 0
    again = Gallery(gallery.folder)
    second = again.pictures(tiny_pipeline(), Wanted([concept()], PROMPTS[::-1], SEEDS, replace(SETTINGS, batch_size=1)))
    assert (again.made, again.reused) == (0, 6)
    assert pixels(second[::-1]) == pixels(first)


def test_files_have_readable_names(pipeline: DiffusionPipeline, gallery: Gallery) -> None:
    gallery.pictures(pipeline, Wanted([concept()], PROMPTS, SEEDS, SETTINGS))
    files = gallery.files(pipeline, Wanted([concept()], PROMPTS, SEEDS, SETTINGS))
    assert sorted(file for row in files for file in row) == sorted(gallery.folder.rglob("*.png"))
    assert files[1][2].name == "seed-2.png"
    assert files[1][2].parent.name.startswith("a-photo-of-a-cat_")
    with Image.open(files[0][1]) as picture:
        facts = picture.text  # type: ignore[attr-defined]
    assert (facts["prompt"], facts["seed"], facts["num_inference_steps"]) == ("a photo of <tok>", "1", "2")


def with_scheduler() -> DiffusionPipeline:
    other = tiny_pipeline()
    other.scheduler = DDIMScheduler.from_config(other.scheduler.config, beta_end=0.02)
    return other


CHANGES: dict[str, dict[str, Any]] = {
    "seeds": {"seeds": (3, 4, 5)},
    "steps": {"settings": replace(SETTINGS, num_inference_steps=3)},
    "guidance": {"settings": replace(SETTINGS, guidance_scale=3.0)},
    "negative prompt": {"settings": replace(SETTINGS, negative_prompt="red")},
    "size": {"settings": replace(SETTINGS, size=(32, 16))},
    "key": {"key": "other"},
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_decides_a_picture_makes_new_ones(pipeline: DiffusionPipeline, gallery: Gallery, change: str) -> None:
    usual = {"prompts": PROMPTS, "seeds": SEEDS, "settings": SETTINGS}
    gallery.pictures(pipeline, Wanted([concept()], **usual))
    gallery.pictures(pipeline, Wanted([concept()], **{**usual, **CHANGES[change]}))
    assert (gallery.made, gallery.reused) == (12, 0)


def test_new_rows_make_new_pictures_of_their_prompts_only(pipeline: DiffusionPipeline, gallery: Gallery) -> None:
    gallery.pictures(pipeline, Wanted([concept()], PROMPTS, SEEDS, SETTINGS))
    gallery.pictures(pipeline, Wanted([concept(1)], PROMPTS, SEEDS, SETTINGS))
    assert (gallery.made, gallery.reused) == (9, 3), "the prompt without the word needs no new pictures"


def test_where_prompts_are_pooled_is_part_of_a_picture(pipeline: DiffusionPipeline, gallery: Gallery) -> None:
    plain = Wanted([concept()], PROMPTS, SEEDS, SETTINGS)
    otherwise = replace(concept(), metadata={"recipe": '{"pooling": "diffusers"}'})
    gallery.pictures(pipeline, plain)
    assert gallery.missing(pipeline, replace(plain, concepts=[otherwise])) == 6
    assert gallery.missing(pipeline, replace(plain, concepts=[otherwise, concept(1, "<other>")])) == 0


@pytest.mark.parametrize("other", [lambda: tiny_pipeline(seed=1), with_scheduler], ids=["weights", "sampler"])
def test_another_model_makes_new_pictures(pipeline: DiffusionPipeline, gallery: Gallery, other: Any) -> None:
    gallery.pictures(pipeline, Wanted([], PROMPTS[1:], SEEDS, SETTINGS))
    gallery.pictures(other(), Wanted([], PROMPTS[1:], SEEDS, SETTINGS))
    assert (gallery.made, gallery.reused) == (6, 0)


def test_changed_weights_and_number_formats_are_seen() -> None:
    model, changed = tiny_pipeline(), tiny_pipeline()
    before = model_fingerprint(model)
    with torch.no_grad():
        changed.unet.conv_in.weight.mul_(1.001)
    assert model_fingerprint(changed) != before
    assert model_fingerprint(tiny_pipeline()) == before
    assert model_fingerprint(model.to(torch.float16)) != before


def test_a_model_that_was_used_is_the_same_model() -> None:
    model: Any = tiny_pipeline()
    before = model_fingerprint(model)
    model("a cat", num_inference_steps=2)
    assert model_fingerprint(model) == before
    model.load_textual_inversion(torch.ones(1, 16), token="<new>")
    assert model_fingerprint(model) != before


def test_every_number_of_an_added_word_is_part_of_the_model() -> None:
    model: Any = tiny_pipeline()
    model.load_textual_inversion(torch.ones(1, 16), token="<new>")
    row = model.text_encoder.get_input_embeddings().weight[-1]
    before = model_fingerprint(model)
    for place in range(16):
        with torch.no_grad():
            row[place] += 1.0
        assert model_fingerprint(model) != before, place
        with torch.no_grad():
            row[place] -= 1.0
    assert model_fingerprint(model) == before


def test_the_strength_of_a_lora_is_part_of_the_model() -> None:
    from peft import LoraConfig

    model: Any = tiny_pipeline()
    plain = model_fingerprint(model)
    model.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]), "mine")
    model.unet.set_adapters(["mine"], [1.0])
    full = model_fingerprint(model)
    model.unet.set_adapters(["mine"], [0.5])
    half = model_fingerprint(model)
    model.unet.disable_adapters()
    assert len({plain, full, half, model_fingerprint(model)}) == 4


def test_rows_are_known_by_their_numbers_and_token() -> None:
    known = rows_fingerprint([concept()])
    assert rows_fingerprint([LearnedConcept("<tok>", concept().vectors, {"steps": "3"})]) == known
    assert rows_fingerprint([concept(token="<other>")]) != known
    assert rows_fingerprint([concept(1)]) != known


@pytest.mark.parametrize("damage", ["half", "empty", "foreign", "renamed"])
def test_a_damaged_picture_is_made_again(pipeline: DiffusionPipeline, gallery: Gallery, damage: str) -> None:
    first = gallery.pictures(pipeline, Wanted([concept()], PROMPTS, SEEDS, SETTINGS))
    file, other = gallery.files(pipeline, Wanted([concept()], PROMPTS, SEEDS, SETTINGS))[0][:2]
    whole = file.read_bytes()
    if damage == "half":
        file.write_bytes(whole[: len(whole) * 2 // 3])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "foreign":
        Image.new("RGB", (16, 16)).save(file)
    else:
        file.write_bytes(other.read_bytes())
    again = Gallery(gallery.folder)
    assert pixels(again.pictures(pipeline, Wanted([concept()], PROMPTS, SEEDS, SETTINGS))) == pixels(first)
    assert (again.made, again.reused) == (1, 5)
    assert file.read_bytes() == whole


class _StopAfter:
    """Stands where the progress bar stands and interrupts, as Ctrl-C would between two pictures."""

    def __init__(self, pictures: int) -> None:
        self.left = pictures

    def update(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_an_interrupted_call_goes_on_where_it_was(pipeline: DiffusionPipeline, gallery: Gallery) -> None:
    bar: Any = _StopAfter(4)
    with pytest.raises(KeyboardInterrupt):
        gallery.pictures(pipeline, Wanted([concept()], PROMPTS, SEEDS, replace(SETTINGS, batch_size=2)), bar=bar)
    assert len(list(gallery.folder.rglob("*.png"))) == 4
    again = Gallery(gallery.folder)
    assert again.missing(pipeline, Wanted([concept()], PROMPTS, SEEDS, SETTINGS)) == 2
    made = again.pictures(pipeline, Wanted([concept()], PROMPTS, SEEDS, SETTINGS))
    assert (again.made, again.reused) == (2, 4)
    assert pixels(made) == pixels(sample(pipeline, [concept()], PROMPTS, SEEDS, SETTINGS))


_ENDLESS = """
import sys
from tests.tiny import tiny_pipeline
from textual_inversion_ext.evaluation.gallery import Gallery, Wanted
from textual_inversion_ext.pipelines.sampling import SampleSettings
settings = SampleSettings(num_inference_steps=2, guidance_scale=2.0, batch_size=1)
Gallery(sys.argv[1]).pictures(tiny_pipeline(), Wanted([], ["a photo of a cat"], range(100_000), settings))
"""


def test_a_killed_process_leaves_whole_pictures(pipeline: DiffusionPipeline, gallery: Gallery) -> None:
    command = [sys.executable, "-c", _ENDLESS, str(gallery.folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: len(list(gallery.folder.rglob("seed-*.png"))) >= 5, process)
    finally:
        process.kill()
        process.communicate()
    seeds = [int(file.stem.removeprefix("seed-")) for file in gallery.folder.rglob("seed-*.png")]
    made = gallery.pictures(pipeline, Wanted([], PROMPTS[1:], sorted(seeds), SETTINGS))
    assert (gallery.made, gallery.reused) == (0, len(seeds)), "what is there under its name is whole"
    assert pixels([made[0][:3]]) == pixels(sample(pipeline, [], PROMPTS[1:], sorted(seeds)[:3], SETTINGS))


def test_prompts_of_any_script_and_length_have_files(pipeline: DiffusionPipeline, gallery: Gallery) -> None:
    prompts = ["a cat / dog: \\ *?", "ein Fuß über Öl", "猫の写真", "x" * 400, "x" * 401, "..."]
    gallery.pictures(pipeline, Wanted([], prompts, (0,), SETTINGS))
    again = Gallery(gallery.folder)
    again.pictures(pipeline, Wanted([], prompts, (0,), SETTINGS))
    assert again.made == 0
    assert all(len(file.parent.name.encode()) < 200 for file in gallery.folder.rglob("*.png"))


def test_a_concept_of_another_model_is_refused(pipeline: DiffusionPipeline, gallery: Gallery) -> None:
    wide = LearnedConcept("<tok>", {"clip_l": torch.ones(1, 768)})
    with pytest.raises(EmbeddingFileError, match="another kind of model"):
        gallery.pictures(pipeline, Wanted([wide], PROMPTS, SEEDS, SETTINGS))
    assert not gallery.folder.exists()


def test_what_is_asked_for_twice_is_made_once(pipeline: DiffusionPipeline, gallery: Gallery) -> None:
    made = gallery.pictures(pipeline, Wanted([], ("a cat", "a cat"), (1, 1), SETTINGS))
    assert gallery.made == 1
    assert [len(row) for row in made] == [2, 2]
