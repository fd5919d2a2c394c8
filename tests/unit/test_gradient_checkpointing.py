"""`--gradient_checkpointing` recomputes denoiser and text encoders, and changes no gradient."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import pytest
import torch

from tests.tiny import TinyRun, tiny_pipeline, tiny_run
from tests.tiny_families import tiny_sdxl

BLOCKS = ("BasicTransformerBlock", "CLIPMLP")  # what is large in a UNet, and in a text encoder


def _count(calls: Counter[str], name: str, *_: object) -> None:
    calls[name] += 1


def counted(make: Any, **settings: Any) -> tuple[TinyRun, Counter[str]]:
    run = tiny_run(pipeline=make(), **settings)
    calls: Counter[str] = Counter()
    for network in run.adapter.networks():
        if network is not run.adapter.pipeline.vae:
            for name, module in network.named_modules():
                if type(module).__name__ in BLOCKS:
                    module.register_forward_pre_hook(partial(_count, calls, f"{type(network).__name__} {name}"))
    run.steps(1)
    return run, calls


@pytest.mark.parametrize("make", [tiny_pipeline, tiny_sdxl])
def test_blocks_run_again_in_the_backward_pass(make: Any) -> None:
    plain, once = counted(make)
    checkpointed, twice = counted(make, gradient_checkpointing=True)
    assert set(once.values()) == {1} and set(twice) == set(once)
    assert {name for name in once if "CLIP" in name} and {name for name in once if "UNet" in name}
    # The last layer of a text encoder whose penultimate states are used has no gradient, so it is not computed again.
    idle = {name for name, count in twice.items() if count == 1}
    idle = {"CLIPTextModel encoder.layers.1.mlp"} if make is tiny_sdxl else set()
    assert {name for name, count in twice.items() if count == 1} == idle and set(twice.values()) <= {1, 2}
    assert torch.equal(plain.logs[0].loss, checkpointed.logs[0].loss)
    assert torch.equal(plain.rows, checkpointed.rows)


def test_text_encoders_stay_without_dropout() -> None:
    adapter = tiny_run(pipeline=tiny_sdxl(), gradient_checkpointing=True).adapter
    training = {type(module).__name__ for net in adapter.networks() for module in net.modules() if module.training}
    assert training == {"CLIPEncoderLayer"}
