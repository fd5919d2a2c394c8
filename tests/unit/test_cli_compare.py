"""``textual-inversion compare`` on the reports of runs that are there already."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.score_reports import IMAGE, TEXT, report
from textual_inversion_ext.cli.compare import run_names
from textual_inversion_ext.cli.main import FAILED, main


def save(folder: Path, *names: str) -> list[str]:
    """Runs that differ in likeness; their folders."""
    for number, name in enumerate(names):
        made = report([0.6, 0.6 + number / 10], [0.5, 0.4], baselines={"real pictures": ([0.9], [])})
        made.save(folder / name / "evaluation" / "report.json")
    return [str(folder / name) for name in names]


def test_two_runs_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["compare", *save(tmp_path, "plain", "fancy"), "--output_dir", str(out), "--title", "Mine"]) == 0
    printed = capsys.readouterr().out
    assert IMAGE in printed and "plain " in printed and "0.650 [0.600, 0.700]" in printed
    for name in ("comparison.html", "comparison.csv", "comparison.png"):
        assert (out / name).is_file() and str(out / name) in printed
    assert "<h1>Mine</h1>" in (out / "comparison.html").read_text(encoding="utf-8")


def test_a_run_without_a_report_is_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bare").mkdir()
    runs = [*save(tmp_path, "one"), str(tmp_path / "bare"), str(tmp_path / "missing")]
    assert main(["compare", *runs, "--output_dir", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().err
    page = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    for name in ("bare", "missing"):
        assert f"no report at {tmp_path / name}" in told and f"no report at {tmp_path / name}" in page


def test_without_any_report_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(tmp_path), "--output_dir", str(tmp_path / "out")]) == FAILED
    assert "textual-inversion evaluate" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["compare"]) == FAILED
    assert "nothing to compare" in capsys.readouterr().err


def test_incomparable_runs_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report([0.6], [0.5], protocol="gal").save(tmp_path / "odd" / "evaluation" / "report.json")
    runs = [*save(tmp_path, "a", "b"), str(tmp_path / "odd")]
    assert main(["compare", *runs, "--output_dir", str(tmp_path / "out")]) == 0
    assert "Not comparable with a: odd (protocol: quick and gal)" in capsys.readouterr().err
    assert (tmp_path / "out" / "comparison-2.png").is_file()


def test_a_damaged_report_is_left_out_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = save(tmp_path, "a", "b")
    file = tmp_path / "b" / "evaluation" / "report.json"
    file.write_text(file.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    assert main(["compare", *runs, "--output_dir", str(tmp_path / "out")]) == 0
    assert str(file) in capsys.readouterr().err


def test_the_same_run_counts_once(tmp_path: Path) -> None:
    (run,) = save(tmp_path, "a")
    assert main(["compare", run, f"{run}/../a", "--output_dir", str(tmp_path / "out")]) == 0
    lines = (tmp_path / "out" / "comparison.csv").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if ",a,run,,clip_image" in line]) == 1


def test_other_metrics_can_be_the_axes(tmp_path: Path) -> None:
    runs = save(tmp_path, "a", "b")
    assert main(["compare", *runs, "--output_dir", str(tmp_path / "out"), "--axes", TEXT, "clip_image"]) == 0
    assert f"reconstruction: {TEXT}" in (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")


def test_axes_that_no_report_has_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compare", *save(tmp_path, "a", "b"), "--output_dir", str(tmp_path / "out")]
    assert main(command) == 0
    before = {file: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    assert main([*command, "--axes", "clip_smell", "clip_image"]) == FAILED
    assert f"--axes names clip_smell, which no report has; there are {IMAGE}, {TEXT}." in capsys.readouterr().err
    assert {file: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before


def test_without_the_usual_metrics_there_is_no_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report([0.6], [0.5], metrics=("dino (tiny)", TEXT)).save(tmp_path / "a" / "evaluation" / "report.json")
    assert main(["compare", str(tmp_path / "a"), "--output_dir", str(tmp_path / "out")]) == 0
    assert f"No plot of a: no report has clip_image; there are dino (tiny), {TEXT}." in capsys.readouterr().err
    assert not (tmp_path / "out" / "comparison.png").exists()


@pytest.mark.parametrize("name", ["comparison.html", "comparison.csv", "comparison.png"])
def test_files_that_no_comparison_wrote_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("mine", encoding="utf-8")
    (tmp_path / "sweep.json").write_text("no sweep, and not read", encoding="utf-8")
    for what in (save(tmp_path, "a", "b"), ["--sweep", str(tmp_path / "sweep.json")]):
        assert main(["compare", *what, "--output_dir", str(tmp_path / "mine")]) == FAILED
        assert f"{tmp_path / 'mine'} holds {name}, and no comparison.csv says" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "mine").iterdir()] == [name]
    assert (tmp_path / "mine" / name).read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/x/gal", "/x/dti"], ["gal", "dti"]),
        (["/x/gal/0", "/x/dti/0"], ["gal/0", "dti/0"]),
        (["/x/gal/0", "/x/dti/0", "/x/dti/1"], ["gal/0", "dti/0", "1"]),
    ],
)
def test_runs_have_the_shortest_names_that_tell_them_apart(paths: list[str], names: list[str]) -> None:
    assert run_names([Path(path) for path in paths]) == names
