"""Whoever calls the package from Python reads its own messages, and no remarks of diffusers about what is in order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tiny import tiny_images, tiny_pipeline, tiny_unet
from textual_inversion_ext import ConceptSpec, TextualInversionConfig, TextualInversionTrainer
from textual_inversion_ext.pipelines.loading import load_pipeline
from textual_inversion_ext.pipelines.quiet import move


def of_others(caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder) -> list[str]:
    """What diffusers and transformers logged, and warnings that Python shows unless told otherwise."""
    said = [record.getMessage() for record in caplog.records if not record.name.startswith("textual_inversion_ext")]
    return said + [str(seen.message) for seen in recwarn if issubclass(seen.category, FutureWarning | UserWarning)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loading(dtype: torch.dtype, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder) -> None:
    pipeline = load_pipeline("pocket", dtype=dtype)
    assert pipeline.unet.dtype == pipeline.text_encoder.dtype == pipeline.vae.dtype == dtype
    assert not of_others(caplog, recwarn)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_training(
    precision: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    config = TextualInversionConfig(output_dir=str(tmp_path), max_train_steps=2, mixed_precision=precision)
    TextualInversionTrainer(config, [ConceptSpec("<tok>", tiny_images(2), "cat")], pipeline=tiny_pipeline()).train()
    assert not of_others(caplog, recwarn)


def test_layers_that_should_stay_are_named(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    unet = tiny_unet()
    monkeypatch.setattr(type(unet), "_keep_in_fp32_modules", ["time_embedding"])
    move(unet, "cpu", torch.bfloat16)
    assert "time_embedding" in caplog.text and unet.dtype == torch.bfloat16
