"""Training and sampling on a device of their own: nothing stays on the host, and a step never waits for the device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from tests.far_device import FAR, Watch, watched
from tests.tiny import tiny_images, tiny_pipeline
from tests.tiny_clip import tiny_twin
from tests.tiny_families import rows, tiny_inpainting, tiny_sdxl, tiny_sdxl_inpainting
from textual_inversion_ext import initializers
from textual_inversion_ext.concept import ConceptSpec, LearnedConcept
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.evaluation.metrics import METRICS, MetricParts, Scored
from textual_inversion_ext.families import FAMILIES, adapter_for
from textual_inversion_ext.parametrizations import PARAMETRIZATIONS
from textual_inversion_ext.pipelines.sampling import SampleSettings, sample
from textual_inversion_ext.pocket import OBJECTS, render_concept
from textual_inversion_ext.regularizers import REGULARIZERS
from textual_inversion_ext.training.callbacks import Callback, Run
from textual_inversion_ext.training.processes.group import Processes
from textual_inversion_ext.training.setup import Workshop, build_workshop, collect_all, open_model
from textual_inversion_ext.training.trainer import TextualInversionTrainer

PIPELINES: dict[str, Callable[[], Any]] = {
    "stable-diffusion": tiny_pipeline,
    "inpainting": tiny_inpainting,
    "stable-diffusion-xl": tiny_sdxl,
    "stable-diffusion-xl-inpainting": tiny_sdxl_inpainting,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "fp16": {"mixed_precision": "fp16"},
    "bf16": {"mixed_precision": "bf16"},
    **{f"{name} rows": {"parametrization": name, "direction_beta": 0.5} for name in PARAMETRIZATIONS},
    "regularized": {f"{name}_weight": 0.1 for name in REGULARIZERS},
    "clipped": {"max_grad_norm": 1.0, "ema_decay": 0.9},
    "weighted": {"snr_gamma": 5.0, "noise_offset": 0.1, "timestep_sampling": "uniform"},
    "crops": {"crop": "random", "flip_p": 0.5},
    "buckets": {"crop": "buckets"},
    "masks": {"masks": "alpha"},
    "accumulated": {"gradient_accumulation_steps": 2, "gradient_checkpointing": True},
    "progressive": {"progressive_steps": "0.5"},
    "words of pictures": {"per_image_tokens": True},
}


def test_every_family_is_here() -> None:
    assert set(PIPELINES) >= set(FAMILIES), "give the new family a tiny pipeline above"


def pictures(name: str) -> list[Any]:
    images = tiny_images(3)
    if name == "masks":
        for image in images:
            image.putalpha(128)
    return [images[0].resize((32, 16)), *images[1:]] if name == "buckets" else images


def workshop(pipeline: Any, name: str, folder: Path) -> Workshop:
    config = TextualInversionConfig(output_dir=str(folder), train_batch_size=2, max_train_steps=8, **SETTINGS[name])
    specs = [ConceptSpec(token, pictures(name), "dog", num_vectors=2) for token in ("<a>", "<b>")]
    samples, _ = collect_all(config, specs)
    adapter = open_model(config, pipeline, FAR)
    return build_workshop(config, specs, samples, adapter, Processes(Accelerator(cpu=True), "auto", specs))


CASES = [
    *(("stable-diffusion", name) for name in SETTINGS),
    *(("stable-diffusion-xl", name) for name in ("default", "fp16", "regularized", "words of pictures")),
    *(("stable-diffusion-xl", f"{name} rows") for name in PARAMETRIZATIONS),
    *((family, "default") for family in PIPELINES if family.endswith("inpainting")),
]


@pytest.mark.parametrize(("family", "name"), CASES)
def test_a_step_neither_waits_nor_mixes(family: str, name: str, tmp_path: Path) -> None:
    pipeline = PIPELINES[family]()
    with watched() as watch:
        shop = workshop(pipeline, name, tmp_path)
        assert shop.step.age.device == FAR
        with shop.adapter.attached():
            for done in range(3):  # the first one sends what later ones find there
                watch.forget()
                draws = shop.draws.draw((0, 1), [done, done])
                shop.step(draws, shop.rates(shop.step.age), shop.activation.mask([done, done]), done + 1)
            shop.step.evaluate(shop.draws.fixed(0, 2, done=3), shop.step.results())
    assert not watch.reads and not watch.sends and not watch.mixes


class Waits(Callback):
    """Remembers the steps in which the host read from the device or sent to it."""

    def __init__(self, watch: Watch) -> None:
        self.watch, self.steps, self.seen = watch, [], 0

    def on_start(self, run: Run) -> None:
        self.seen = self._count()

    def on_step(self, run: Run) -> None:
        if self._count() > self.seen:
            self.steps.append(run.progress.step)
        self.seen = self._count()

    def _count(self) -> int:
        return len(self.watch.reads) + len(self.watch.sends)


RUNS: dict[str, dict[str, Any]] = {
    "word": {"eval_steps": 6, "keep": "best"},
    "word and LoRA": {"eval_steps": 0, "lora_rank": 2, "lora_text_encoder_rank": 2},
    "word from pictures": {"eval_steps": 0, "initialization": "images", "clip_model": "twin", "clip_init_steps": 2},
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("family", ["stable-diffusion", "stable-diffusion-xl"])
def test_a_run_waits_only_where_it_says(
    family: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Accelerator, "device", FAR)
    settings, pipeline = dict(RUNS[name]), PIPELINES[family]()
    twin = tiny_twin(adapter_for(pipeline).slots[0])  # not read from files: transformers reads them by the meta device
    monkeypatch.setattr(initializers, "load_clip", lambda _: twin)
    config = TextualInversionConfig(
        output_dir=str(tmp_path / "out"), train_batch_size=2, max_train_steps=8, logging_steps=4, **settings
    )
    spec = ConceptSpec("<tok>", tiny_images(2), "dog", num_vectors=2)
    with watched() as watch:
        waits = Waits(watch)
        TextualInversionTrainer(config, [spec], pipeline=pipeline, callbacks=(waits,)).train()
    evaluations = {6} if settings["eval_steps"] else set()
    assert set(waits.steps) == {1, 4, 8} | evaluations  # the first one sends what the others find there
    assert not watch.mixes
    searched = any(line.startswith("initializers/images.py") for line in watch.reads)
    assert searched == ("initialization" in settings)


@pytest.mark.parametrize("family", PIPELINES)
def test_sampling_mixes_nothing(family: str) -> None:
    pipeline = PIPELINES[family]().to(FAR)
    settings = SampleSettings(num_inference_steps=2, batch_size=2)
    words = {slot.key: rows(2, slot.dim) for slot in adapter_for(pipeline).slots}
    with watched() as watch:
        (images,) = sample(pipeline, [LearnedConcept("<tok>", words)], ["a <tok>"], (0, 1), settings)
    assert len(images) == 2 and watch.reads and not watch.mixes


@pytest.mark.parametrize("name", sorted(set(METRICS) - {"lpips", "identity_error"}))
def test_networks_of_metrics_get_what_they_read(name: str) -> None:
    metric = METRICS[name].build(MetricParts("pocket", "pocket", device=FAR))
    with watched() as watch:
        images = tuple(render_concept(OBJECTS[0].name, 2))
        metric(Scored(images=images, prompts=("a photo of a cat",) * 2, references=images))
    assert watch.reads and not watch.mixes


def test_the_stand_in_sees_what_a_gpu_would_refuse_or_wait_for() -> None:
    host, values = torch.ones(2), torch.ones(2, device=FAR)
    with watched() as watch:
        values * 2 + torch.tensor(1.0)  # numbers may be anywhere
        assert not watch.mixes and not watch.reads and not watch.sends
        for read in (values.cpu, values.tolist, values.sum().item, lambda: bool(values[0]), lambda: host.copy_(values)):
            watch.forget()
            read()
            assert watch.reads and not watch.sends
        for send in (lambda: host.to(FAR), lambda: values.copy_(host), lambda: torch.tensor([1, 2], device=FAR)):
            watch.forget()
            send()
            assert watch.sends and not watch.reads
        assert not watch.mixes
        values[torch.tensor([0])]
        assert len(watch.mixes) == 1
