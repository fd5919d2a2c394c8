"""Buckets, masks and cuts: pictures of any shape train by the same rules as squares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.invariants.test_resume import Stop, StopAfter
from tests.runs import rows_of, save_model, train_flags
from tests.tiny import TinyRun, tiny_images, tiny_pipeline, tiny_run
from tests.tiny_families import tiny_inpainting, tiny_sdxl
from textual_inversion_ext import ConceptSpec, TextualInversionConfig, TextualInversionTrainer
from textual_inversion_ext.cli.main import main

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def pictures(*sizes: tuple[int, int], seed: int = 0) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in sizes]


# Buckets of 16 pixels are 16x16, 20x12 and 12x20.
MIXED = ConceptSpec("<mixed>", pictures((20, 12), (24, 16), (16, 16), (12, 20), (40, 24)), "dog", num_vectors=2)
WIDE = ConceptSpec("<wide>", pictures((20, 12), (24, 16), (48, 32), seed=1), "clock", learnable_property="style")
SQUARE = ConceptSpec("<square>", tiny_images(3, seed=2), "cat")


def trained(steps: int = 4, specs: list[ConceptSpec] | None = None, **settings: Any) -> TinyRun:
    """A run of some steps; settings are those of the config and, by their names, those of `tiny_run`."""
    of_run = {name: settings.pop(name) for name in ("batch_size", "accumulation", "world_size") if name in settings}
    run = tiny_run(specs or [MIXED], config=TextualInversionConfig(**settings), **of_run)
    run.steps(steps)
    return run


def test_squares_in_buckets_are_squares() -> None:
    run = trained(specs=[SQUARE], crop="buckets")
    assert len(run.resident.buckets) == 1
    assert torch.equal(run.rows, trained(specs=[SQUARE]).rows)


def test_there_is_a_bucket_for_each_shape_and_no_other() -> None:
    run = tiny_run([WIDE, MIXED], config=TextualInversionConfig(crop="buckets"))
    assert [bucket.latent_shape for bucket in run.resident.buckets] == [(4, 8, 8), (4, 6, 10), (4, 10, 6)]
    assert [bucket.image_count for bucket in run.resident.buckets] == [(0, 1), (3, 3), (0, 1)]
    assert run.resident.image_count == (3, 5)


def test_every_picture_is_shown_equally_often_in_buckets() -> None:
    run = tiny_run([MIXED], config=TextualInversionConfig(crop="buckets"), batch_size=2)
    shown = Counter()
    for step in range(25):  # five times as many steps as there are pictures: each bucket had its turn in proportion
        (draws,) = run.draws.draw((0,), (step,))
        assert draws.noise.shape[1:] == run.resident.buckets[draws.bucket].latent_shape
        shown.update((draws.bucket, image) for image in draws.image.tolist())
    assert len(shown) == 5 and set(shown.values()) == {10}


@pytest.mark.parametrize("settings", [{"crop": "buckets"}, {"crop": "random", "flip_p": 0.5}, {"crop": "none"}])
def test_one_batch_of_4_is_4_accumulated_batches_of_1(settings: dict[str, Any]) -> None:
    whole = trained(batch_size=4, **settings)
    parts = trained(batch_size=1, accumulation=4, **settings)
    torch.testing.assert_close(whole.rows, parts.rows, **CLOSE)
    torch.testing.assert_close(whole.logs[-1].loss, parts.logs[-1].loss)


@pytest.mark.parametrize("settings", [{"crop": "buckets"}, {"crop": "random", "flip_p": 0.5}])
def test_concepts_together_are_each_alone(settings: dict[str, Any]) -> None:
    specs = [SQUARE, MIXED, WIDE]
    together = trained(specs=specs, accumulation=2, **settings)
    alone = [trained(specs=[spec], accumulation=2, **settings) for spec in specs]
    torch.testing.assert_close(together.rows, torch.cat([run.rows for run in alone]), **CLOSE)
    for log, logs in zip(together.logs, zip(*(run.logs for run in alone), strict=True), strict=True):
        assert log.concepts == (0, 1, 2)
        torch.testing.assert_close(log.loss, torch.cat([own.loss for own in logs]))


def test_a_step_has_one_forward_pass_for_each_shape() -> None:
    run = tiny_run([SQUARE, MIXED, WIDE], config=TextualInversionConfig(crop="buckets"), accumulation=2)
    for step in range(5):
        passes = run.draws.draw((0, 1, 2), (step,) * 3)
        assert sorted(concept for draws in passes for concept in draws.concepts) == [0, 0, 1, 1, 2, 2]
        shapes = [draws.noise.shape for draws in passes[: len(passes) // 2]]
        assert len(shapes) == len(set(shapes)) > 1


@pytest.mark.parametrize("settings", [{"crop": "buckets"}, {"crop": "random", "random_crops": 3, "flip_p": 0.5}])
def test_resumed_is_uninterrupted(settings: dict[str, Any]) -> None:
    whole, first = trained(steps=6, **settings), trained(steps=3, **settings)
    second = tiny_run([MIXED], config=TextualInversionConfig(**settings))
    second.step.load_state_dict(first.step.state_dict())
    second.done = first.done
    second.steps(3)
    assert torch.equal(second.rows, whole.rows)


def test_all_cuts_and_mirror_images_are_shown() -> None:
    config = TextualInversionConfig(crop="random", random_crops=3, flip_p=0.5)
    run = tiny_run([WIDE], config=config, batch_size=300)
    (draws,) = run.draws.draw((0,), (0,))
    counts = Counter(draws.image.tolist())
    assert set(counts) == set(range(3 * 3 * 2)) and min(counts.values()) > 4


def test_a_choice_of_cuts_leaves_all_other_draws_alone() -> None:
    (one,) = tiny_run([WIDE]).draws.draw((0,), (5,))
    (other,) = tiny_run([WIDE], config=TextualInversionConfig(crop="random")).draws.draw((0,), (5,))
    assert torch.equal(one.noise, other.noise) and torch.equal(one.u, other.u)
    assert torch.equal(one.prompt, other.prompt) and torch.equal(one.image, other.image % 3)


def with_masks(folder: Path, grey: int) -> ConceptSpec:
    """Three squares in a folder, each with a mask: the left half white, the right half grey."""
    folder.mkdir()
    for number, image in enumerate(tiny_images(3)):
        image.save(folder / f"{number}.png")
        mask = Image.new("L", image.size, grey)
        mask.paste(255, (0, 0, 8, 16))
        mask.save(folder / f"{number}_mask.png")
    return ConceptSpec("<tok>", str(folder), "dog")


def test_a_mask_of_ones_is_no_mask(tmp_path: Path) -> None:
    white, half = with_masks(tmp_path / "white", 255), with_masks(tmp_path / "half", 0)
    unmasked = trained(specs=[half])
    for run in (
        trained(specs=[white], masks="files"),
        trained(specs=[half], masks="files", mask_outside_weight=1.0),
    ):
        assert run.resident.buckets[0].latents.masks is not None
        torch.testing.assert_close(run.rows, unmasked.rows, **CLOSE)
        torch.testing.assert_close(run.logs[-1].loss, unmasked.logs[-1].loss)
    assert unmasked.resident.buckets[0].latents.masks is None


def test_what_is_outside_of_the_mask_counts_as_much_as_asked(tmp_path: Path) -> None:
    spec = with_masks(tmp_path / "half", 0)
    losses = {
        outside: float(trained(1, [spec], masks="files", mask_outside_weight=outside).logs[0].loss)
        for outside in (0.0, 0.5, 1.0)
    }
    # Weighted means: with weight 1 inside (half of the picture) and w outside, (inside + w * outside) / (1 + w).
    inside, whole = losses[0.0], losses[1.0]
    outside = 2 * whole - inside
    assert losses[0.5] == pytest.approx((inside + 0.5 * outside) / 1.5, rel=1e-5) and inside != pytest.approx(outside)


def test_masks_of_one_concept_leave_the_other_alone(tmp_path: Path) -> None:
    half = with_masks(tmp_path / "half", 0)
    together = trained(specs=[half, SQUARE], masks="auto")
    alone = trained(specs=[half], masks="auto"), trained(specs=[SQUARE], masks="auto")
    torch.testing.assert_close(together.rows, torch.cat([run.rows for run in alone]), **CLOSE)


def test_sizes_reach_the_batch() -> None:
    run = tiny_run([MIXED], config=TextualInversionConfig(crop="buckets"), batch_size=1)
    for step in range(5):
        (draws,) = run.draws.draw((0,), (step,))
        batch = run.resident.gather(draws)
        assert batch.sizes is not None and batch.sizes.shape == (1, 6) and batch.sizes.dtype == torch.float32
        original, target = batch.sizes[0, :2].tolist(), batch.sizes[0, 4:].tolist()
        assert [size // 2 for size in target] == list(batch.latents.shape[-2:])
        assert (original[1], original[0]) in [image.size for image in MIXED.images]  # type: ignore[union-attr]


@pytest.mark.parametrize("family", [tiny_pipeline, tiny_inpainting, tiny_sdxl], ids=lambda family: family.__name__)
def test_every_family_trains_in_buckets_with_all_kinds_of_sentences(family: Callable[[], Any]) -> None:
    config = TextualInversionConfig(
        crop="buckets", per_image_tokens=True, progressive_steps="2", max_train_steps=4, flip_p=0.5
    )
    run = tiny_run([MIXED, WIDE], pipeline=family(), config=config)
    before = run.rows
    run.steps(4)
    assert all(log.finite.all() for log in run.logs)
    assert run.step.age.tolist() == [4, 2, 4, 4, 4, 4, 4, 4, 4, 4, 4]
    assert (run.rows[[0, 1, 7]] != before[[0, 1, 7]]).any(dim=1).all()


def folder_of_everything(folder: Path) -> None:
    """Pictures of several shapes with captions and masks beside them."""
    folder.mkdir()
    for number, image in enumerate(MIXED.images or ()):  # type: ignore[arg-type]
        image.save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"cat, tag {number}, big, red, blue, on a beach")
        mask = Image.new("L", image.size, 0)
        mask.paste(255, (0, 0, image.width // 2 + number, image.height))
        mask.save(folder / f"{number}_mask.png")


@pytest.mark.parametrize("last_step", [3, 4])
def test_a_run_with_everything_resumes_exactly(last_step: int, tmp_path: Path) -> None:
    folder_of_everything(tmp_path / "images")

    def session(out: Path, *watchers: StopAfter, **more: Any) -> torch.Tensor:
        settings = {
            "crop": "buckets",
            "flip_p": 0.5,
            "masks": "files",
            "mask_outside_weight": 0.1,
            "captions": "both",
            "shuffle_caption": True,
            "caption_tag_dropout_rate": 0.3,
            "caption_dropout_rate": 0.1,
            "per_image_tokens": True,
            "progressive_steps": "0.5",
            "max_train_steps": 6,
            "train_batch_size": 2,
            "checkpointing_steps": 2,
        }
        config = TextualInversionConfig(**{"output_dir": str(out), **settings, **more})
        spec = ConceptSpec("<tok>", str(tmp_path / "images"), "cat", num_vectors=2)
        trainer = TextualInversionTrainer(config, [spec], pipeline=tiny_pipeline(), callbacks=watchers)
        return trainer.train().concepts[0].vectors["clip_l"]

    whole = session(tmp_path / "whole")
    with pytest.raises(Stop):
        session(tmp_path / "out", StopAfter(last_step))
    assert torch.equal(session(tmp_path / "out", resume_from_checkpoint="latest"), whole)


def test_the_settings_are_flags(tmp_path: Path) -> None:
    folder_of_everything(tmp_path / "images")
    save_model(tmp_path / "model")
    flags = train_flags(
        tmp_path, crop="buckets", captions="captions", progressive_steps="1 0.5", num_vectors=3, masks="files"
    )
    assert main([*flags, "--per_image_tokens", "--keep_per_image_tokens", "--shuffle_caption"]) == 0
    assert rows_of(tmp_path / "out").shape == (3, 16)
    assert len(list((tmp_path / "out" / "per_image").iterdir())) == 5
    repeated = ["train", "--config", str(tmp_path / "out"), "--output_dir", str(tmp_path / "again")]
    assert main(repeated) == 0 and rows_of(tmp_path / "again").equal(rows_of(tmp_path / "out"))
    shown = ["generate", "--concept", str(tmp_path / "out"), str(tmp_path / "out" / "per_image"), "--seed", "0"]
    wanted = ["--prompt", "a photo of <tok> with <tok-2>", "--num_inference_steps", "1"]
    assert main([*shown, *wanted, "--output_dir", str(tmp_path / "generated")]) == 0
    assert (tmp_path / "generated" / "prompt-00_seed-0.png").is_file()
