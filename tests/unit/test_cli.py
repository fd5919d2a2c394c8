from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import pytest
import torch

from tests.runs import rows_of, save_images, save_model, start_cli, train_flags
from textual_inversion_ext import ConfigError, LearnedConcept, TextualInversionConfig, __version__
from textual_inversion_ext.cli.main import CLOSED, VERBS, main
from textual_inversion_ext.cli.parser import IGNORED_FLAGS, HubRequest, TrainCommand, add_train_flags, read_train_flags
from textual_inversion_ext.pipelines.loading import documented_sampling

# The training command of diffusers' examples/textual_inversion/README.md, and an older form of it.
README_COMMAND = [
    "--train_data_dir=./cat",
    "--learnable_property=object",
    "--placeholder_token=<cat-toy>",
    "--initializer_token=toy",
    "--resolution=512",
    "--train_batch_size=1",
    "--gradient_accumulation_steps=4",
    "--max_train_steps=3000",
    "--learning_rate=5.0e-04",
    "--scale_lr",
    "--lr_scheduler=constant",
    "--lr_warmup_steps=0",
    "--push_to_hub",
    "--output_dir=textual_inversion_cat",
]
MODEL = "--pretrained_model_name_or_path=stable-diffusion-v1-5/stable-diffusion-v1-5"

# Every flag of diffusers' textual_inversion.py at 0.42.
DIFFUSERS_FLAGS = """
save_steps save_as_full_pipeline num_vectors pretrained_model_name_or_path revision variant tokenizer_name
train_data_dir placeholder_token initializer_token learnable_property repeats output_dir seed resolution center_crop
train_batch_size num_train_epochs max_train_steps gradient_accumulation_steps gradient_checkpointing learning_rate
scale_lr lr_scheduler lr_warmup_steps lr_num_cycles dataloader_num_workers adam_beta1 adam_beta2 adam_weight_decay
adam_epsilon push_to_hub hub_token hub_model_id logging_dir mixed_precision allow_tf32 report_to validation_prompt
num_validation_images validation_steps validation_epochs local_rank checkpointing_steps checkpoints_total_limit
resume_from_checkpoint enable_xformers_memory_efficient_attention no_safe_serialization
""".split()


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(allow_abbrev=False)
    add_train_flags(made)
    return made


def read(*flags: str) -> TrainCommand:
    return read_train_flags(parser().parse_args(flags))


def test_every_flag_of_diffusers_script_is_there() -> None:
    known = {option for action in parser()._actions for option in action.option_strings}
    assert {f"--{name}" for name in DIFFUSERS_FLAGS} <= known


def test_the_command_of_diffusers_readme_means_the_same() -> None:
    command = read(MODEL, *README_COMMAND)
    config = command.config
    assert (config.resolution, config.train_batch_size, config.gradient_accumulation_steps) == (512, 1, 4)
    assert (config.max_train_steps, config.learning_rate, config.scale_lr) == (3000, 5e-4, True)
    assert (config.lr_scheduler, config.lr_warmup_steps, config.output_dir) == ("constant", 0, "textual_inversion_cat")
    (concept,) = command.concepts
    assert (concept.placeholder_token, concept.initializer, concept.images) == ("<cat-toy>", "toy", "./cat")
    assert command.notices == ()
    assert command.hub == HubRequest("textual_inversion_cat")


def test_the_command_of_diffusers_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "model")
    save_images(tmp_path / "cat")
    # Only the model, the picture size it can hold, the word it knows and the number of steps are swapped. Nothing is
    # published: tests/unit/test_publishing_hub.py does that.
    swapped = [
        "--pretrained_model_name_or_path=model",
        "--resolution=16",
        "--initializer_token=cat",
        "--max_train_steps=2",
    ]
    swapped_out = {"--push_to_hub", *(own.split("=")[0] for own in swapped)}
    kept = [flag for flag in README_COMMAND if flag.split("=")[0] not in swapped_out]
    assert main(["train", *swapped, *kept]) == 0
    assert rows_of(tmp_path / "textual_inversion_cat").shape == (1, 16)


@pytest.mark.parametrize("flag", IGNORED_FLAGS)
def test_a_flag_without_meaning_gets_one_line(flag: str) -> None:
    values, why = IGNORED_FLAGS[flag]
    command = read("--train_data_dir=x", "--placeholder_token=<a>", f"--{flag}", *["7"] * values)
    lines = [notice for notice in command.notices if notice.startswith(f"--{flag} ")]
    assert len(lines) == 1 and why in lines[0] and "\n" not in lines[0]


def test_a_token_is_never_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = train_flags(tmp_path, hub_token="hf_secret")
    assert main(flags) == 0
    assert main([*flags, "--overwrite_output_dir", "--push_to_hub", "--hub_model_id", "me/cat"]) == 1
    shown = "".join(capsys.readouterr())
    assert "hf_secret" not in shown
    assert "--hub_token has no effect without --push_to_hub" in shown
    assert "offline mode is on" in shown
    assert not [file for file in (tmp_path / "out").rglob("*.json*") if "hf_secret" in file.read_text()]
    assert "hf_secret" not in repr(read("--train_data_dir=x", "--placeholder_token=<a>", *flags[-2:], "--push_to_hub"))


def test_what_cannot_be_published_is_not_trained_first(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([*train_flags(tmp_path, hub_model_id="a--b"), "--push_to_hub"]) == 1
    assert "'a--b' is no name of a repository" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_settings_have_the_defaults_of_the_config() -> None:
    assert read("--train_data_dir=x", "--placeholder_token=<a>").config == TextualInversionConfig()


def test_several_values_make_several_concepts() -> None:
    command = read(
        *("--placeholder_token", "<a>", "<b>", "--train_data_dir", "x", "y"),
        *("--initializer_token", "dog", "--num_vectors", "1", "3", "--class_name", "animal"),
    )
    assert [(c.placeholder_token, c.images, c.initializer, c.num_vectors, c.class_name) for c in command.concepts] == [
        ("<a>", "x", "dog", 1, "animal"),
        ("<b>", "y", "dog", 3, "animal"),
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--train_data_dir", "x"], "--placeholder_token is missing"),
        (["--placeholder_token", "<a>"], "--train_data_dir is missing for <a>"),
        (["--placeholder_token", "<a>", "<b>", "--train_data_dir", "x"], "--train_data_dir has 1 values for 2"),
        (
            ["--placeholder_token", "<a>", "<b>", "--train_data_dir", "x", "y", "--num_vectors", "1", "2", "3"],
            "--num_vectors has 3 values for 2",
        ),
    ],
)
def test_flags_that_do_not_add_up_are_refused(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(*flags)


def test_a_run_file_is_overridden_by_what_is_typed(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    concept = {"placeholder_token": "<a>", "images": "x", "initializer": "dog"}
    settings = {"seed": 7, "max_train_steps": 9, "scale_lr": True}
    file.write_text(json.dumps({"config": settings, "concepts": [concept]}))
    config, (spec,) = read("--config", str(file)).config, read("--config", str(file)).concepts
    assert (config.seed, config.max_train_steps, config.scale_lr, spec.initializer) == (7, 9, True, "dog")
    command = read(
        "--config", str(file), "--seed=8", "--num_train_epochs=2", "--no-scale_lr", "--initializer_token=cat"
    )
    config, (spec,) = command.config, command.concepts
    assert (config.seed, config.scale_lr, config.max_train_steps, config.num_train_epochs) == (8, False, None, 2)
    assert (spec.placeholder_token, spec.images, spec.initializer) == ("<a>", "x", "cat")


def test_a_run_repeats_itself_bit_for_bit(tmp_path: Path) -> None:
    assert main(train_flags(tmp_path, learning_rate=0.01, seed=3, num_vectors=2)) == 0
    again = ["train", "--config", str(tmp_path / "out" / "config.json"), "--output_dir", str(tmp_path / "again")]
    assert main(again) == 0
    assert rows_of(tmp_path / "out").equal(rows_of(tmp_path / "again"))


def test_the_help_of_generate_tells_the_built_in_models_own_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    steps, guidance = documented_sampling("pocket")
    assert f"(pocket: {steps})" in shown
    assert f"pocket {guidance:g})" in shown


@pytest.mark.parametrize("arguments", [["--help"], *([verb, "--help"] for verb in VERBS)], ids=" ".join)
def test_help_of_every_verb(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0
    assert "usage: textual-inversion" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["fly"], ["train", "--max_train_steps", "many"], ["train", "--seeed", "1"]])
def test_what_cannot_be_parsed_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2


def test_debug_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = train_flags(tmp_path, train_data_dir=tmp_path / "nowhere")
    assert main([*flags, "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err
    assert main(flags) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_a_reader_who_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    """What `textual-inversion inspect FILE | head` does."""
    file = LearnedConcept("<a>", {"clip_l": torch.ones(1, 4)}).save(tmp_path / "a.safetensors")
    process = start_cli(["inspect", str(file)])
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert (process.stderr.read(), process.wait(timeout=60)) == ("", CLOSED)


def test_epochs_that_do_not_count_are_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert main(train_flags(tmp_path, num_train_epochs=50)) == 0
    assert "max_train_steps=4 wins over num_train_epochs" in caplog.text
