"""What a training step costs beside a bare forward and backward pass of the denoiser, measured in one process.

"Bare" is the denoiser as training sets it up, "as loaded" as diffusers' ``from_pretrained`` gives it. Timed is one
after another, as in a training, and as many at once as steps draw their noise for together.

    python -m benchmarks.step                                     # the pocket world, batch 1, 4 and 16
    python -m benchmarks.step --model sd15 --device cuda --dtype bf16 --batch_sizes 1 4 8

`sd15` builds Stable Diffusion 1.5's networks with random weights (speed does not depend on their values), 512 pixels.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from textual_inversion_ext import ConceptSpec, TextualInversionConfig
from textual_inversion_ext.config import Precision
from textual_inversion_ext.pipelines.quiet import move
from textual_inversion_ext.pocket import load_pipeline, render_concept
from textual_inversion_ext.training.draws import AHEAD_STEPS
from textual_inversion_ext.training.processes.group import Processes
from textual_inversion_ext.training.setup import build_workshop, collect_all, open_model


def sd15(tokenizer: Any) -> StableDiffusionPipeline:
    """Build Stable Diffusion 1.5's networks with random weights; the tokenizer only has to make 77 ids."""
    tokenizer.model_max_length = 77
    text = CLIPTextConfig(
        vocab_size=49_408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        sample_size=512,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8),
        scheduler=DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


class Case:
    """The same shapes as a whole step and as a bare pass of the denoiser.

    Args:
        model: "pocket" or "sd15".
        device: Torch device.
        precision: "no", "fp16" or "bf16".
        batch_size: Pictures per step.
    """

    def __init__(self, model: str, device: str, precision: Precision, batch_size: int) -> None:
        pipeline = load_pipeline() if model == "pocket" else sd15(load_pipeline().tokenizer)
        side = 64 if model == "pocket" else 512
        images = [image.resize((side, side), Image.Resampling.BICUBIC) for image in render_concept("mochi")]
        config = TextualInversionConfig(
            train_batch_size=batch_size, mixed_precision=precision, output_dir=tempfile.gettempdir()
        )
        spec = ConceptSpec("<mochi>", images, initializer="cat")
        loaded = copy.deepcopy(pipeline.unet).requires_grad_(False).eval()
        samples, _ = collect_all(config, [spec])
        adapter = open_model(config, pipeline, torch.device(device))
        self.shop = build_workshop(
            config, [spec], samples, adapter, Processes(Accelerator(cpu=device == "cpu"), "auto", [spec])
        )
        self.adapter, self.device, self.count = adapter, torch.device(device), 0
        shape = (batch_size, *self.shop.draws.draw((0,), [0])[0].noise.shape[1:])
        unet = pipeline.unet
        self.loaded = move(loaded, device, unet.dtype)
        self.latents = torch.randn(shape, device=device, dtype=unet.dtype)
        self.timesteps = torch.randint(0, 1000, (batch_size,), device=device)
        width, length = unet.config.cross_attention_dim, pipeline.tokenizer.model_max_length
        self.states = torch.randn(batch_size, length, width, device=device, dtype=unet.dtype, requires_grad=True)

    def bare(self) -> None:
        """Forward and backward of the denoiser, down to the prompt's states."""
        self._pass(self.adapter.pipeline.unet)

    def as_loaded(self) -> None:
        """The same with the denoiser as diffusers loads it."""
        self._pass(self.loaded)

    def step(self) -> None:
        """A whole training step, as the trainer does it."""
        shop = self.shop
        draws = shop.draws.draw((0,), [self.count])
        everything = torch.ones_like(shop.step.row_concept, dtype=torch.bool)
        shop.step(draws, shop.rates(shop.step.age), everything, self.count)
        self.count += 1

    def timed(self, work: Callable[[], None]) -> float:
        """Seconds of a call, mean of several in a row, the device's queue emptied before and after."""
        self._wait()
        start = time.perf_counter()
        for _ in range(AHEAD_STEPS):
            work()
        self._wait()
        return (time.perf_counter() - start) / AHEAD_STEPS

    def _pass(self, unet: Any) -> None:
        self.states.grad = None
        unet(self.latents, self.timesteps, self.states).sample.float().square().mean().backward()

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """Measured FLOP/s of a large matrix product."""
    side = 8192 if device != "cpu" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(8):
        start = time.perf_counter()
        a @ b
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def compare(case: Case, work: Callable[[], None], repeats: int) -> tuple[float, float, float]:
    """Time some work and whole steps in turn, so that noise hits both alike.

    Args:
        case: What is measured.
        work: What a step is compared with.
        repeats: How often, several of each in a row.

    Returns:
        Medians: seconds of the work, seconds of a step, and the ratio of a step to the work before it.
    """
    for _ in range(3):
        work()
        case.step()
    pairs = [(case.timed(work), case.timed(case.step)) for _ in range(repeats)]
    others, steps = zip(*pairs, strict=True)
    return statistics.median(others), statistics.median(steps), statistics.median(s / o for o, s in pairs)


def measure(arguments: argparse.Namespace, batch_size: int) -> str:
    """Measure one batch size."""
    case = Case(arguments.model, arguments.device, arguments.dtype, batch_size)
    cuda = case.device.type == "cuda"
    with case.adapter.attached():
        loaded, _, beside_loaded = compare(case, case.as_loaded, arguments.repeats)
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        bare, step, beside_bare = compare(case, case.bare, arguments.repeats)
        with FlopCounterMode(display=False) as flops:
            case.step()
    share = flops.get_total_flops() / step / matrix_rate(arguments.device, case.states.dtype)
    memory = f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB" if cuda else "-"
    cells = [str(batch_size), *(f"{1e3 * seconds:.1f}" for seconds in (loaded, bare, step))]
    cells += [f"{beside_bare:.3f}", f"{beside_loaded:.3f}", f"{1 / step:.1f}", memory, f"{share:.0%}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("pocket", "sd15"), default="pocket")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--dtype", choices=("no", "fp16", "bf16"), default="no", help="precision of the frozen networks"
    )
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    heads = ["batch", "as loaded ms", "bare ms", "step ms", "step / bare", "step / as loaded"]
    heads += ["steps/s", "peak memory", "share of matrix rate"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for batch_size in arguments.batch_sizes:
        print(measure(arguments, batch_size), flush=True)


if __name__ == "__main__":
    main()
