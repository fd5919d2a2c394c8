"""Methods as flags of the training command: what is typed is what trains, and mistakes are said before work begins."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.runs import rows_of, train_flags
from tests.tiny import tiny_images, tiny_pipeline
from textual_inversion_ext import CheckpointError, ConceptSpec, ConfigError, TextualInversionConfig
from textual_inversion_ext import TextualInversionTrainer as Trainer
from textual_inversion_ext.cli.main import main
from textual_inversion_ext.embedding_table import mean_norm


class KeepsDtype(torch.optim.SGD):
    """Keeps among its settings what no checkpoint can hold, as optimizers with low-precision state do."""

    def __init__(self, params: Any, lr: float = 1.0) -> None:
        super().__init__(params, lr=lr)
        self.param_groups[0]["state_dtype"] = torch.float32


METHOD = {
    "vmf_kappa": 1e-3,
    "direction_beta": 0.9,
    "lr_scheduler": "piecewise_constant",
    "lr_step_rules": "1:2,0.5",
    "snr_gamma": 5,
    "timestep_sampling": "stratified",
    "timestep_bias": 1,
    "noise_offset": 0.05,
    "max_grad_norm": 1,
    "ema_decay": 0.9,
    "initial_l2_weight": 0.01,
    "norm_pull_weight": 0.01,
    "context_weight": 0.1,
    "anchor_weight": 0.1,
}


@pytest.mark.parametrize(
    "way", [{"parametrization": "directional"}, {"optimizer": "torch.optim.Adagrad", "optimizer_args": '{"eps": 1e-9}'}]
)
def test_a_method_is_flags_and_resumes_bit_for_bit(tmp_path: Path, way: dict[str, str]) -> None:
    settings = {**METHOD, **way, "checkpointing_steps": 2}
    assert main(train_flags(tmp_path, **settings)) == 0
    whole = rows_of(tmp_path / "out")
    stored = json.loads((tmp_path / "out" / "config.json").read_text())["config"]
    assert {name: stored[name] for name in settings} == settings
    checkpoint = str(tmp_path / "out" / "checkpoint-2")
    flags = train_flags(tmp_path, **settings, output_dir=tmp_path / "again", resume_from_checkpoint=checkpoint)
    assert main(flags) == 0
    assert torch.equal(rows_of(tmp_path / "again"), whole)
    if "parametrization" in way:
        pipeline = tiny_pipeline()
        expected = mean_norm(pipeline.text_encoder, len(pipeline.tokenizer))
        assert (whole.double().norm(dim=1) - expected).abs().max() < 1e-6


def trainer(folder: Path, **settings: object) -> Trainer:
    plain = {"output_dir": str(folder / "out"), "max_train_steps": 2, "train_batch_size": 1}
    config = TextualInversionConfig(**{**plain, **settings})  # type: ignore[arg-type]
    return Trainer(config, [ConceptSpec("<tok>", tiny_images(3), "cat")], pipeline=tiny_pipeline())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parametrization": "spherical"}, "parametrization is 'spherical'; allowed: free, directional"),
        ({"optimizer": "Prodigy"}, r"allowed: AdamW, or a full name such as torch.optim.Prodigy"),
        ({"optimizer": "torch.optim.SGD", "parametrization": "directional"}, "have one of their own"),
        ({"optimizer_args": '{"eps": 1}'}, "adam_ settings"),
        ({"optimizer": f"{__name__}.KeepsDtype"}, "keeps a dtype, which no checkpoint can hold"),
        ({"optimizer": "torch.optim.Adam", "optimizer_args": '{"betas": [0.9]}'}, r"refuses.*IndexError"),
        ({"optimizer": "torch.optim.Adam", "optimizer_args": '{"foreach": true, "fused": true}'}, "refuses.*together"),
        ({"optimizer": "torch.optim.AdamW", "optimizer_args": '{"capturable": true}'}, "cannot move a row.*on the CPU"),
        ({"lr_scheduler": "piecewise_constant"}, "lr_step_rules is None"),
    ],
)
def test_mistakes_are_said_before_work_begins(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        trainer(tmp_path, **settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("ema_decay", 1.0), ("max_grad_norm", 0), ("snr_gamma", 0), ("direction_beta", 1), ("vmf_kappa", -1)],
)
def test_limits(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        TextualInversionConfig.from_dict({name: value})


def test_a_resumed_run_may_switch_an_average_on_but_not_change_its_optimizer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer(tmp_path).train()
    again = {"resume_from_checkpoint": "latest", "max_train_steps": 4}
    with pytest.raises(CheckpointError, match="its optimizer is AdamW, this run's is torch.optim.SGD"):
        trainer(tmp_path, optimizer="torch.optim.SGD", **again).train()
    with caplog.at_level(logging.WARNING):
        result = trainer(tmp_path, ema_decay=0.9, norm_pull_weight=0.1, **again).train()
    assert "ema_decay was 0.0 and is now 0.9" in caplog.text and "norm_pull_weight was 0.0" in caplog.text
    assert result.steps == {"<tok>": 4}
