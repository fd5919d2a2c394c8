"""Whoever calls the package from Python reads its own messages, and no remarks of diffusers about what is in order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.tiny import tiny_images, tiny_pipeline
from textual_inversion_ext import ConceptSpec, TextualInversionConfig, TextualInversionTrainer
from textual_inversion_ext.errors import ModelError
from textual_inversion_ext.pipelines.loading import load_pipeline
from textual_inversion_ext.pipelines.quiet import move

MODULE = "diffusers.models.modeling_utils"

Said = Callable[[], list[str]]


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder) -> Iterator[Said]:
    """What diffusers and transformers have logged, and the warnings that Python shows unless told otherwise."""
    # Some releases of theirs hand nothing on to the root logger, where pytest listens.
    closed = [log for name in ("diffusers", "transformers") if not (log := logging.getLogger(name)).propagate]
    for logger in closed:
        logger.addHandler(caplog.handler)

    def so_far() -> list[str]:
        logged = [record.getMessage() for record in caplog.records if not record.name.startswith("textual_inversion")]
        return logged + [str(one.message) for one in recwarn if issubclass(one.category, FutureWarning | UserWarning)]

    yield so_far
    for logger in closed:
        logger.removeHandler(caplog.handler)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loading(dtype: torch.dtype, said: Said) -> None:
    pipeline = load_pipeline("pocket", dtype=dtype)
    assert pipeline.unet.dtype == pipeline.text_encoder.dtype == pipeline.vae.dtype == dtype
    assert not said()


def test_asking_for_a_model_that_is_not_here(said: Said) -> None:
    with pytest.raises(ModelError, match="no-such/model"):
        load_pipeline("no-such/model")
    assert not said()


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_training(precision: str, tmp_path: Path, said: Said) -> None:
    config = TextualInversionConfig(output_dir=str(tmp_path), max_train_steps=2, mixed_precision=precision)
    TextualInversionTrainer(config, [ConceptSpec("<tok>", tiny_images(2), "cat")], pipeline=tiny_pipeline()).train()
    assert not said()


def test_a_list_that_is_not_empty_is_passed_on(said: Said) -> None:
    class Network:
        def to(self, device: str, dtype: torch.dtype) -> None:
            for layers in ([], ["time_embedding"]):
                logging.getLogger(MODULE).warning("should be kept in float32: %s", layers)

    move(Network(), "cpu", torch.bfloat16)
    assert said() == ["should be kept in float32: ['time_embedding']"]
