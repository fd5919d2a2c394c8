"""Settings about scale and number format: each is really on, and a queue of many concepts costs no more than a few."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from tests.tiny import tiny_images, tiny_pipeline
from textual_inversion_ext import ConceptSpec, TextualInversionConfig, TextualInversionTrainer, TrainingResult
from textual_inversion_ext.training.callbacks import Callback, Run, read_step_log

SPEC = ConceptSpec("<tok>", tiny_images(3), "cat")


def train(out: Path, *concepts: ConceptSpec, callback: Callback | None = None, **settings: Any) -> TrainingResult:
    pipeline: StableDiffusionPipeline = settings.pop("pipeline", None) or tiny_pipeline()
    config = TextualInversionConfig(
        **{"output_dir": out, "max_train_steps": 2, "train_batch_size": 2, "eval_steps": 0, **settings}
    )
    watchers = (callback,) if callback else ()
    return TextualInversionTrainer(config, concepts or (SPEC,), pipeline=pipeline, callbacks=watchers).train()


class Batches:
    """Batch sizes of the denoiser's calls."""

    def __init__(self, pipeline: StableDiffusionPipeline) -> None:
        self.sizes: list[int] = []
        pipeline.unet.register_forward_pre_hook(lambda _, inputs: self.sizes.append(len(inputs[0])))


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    """accelerate keeps what the first Accelerator of a process was told."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_mixed_precision_is_that_of_the_networks(precision: str, tmp_path: Path) -> None:
    dtypes: list[torch.dtype] = []

    class Watcher(Callback):
        def on_step(self, run: Run) -> None:
            dtypes.extend((run.adapter.pipeline.unet.dtype, run.adapter.pipeline.text_encoder.dtype))

    train(tmp_path / "out", callback=Watcher(), mixed_precision=precision)
    wanted = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert set(dtypes) == {wanted} and len(dtypes) == 4
    state = load_file(tmp_path / "out" / "checkpoint-2" / "state.safetensors")
    assert (state["loss_scale.scale"] > 1).all() if precision == "fp16" else "loss_scale.scale" not in state


def test_allow_tf32(tmp_path: Path) -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = False
        train(tmp_path / "without")
        assert not torch.backends.cuda.matmul.allow_tf32
        train(tmp_path / "with", allow_tf32=True)
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def test_accumulation_really_takes_small_batches(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    batches = Batches(pipeline)
    train(tmp_path / "out", pipeline=pipeline, gradient_accumulation_steps=3, max_train_steps=4)
    assert batches.sizes == [2] * 12


def test_scale_lr_multiplies_by_the_samples_of_a_step(tmp_path: Path) -> None:
    settings = {"learning_rate": 1e-3, "lr_scheduler": "constant", "train_batch_size": 2}
    train(tmp_path / "out", scale_lr=True, gradient_accumulation_steps=3, **settings)
    assert read_step_log(tmp_path / "out" / "steps.jsonl")[-1]["lr"]["<tok>"] == pytest.approx(6e-3)


@pytest.mark.usefixtures("fresh_accelerate")
def test_accelerates_own_precision_is_no_concern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    train(tmp_path / "out")
    assert AcceleratorState().mixed_precision == "no"


@pytest.mark.usefixtures("fresh_accelerate")
def test_a_caller_may_have_an_accelerator_already(tmp_path: Path) -> None:
    theirs = Accelerator(mixed_precision="bf16", cpu=True)
    train(tmp_path / "out")
    assert theirs.mixed_precision == "bf16"


def test_sixty_four_concepts_wait_in_a_queue(tmp_path: Path) -> None:
    """A step holds as many as are allowed, and each learns what it learns alone."""
    specs = [ConceptSpec(f"<c-{number:02}>", tiny_images(2, seed=number), "cat") for number in range(64)]
    pipeline = tiny_pipeline()
    batches = Batches(pipeline)
    settings = {"logging_steps": 1, "max_train_steps": 2, "train_batch_size": 1}
    together = train(tmp_path / "all", *specs, pipeline=pipeline, max_concurrent_concepts=8, **settings)
    assert batches.sizes == [8] * 16
    entries = read_step_log(tmp_path / "all" / "steps.jsonl")
    assert [sorted(entry["loss"]) for entry in entries[::2]] == [
        [spec.placeholder_token for spec in specs[first : first + 8]] for first in range(0, 64, 8)
    ]
    assert set(together.steps.values()) == {2}
    for place in (0, 31, 63):
        (alone,) = train(tmp_path / str(place), specs[place], **settings).concepts
        torch.testing.assert_close(
            together.concepts[place].vectors["clip_l"], alone.vectors["clip_l"], rtol=1e-4, atol=1e-5
        )
    checkpoint = tmp_path / "all" / "checkpoint-16"
    assert sum(file.stat().st_size for file in checkpoint.iterdir()) < 64 * 1024
    assert json.loads((checkpoint / "state.json").read_text())["done"] == [2] * 64
