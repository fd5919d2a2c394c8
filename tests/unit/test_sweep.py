"""Sweeps from end to end with a tiny model: every run is trained and evaluated once, whatever happens in between."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.runs import rows_of, save_images, save_model
from tests.tiny import tiny_pipeline
from tests.tiny_clip import tiny_twin
from textual_inversion_ext.cli.main import FAILED, INTERRUPTED, main
from textual_inversion_ext.cli.sweep import MARKER, _flags_apart, _job, run_sweep
from textual_inversion_ext.cli.sweep_plan import SweepRun, plan_sweep
from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.evaluation.report import WORD, EvaluationReport
from textual_inversion_ext.families import adapter_for

Sweep = dict[str, Any]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Flags of a short run and a small evaluation, and the files that they name."""
    folder = tmp_path_factory.mktemp("parts")
    model, processor = tiny_twin(adapter_for(tiny_pipeline()).slots[0])
    model.save_pretrained(folder / "clip")
    processor.save_pretrained(folder / "clip")
    return {
        "pretrained_model_name_or_path": str(save_model(folder / "model")),
        "train_data_dir": str(save_images(folder / "images")),
        "placeholder_token": "<tok>",
        "initializer_token": "cat",
        "class_name": "cat",
        "train_batch_size": 2,
        "max_train_steps": 3,
        "backbone": str(folder / "clip"),
        "metrics": ["clip_image", "clip_text"],
        "seeds": 2,
        "num_inference_steps": 2,
    }


def snapshot(folder: Path, pattern: str) -> dict[str, int]:
    """When each file was last written."""
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in sorted(folder.rglob(pattern))}


def write(file: Path, sweep: Sweep) -> str:
    file.write_text(json.dumps(sweep), encoding="utf-8")
    return str(file)


def test_a_sweep_trains_evaluates_compares_and_skips_what_is_done(
    parts: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, parts = tmp_path / "out", {**parts, "baselines": ["class_word"]}
    file = write(tmp_path / "sweep.json", {"flags": parts, "grid": {"num_vectors": [1, 2]}})
    assert main(["compare", "--sweep", file, "--output_dir", str(out)]) == 0
    assert [len(rows_of(out / f"num_vectors={count}")) for count in (1, 2)] == [1, 2]
    assert (out / "comparison.png").is_file()
    page = (out / "comparison.html").read_text(encoding="utf-8")
    assert "num_vectors=1" in page and "num_vectors=2" in page and "class word" in page
    trained, reports = snapshot(out, "*.safetensors"), snapshot(out, "report.json")

    # A further value: only that run is new.
    file = write(tmp_path / "sweep.json", {"flags": parts, "grid": {"num_vectors": [1, 2, 3]}})
    capsys.readouterr()
    assert main(["compare", "--sweep", file, "--output_dir", str(out)]) == 0
    told = capsys.readouterr().err
    assert "2 of 3 runs are done already" in told and "Run 1 of 1: num_vectors=3" in told
    now = snapshot(out, "*.safetensors")
    assert now.items() > trained.items() and snapshot(out, "report.json").items() > reports.items()

    # Another evaluation: pictures and scores are new, the words stay.
    changed = {**parts, "seeds": 3}
    file = write(tmp_path / "sweep.json", {"flags": changed, "grid": {"num_vectors": [1]}})
    assert main(["compare", "--sweep", file, "--output_dir", str(out)]) == 0
    assert snapshot(out, "*.safetensors") == now
    assert len(EvaluationReport.load(out / "num_vectors=1").protocol.seeds) == 3

    # Another training under the same names: nobody's words are replaced behind their back.
    changed = {**parts, "max_train_steps": 4}
    file = write(tmp_path / "sweep.json", {"flags": changed, "grid": {"num_vectors": [1]}})
    capsys.readouterr()
    assert main(["compare", "--sweep", file, "--output_dir", str(out)]) == FAILED
    assert "--max_train_steps=3 --max_train_steps=4" in capsys.readouterr().err
    assert snapshot(out, "*.safetensors") == now


def test_an_evaluation_is_done_again_where_its_flags_do_not_tell(parts: Sweep, tmp_path: Path) -> None:
    """A file of prompts says something else, a report is gone, somebody has put other words there."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n".replace("cat", "{}"), encoding="utf-8")
    flags = {**parts, "prompts": str(prompts), "baselines": ["none"], "seeds": 1, "metrics": ["clip_image"]}
    sweep, out = {"flags": flags, "runs": {"one": {}, "two": {"num_vectors": 2}}}, tmp_path / "out"

    def reports() -> dict[str, int]:
        assert run_sweep(plan_sweep(sweep), out).failures == ()
        return snapshot(out, "report.json")

    first, words = reports(), snapshot(out, "learned_embeds.safetensors")
    assert reports() == first
    prompts.write_text("a red {}\n", encoding="utf-8")
    second = reports()
    assert all(second[name] != first[name] for name in first)
    (out / "one" / "evaluation" / "report.json").unlink()
    third = reports()
    assert [third[name] == second[name] for name in sorted(first)] == [False, True]
    assert snapshot(out, "learned_embeds.safetensors") == words
    LearnedConcept("<tok>", {"clip_l": torch.ones(2, 16)}).save(out / "two" / "learned_embeds.safetensors")
    fourth = reports()
    assert [fourth[name] == third[name] for name in sorted(first)] == [True, False]
    marker = json.loads((out / "one" / MARKER).read_text(encoding="utf-8"))
    marker.pop("files")  # as earlier versions wrote it
    (out / "one" / MARKER).write_text(json.dumps(marker), encoding="utf-8")
    assert reports() == fourth


def test_runs_that_differ_in_their_evaluation_share_the_training(parts: Sweep, tmp_path: Path) -> None:
    sweep = {"flags": {**parts, "baselines": ["class_word"]}, "grid": {"guidance_scale": [1, 3]}}
    result = run_sweep(plan_sweep(sweep), tmp_path)
    assert [folder.name for folder in result.folders] == ["guidance_scale=1", "guidance_scale=3"]
    assert list(snapshot(tmp_path, "learned_embeds.safetensors")) == ["guidance_scale=1/learned_embeds.safetensors"]
    reports = [EvaluationReport.load(folder) for folder in result.folders]
    assert [report.settings["guidance_scale"] for report in reports] == [1.0, 3.0]
    assert reports[0].concept.rows_hash == reports[1].concept.rows_hash
    # The order of the grid changes; the word is still found where it is.
    before = snapshot(tmp_path, "*.json")
    assert run_sweep(plan_sweep({**sweep, "grid": {"guidance_scale": [3, 1]}}), tmp_path).failures == ()
    assert snapshot(tmp_path, "*.json") == before


def test_pictures_of_the_baselines_are_made_once(parts: Sweep, tmp_path: Path) -> None:
    flags = {**parts, "baselines": ["class_word"]}
    result = run_sweep(plan_sweep({"flags": flags, "grid": {"learning_rate": [0.001, 0.1]}}), tmp_path)
    first, second = (EvaluationReport.load(folder) for folder in result.folders)
    for mine, theirs in zip(first.pictures, second.pictures, strict=True):
        for one, other in zip(mine.files, theirs.files, strict=True):
            files = [folder / "evaluation" / name for folder, name in zip(result.folders, (one, other), strict=True)]
            assert files[0].samefile(files[1]) == (mine.subject == "class word")
    assert first.score("clip_image", WORD) is None  # names hold the backbone, so a bare key finds nothing
    words = [report.score(report.metrics[0], WORD) for report in (first, second)]
    assert words[0] != words[1], "the words differ, so their own pictures must"


def test_several_concepts_of_a_run_are_evaluated_each(parts: Sweep, tmp_path: Path) -> None:
    both = {**parts, "placeholder_token": ["<a>", "<b>"], "train_data_dir": [parts["train_data_dir"]] * 2}
    sweep = {"flags": {**both, "baselines": ["none"]}, "grid": {"guidance_scale": [1, 3]}}
    result = run_sweep(plan_sweep(sweep), tmp_path / "out")
    for folder in result.folders:
        assert [EvaluationReport.load(folder / name).concept.token for name in "ab"] == ["<a>", "<b>"]
    assert main(["compare", *map(str, result.folders), "--output_dir", str(tmp_path / "compared")]) == 0
    assert "&lt;a&gt;" in (tmp_path / "compared" / "comparison.html").read_text(encoding="utf-8")


def test_an_interrupted_sweep_goes_on_from_its_checkpoint(parts: Sweep, tmp_path: Path) -> None:
    flags = {**parts, "max_train_steps": 30, "checkpointing_steps": 5, "baselines": ["none"], "eval_steps": 0}
    sweep = {"flags": flags, "grid": {"num_vectors": [1, 2]}}
    file = write(tmp_path / "sweep.json", sweep)
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    first = stopped / "num_vectors=1"

    def interrupt() -> None:
        while not (first / "checkpoint-5").is_dir():
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    assert main(["compare", "--sweep", file, "--output_dir", str(stopped)]) == INTERRUPTED
    thread.join()
    assert not (stopped / "num_vectors=2").exists() and not (stopped / "comparison.html").exists()
    assert json.loads((first / MARKER).read_text(encoding="utf-8"))["trained"] is False
    before = (first / "checkpoint-5").stat().st_mtime_ns
    for place in (stopped, whole):
        assert run_sweep(plan_sweep(sweep)[:1], place).failures == ()
    assert (first / "checkpoint-5").stat().st_mtime_ns == before, "a run from the start would have written it anew"
    assert torch.equal(*(rows_of(place / "num_vectors=1") for place in (stopped, whole)))


def test_one_failing_run_does_not_stop_the_others(
    parts: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = {"bad": {"train_data_dir": str(tmp_path / "nowhere")}, "good": {}}
    file = write(tmp_path / "sweep.json", {"flags": {**parts, "baselines": ["none"]}, "runs": runs})
    assert main(["compare", "--sweep", file, "--output_dir", str(tmp_path / "out")]) == FAILED
    told = capsys.readouterr().err
    assert "1 run(s) of the sweep failed" in told and "bad:" in told and "nowhere" in told
    assert "good" in (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "out" / "bad" / MARKER).read_text(encoding="utf-8"))["trained"] is False


def test_when_all_runs_fail_it_says_why(parts: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = {"train_data_dir": [str(tmp_path / "nowhere"), str(tmp_path / "nothing")]}
    file = write(tmp_path / "sweep.json", {"flags": parts, "grid": grid})
    assert main(["compare", "--sweep", file, "--output_dir", str(tmp_path / "out")]) == FAILED
    error = capsys.readouterr().err.split("error: ")[-1]
    assert "All 2 runs of the sweep failed" in error and "nowhere" in error and "nothing" in error


def test_the_order_of_flags_says_nothing(parts: Sweep, tmp_path: Path) -> None:
    flags = {**parts, "baselines": ["none"], "metrics": ["clip_image"], "seeds": 1}
    assert run_sweep(plan_sweep({"flags": flags, "runs": {"one": {}}}), tmp_path).failures == ()
    before = snapshot(tmp_path, "*.*")
    turned = dict(reversed(flags.items()))
    assert run_sweep(plan_sweep({"flags": turned, "runs": {"one": {}}}), tmp_path).failures == ()
    assert snapshot(tmp_path, "*.*") == before
    # The order of one flag's values does: which word is learned from which pictures.
    both = {**parts, "placeholder_token": ["<a>", "<b>"]}
    one, other = (
        _job(SweepRun("x", {**both, "train_data_dir": folders}), tmp_path) for folders in (["x", "y"], ["y", "x"])
    )
    assert _flags_apart(one.training) != _flags_apart(other.training)


def test_captions_are_those_of_the_training(parts: Sweep, tmp_path: Path) -> None:
    job = _job(SweepRun("x", {**parts, "captions": "both", "mixed_precision": "bf16"}), tmp_path)
    assert "--captions=both" in job.training and "--captions=both" not in job.evaluation
    assert "--mixed_precision=bf16" in job.training and "--mixed_precision=bf16" in job.evaluation


@pytest.mark.parametrize(
    ("grid", "told"),
    [
        ({"learning_rte": [1]}, "neither train nor evaluate has the flag --learning_rte"),
        ({"output_dir": ["x"]}, "sets output_dir by itself"),
        ({"learning_rate": ["fast"]}, "learning_rate"),
        ({"learning_rate": [0.1, -1]}, "must be above 0"),
        ({"protocol": ["none"]}, "protocol"),
        ({"recipe": ["gal-9-words"]}, "recipe"),
    ],
)
def test_a_mistake_is_found_before_anything_starts(parts: Sweep, tmp_path: Path, grid: Sweep, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        run_sweep(plan_sweep({"flags": parts, "grid": grid}), tmp_path / "out")
    assert not (tmp_path / "out").exists()
