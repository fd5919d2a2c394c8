from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from tests.runs import rows_of, save_images
from tests.tiny import tiny_images, tiny_pipeline
from textual_inversion_ext import (
    CheckpointError,
    ConceptError,
    ConceptSpec,
    ConfigError,
    MissingDependencyError,
    ModelError,
    OutputFolderError,
    TextualInversionConfig,
    TextualInversionTrainer,
    TrainingDiverged,
    TrainingResult,
    load_concept,
)
from textual_inversion_ext.data.sources.collect import collect_samples, training_data_digest
from textual_inversion_ext.tokens import RowEmbedding
from textual_inversion_ext.training.callbacks import Callback, LogEntry, Run, read_step_log
from textual_inversion_ext.training.queue import active_concepts, concept_steps, remaining_steps

SNAPSHOT = "learned_embeds-steps-3.safetensors"


def spec(token: str = "<tok>", count: int = 3, seed: int = 0, **fields: Any) -> ConceptSpec:
    return ConceptSpec(token, tiny_images(count, seed=seed), **{"initializer": "cat", **fields})


def train(
    folder: Path, *concepts: ConceptSpec, pipeline: Any = None, callbacks: tuple[Callback, ...] = (), **settings: Any
) -> TrainingResult:
    config = TextualInversionConfig(
        **{"output_dir": folder / "out", "max_train_steps": 4, "train_batch_size": 2, **settings}
    )
    return TextualInversionTrainer(
        config, concepts or [spec()], pipeline=pipeline or tiny_pipeline(), callbacks=callbacks
    ).train()


def fingerprint(pipeline: StableDiffusionPipeline) -> str:
    total = hashlib.sha256()
    for name in ("unet", "vae", "text_encoder"):
        for key, tensor in getattr(pipeline, name).state_dict().items():
            total.update(key.encode() + tensor.numpy().tobytes())
    return total.hexdigest()


def test_a_run_writes_what_it_promises(tmp_path: Path) -> None:
    result = train(tmp_path, checkpointing_steps=2, logging_steps=2, save_steps=3)
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        *("learned_embeds.safetensors", "tok.safetensors", SNAPSHOT, "config.json"),
        *("steps.jsonl", "checkpoint-2", "checkpoint-4"),
    }
    (concept,) = result.concepts
    assert concept.vectors["clip_l"].equal(rows_of(out)) and concept.vectors["clip_l"].equal(
        rows_of(out / "tok.safetensors")
    )
    assert load_concept(out).token == "<tok>"
    told = load_concept(out).metadata
    assert told["stopped"] == "max_train_steps" and "stopped" not in load_concept(out / SNAPSHOT).metadata
    assert told["steps"] == "4" and json.loads(told["recipe"])["train_batch_size"] == 2
    samples, _ = collect_samples(spec())
    assert told["training_data_digest"] == training_data_digest(samples)
    assert result.steps == {"<tok>": 4} and result.stop_reasons == {"<tok>": "max_train_steps"}
    assert len(result.losses["<tok>"]) == 2


def test_the_rows_move_and_nothing_else_does(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    before, vocabulary = fingerprint(pipeline), len(pipeline.tokenizer)
    table = pipeline.text_encoder.get_input_embeddings()
    start = table.weight[pipeline.tokenizer.convert_tokens_to_ids("cat</w>")].detach().clone()
    train(tmp_path, pipeline=pipeline)
    assert fingerprint(pipeline) == before and len(pipeline.tokenizer) == vocabulary
    assert pipeline.text_encoder.get_input_embeddings() is table and not isinstance(table, RowEmbedding)
    assert (rows_of(tmp_path / "out")[0] - start).abs().min() > 0


def test_the_file_loads_in_plain_diffusers(tmp_path: Path) -> None:
    train(tmp_path, spec(num_vectors=3))
    pipeline = tiny_pipeline()
    pipeline.load_textual_inversion(tmp_path / "out")
    ids = pipeline.tokenizer.convert_tokens_to_ids(["<tok>", "<tok>_1", "<tok>_2"])
    assert pipeline.text_encoder.get_input_embeddings().weight[ids].equal(rows_of(tmp_path / "out"))


def test_a_checkpoint_is_kilobytes(tmp_path: Path) -> None:
    train(tmp_path)
    files = list((tmp_path / "out" / "checkpoint-4").iterdir())
    assert sum(file.stat().st_size for file in files) < 4096
    assert sum(file.stat().st_size for file in files if file.suffix != ".json") < 64 * 7 + 1536


def test_old_checkpoints_go(tmp_path: Path) -> None:
    train(tmp_path, max_train_steps=12, checkpointing_steps=2, checkpoints_total_limit=2)
    assert sorted(path.name for path in (tmp_path / "out").glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-12"]


def test_the_step_log(tmp_path: Path) -> None:
    settings = {"max_train_steps": 5, "logging_steps": 2, "learning_rate": 0.25, "lr_scheduler": "constant"}
    train(tmp_path, spec(num_vectors=2), **settings)
    entries = [json.loads(line) for line in (tmp_path / "out" / "steps.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [2, 4, 5]
    for entry in entries:
        assert set(entry) == {"step", "loss", "eval_loss", "lr", "row_norms", "seconds", "samples_per_second"}
        assert math.isfinite(entry["loss"]["<tok>"]) and entry["lr"] == {"<tok>": 0.25}
        assert len(entry["row_norms"]["<tok>"]) == 2 and entry["samples_per_second"] > 0
    assert entries[0]["seconds"] < entries[1]["seconds"] < entries[2]["seconds"]


def test_logged_losses_are_means_since_the_last_log(tmp_path: Path) -> None:
    every = train(tmp_path / "every", logging_steps=1, max_train_steps=4).losses["<tok>"]
    means = train(tmp_path / "means", logging_steps=2, max_train_steps=4).losses["<tok>"]
    assert means == pytest.approx([(every[0] + every[1]) / 2, (every[2] + every[3]) / 2])


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"num_train_epochs": 1}, 3),  # 5 pictures in batches of 2
        ({"num_train_epochs": 4}, 10),
        ({"num_train_epochs": 1, "gradient_accumulation_steps": 3}, 1),
        ({"num_train_epochs": 100, "max_train_steps": 2}, 2),
    ],
)
def test_epochs_are_honoured(settings: dict[str, Any], steps: int, tmp_path: Path) -> None:
    assert train(tmp_path, spec(count=5), **{"max_train_steps": None, **settings}).steps == {"<tok>": steps}


def test_steps_without_any_wish_are_the_default() -> None:
    assert concept_steps(TextualInversionConfig(), 5, 8) == 500


def test_the_queue() -> None:
    totals = (2, 5, 3)
    assert active_concepts([0, 0, 0], totals, 2) == (0, 1)
    assert active_concepts([2, 2, 0], totals, 2) == (1, 2)
    assert active_concepts([2, 5, 3], totals, 2) == ()
    assert remaining_steps([0, 0, 0], totals, 2) == 5
    assert remaining_steps([0, 0, 0], totals, 1) == 10
    assert remaining_steps([2, 5, 3], totals, 2) == 0


def test_a_queue_of_concepts_trains_each_as_if_it_were_alone(tmp_path: Path) -> None:
    concepts = [spec("<a>", 3), spec("<b>", 5, seed=1, num_vectors=2), spec("<c>", 2, seed=2)]
    settings = {"max_train_steps": None, "num_train_epochs": 2, "lr_scheduler": "linear", "logging_steps": 1}
    together = train(tmp_path / "all", *concepts, max_concurrent_concepts=2, **settings)
    assert together.steps == {"<a>": 3, "<b>": 5, "<c>": 2}
    assert read_step_log(tmp_path / "all" / "out" / "steps.jsonl")[-1]["step"] == 5
    for concept, learned in zip(concepts, together.concepts, strict=True):
        alone = train(tmp_path / concept.name, concept, **settings)
        torch.testing.assert_close(learned.vectors["clip_l"], alone.concepts[0].vectors["clip_l"], rtol=1e-4, atol=1e-5)
        assert load_concept(tmp_path / "all" / "out" / concept.name).token == concept.placeholder_token


def test_accumulation_equals_a_larger_batch(tmp_path: Path) -> None:
    large = train(tmp_path / "large", train_batch_size=4, logging_steps=1)
    small = train(tmp_path / "small", train_batch_size=1, gradient_accumulation_steps=4, logging_steps=1)
    assert small.losses["<tok>"] == pytest.approx(large.losses["<tok>"], rel=1e-5)
    torch.testing.assert_close(
        small.concepts[0].vectors["clip_l"], large.concepts[0].vectors["clip_l"], rtol=1e-4, atol=1e-5
    )


def test_scaled_learning_rate(tmp_path: Path) -> None:
    scaled = train(tmp_path / "a", learning_rate=1e-3, scale_lr=True, gradient_accumulation_steps=3)
    plain = train(tmp_path / "b", learning_rate=6e-3, gradient_accumulation_steps=3)
    assert scaled.concepts[0].vectors["clip_l"].equal(plain.concepts[0].vectors["clip_l"])


def test_gradient_checkpointing_changes_nothing(tmp_path: Path) -> None:
    plain, saving = train(tmp_path / "a"), train(tmp_path / "b", gradient_checkpointing=True)
    torch.testing.assert_close(plain.concepts[0].vectors["clip_l"], saving.concepts[0].vectors["clip_l"])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_float32_rows(precision: str, tmp_path: Path) -> None:
    full = train(tmp_path / "full")
    half = train(tmp_path / precision, mixed_precision=precision, validation_prompt="<tok>", num_validation_images=1)
    full_rows, half_rows = (result.concepts[0].vectors["clip_l"] for result in (full, half))
    assert half_rows.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(full_rows, half_rows).item() > 0.98
    assert load_file(tmp_path / precision / "out" / "learned_embeds.safetensors")["<tok>"].dtype == torch.float32


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_pipeline_that_was_handed_over_still_makes_pictures(precision: str, tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    train(tmp_path, pipeline=pipeline, mixed_precision=precision, gradient_checkpointing=True)
    assert len({parameter.dtype for name in ("vae", "unet") for parameter in getattr(pipeline, name).parameters()}) == 1
    assert not any(module.training for module in pipeline.text_encoder.modules())
    assert not pipeline.unet.is_gradient_checkpointing
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a cat", num_inference_steps=1).images


def test_a_pipeline_that_was_handed_over_is_given_back_after_a_failed_start(tmp_path: Path) -> None:
    pipeline = tiny_pipeline().to(torch.bfloat16)
    with pytest.raises(ConceptError):
        train(tmp_path, spec(initializer="no such word"), pipeline=pipeline, mixed_precision="bf16")
    assert len({parameter.dtype for name in ("vae", "unet") for parameter in getattr(pipeline, name).parameters()}) == 1


def test_gradient_checkpointing_of_the_users_own_stays_on(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    pipeline.unet.enable_gradient_checkpointing()
    train(tmp_path, pipeline=pipeline)
    assert pipeline.unet.is_gradient_checkpointing


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    pipeline.tokenizer.add_tokens([f"more{number}" for number in range(50)])
    with pytest.raises(ModelError, match="do not belong together"):
        train(tmp_path, pipeline=pipeline)


def test_previews_show_the_word_and_change_nothing(tmp_path: Path) -> None:
    with_previews = train(
        tmp_path / "a", max_train_steps=5, validation_prompt="a <tok>", validation_steps=2, num_validation_images=2
    )
    files = sorted(path.name for path in (tmp_path / "a" / "out" / "previews").iterdir())
    assert files == ["step-000002.png", "step-000004.png", "step-000005.png"]
    assert Image.open(tmp_path / "a" / "out" / "previews" / files[0]).width > 2 * 160
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    without = train(tmp_path / "b", max_train_steps=5)
    assert torch.rand(1).equal(expected), "the global generator was touched"
    assert with_previews.concepts[0].vectors["clip_l"].equal(without.concepts[0].vectors["clip_l"])


def test_a_preview_prompt_without_the_word_is_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(tmp_path, validation_prompt="a cat", num_validation_images=1)
    assert "holds none of the new words (<tok>)" in caplog.text


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(tmp_path, report_to="tensorboard", validation_prompt="a <tok>", num_validation_images=1)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = {
        file.parent for file in (tmp_path / "out" / "logs").rglob("events*") if file.parent.name == "textual_inversion"
    }
    events = EventAccumulator(str(folder)).Reload().Tags()
    scalars = {"loss/<tok>", "eval_loss/<tok>", "lr/<tok>", "row_norm/<tok>", "samples_per_second"}
    assert scalars <= set(events["scalars"])
    assert events["images"]


def test_a_tracker_that_is_not_installed(tmp_path: Path) -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    missing = sorted(set(LOGGER_TYPE_TO_CLASS) - set(map(str, get_available_trackers())))
    if not missing:
        pytest.skip("every tracker is installed")
    with pytest.raises(MissingDependencyError, match="pip install"):
        train(tmp_path, report_to=missing[0])
    with pytest.raises(ConfigError, match="report_to has 'paper'"):
        train(tmp_path, report_to="paper")
    assert not (tmp_path / "out").exists()


def test_callbacks_see_every_step_and_log(tmp_path: Path) -> None:
    seen: list[object] = []

    class Watcher(Callback):
        def on_start(self, run: Run) -> None:
            seen.append(("start", run.progress.step, run.total_steps))

        def on_step(self, run: Run) -> None:
            seen.append(run.progress.step)

        def on_log(self, run: Run, entry: LogEntry) -> None:
            seen.append(("log", entry.step))

        def on_end(self, run: Run) -> None:
            seen.append(("end", run.learned()[0].token))

    train(tmp_path, callbacks=(Watcher(),), logging_steps=3)
    assert seen == [("start", 0, 4), 1, 2, ("log", 3), 3, 4, ("log", 4), ("end", "<tok>")]


def test_a_whole_pipeline_is_saved_on_demand(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    vocabulary = len(pipeline.tokenizer)
    train(tmp_path, spec(num_vectors=2), pipeline=pipeline, save_as_full_pipeline=True)
    assert len(pipeline.tokenizer) == vocabulary
    whole = StableDiffusionPipeline.from_pretrained(tmp_path / "out")
    ids = whole.tokenizer.convert_tokens_to_ids(["<tok>", "<tok>_1"])
    assert whole.text_encoder.get_input_embeddings().weight[ids].equal(rows_of(tmp_path / "out"))
    train(tmp_path, spec("<other>"), pipeline=pipeline, overwrite_output_dir=True)
    assert not [name for name in ("model_index.json", "unet", "tokenizer") if (tmp_path / "out" / name).exists()]


def test_capital_letters_with_several_vectors_are_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path / "a", spec("<Tok>"))
    assert "capital letters" not in caplog.text
    train(tmp_path / "b", spec("<Tok>", num_vectors=2))
    assert "capital letters" in caplog.text and "<tok>" in caplog.text


def test_bad_pictures_are_skipped_and_listed_at_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = save_images(tmp_path / "images")
    (folder / "broken.png").write_bytes(b"")
    config = TextualInversionConfig(output_dir=tmp_path / "out", max_train_steps=1, skip_bad_images=True)
    trainer = TextualInversionTrainer(config, [ConceptSpec("<tok>", folder, "cat")], pipeline=tiny_pipeline())
    trainer.train()
    assert [Path(skipped.name).name for skipped in trainer.skipped_images] == ["broken.png"]
    assert "Left out 1 picture" in caplog.records[-1].getMessage() and "broken.png" in caplog.records[-1].getMessage()


def test_a_loss_that_is_not_a_number_keeps_the_last_good_rows(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    start = pipeline.text_encoder.get_input_embeddings().weight[pipeline.tokenizer.convert_tokens_to_ids("cat</w>")]

    class Breaker(Callback):
        def on_step(self, run: Run) -> None:
            if run.progress.step == 3:
                good.append(run.learned()[0].vectors["clip_l"])
                next(pipeline.unet.parameters()).data.fill_(math.nan)

    good: list[torch.Tensor] = []
    with pytest.raises(TrainingDiverged, match=r"<tok> at step 4.*learning_rate") as error:
        train(tmp_path, pipeline=pipeline, max_train_steps=9, callbacks=(Breaker(),))
    assert str(tmp_path / "out") in str(error.value)
    assert rows_of(tmp_path / "out").equal(good[0]) and not good[0][0].equal(start)


def test_rows_that_blow_up_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged):
        train(tmp_path, learning_rate=3e38, max_train_steps=20, logging_steps=1)
    assert bool(rows_of(tmp_path / "out").isfinite().all())


def test_an_output_folder_with_another_run_is_refused(tmp_path: Path) -> None:
    train(tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(OutputFolderError, match="overwrite_output_dir"):
        train(tmp_path, seed=1)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ("pytorch_lora_weights.safetensors", {}),
        ("checkpoint-2/optimizer.bin", {}),
        ("tok.safetensors", {}),
        ("learned_embeds-steps-500.safetensors", {"resume_from_checkpoint": "latest"}),
        ("model_index.json", {"save_as_full_pipeline": True}),
    ],
)
def test_files_of_another_program_are_not_replaced(file: str, settings: dict[str, Any], tmp_path: Path) -> None:
    place = tmp_path / "out" / file
    place.parent.mkdir(parents=True)
    place.write_bytes(b"mine")
    with pytest.raises(OutputFolderError, match=file.split("/")[0]):
        train(tmp_path, **settings)
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == [place]


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_of_another_program_that_are_not_in_the_way_are_kept(overwrite: bool, tmp_path: Path) -> None:
    kept = [tmp_path / "out" / name for name in ("pytorch_lora_weights_v1.safetensors", "previews/step-000002.png")]
    for file in kept:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"mine")
    train(tmp_path, overwrite_output_dir=overwrite)
    assert [file.read_bytes() for file in kept] == [b"mine", b"mine"]


def test_several_concepts_do_not_replace_the_run_of_one_of_them(tmp_path: Path) -> None:
    out = tmp_path / "out"
    train(tmp_path, output_dir=out / "tok", validation_prompt="<tok>", num_validation_images=1)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(OutputFolderError, match=r"tok/config\.json"):
        train(tmp_path, spec("<tok>"), spec("<other>"))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    train(tmp_path, spec("<tok>"), spec("<other>"), overwrite_output_dir=True)
    assert sorted(path.name for path in (out / "tok").rglob("*") if path.is_file()) == [
        *("config.json", "learned_embeds.safetensors", "tok.safetensors"),
    ]


def test_overwriting_removes_the_old_run_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    train(tmp_path, spec("<a>"), spec("<b>"), validation_prompt="<a>", num_validation_images=1)
    (out / "notes.txt").write_text("mine")
    (out / "b" / "photo.txt").write_text("mine too")
    train(tmp_path, spec("<c>"), overwrite_output_dir=True)
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"b", "checkpoint-4", "previews"}
    assert [path.name for path in (out / "b").iterdir()] == ["photo.txt"] and not list((out / "previews").iterdir())
    assert {path.name for path in out.iterdir() if path.is_file()} == {
        *("config.json", "steps.jsonl", "learned_embeds.safetensors", "c.safetensors", "notes.txt"),
    }


def test_a_failed_start_leaves_the_old_run_alone(tmp_path: Path) -> None:
    train(tmp_path)
    before = rows_of(tmp_path / "out")
    with pytest.raises(ConceptError):
        train(tmp_path, spec(initializer="no such word"), overwrite_output_dir=True)
    assert rows_of(tmp_path / "out").equal(before)


def test_an_output_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputFolderError, match="is a file"):
        train(tmp_path)


def test_a_checkpoint_of_other_concepts_is_refused(tmp_path: Path) -> None:
    train(tmp_path / "a")
    with pytest.raises(CheckpointError, match="concepts"):
        train(tmp_path / "b", spec("<other>"), resume_from_checkpoint=str(tmp_path / "a" / "out" / "checkpoint-4"))


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    train(tmp_path)
    file = tmp_path / "out" / "checkpoint-4" / "state.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="checkpoint-4 is damaged"):
        train(tmp_path, resume_from_checkpoint="latest")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"resolution": 17}, ConfigError, "multiple of 2, for example 16"),
        ({"parametrization": "magic"}, ConfigError, "allowed: free"),
        ({"resume_from_checkpoint": "checkpoint-9"}, CheckpointError, "Checkpoints in .*: none"),
    ],
)
def test_settings_that_do_not_suit(
    settings: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        train(tmp_path, **settings)
    assert not (tmp_path / "out").exists()


def test_concepts_that_collide_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no concept"):
        TextualInversionTrainer(TextualInversionConfig(), [])
    with pytest.raises(ConceptError):
        train(tmp_path, spec("<a>", num_vectors=2), spec("<a>_1"))


def test_a_pipeline_of_another_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no family"):
        train(tmp_path, pipeline=torch.nn.Linear(1, 1))
