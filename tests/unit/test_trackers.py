"""What trackers receive, read back with their own readers."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from tests.tiny import tiny_images, tiny_pipeline
from textual_inversion_ext import ConceptSpec, ConfigError, TextualInversionConfig, TextualInversionTrainer
from textual_inversion_ext.training.callbacks import read_step_log
from textual_inversion_ext.training.trackers import tracker_names


def train(folder: Path, **settings: object) -> Path:
    out = folder / "out"
    config = TextualInversionConfig(
        **{  # type: ignore[arg-type]
            **{"output_dir": out, "max_train_steps": 4, "train_batch_size": 2, "logging_steps": 2, "eval_steps": 0},
            **{"validation_prompt": "a <tok>", "validation_steps": 2, "num_validation_images": 2},
            **settings,
        }
    )
    TextualInversionTrainer(config, [ConceptSpec("<tok>", tiny_images(3), "cat")], pipeline=tiny_pipeline()).train()
    return out


def test_tensorboard_has_every_number_of_the_step_log_and_the_pictures(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = train(tmp_path, report_to="tensorboard")
    folders = {file.parent for file in (out / "logs").rglob("events*") if file.parent.name == "textual_inversion"}
    events = EventAccumulator(str(*folders)).Reload()
    entries = read_step_log(out / "steps.jsonl")
    assert [entry["step"] for entry in entries] == [2, 4]
    told = {
        "loss/<tok>": [entry["loss"]["<tok>"] for entry in entries],
        "lr/<tok>": [entry["lr"]["<tok>"] for entry in entries],
        "row_norm/<tok>": [entry["row_norms"]["<tok>"][0] for entry in entries],
        "samples_per_second": [entry["samples_per_second"] for entry in entries],
    }
    for name, values in told.items():
        scalars = events.Scalars(name)
        assert [scalar.step for scalar in scalars] == [2, 4]
        assert [scalar.value for scalar in scalars] == pytest.approx(values)
    assert events.Tags()["images"] == ["preview"]
    pictures = events.Images("preview")
    assert [picture.step for picture in pictures] == [2, 4]
    for picture in pictures:  # both of a preview, side by side
        assert Image.open(io.BytesIO(picture.encoded_image_string)).size == (2 * 16, 16)


def test_the_settings_are_told_too(tmp_path: Path) -> None:
    out = train(tmp_path, report_to="tensorboard", learning_rate=0.25)
    (file,) = (out / "logs").rglob("hparams.yml")
    assert "learning_rate: 0.25" in file.read_text()


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(tmp_path, report_to="wandb")
    wandb.teardown()  # its own process has written everything
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    (file,) = run.glob("run-*.wandb")
    assert b"loss/<tok>" in file.read_bytes()
    assert len(list(run.glob("files/media/images/preview_*.png"))) == 4


def test_a_tracker_that_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "logs").write_text("a file where the tracker wants its folder")
    with pytest.raises(ConfigError, match=r"tracker did not start .*--report_to none"):
        train(tmp_path, report_to="tensorboard")


def test_names() -> None:
    assert tracker_names("none") == []
    assert tracker_names("tensorboard, tensorboard") == ["tensorboard"]
    assert "tensorboard" in tracker_names("all")
    with pytest.raises(ConfigError, match="report_to has 'none'"):
        tracker_names("tensorboard,none")
