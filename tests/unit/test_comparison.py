"""Runs beside each other: means and intervals worked out by hand, and what must not be compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.score_reports import IMAGE, PROMPTS, TEXT, report, run
from textual_inversion_ext.errors import ReportError
from textual_inversion_ext.evaluation.comparison.bootstrap import Interval, bootstrap_mean
from textual_inversion_ext.evaluation.comparison.runs import EvaluatedRun, read_run
from textual_inversion_ext.evaluation.comparison.tables import Comparison, Row, Table, compare
from textual_inversion_ext.evaluation.report import WORD, Score


def only_table(comparison: Comparison) -> Table:
    (table,) = comparison.tables
    return table


def row_named(table: Table, name: str) -> Row:
    (found,) = [row for row in table.rows if row.name == name]
    return found


def test_the_mean_is_over_concepts_not_over_pictures() -> None:
    found = bootstrap_mean([[[0.0, 0.0, 0.0, 0.0]], [[1.0]]])
    assert found.mean == 0.5
    assert (found.concepts, found.images) == (2, 5)


def test_the_mean_of_a_concept_is_over_prompts() -> None:
    assert bootstrap_mean([[[0.0, 0.0, 0.0], [1.0]]]).mean == 0.5


def test_two_concepts_are_resampled_as_coins_are() -> None:
    # Of {0, 1} drawn twice: 0 in a quarter of the samples, 1/2 in half of them, 1 in a quarter.
    half = bootstrap_mean([[[0.0]], [[1.0]]], level=0.4)
    assert (half.low, half.high) == (0.5, 0.5)
    most = bootstrap_mean([[[0.0]], [[1.0]]], level=0.6)
    assert (most.low, most.high) == (0.0, 1.0)


def test_the_interval_of_many_pictures_is_that_of_their_mean() -> None:
    values = np.random.default_rng(3).normal(0.7, 0.1, 400)
    found = bootstrap_mean([[values.tolist()]])
    error = values.std(ddof=1) / np.sqrt(400)
    assert found.low == pytest.approx(found.mean - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(found.mean + 1.96 * error, abs=0.15 * error)


def test_prompts_are_fixed_and_only_their_pictures_resampled() -> None:
    # Between the prompts lies everything, inside them nothing: no other seed could have given another mean.
    found = bootstrap_mean([[[0.2, 0.2, 0.2], [0.8, 0.8, 0.8]]])
    assert (found.low, found.high) == pytest.approx((0.5, 0.5))


def test_a_single_picture_has_no_interval() -> None:
    assert bootstrap_mean([[[0.3]]]) == Interval(0.3, None, None, 1, 1)
    assert bootstrap_mean([[[0.3], [0.5]]]).low is None
    assert bootstrap_mean([[[0.3]]]).ends == (0.3, 0.3)


def test_scores_that_depend_on_each_other_have_no_interval_of_one_concept() -> None:
    """Of two pictures both have the same distance to the other one, which does not make it certain."""
    names = ("diversity (tiny)", TEXT)
    one, two = (report([value] * 2, [0.4, 0.5], metrics=names, dependent=names[:1]) for value in (0.3, 0.5))
    table = only_table(compare([run("a", one), run("b", two)], axes=("diversity", "clip_text")))
    row = row_named(table, "b")
    assert (row.means[names[0]].low, row.differences[names[0]].low) == (None, None)
    assert row.differences[names[0]].mean == pytest.approx(0.2)
    assert row.means[TEXT].low is not None
    several = bootstrap_mean([[[0.3, 0.3]], [[0.5, 0.5]]], independent=False)
    assert several.low is not None and several.images == 4


def test_the_bootstrap_repeats_itself() -> None:
    scores = [[np.random.default_rng(0).random(40).tolist()]]
    assert bootstrap_mean(scores) == bootstrap_mean(scores)
    assert bootstrap_mean(scores, seed=1) != bootstrap_mean(scores)


@pytest.mark.parametrize("scores", [[], [[]], [[[]]], [[[0.5]], [[0.5], []]]])
def test_nothing_has_no_mean(scores: list[list[list[float]]]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_mean(scores)


def test_a_table_holds_means_and_differences_by_hand() -> None:
    first = run("first", report([0.6, 0.8], [0.3, 0.5]), report([0.9, 0.9], [0.1, 0.1], token="<dog>"))
    second = run("second", report([0.7, 0.9], [0.2, 0.4]), report([1.0, 1.0], [0.4, 0.4], token="<dog>"))
    table = only_table(compare([first, second]))
    assert table.concepts == ("<cat>", "<dog>")
    assert table.axes == (IMAGE, TEXT)
    rows = [row_named(table, name) for name in ("first", "second")]
    assert [row.means[IMAGE].mean for row in rows] == pytest.approx([0.8, 0.9])
    assert [row.means[TEXT].mean for row in rows] == pytest.approx([0.25, 0.35])
    assert rows[1].by_concept["<dog>"][TEXT].mean == pytest.approx(0.4)
    assert rows[0].differences == {}
    # Both concepts gained 0.1 of likeness: however they are resampled, the difference stays. Of obedience one lost.
    likeness, obedience = rows[1].differences[IMAGE], rows[1].differences[TEXT]
    assert (likeness.mean, likeness.low, likeness.high) == pytest.approx((0.1, 0.1, 0.1))
    assert (obedience.mean, obedience.low, obedience.high) == pytest.approx((0.1, -0.1, 0.3))


def test_a_model_may_be_written_in_several_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "sd15").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    names = ("models/sd15", "./models/sd15/", str(tmp_path / "models" / "sd15"))
    runs = [run(name, report([0.6], [0.5], model=name)) for name in names]
    assert len(only_table(compare(runs)).rows) == 3
    assert len(compare([*runs, run("other", report([0.6], [0.5], model="models/sd2"))]).tables) == 2
    runs[0].reports[0].require_model("models/sd15/")
    with pytest.raises(ReportError, match="not 'models/sd2'"):
        runs[0].reports[0].require_model("models/sd2")


def test_one_concept_is_compared_picture_by_picture() -> None:
    # Seeds differ a lot, but every one of them gains the same: paired, that is certain; unpaired, it would not be.
    table = only_table(compare([run("a", report([0.1, 0.9], [0.5] * 4)), run("b", report([0.2, 1.0], [0.5] * 4))]))
    gain = row_named(table, "b").differences[IMAGE]
    assert (gain.mean, gain.low, gain.high) == pytest.approx((0.1, 0.1, 0.1))
    assert row_named(table, "b").means[IMAGE].low < 0.3


def test_means_are_over_the_concepts_that_all_runs_have() -> None:
    both = run("both", report([0.6], [0.5]), report([0.0], [0.0], token="<dog>"))
    one = run("one", report([0.7], [0.5]))
    table = only_table(compare([both, one]))
    assert table.concepts == ("<cat>",)
    assert row_named(table, "both").means[IMAGE].mean == pytest.approx(0.6)
    assert "<dog>" in row_named(table, "both").by_concept
    assert any("not every run has <dog>" in notice for notice in table.notices)


def test_runs_about_different_things_say_so() -> None:
    table = only_table(compare([run("a", report([0.6], [0.5])), run("b", report([0.7], [0.5], token="<dog>"))]))
    assert [row.means[IMAGE].mean for row in table.rows] == pytest.approx([0.6, 0.7])
    assert any("no concept in common" in notice for notice in table.notices)
    assert row_named(table, "b").differences == {}


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"model": "another"}, "model: tiny and another"),
        ({"protocol": "gal"}, "protocol: quick and gal"),
        ({"text_mode": "class"}, "text mode: omit and class"),
        ({"metrics": ("clip_image (large)", TEXT)}, "reconstruction metric: clip_image (tiny) and clip_image (large)"),
        ({"metrics": (IMAGE, "clip_text (large)")}, "editability metric: clip_text (tiny) and clip_text (large)"),
        ({"prompts": (*PROMPTS[:2], "a {} of gold")}, "other prompts"),
    ],
)
def test_what_was_scored_otherwise_is_kept_apart(other: dict[str, object], told: str) -> None:
    odd = run("odd", report([0.9, 0.9], [0.9, 0.9], **other))  # type: ignore[arg-type]
    alike = [run(name, report([0.6, 0.6], [0.5, 0.5])) for name in ("a", "b")]
    comparison = compare([odd, *alike])
    assert [[row.name for row in table.rows] for table in comparison.tables] == [["a", "b"], ["odd"]]
    (notice,) = comparison.notices
    assert "Not comparable with a: odd" in notice
    assert told in notice


def test_a_run_that_mixes_protocols_is_refused() -> None:
    mixed = run("mixed", report([0.6], [0.5]), report([0.6], [0.5], token="<dog>", protocol="gal"))
    with pytest.raises(ReportError, match="mixed differ"):
        compare([mixed])


def test_concepts_may_have_prompts_of_their_own() -> None:
    pets = ("a photo of {}", "{} in a hat", "{} asleep")
    runs = [run(n, report([0.6], [0.5]), report([0.6], [0.5], token="<dog>", prompts=pets)) for n in ("a", "b")]
    assert only_table(compare(runs)).concepts == ("<cat>", "<dog>")


def test_no_run_and_two_of_a_name_are_refused() -> None:
    with pytest.raises(ReportError, match="no run"):
        compare([])
    with pytest.raises(ReportError, match="'a'; rename"):
        compare([run("a", report([0.6], [0.5])), run("a", report([0.6], [0.5]))])


def test_baselines_appear_once() -> None:
    told = {"class word": ([0.4, 0.4], [0.7, 0.7]), "real pictures": ([0.9, 0.9], [])}
    table = only_table(compare([run(n, report([0.6, 0.6], [0.5, 0.5], baselines=told)) for n in ("a", "b")]))
    assert [(row.name, row.baseline) for row in table.rows[2:]] == [("class word", True), ("real pictures", True)]
    assert row_named(table, "class word").means[TEXT].mean == pytest.approx(0.7)
    assert TEXT not in row_named(table, "real pictures").means


def test_baselines_made_in_different_ways_are_told_apart() -> None:
    told = {"class word": ([0.4], [0.7]), "real pictures": ([0.9], [])}
    runs = [
        run(f"guidance {g}", report([0.6], [0.5], baselines=told, settings={"guidance_scale": g, "batch_size": 4 * g}))
        for g in (3, 7)
    ]
    table = only_table(compare(runs))
    names = ["class word (guidance_scale 3)", "class word (guidance_scale 7)", "real pictures"]
    assert [row.name for row in table.rows[2:]] == names
    assert [dict(row.facts) for row in table.rows[:2]] == [{"guidance_scale": "3"}, {"guidance_scale": "7"}]


def test_baselines_of_different_phrases_are_told_apart() -> None:
    told = {"class word": ([0.4], [0.7]), "real pictures": ([0.9], [])}
    runs = [
        run(
            f"seed {number}",
            report([0.6], [0.5], baselines=told, phrases={"class word": word}, class_word=word),
            report([0.6], [0.5], baselines=told, phrases={"class word": "dog"}, class_word="dog", token="<dog>"),
        )
        for number, word in enumerate(("balloon", "cat", "cat"))
    ]
    table = only_table(compare(runs))
    names = ["class word (phrase balloon, dog)", "class word (phrase cat, dog)", "real pictures"]
    assert [row.name for row in table.rows[3:]] == names
    assert all(tuple(row.by_concept) == ("<cat>", "<dog>") for row in table.rows)
    alike = [run(number, report([0.6], [0.5], baselines=told, phrases={"class word": "cat"})) for number in "ab"]
    assert [row.name for row in only_table(compare(alike)).rows[2:]] == ["class word", "real pictures"]


def test_texts_with_different_class_words_are_not_compared() -> None:
    def made(name: str, word: str, mode: str, second: str = "") -> EvaluatedRun:
        phrases = {"class word": f"{word} + {second}"} if second else {}
        return run(name, report([0.6], [0.5], class_word=word, text_mode=mode, phrases=phrases))

    comparison = compare([made("a", "balloon", "class"), made("b", "cat", "class"), made("c", "cat", "class")])
    assert [[row.name for row in table.rows] for table in comparison.tables] == [["b", "c"], ["a"]]
    assert comparison.notices == ("Not comparable with b: a (class word of <cat>: cat and balloon).",)
    only_table(compare([made("a", "balloon", "omit"), made("b", "cat", "omit")]))
    only_table(compare([made("a", "cat", "class", "dog"), made("b", "cat", "class")]))
    assert len(compare([made("a", "cat", "class", "dog"), made("b", "cat", "class", "car")]).tables) == 2


def test_initial_rows_of_one_and_three_vectors_are_two_baselines() -> None:
    told = {"initial rows": ([0.4], [0.7])}
    table = only_table(compare([run(str(n), report([0.6], [0.5], baselines=told, vectors=n)) for n in (1, 3)]))
    assert [row.name for row in table.rows[2:]] == ["initial rows (vectors 1)", "initial rows (vectors 3)"]


def test_other_references_are_mentioned() -> None:
    table = only_table(compare([run(str(n), report([0.6], [0.5], references=n, notes=("few",))) for n in (3, 5)]))
    assert any("different numbers of real pictures (3, 5)" in notice for notice in table.notices)
    assert table.notices.count("few") == 1


@pytest.mark.parametrize(("likeness", "mentioned"), [(0.9002, 0), (0.85, 1)])
def test_as_many_other_references_are_mentioned(likeness: float, mentioned: int) -> None:
    told = [{"real pictures": ([each], [])} for each in (0.9, likeness)]
    table = only_table(compare([run(str(n), report([0.6], [0.5], baselines=own)) for n, own in enumerate(told)]))
    assert sum("different real pictures" in notice for notice in table.notices) == mentioned


def test_a_run_is_read_from_its_folder_its_file_or_its_concepts(tmp_path: Path) -> None:
    single, several = tmp_path / "single", tmp_path / "several"
    report([0.6], [0.5]).save(single / "evaluation" / "report.json")
    for token in ("<cat>", "<dog>"):
        report([0.6], [0.5], token=token).save(several / token.strip("<>") / "evaluation" / "report.json")
    assert read_run(single).name == "single"
    assert read_run(single / "evaluation" / "report.json", "mine").name == "mine"
    assert [r.concept.token for r in read_run(several).reports] == ["<cat>", "<dog>"]


def test_a_folder_without_a_report_and_one_of_many_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no report"):
        read_run(tmp_path)
    for name in ("lr-1", "lr-2"):
        report([0.6], [0.5]).save(tmp_path / name / "evaluation" / "report.json")
    with pytest.raises(ReportError, match="lr-2"):
        read_run(tmp_path)


def test_pictures_without_a_score_count_nowhere() -> None:
    made = report([0.5] * 2, [0.5] * 2)
    scores = [Score(metric=IMAGE, subject=WORD, mean=0.5, n=3, per_image=(0.2, None, 0.6, 0.7)), made.scores[1]]
    table = only_table(compare([run("a", replace(made, scores=tuple(scores)))]))
    # Two seeds: the first prompt has 0.2 alone, the second 0.6 and 0.7.
    assert table.rows[0].means[IMAGE].mean == pytest.approx((0.2 + 0.65) / 2)
    assert table.rows[0].means[IMAGE].images == 3
