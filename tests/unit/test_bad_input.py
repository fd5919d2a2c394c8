"""What goes wrong for users: a message that helps, an exit code, no traceback, and nothing lost."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.runs import rows_of, save_images, train_flags
from tests.tiny import tiny_images
from textual_inversion_ext.cli.main import main
from textual_inversion_ext.training.callbacks import read_step_log


@pytest.fixture
def failing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a training that must fail with exit code 1 and one plain message; returns the message."""

    def run(*more: str, **settings: Any) -> str:
        flags = [*train_flags(tmp_path, **settings), *more]
        capsys.readouterr()
        assert main(flags) == 1
        captured = capsys.readouterr()
        assert captured.out == "" and "Traceback" not in captured.err
        (message,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
        return captured.err[captured.err.index(message) :]

    return run


def empty(file: Path) -> None:
    file.write_bytes(b"")


def truncated(file: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file.with_suffix(".whole.png"))
    whole = file.with_suffix(".whole.png")
    file.write_bytes(whole.read_bytes()[:3000])
    whole.unlink()


def text(file: Path) -> None:
    file.write_text("a picture of a cat")


def animated(file: Path) -> None:
    first, *others = tiny_images(3)
    first.save(file, save_all=True, append_images=others)


def bomb(file: Path) -> None:
    Image.new("1", (20000, 20000)).save(file)


BAD_PICTURES = [
    (empty, "bad.png", "empty"),
    (truncated, "bad.png", "damaged or incomplete"),
    (text, "bad.jpg", "no picture"),
    (animated, "bad.gif", "several frames"),
    (bomb, "bad.png", "too large"),
]


@pytest.mark.parametrize(("make", "name", "message"), BAD_PICTURES, ids=lambda part: getattr(part, "__name__", ""))
def test_one_bad_picture_names_itself(
    make: Callable[[Path], None], name: str, message: str, failing: Callable[..., str], tmp_path: Path
) -> None:
    make(save_images(tmp_path / "pictures") / name)
    shown = failing(train_data_dir=tmp_path / "pictures")
    assert name in shown and message in shown and "skip_bad_images" in shown
    assert not (tmp_path / "out").exists()


def test_bad_pictures_can_be_skipped_and_are_listed_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, (make, name, _) in enumerate(BAD_PICTURES):
        make(save_images(tmp_path / "pictures") / f"{number}-{name}")
    assert main([*train_flags(tmp_path, train_data_dir=tmp_path / "pictures"), "--skip_bad_images"]) == 0
    shown = capsys.readouterr().err
    listed = shown[shown.index("Left out") :]
    assert listed.startswith(f"Left out {len(BAD_PICTURES)} picture(s)")
    assert all(f"{number}-{name}" in listed for number, (_, name, _) in enumerate(BAD_PICTURES))


def test_unusual_pictures_that_are_fine(tmp_path: Path) -> None:
    folder = save_images(tmp_path / "pictures", 1)
    picture = tiny_images(1)[0]
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.convert("P").save(folder / "palette.png")
    picture.convert("RGBA").save(folder / "alpha.png")
    Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 257).save(folder / "sixteen.png")
    (folder / "0.txt").write_text("a caption")
    (folder / ".hidden.png").write_bytes(b"")
    assert main(train_flags(tmp_path, train_data_dir=folder)) == 0


def test_a_folder_without_pictures(failing: Callable[..., str], tmp_path: Path) -> None:
    assert "nowhere" in failing(train_data_dir=tmp_path / "nowhere")
    (tmp_path / "nothing").mkdir()
    assert "nothing" in failing(train_data_dir=tmp_path / "nothing")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("")
    assert "a.txt" in failing(train_data_dir=tmp_path / "texts")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"placeholder_token": "cat"}, "'cat'"),
        ({"placeholder_token": "123"}, "no letter"),
        ({"placeholder_token": "<two words>"}, "white space"),
        ({"placeholder_token": "emb_params"}, "emb_params"),
        ({"initializer_token": "zebra"}, "z, e, b, r, a</w>"),
        ({"initializer_token": ""}, "no initializer"),
        ({"num_vectors": 0}, "num_vectors is 0"),
        ({"num_vectors": -2}, "num_vectors is -2"),
        ({"max_train_steps": 0}, "max_train_steps is 0; it must be at least 1"),
        ({"max_train_steps": -5}, "max_train_steps is -5"),
        ({"train_batch_size": 0}, "train_batch_size is 0"),
        ({"learning_rate": -1}, "learning_rate is -1.0; it must be above 0"),
        ({"learning_rate": "nan"}, "learning_rate is nan"),
        ({"resolution": 0}, "resolution is 0"),
        ({"resolution": 15}, "multiple of 2"),
        ({"checkpoints_total_limit": 0}, "checkpoints_total_limit is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"report_to": "paper"}, "allowed are none, all"),
        ({"resume_from_checkpoint": "checkpoint-7"}, "no checkpoint"),
        ({"config": "nowhere.json"}, "nowhere.json"),
        ({"pretrained_model_name_or_path": __file__}, "is a file"),
        ({"tokenizer_name": "/no/such/folder"}, "tokenizer"),
        ({"train_data_dir": "x" * 300}, "File name too long"),
        ({"output_dir": "x" * 300}, "File name too long"),
        ({"resume_from_checkpoint": "latest", "output_dir": "x" * 300}, "File name too long"),
        ({"optimizer": "torch.optim.SparseAdam"}, "cannot move a row"),
    ],
    ids=str,
)
def test_values_that_cannot_be(
    settings: dict[str, Any], message: str, failing: Callable[..., str], tmp_path: Path
) -> None:
    assert message in failing(**settings)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_model(failing: Callable[..., str], tmp_path: Path) -> None:
    folder = save_images(tmp_path / "holiday")
    shown = failing(pretrained_model_name_or_path=folder)
    assert "holiday is no diffusers pipeline" in shown and "model_index.json" in shown
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["no json", "no unet", "cut weights"])
def test_a_damaged_model(damage: str, failing: Callable[..., str], tmp_path: Path) -> None:
    train_flags(tmp_path)
    model = tmp_path / "model"
    if damage == "no json":
        (model / "model_index.json").write_text("{")
    elif damage == "no unet":
        shutil.rmtree(model / "unet")
    else:
        (weights,) = (model / "unet").glob("*.safetensors")
        weights.write_bytes(weights.read_bytes()[:5000])
    assert f"Cannot load the model '{model}'" in failing()
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_holds_a_run(failing: Callable[..., str], tmp_path: Path) -> None:
    assert main(train_flags(tmp_path)) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    shown = failing(seed=1)
    assert "--overwrite_output_dir" in shown and "--resume_from_checkpoint" in shown
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    assert main([*train_flags(tmp_path, seed=1), "--overwrite_output_dir"]) == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["config"]["seed"] == 1


def test_a_network_that_gives_no_numbers(failing: Callable[..., str], tmp_path: Path) -> None:
    train_flags(tmp_path)
    (weights,) = (tmp_path / "model" / "unet").glob("*.safetensors")
    save_file({key: tensor.fill_(math.nan) for key, tensor in load_file(weights).items()}, weights)
    shown = failing()
    assert "<tok> at step 1" in shown and "--learning_rate" in shown and str(tmp_path / "out") in shown
    assert bool(rows_of(tmp_path / "out").isfinite().all())


def test_a_full_disk(failing: Callable[..., str], tmp_path: Path) -> None:
    """The system's limit on file sizes stands for the disk: the step log is the file that grows."""
    resource = pytest.importorskip("resource")
    settings = {"max_train_steps": 60, "logging_steps": 1, "checkpointing_steps": 3}
    assert main(train_flags(tmp_path, **settings, output_dir=tmp_path / "whole")) == 0
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        shown = failing(**settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path / "out" / "steps.jsonl") in shown and "--resume_from_checkpoint latest" in shown
    assert main([*train_flags(tmp_path, **settings), "--resume_from_checkpoint", "latest"]) == 0
    assert rows_of(tmp_path / "out").equal(rows_of(tmp_path / "whole"))
    assert [entry["step"] for entry in read_step_log(tmp_path / "out" / "steps.jsonl")] == list(range(1, 61))


def test_an_output_folder_that_cannot_be_made(failing: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    shown = failing(output_dir=tmp_path / "file" / "out")
    assert str(tmp_path / "file" / "out") in shown and "output folder" in shown


def test_generate_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(train_flags(tmp_path)) == 0
    (tmp_path / "empty").mkdir()
    good = ["--concept", str(tmp_path / "out"), "--prompt", "a <tok>", "--output_dir", str(tmp_path / "pictures")]
    for flags, message in [
        (["--concept", str(tmp_path / "nowhere"), "--prompt", "a"], "nowhere"),
        (["--concept", str(tmp_path / "empty"), "--prompt", "a"], "empty"),
        (["--prompt", "a cat"], "--pretrained_model_name_or_path"),
        ([*good, "--seed", "-1"], "--seed is -1"),
        ([*good, "--num_inference_steps", "0"], "num_inference_steps is 0"),
        ([*good, "--guidance_scale", "-1"], "guidance_scale is -1"),
        ([*good, "--num_inference_steps", "1001"], "num_inference_steps is 1001; the model has 1000 timesteps"),
        ([*good, "--width", "16"], "both --width and --height"),
        ([*good, "--width", "20", "--height", "16"], "20x16; width and height must be multiples of 8"),
        ([*good, "--width", "0", "--height", "0"], "0x0; width and height"),
        ([*good, "--width", "-8", "--height", "-8"], "-8x-8; width and height"),
        ([*good, "--seed", str(2**64)], f"--seed is {2**64}; seeds are whole numbers from 0 to {2**64 - 1}"),
        ([*good, "--lora_scale", "nan"], "--lora_scale is nan"),
        ([*good, "--device", "toaster"], "toaster"),
        ([*good, "--device", "cuda:99"], "--device is 'cuda:99', which cannot be used here"),
        ([*good, "--device", "meta"], "--device is 'meta', which cannot be used here"),
        ([*good, "--device", "hpu"], "--device is 'hpu', which cannot be used here"),
        ([*good, "--concept", str(tmp_path / "out" / "tok.safetensors")], "<tok> was given twice"),
    ]:
        capsys.readouterr()
        assert main(["generate", *flags]) == 1, flags
        shown = capsys.readouterr().err
        assert message in shown and "Traceback" not in shown, flags
    assert not (tmp_path / "pictures").exists()
