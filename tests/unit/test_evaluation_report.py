"""The report's file: its form is stable, what is wrong with it is named. Nothing gets out of its tables for cards."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.reports import sample_report
from textual_inversion_ext.errors import ReportError
from textual_inversion_ext.evaluation.report import (
    SCHEMA_VERSION,
    WORD,
    ConceptFacts,
    EncoderRows,
    EvaluationReport,
    PictureSet,
    ProtocolFacts,
    PublishedScore,
    Score,
)
from textual_inversion_ext.evaluation.score import find, prompts_of, subjects_of

GOLDEN = Path(__file__).parent.parent / "golden" / "evaluation_report.json"


def whole_report() -> EvaluationReport:
    """A report with a value in every field."""
    return EvaluationReport(
        concept=ConceptFacts(
            token="<bruno>",
            base_model="pocket",
            num_vectors={"clip_l": 2},
            class_word="dog",
            initializer="dog",
            learnable_property="object",
            train_steps=400,
            references=5,
            rows_hash="0123456789abcdef",
        ),
        protocol=ProtocolFacts(
            name="quick", prompts=("a photo of {}",), seeds=(0, 1), source="ours", text_mode="class"
        ),
        scores=(
            Score.of("clip_image (pocket)", WORD, [0.8, math.nan, 0.9], prompt="a photo of {}", backbone="pocket"),
            Score(metric="cosine of means (pocket)", subject="real pictures", mean=0.5, n=3, higher_is_better=False),
        ),
        phrases={"word": "<bruno>", "caption": "ein brauner Hund mit Schal, groß"},
        settings={
            "num_inference_steps": 30,
            "guidance_scale": 4.0,
            "safety_checker": False,
            "size": None,
            "dtype": "x",
        },
        versions={"torch": "2.5"},
        rows=(
            EncoderRows(
                encoder="clip_l",
                norms=(0.5, 1.0),
                vocabulary_norms=(0.1, 0.2, 0.3),
                nearest=((("dog", 0.5), ("cat", 0.25)), ()),
            ),
        ),
        losses=((10, 0.25), (20, 0.125)),
        pictures=(
            PictureSet(
                subject=WORD,
                prompt="a photo of {}",
                text="a photo of <bruno>",
                files=("pictures/0.png", "pictures/1.png"),
                seeds=(0, 1),
            ),
        ),
        published=(PublishedScore(method="TI", metric="CLIP-I", mean=0.78, source="Table 1"),),
        notes=("few",),
        seconds=1.5,
    )


def test_the_form_of_the_file_has_not_changed() -> None:
    # If this fails on purpose, raise SCHEMA_VERSION: programs of other people read these files.
    assert whole_report().to_json() == GOLDEN.read_text(encoding="utf-8")
    assert json.loads(GOLDEN.read_text(encoding="utf-8"))["schema_version"] == SCHEMA_VERSION


def test_reports_of_earlier_versions_are_read() -> None:
    content = {**json.loads(GOLDEN.read_text(encoding="utf-8")), "schema_version": 2}
    for score in content["scores"]:
        del score["independent"]
    assert EvaluationReport.from_json(json.dumps(content)) == whole_report()
    content["schema_version"] = 1
    del content["concept"]["own_references"]
    assert EvaluationReport.from_json(json.dumps(content)) == whole_report()


def test_the_golden_report_fills_every_field() -> None:
    def empty(record: Any) -> list[str]:
        named = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
        return [name for name, value in named.items() if value in ((), {}, None, "")]

    report = whole_report()
    for record in (report, report.concept, report.protocol, report.rows[0], report.pictures[0], report.published[0]):
        assert empty(record) == []
    assert empty(report.scores[0]) == []


def test_what_was_written_is_read(tmp_path: Path) -> None:
    for report in (whole_report(), sample_report(tmp_path)):
        assert EvaluationReport.from_json(report.to_json()) == report
    report.save(tmp_path / "run" / "evaluation" / "report.json")
    for place in ("run", "run/evaluation", "run/evaluation/report.json"):
        assert EvaluationReport.load(tmp_path / place, model="pocket") == report


def test_optional_parts_may_be_missing() -> None:
    content = json.loads(whole_report().to_json())
    for name in ("rows", "losses", "pictures", "published", "notes", "seconds", "versions", "settings", "phrases"):
        del content[name]
    report = EvaluationReport.from_json(json.dumps(content))
    assert (report.rows, report.notes, report.seconds) == ((), (), 0.0)
    assert report.scores == whole_report().scores


def changed(**keys: Any) -> str:
    return json.dumps({**json.loads(whole_report().to_json()), **keys})


def with_score(**keys: Any) -> str:
    first, *others = json.loads(whole_report().to_json())["scores"]
    return changed(scores=[{**first, **keys}, *others])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"x.json is no JSON: .* Give the report.json of an evaluation"),
        ("[]", "x.json is no evaluation report"),
        ('{"schema_version": 1}', "x.json is no evaluation report"),
        (changed(schema_version=4, versions={"textual-inversion-ext": "9.9"}),
         r"schema version 4; this version .* reads versions 1 to 3\. Evaluate again .*wrote it \(9\.9\)"),
        (changed(schema_version=None), "schema version None"),
        (changed(hello=1), "x.json has unknown keys: hello"),
        (changed(scores={}), "x.json.scores is {}; it must be a list"),
        (changed(concept="dog"), "x.json.concept is 'dog'; it must be an object"),
        (changed(concept={"token": "<a>"}), "x.json.concept lacks base_model, num_vectors"),
        (changed(losses=[[1, 2, 3]]), r"x.json.losses\[0\] has 3 entries; it must have 2"),
        (changed(losses=[[1.5, 2]]), r"x.json.losses\[0\]\[0\] is 1.5; it must be a whole number"),
        (changed(settings={"a": []}), r"x.json.settings.a is \[\]; it must be"),
        (changed(seconds=True), "x.json.seconds is True; it must be a number"),
        (with_score(mean="0.8"), r"x.json.scores\[0\].mean is '0.8'; it must be a number"),
        (with_score(mean=math.nan), r"x.json.scores\[0\].mean is nan"),
        (with_score(n=7), "has n 7 and 2 scores of pictures"),
        (with_score(per_image=[0.1, "0.2", None]), r"x.json.scores\[0\].per_image\[1\] is '0.2'; it must be a number"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_named(text: str, message: str) -> None:
    with pytest.raises(ReportError, match=message):
        EvaluationReport.from_json(text, "x.json")


def test_a_report_of_another_model_is_refused(tmp_path: Path) -> None:
    whole_report().save(tmp_path / "report.json")
    with pytest.raises(ReportError, match=r"<bruno> on the model 'pocket', not 'other/model'.*--pretrained_model_name"):
        EvaluationReport.load(tmp_path, model="other/model")


def test_no_report_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="There is no report at .*textual-inversion evaluate --concept"):
        EvaluationReport.load(tmp_path)
    (tmp_path / "report.json").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ReportError, match="Cannot read the report"):
        EvaluationReport.load(tmp_path)


def test_a_score_by_hand() -> None:
    score = Score.of("m", WORD, [1.0, 2.0, math.nan, 6.0])
    # mean 3; deviations -2, -1, 3; variance 14/2 = 7; standard error sqrt(7/3)
    assert (score.mean, score.n, score.per_image) == (3.0, 3, (1.0, 2.0, None, 6.0))
    assert score.standard_error == pytest.approx(math.sqrt(7 / 3), abs=1e-6)
    assert score.shown() == "3.000 ± 1.528"
    assert Score.of("m", WORD, [0.5]).shown() == "0.500"


@pytest.mark.parametrize("values", [[], [math.nan], [1.0, math.inf]])
def test_scores_that_say_nothing_are_refused(values: list[float]) -> None:
    with pytest.raises(ReportError, match="have a score"):
        Score.of("m", WORD, values)


def test_subjects_stand_in_the_order_of_tables() -> None:
    scores = [Score.of("m", name, [1.0], prompt="p") for name in ("real pictures", "other word", "caption", "word")]
    assert subjects_of(scores) == ("word", "caption", "real pictures", "other word")
    assert prompts_of(scores) == ("p",)
    assert find(scores, "m", "caption", "p") is scores[2]
    assert find(scores, "m", "caption") is None


def test_the_tables_of_a_card(tmp_path: Path) -> None:
    text = sample_report(tmp_path).to_markdown()
    lines = text.splitlines()
    assert lines[0] == "|  | clip\\_image (pocket) | clip\\_text (pocket) |"
    assert lines[1] == "| :-- | --: | --: |"
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:7]] == [
        "word: &lt;bruno&gt;",
        "class word: dog",
        "caption: a brown dog with a scarf",
        "initial rows: from dog",
        "real pictures",
    ]
    assert lines[6] == "| real pictures | 0.900 ± 0.012 |  |"
    assert "| a painting of \\* | " in text
    assert "- Protocol: quick (ours)" in lines
    assert "- Some method: CLIP-I 0.780 (Table 1 of a paper)" in lines
    assert "- 3 prompts, 3 pictures each; text scores with the word left out" in lines


NASTY = "<img src=x onerror=alert(1)>|`x`\n# a [b](javascript:c) \\ &amp; *d* _e_ :smile: @all\x00\x1b[0m"


def test_nothing_gets_out_of_its_cell(tmp_path: Path) -> None:
    text = sample_report(tmp_path, prompts=(NASTY + " {}", "a {}"), token="<a|b>").to_markdown()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    # Three columns have four bars; every other one is escaped.
    assert {line.replace("\\|", "").count("|") for line in rows} == {4}
    (row,) = [line for line in rows if "onerror" in line]
    assert row.startswith(
        "| &lt;img src=x onerror=alert(1)&gt;\\|\\`x\\` # a \\[b\\](javascript\\:c) \\\\ &amp;amp; \\*d\\* \\_e\\_"
        " \\:smile: \\@all\\[0m \\* | "
    )
    assert "word: &lt;a\\|b&gt;" in text
