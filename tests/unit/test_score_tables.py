"""What `evaluate` prints of a report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.reports import sample_report
from textual_inversion_ext.cli.main import make_parser
from textual_inversion_ext.cli.score_tables import score_lines
from textual_inversion_ext.evaluation.protocols import PROTOCOLS
from textual_inversion_ext.evaluation.report import PublishedScore, Score
from textual_inversion_ext.evaluation.views import VIEWS


def scores(metric: str) -> tuple[Score, ...]:
    each = {"a {}": [0.2, 0.4], "a red {}": [0.6, 0.8]}
    whole = Score.of(metric, "word", [value for values in each.values() for value in values])
    return (whole, *(Score.of(metric, "word", values, prompt=prompt) for prompt, values in each.items()))


def words(lines: list[str]) -> list[str]:
    return [" ".join(line.split()) for line in lines]


def test_a_metric_is_a_column(tmp_path: Path) -> None:
    lines = words(score_lines(sample_report(tmp_path)))
    assert lines[0] == "<bruno> on pocket, protocol quick (3 prompts x 3 pictures)"
    assert lines[1] == "clip_image (pocket) clip_text (pocket)"
    assert lines[2].startswith("word: <bruno> 0.8") and any(line.startswith("real pictures") for line in lines)


def test_many_metrics_stand_below_each_other(tmp_path: Path) -> None:
    """As those of the protocol about bias, which would make a line of hundreds of letters."""
    names = [f"colour: {number} (pocket)" for number in range(9)]
    report = replace(sample_report(tmp_path), scores=tuple(Score.of(name, "word", [0.5, 0.5]) for name in names))
    lines = words(score_lines(report))
    assert lines[1] == "word: <bruno>"
    assert lines[2:11] == [f"{name} 0.500 ± 0.000" for name in names]


def test_another_scale_comes_with_the_prompts(tmp_path: Path) -> None:
    protocol = replace(sample_report(tmp_path).protocol, prompts=("a {}", "a red {}"))
    report = replace(
        sample_report(tmp_path), protocol=protocol, scores=(*scores("clip_text (x)"), *scores("diversity (x)"))
    )
    lines = words(score_lines(report, "percent"))
    assert lines[1] == "clip_text (x), percent diversity (x)"
    assert lines[2] == "word: <bruno> 50.00 ± 12.91 0.500 ± 0.129"
    assert lines[4] == "the word, prompt by prompt clip_text (x), percent diversity (x)"
    assert lines[5:7] == ["a * 30.00 ± 10.00 0.300 ± 0.100", "a red * 70.00 ± 10.00 0.700 ± 0.100"]


def test_published_rows_stand_beside_with_their_source(tmp_path: Path) -> None:
    rows = [PublishedScore(method="TI", metric=name, mean=0.5, source="Ruiz et al.") for name in ("DINO", "CLIP-I")]
    lines = score_lines(replace(sample_report(tmp_path), published=tuple(rows)))
    assert lines[-1] == "  TI: DINO 0.500, CLIP-I 0.500 [Ruiz et al.]" and "not measured here" in lines[-2]


def test_the_report_is_printed_as_its_source_prints_it() -> None:
    assert PROTOCOLS["report"].scale == PROTOCOLS["report"].on("pocket").scale == "percent"
    assert {protocol.scale for protocol in PROTOCOLS.values()} <= {"raw", *VIEWS}
    flags = make_parser().parse_args(["evaluate", "--concept", "x", "--scale", "clipscore"])
    assert flags.scale == "clipscore"
