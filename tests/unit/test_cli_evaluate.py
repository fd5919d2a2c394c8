"""``textual-inversion evaluate`` on words of the pocket world: from a run's folder to report, page and picture."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.evaluation_parts import pocket_word
from tests.reports import sample_report
from tests.runs import start_cli, train_flags, wait_until
from textual_inversion_ext.cli.evaluate_jobs import _references
from textual_inversion_ext.cli.main import FAILED, INTERRUPTED, main
from textual_inversion_ext.cli.model_flags import common_model
from textual_inversion_ext.concept import ConceptSpec, HubDataset, LearnedConcept
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.evaluation.report import CLASS_WORD, REAL_PICTURES, WORD, EvaluationReport
from textual_inversion_ext.files import save_concept
from textual_inversion_ext.pocket import render_concept, write_concept
from textual_inversion_ext.pocket.reader import Reader
from textual_inversion_ext.run_file import full_path, save_run

# Two steps and two pictures: what comes out is no good, and scored all the same.
FEW = ["--seeds", "2", "--num_inference_steps", "2", "--guidance_scale", "1", "--batch_size", "8"]
FEWER = [*FEW, "--seeds", "1", "--baselines", "real_pictures"]


def make_run(folder: Path, name: str = "bruno", class_word: str = "bear") -> Path:
    """What a training leaves: the pictures' place, the settings, a word, and a log."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    for number, picture in enumerate(render_concept(name)[:3]):
        picture.save(pictures / f"{number}.png")
    spec = ConceptSpec(f"<{name}>", str(pictures), initializer=class_word, class_name=class_word)
    save_run(folder / "config.json", TextualInversionConfig(output_dir=str(folder)), [spec])
    save_concept(pocket_word(class_word, f"<{name}>"), folder / "learned_embeds.safetensors", "diffusers")
    lines = [json.dumps({"step": step, "loss": {f"<{name}>": 1 / step, "<other>": 9.0}}) for step in range(1, 9)]
    (folder / "steps.jsonl").write_text("\n".join([*lines, '{"step": 9, "lo']), encoding="utf-8")
    return folder


def test_a_run_is_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    command = ["evaluate", "--concept", str(run), *FEW, "--baselines", "class_word", "initial_rows", "real_pictures"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    report = EvaluationReport.load(run, model="pocket")
    assert report.subjects[:4] == (WORD, CLASS_WORD, "initial rows", REAL_PICTURES)
    assert (report.concept.token, report.concept.class_word, report.concept.references) == ("<bruno>", "bear", 3)
    assert (report.protocol.name, report.protocol.seeds) == ("quick", (0, 1))
    assert report.settings["num_inference_steps"] == 2 and report.settings["guidance_scale"] == 1.0
    # This word means exactly "bear", from which it was made.
    assert report.rows[0].nearest[0][0][0] == "bear"
    word, first = (report.score("clip_image (pocket)", subject) for subject in (WORD, "initial rows"))
    assert word is not None and first is not None and word.mean == pytest.approx(first.mean, abs=1e-4)
    assert report.losses == tuple((step, pytest.approx(1 / step, abs=1e-6)) for step in range(1, 9))
    assert f"<bruno> on pocket, protocol quick ({len(report.protocol.prompts)} prompts x 2 pictures)" in printed
    assert f"word: <bruno>  {word.shown()}" in " ".join(printed.split()).replace("<bruno> ", "<bruno>  ")
    for name in ("report.html", "report.png", "report.json"):
        assert (run / "evaluation" / name).is_file() and str(run / "evaluation" / name) in printed
    page = (run / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert "picture is missing" not in page and page.count("<polyline") == 2
    listed = [name for entry in report.pictures for name in entry.files]
    assert len(listed) == 3 * 4 * 2 + 3
    for name in listed:
        Image.open(run / "evaluation" / name).verify()


def test_a_second_time_makes_no_picture_and_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", "--concept", str(make_run(tmp_path / "run")), *FEWER]
    assert main(command) == 0
    pictures = {file: file.stat().st_mtime_ns for file in (tmp_path / "run/evaluation/pictures").rglob("*.png")}
    capsys.readouterr()
    first = EvaluationReport.load(tmp_path / "run")
    assert main([*command, "--json"]) == 0
    printed = capsys.readouterr().out
    second = EvaluationReport.from_json(printed)
    assert dataclasses.replace(second, seconds=first.seconds) == first
    assert len(pictures) == 4
    assert pictures == {file: file.stat().st_mtime_ns for file in (tmp_path / "run/evaluation/pictures").rglob("*.png")}


def test_interrupted_it_goes_on_where_it_was(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    gallery = run / "evaluation" / "pictures"
    (tmp_path / "prompts.txt").write_text("a photo of <bruno>\n", encoding="utf-8")
    command = ["evaluate", "--concept", str(run), *FEWER, "--batch_size", "1", "--seeds", "200"]
    command += ["--prompts", str(tmp_path / "prompts.txt"), "--metrics", "clip_image"]
    process = start_cli(command)
    wait_until(lambda: len(list(gallery.rglob("seed-*.png"))) >= 3, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == INTERRUPTED
    assert "Stopped. Pictures made so far are kept; the same command goes on" in errors
    assert "Traceback" not in errors
    before = {file: file.stat().st_mtime_ns for file in gallery.rglob("seed-*.png")}
    assert 3 <= len(before) < 200
    assert not (run / "evaluation" / "report.json").exists()
    # Fewer pictures are asked for now, so that the test is short: those that are there are not made again.
    wanted = len(before) + 2
    assert main([*command, "--seeds", str(wanted)]) == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert len(list(gallery.rglob("seed-*.png"))) == wanted
    assert EvaluationReport.load(run).protocol.seeds == tuple(range(wanted))


def test_several_concepts_with_prompts_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", "mochi", "cat")]
    (tmp_path / "prompts.txt").write_text("a photo of {} at night\n", encoding="utf-8")
    (tmp_path / "captions.txt").write_text("a blue bear\n", encoding="utf-8")
    flags = ["--prompts", str(tmp_path / "prompts.txt"), "--output_dir", str(tmp_path / "out"), "--json"]
    flags += ["--captions", str(tmp_path / "captions.txt"), "--text_mode", "class", "--metrics", "clip_text"]
    command = ["evaluate", "--concept", *map(str, runs), *FEW, *flags, "--baselines", "caption"]
    assert main(command) == 0
    reports = [EvaluationReport.from_json(json.dumps(one)) for one in json.loads(capsys.readouterr().out)]
    assert [report.concept.token for report in reports] == ["<bruno>", "<mochi>"]
    assert reports[0].metrics == ("clip_text (pocket)",)
    assert reports[0].protocol.prompts == ("a photo of {} at night",)
    assert reports[0].protocol.text_mode == "class"
    assert reports[0].phrases == {"word": "<bruno>", "caption": "a blue bear"}
    for report, name in zip(reports, ("bruno", "mochi"), strict=True):
        assert EvaluationReport.load(tmp_path / "out" / name) == report


def test_two_words_in_one_picture(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", "mochi", "cat")]
    assert main(["evaluate", "--concept", *map(str, runs), *FEWER, "--protocol", "multi"]) == 0
    report = EvaluationReport.load(tmp_path / "a" / "evaluation-with-mochi")
    assert report.phrases["word"] == "<bruno> + <mochi>"
    text = (tmp_path / "a" / "evaluation-with-mochi" / "report.html").read_text(encoding="utf-8")
    assert "a photo of a * next to a *" in text and "&lt;mochi&gt;" in text
    assert not (tmp_path / "a" / "evaluation").exists()


def test_the_identity_of_a_pocket_thing_is_read_with_a_reader_of_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    save_file(
        Reader().state_dict(), tmp_path / "reader.safetensors"
    )  # untrained: that it is used, not that it is right
    run = tmp_path / "run"
    write_concept("bruno", run / "pictures")
    spec = ConceptSpec("<bruno>", str(run / "pictures"), initializer="bear", class_name="bear")
    save_run(run / "config.json", TextualInversionConfig(output_dir=str(run)), [spec])
    save_concept(pocket_word("bear", "<bruno>"), run / "learned_embeds.safetensors", "diffusers")
    command = ["evaluate", "--concept", str(run), *FEWER, "--metrics", "identity_error"]
    assert main(command) == FAILED
    assert "--reader benchmarks/reader.safetensors" in capsys.readouterr().err
    command += ["--reader", str(tmp_path / "reader.safetensors")]
    assert main([*command, "--reader", str(tmp_path / "missing.safetensors")]) == FAILED
    assert "Cannot load the reader" in capsys.readouterr().err
    assert main([*command, "--metrics", "diversity"]) == 0
    report = EvaluationReport.load(run)
    assert report.metrics == ("identity_error (Reader)", "diversity (pocket)")
    assert (score := report.score("identity_error (Reader)", WORD)) and 0 < score.mean < 1
    assert report.score("diversity (pocket)", WORD) is None, "there is one picture of each prompt"
    assert any("diversity (pocket) is missing; it needs at least two pictures" in note for note in report.notes)
    for picture in (run / "pictures").glob("*.png"):
        Image.open(picture).resize((32, 32)).save(picture)  # not its own pictures any more, so no truth is known
    assert main([*command, "--output_dir", str(tmp_path / "other")]) == FAILED
    assert "is known of the shipped objects of the pocket world with their own pictures only" in capsys.readouterr().err
    assert not (tmp_path / "other" / "pictures").exists()


def test_another_file_of_a_run_has_a_report_of_its_own(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    other = (run / "learned_embeds.safetensors").rename(run / "learned_embeds-best.safetensors")
    assert main(["evaluate", "--concept", str(other), *FEWER, "--references", str(run / "pictures")]) == 0
    assert EvaluationReport.load(run / "evaluation-learned_embeds-best").concept.token == "<bruno>"


def test_the_lora_beside_a_word_is_part_of_it(tmp_path: Path) -> None:
    settings = {"lora_rank": 1, "lora_learning_rate": 0.1, "max_train_steps": 2, "train_batch_size": 1}
    assert main(train_flags(tmp_path, **settings)) == 0
    command = ["evaluate", "--concept", str(tmp_path / "out"), *FEWER, "--backbone", "pocket"]
    seen = {}
    for scale in ("1", "0"):
        assert main([*command, "--output_dir", str(tmp_path / scale), "--lora_scale", scale]) == 0
        report = EvaluationReport.load(tmp_path / scale, model=str(tmp_path / "model"))
        assert report.settings.get("lora_scale") == (1.0 if scale == "1" else None)
        assert any("LoRA" in note for note in report.notes) == (scale == "1")
        seen[scale] = Image.open(tmp_path / scale / report.pictures[0].files[0]).tobytes()
    assert seen["1"] != seen["0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("evaluate") / "run")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seeds", "0"], "--seeds is 0"),
        (["--prompts", "P.txt", "--protocol", "quick"], "Give --protocol or --prompts, not both"),
        (["--prompts", "missing.txt"], "Cannot read the prompts missing.txt"),
        (["--captions", "missing.txt"], "Cannot read the captions missing.txt"),
        (["--references", "missing-folder"], "missing-folder"),
        (["--references", "~no-such-user/x"], "'~no-such-user/x'"),
        (["--metrics", "clip_smell"], "there is no metric 'clip_smell'; the metrics are: clip_image"),
        (["--backbone", "no/such-model"], "or measure with 'pocket'"),
        (["--protocol", "multi"], "give 2 concepts"),
        (["--batch_size", "0"], "batch_size is 0"),
        (["--guidance_scale", "-1"], "guidance_scale is -1"),
        (["--num_inference_steps", "0"], "num_inference_steps is 0"),
        (["--num_inference_steps", "1001"], "num_inference_steps is 1001; the model has 1000 timesteps"),
        (["--first_seed", "99999999999999999999"], "first_seed is 99999999999999999999; it must be 0 to"),
        (["--lora_scale", "nan"], "--lora_scale is nan; it must be a finite number"),
        (["--device", "nonsense"], "--device is 'nonsense'"),
        (["--device", "cuda:99"], "--device is 'cuda:99', which cannot be used here"),
        (["--pretrained_model_name_or_path", "no-such-folder"], "Cannot load the model 'no-such-folder'"),
    ],
)
def test_what_is_wrong_is_said_before_any_picture_is_made(
    run: Path, flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "--concept", str(run), *flags]) == FAILED
    assert message in capsys.readouterr().err
    assert not (run / "evaluation").exists()


def test_prompts_need_a_place_for_the_word(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts.txt").write_text("a photo of a dog\n", encoding="utf-8")
    assert main(["evaluate", "--concept", str(run), "--prompts", str(tmp_path / "prompts.txt")]) == FAILED
    assert "'a photo of a dog'" in (told := capsys.readouterr().err) and "{}" in told


def test_no_such_concept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--concept", str(tmp_path / "nowhere")]) == FAILED
    assert f"there is no concept at {tmp_path / 'nowhere'}" in capsys.readouterr().err
    assert main(["evaluate", "--concept", "~no-such-user/x"]) == FAILED
    assert "'~no-such-user/x'" in capsys.readouterr().err


def test_a_word_without_its_run_needs_references(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "word.safetensors"
    save_concept(pocket_word("bear", "<bruno>"), file, "diffusers")
    assert main(["evaluate", "--concept", str(file)]) == FAILED
    assert "no file says which pictures it was learned from" in capsys.readouterr().err


def test_the_report_of_another_model_or_word_is_not_replaced(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:

    report = sample_report(tmp_path)
    other = dataclasses.replace(report, concept=dataclasses.replace(report.concept, base_model="other/model"))
    for wrong in (other, sample_report(tmp_path, token="<mochi>")):
        wrong.save(tmp_path / "report.json")
        assert main(["evaluate", "--concept", str(run), "--output_dir", str(tmp_path)]) == FAILED
        told = capsys.readouterr().err
        assert f"holds the report of {wrong.concept.token} on {wrong.concept.base_model}" in told
        assert "Choose another --output_dir" in told
        assert EvaluationReport.load(tmp_path) == wrong


def test_files_of_ones_own_are_not_replaced(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "study" / "references" / "bruno"
    place.mkdir(parents=True)
    for name in ("study/report.html", "study/report.png", "study/report.json"):
        (tmp_path / name).write_text("mine", encoding="utf-8")
        assert main(["evaluate", "--concept", str(run), "--output_dir", str(tmp_path / "study")]) == FAILED
        assert f"study holds {Path(name).name}, which no evaluation wrote" in capsys.readouterr().err
        assert (tmp_path / name).read_text(encoding="utf-8") == "mine"
        (tmp_path / name).unlink()
    render_concept("bruno")[0].resize((1600, 1200)).save(place / "000.png")
    command = ["evaluate", "--concept", str(run), "--references", str(place), "--output_dir"]
    assert main([*command, str(tmp_path / "study")]) == FAILED
    assert f"{place / '000.png'} is no copy that an evaluation made" in capsys.readouterr().err
    assert Image.open(place / "000.png").size == (1600, 1200)
    assert main([*command, str(place)]) == FAILED
    assert "--references and --output_dir are both" in capsys.readouterr().err
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [place / "000.png"]


def test_a_damaged_report_and_the_copies_beside_it_are_replaced(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    command = ["evaluate", "--concept", str(run), *FEWER, "--metrics", "clip_image"]
    assert main(command) == 0
    file = run / "evaluation" / "report.json"
    file.write_text(file.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    copies = run / "evaluation" / "references" / "bruno"
    assert main([*command, "--references", str(copies), "--output_dir", str(run / "evaluation")]) == 0
    assert EvaluationReport.load(run).concept.references == len(list(copies.iterdir())) == 3


def test_the_folder_of_a_model_may_be_written_in_several_ways(tmp_path: Path) -> None:
    assert main(train_flags(tmp_path, max_train_steps=1)) == 0
    model = tmp_path / "model"
    command = ["evaluate", "--concept", str(tmp_path / "out"), *FEWER, "--backbone", "pocket", "--baselines", "none"]
    for name in (str(model), f"{model}/", f"{tmp_path}/./model"):
        assert main([*command, "--pretrained_model_name_or_path", name]) == 0
        report = EvaluationReport.load(tmp_path / "out", model=str(model))
        assert not any("learned on" in note for note in report.notes)
    same = [LearnedConcept("<a>", {"clip_l": torch.ones(1, 16)}, {"base_model": name}) for name in (f"{model}/", name)]
    assert full_path(common_model(same)) == str(model)


def test_references_of_the_hub_are_a_configuration_for_each_concept(tmp_path: Path) -> None:
    for name in ("dog", "vase"):
        save_concept(pocket_word("bear", f"<{name}>"), tmp_path / name / "learned_embeds.safetensors", "diffusers")
    places = [tmp_path / name / "learned_embeds.safetensors" for name in ("dog", "vase")]
    both = [_references("google/dreambooth", place, 2) for place in places]
    assert both == [HubDataset("google/dreambooth", config_name=name) for name in ("dog", "vase")]
    assert _references("google/dreambooth:dog6", places[0], 1) == HubDataset("google/dreambooth", config_name="dog6")
    assert _references("user/corgi", places[0], 1) == HubDataset("user/corgi")


def test_references_of_several_concepts_lie_in_folders_of_their_names(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = make_run(tmp_path / "b", "mochi", "cat")
    (tmp_path / "real" / "bruno").mkdir(parents=True)
    render_concept("bruno")[0].save(tmp_path / "real" / "bruno" / "0.png")
    command = ["evaluate", "--concept", str(run), str(second), "--references", str(tmp_path / "real")]
    assert main(command) == FAILED
    assert f"--references {tmp_path / 'real'} has no folder mochi" in capsys.readouterr().err
    assert main(["evaluate", "--concept", str(run), str(run), "--output_dir", str(tmp_path / "o")]) == FAILED
    assert "Several of the concepts would be reported in" in capsys.readouterr().err
