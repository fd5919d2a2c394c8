from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageChops

from tests.runs import save_model, train_flags
from tests.tiny import tiny_images, tiny_pipeline
from textual_inversion_ext import (
    ConceptError,
    EmbeddingFileError,
    LearnedConcept,
    ModelError,
    contact_sheet,
    load_pipeline,
    sample,
)
from textual_inversion_ext.cli.main import INTERRUPTED, main
from textual_inversion_ext.pipelines.sampling import SampleSettings

FAST = SampleSettings(num_inference_steps=3)


def learned(token: str = "<tok>", rows: int = 1, dim: int = 16, seed: int = 0) -> LearnedConcept:
    vectors = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))
    return LearnedConcept(token, {"clip_l": vectors})


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and ImageChops.difference(one, other).getbbox() is None


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_without_words_it_is_the_plain_pipeline(guidance: float) -> None:
    pipeline = tiny_pipeline()
    ((picture,),) = sample(
        pipeline, [], ["a red cat"], [4], SampleSettings(3, guidance, negative_prompt="blue", size=(24, 16))
    )
    plain = pipeline(
        "a red cat",
        negative_prompt="blue",
        num_inference_steps=3,
        guidance_scale=guidance,
        width=24,
        height=16,
        generator=torch.Generator().manual_seed(4),
    ).images[0]
    assert same(picture, plain)


@pytest.mark.parametrize("rows", [1, 3])
def test_with_a_word_it_is_plain_diffusers_with_the_file(rows: int, tmp_path: Path) -> None:
    concept = learned(rows=rows)
    ((picture,),) = sample(tiny_pipeline(), [concept], ["a photo of <tok>"], [4], FAST)
    concept.save(tmp_path / "learned_embeds.safetensors")
    pipeline = tiny_pipeline()
    pipeline.load_textual_inversion(tmp_path)
    plain = pipeline("a photo of <tok>", num_inference_steps=3, generator=torch.Generator().manual_seed(4)).images[0]
    assert same(picture, plain)


def test_the_pipeline_stays_as_it_was() -> None:
    pipeline = tiny_pipeline()
    table, vocabulary = pipeline.text_encoder.get_input_embeddings(), len(pipeline.tokenizer)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    sample(pipeline, [learned()], ["a <tok>"], settings=FAST)
    assert torch.rand(1).equal(expected)
    assert pipeline.text_encoder.get_input_embeddings() is table and len(pipeline.tokenizer) == vocabulary
    assert pipeline._progress_bar_config == {"disable": True}


def test_pictures_come_by_prompt_and_seed_whatever_the_batch_size() -> None:
    pipeline, words = tiny_pipeline(), [learned(), learned("<other>", 2, seed=1)]
    prompts, seeds = ["a <tok>", "<other> next to a <tok>", "a cat"], [0, 7]
    rows = sample(pipeline, words, prompts, seeds, SampleSettings(3, batch_size=4))
    assert [len(row) for row in rows] == [2, 2, 2]
    for prompt, row in zip(prompts, rows, strict=True):
        for seed, picture in zip(seeds, row, strict=True):
            ((alone,),) = sample(pipeline, words, [prompt], [seed], FAST)
            assert max(high for _, high in ImageChops.difference(picture, alone).getextrema()) <= 1
    assert not same(rows[0][0], rows[0][1]) and not same(rows[0][0], rows[1][0])


def test_a_picture_is_handed_over_as_soon_as_it_is_made() -> None:
    made: list[tuple[int, int, Image.Image]] = []

    def stop_after_three(prompt: int, seed: int, picture: Image.Image) -> None:
        made.append((prompt, seed, picture))
        if len(made) == 3:
            raise KeyboardInterrupt

    pipeline, prompts = tiny_pipeline(), ["a <tok>", "a cat"]
    with pytest.raises(KeyboardInterrupt):
        sample(pipeline, [learned()], prompts, [5, 7], SampleSettings(3, batch_size=1), on_picture=stop_after_three)
    assert [(prompt, seed) for prompt, seed, _ in made] == [(0, 5), (0, 7), (1, 5)]
    rows = sample(pipeline, [learned()], prompts, [5, 7], SampleSettings(3, batch_size=1))
    assert all(same(picture, row) for (_, _, picture), row in zip(made, [*rows[0], rows[1][0]], strict=True))


def test_capital_letters_keep_all_vectors() -> None:
    pipeline = tiny_pipeline()
    lower, upper = learned("<style>", 4), learned("<StyLe>", 4)
    ((one,),) = sample(pipeline, [lower], ["a <style> cat"], settings=FAST)
    ((other,),) = sample(pipeline, [upper], ["a <StyLe> cat"], settings=FAST)
    assert same(one, other)


def test_the_negative_prompt_may_use_words() -> None:
    pipeline = tiny_pipeline()
    pictures = [
        sample(pipeline, [learned()], ["a cat"], [0], SampleSettings(3, negative_prompt=negative))[0][0]
        for negative in ("", "<tok>")
    ]
    assert not same(*pictures)


def test_words_that_do_not_suit_are_refused() -> None:
    with pytest.raises(EmbeddingFileError, match=r"<tok> was learned for another kind of model.*width 8.*width 16"):
        sample(tiny_pipeline(), [learned(dim=8)], ["a <tok>"])
    with pytest.raises(ConceptError, match="twice"):
        sample(tiny_pipeline(), [learned(), learned()], ["a <tok>"])


def test_load_pipeline_reads_what_was_saved(tmp_path: Path) -> None:
    tiny_pipeline(seed=3).save_pretrained(tmp_path)
    pipeline = load_pipeline(tmp_path, dtype=torch.bfloat16)
    assert pipeline.unet.dtype == torch.bfloat16 and pipeline.text_encoder.dtype == torch.bfloat16
    with pytest.raises(ModelError, match="no diffusers pipeline"):
        load_pipeline(tmp_path / "unet")
    with pytest.raises(ModelError, match="Cannot load the model 'nobody/nothing'"):
        load_pipeline("nobody/nothing")


def test_half_precision_beside_a_float32_vae() -> None:
    pipeline = tiny_pipeline()
    pipeline.unet.to(torch.bfloat16)
    pipeline.text_encoder.to(torch.bfloat16)
    ((picture,),) = sample(pipeline, [learned()], ["a <tok>"], settings=FAST)
    assert picture.size == (16, 16) and pipeline.vae.dtype == torch.float32


def test_contact_sheet_enlarges_and_labels() -> None:
    first, second, third = tiny_images(3)
    sheet = contact_sheet(
        [[first, second], [third, None]],
        row_labels=["a very long prompt that has to be wrapped " * 3, "short"],
        column_labels=["seed 0", "seed 1"],
        title="two rows",
    )
    assert sheet.mode == "RGB" and min(sheet.size) > 2 * 160
    found = [
        (left, top)
        for left in range(sheet.width - 160)
        for top in range(0, sheet.height - 160)
        if left % 4 == 0 and sheet.getpixel((left, top)) == first.getpixel((0, 0))
    ]
    assert found, "the first picture is on the sheet"
    assert contact_sheet([[first]]).size < sheet.size


@pytest.mark.parametrize(
    ("rows", "labels"), [([], {}), ([[None]], {}), ([tiny_images(2)], {"row_labels": ["a", "b"]})], ids=str
)
def test_contact_sheet_refuses_what_makes_no_sheet(rows: list, labels: dict[str, list[str]]) -> None:
    with pytest.raises(ValueError, match="needs at least one|entries for"):
        contact_sheet(rows, **labels)


def test_generate_writes_pictures_that_say_how_they_were_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ["--placeholder_token", "<b>", "--train_data_dir", str(tmp_path / "images")]
    assert main([*train_flags(tmp_path), *both]) == 0
    folder = tmp_path / "pictures"
    flags = ["--concept", str(tmp_path / "out"), "--prompt", "a <tok>", "éin <b> im 雪", "--seed", "3", "5"]
    more = ["--num_inference_steps", "2", "--guidance_scale", "3.5", "--negative_prompt", "red"]
    assert main(["generate", *flags, *more, "--output_dir", str(folder)]) == 0
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["contact_sheet.png", *(f"prompt-0{p}_seed-{s}.png" for p in (0, 1) for s in (3, 5))]
    told = Image.open(folder / "prompt-01_seed-5.png").text
    assert (told["prompt"], told["seed"], told["negative_prompt"]) == ("éin <b> im 雪", "5", "red")
    assert (told["num_inference_steps"], told["guidance_scale"]) == ("2", "3.5")
    assert told["model"] == str(tmp_path / "model") and json.loads(told["concepts"]) == ["<b>", "<tok>"]
    assert Image.open(folder / "contact_sheet.png").width > 2 * 160


def test_generate_keeps_what_is_made_when_it_is_interrupted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(tmp_path / "model")
    folder = tmp_path / "pictures"

    def interrupt() -> None:
        while not (folder / "prompt-00_seed-1.png").exists():
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    flags = ["--pretrained_model_name_or_path", str(tmp_path / "model"), "--prompt", "a cat", "--batch_size", "1"]
    seeds = ["--seed", *map(str, range(500)), "--num_inference_steps", "2", "--output_dir", str(folder)]
    assert main(["generate", *flags, *seeds]) == INTERRUPTED
    thread.join()
    pictures = sorted(path.name for path in folder.iterdir())
    (told,) = re.findall(rf"Stopped\. (\d+) of 500 pictures are in {folder}\.", capsys.readouterr().err)
    assert int(told) in (len(pictures), len(pictures) - 1), "Ctrl-C may come between a file and its count"
    assert "prompt-00_seed-1.png" in pictures and "contact_sheet.png" not in pictures and len(pictures) < 500
    for name in pictures:
        Image.open(folder / name).load()


def test_generate_mentions_words_that_no_prompt_uses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(tmp_path / "model")
    for token in ("<tok>", "art"):
        learned(token).save(tmp_path / f"{token}.safetensors")
    flags = ["--concept", str(tmp_path / "<tok>.safetensors"), str(tmp_path / "art.safetensors"), "--seed", "0"]
    flags += ["--pretrained_model_name_or_path", str(tmp_path / "model"), "--num_inference_steps", "1"]
    flags += ["--output_dir", str(tmp_path / "pictures")]
    for texts, unused in (
        (["--prompt", "a tok on a cart"], ["<tok>", "art"]),
        (["--prompt", "ART", "--negative_prompt", "a <tok>"], []),
    ):
        assert main(["generate", *flags, *texts]) == 0
        told = capsys.readouterr().err
        assert [token for token in ("<tok>", "art") if f"no prompt uses {token}" in told] == unused
