"""The evaluator from end to end: on the tiny pipeline with known features, and on the pocket world."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline

from tests.evaluation_parts import FASTEST, FEW, RED, colour_metrics, concept, pocket_pipeline, pocket_word
from tests.metric_parts import mean_colour_backbone, plain
from tests.tiny import tiny_images, tiny_pipeline
from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.errors import (
    ConceptError,
    ConfigError,
    DataError,
    EmbeddingFileError,
    ModelError,
    OutputFolderError,
)
from textual_inversion_ext.evaluation.baselines import SELF_PAIRS, caption_seeds, real_picture_scores
from textual_inversion_ext.evaluation.evaluator import Evaluator
from textual_inversion_ext.evaluation.material import Material
from textual_inversion_ext.evaluation.metrics import ClipImageMetric, ClipTextMetric, Metric, Scored
from textual_inversion_ext.evaluation.protocols import ProtocolPrompt
from textual_inversion_ext.evaluation.report import (
    CAPTION,
    CLASS_WORD,
    REAL_PICTURES,
    WORD,
    EvaluationReport,
)
from textual_inversion_ext.evaluation.sampling import model_name, sampled_with
from textual_inversion_ext.pipelines.sampling import sample
from textual_inversion_ext.pocket import render_concept


@pytest.fixture(scope="module")
def tiny() -> DiffusionPipeline:
    return tiny_pipeline()


HALF = 0.5**0.5


# What is measured


def test_scores_are_the_metrics_of_the_pictures_that_sample_makes(tiny: DiffusionPipeline) -> None:
    references = tiny_images(3)
    metrics = colour_metrics()
    report = Evaluator(RED, metrics, settings=FEW)(tiny, concept(), references, class_word="cat")
    made = sample(tiny, [concept()], ["a red <tok>", "a red <tok> on green"], (0, 1, 2), FEW)
    by_class = sample(tiny, [], ["a red cat", "a red cat on green"], (0, 1, 2), FEW)
    for subject, rows in ((WORD, made), (CLASS_WORD, by_class)):
        for prompt, pictures in zip(RED.prompts, rows, strict=True):
            expected = metrics[0](Scored(tuple(pictures), references=tuple(references)))
            score = report.score(metrics[0].name, subject, prompt.text)
            assert score is not None
            assert score.per_image == pytest.approx(expected.tolist(), abs=1e-5)
    overall = report.score(metrics[0].name)
    assert overall is not None and overall.n == 6, "both prompts measure likeness"
    assert report.phrases == {WORD: "<tok>", CLASS_WORD: "cat"}
    assert report.subjects == (WORD, CLASS_WORD, REAL_PICTURES, SELF_PAIRS)
    assert EvaluationReport.from_json(report.to_json()) == report


def test_a_prompt_counts_for_what_it_is_meant(tiny: DiffusionPipeline) -> None:
    metrics = [ClipImageMetric(mean_colour_backbone()), ClipTextMetric(mean_colour_backbone())]
    protocol = replace(RED, prompts=(RED.prompts[0], ProtocolPrompt("red {} there", "obedience")))
    report = Evaluator(protocol, metrics, settings=FEW, baselines=())(tiny, concept(), tiny_images(2))
    likeness, obedience = (report.score(metric.name) for metric in metrics)
    assert likeness == replace(_found(report, metrics[0], "a red {}"), prompt=None)
    assert obedience == replace(_found(report, metrics[1], "red {} there"), prompt=None)
    assert _found(report, metrics[0], "red {} there").n == 3, "each prompt has its own score all the same"


def _found(report: EvaluationReport, metric: Metric, prompt: str) -> Any:
    score = report.score(metric.name, WORD, prompt)
    assert score is not None
    return score


def test_the_class_word_may_stand_in_the_text() -> None:
    texts: list[str] = []

    class Listening(ClipTextMetric):
        def score(self, scored: Scored) -> torch.Tensor:
            texts.extend(scored.prompts)
            return torch.ones(len(scored.images))

    for mode in ("omit", "class"):
        evaluator = Evaluator(
            replace(RED, seeds=1, prompts=RED.prompts[:1]),
            [Listening(mean_colour_backbone())],
            settings=FEW,
            text_mode=mode,  # type: ignore[arg-type]
            baselines=(),
        )
        evaluator(tiny_pipeline(), concept(), tiny_images(1), class_word="cat")
    assert texts == ["a red ", "a red cat"]


def test_one_picture_has_no_diversity_and_no_error_bar(tiny: DiffusionPipeline) -> None:
    report = Evaluator(RED, colour_metrics(), settings=FEW, seeds=1)(tiny, concept(), tiny_images(2))
    assert all(score.subject == REAL_PICTURES for score in report.scores if "diversity" in score.metric)
    assert _found(report, colour_metrics()[0], "a red {}").standard_error is None
    assert "Pictures per prompt: 1; the protocol has 3." in report.notes


def test_real_pictures_are_scored_with_and_without_themselves() -> None:
    material = Material.of(concept(), plain("red", "green", "yellow"))
    scores = {score.subject: score.mean for score in real_picture_scores(colour_metrics()[:1], material)}
    assert scores == pytest.approx({REAL_PICTURES: 2 * HALF / 3, SELF_PAIRS: (3 + 4 * HALF) / 9}, abs=1e-5)
    alone = real_picture_scores(colour_metrics(), Material.of(concept(), plain("red")))
    assert [score.subject for score in alone] == [SELF_PAIRS], "one picture has no other to be compared with"


def test_a_subject_of_the_benchmark_brings_its_class_word(tiny: DiffusionPipeline) -> None:
    protocol = replace(RED, classes=(("bear_plushie", "stuffed animal"),), text_mode="class")
    report = Evaluator(protocol, colour_metrics(), settings=FEW, seeds=1)(
        tiny, concept("<bear_plushie>"), tiny_images(1)
    )
    assert (report.phrases[CLASS_WORD], report.protocol.text_mode) == ("stuffed animal", "class")


# Reuse, model and sampler


def test_a_caption_is_chosen_on_seeds_that_are_not_scored(tiny: DiffusionPipeline, tmp_path: Path) -> None:
    assert caption_seeds(range(100)) == (100, 101, 102, 103)
    evaluator = Evaluator(RED, colour_metrics(), folder=tmp_path, settings=FEW, seeds=1, first_seed=101)
    material = Material.of(concept(), tiny_images(1), captions=("red cat", "blue dog"))
    report = evaluator.evaluate(tiny, material)
    assert any("on 4 other seeds" in note for note in report.notes)
    (loser,) = {"red cat", "blue dog"} - {report.phrases[CAPTION]}
    files = (tmp_path / "pictures").glob(f"*{loser.replace(' ', '-')}*/*.png")
    assert {file.stem for file in files} == {"seed-100", "seed-102", "seed-103", "seed-104"}


def test_each_model_is_measured_with_its_own_network(tiny: DiffusionPipeline) -> None:
    evaluator = Evaluator("quick", ["clip_image"], settings=FASTEST, seeds=1, baselines=[])
    report = evaluator(pocket_pipeline(), pocket_word("bear", "<tok>"), tiny_images(1))
    assert report.metrics == ("clip_image (pocket)",)
    with pytest.raises(ModelError, match="or measure with 'pocket'"):  # what others are measured with is not here
        evaluator(tiny, concept(), tiny_images(1))


def test_copies_replace_nothing_but_copies(tiny: DiffusionPipeline, tmp_path: Path) -> None:
    place = tmp_path / "references" / "tok"
    evaluator = Evaluator(RED, colour_metrics(), folder=tmp_path, settings=FEW, seeds=1, baselines=[])
    for _ in range(2):
        evaluator(tiny, concept(), tiny_images(2))
    assert sorted(file.name for file in place.iterdir()) == ["000.png", "001.png"]
    (mine,) = tiny_images(1, seed=5)
    for name in ("000.png", "mine.png"):
        mine.save(place / name)
        before = (place / name).read_bytes()
        with pytest.raises(OutputFolderError, match=f"{name} is no copy that an evaluation made"):
            evaluator(tiny, concept(), tiny_images(2))
        assert (place / name).read_bytes() == before
        (place / name).unlink()


def test_a_second_evaluation_makes_no_picture(tiny: DiffusionPipeline, tmp_path: Path) -> None:
    evaluator = Evaluator(RED, colour_metrics(), folder=tmp_path, settings=FEW)
    first = evaluator(tiny, concept(), tiny_images(2), class_word="cat")
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "pictures").rglob("*.png")}
    assert len(times) == 12
    second = evaluator(tiny, concept(), tiny_images(2), class_word="cat")
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "pictures").rglob("*.png")} == times
    assert second.scores == first.scores
    for pictures in second.pictures:
        assert all((tmp_path / name).is_file() for name in pictures.files)
    references = [pictures for pictures in second.pictures if pictures.subject == REAL_PICTURES]
    assert [len(pictures.files) for pictures in references] == [2]


def test_the_pipeline_is_left_as_it_was() -> None:
    pipeline: Any = tiny_pipeline()
    before, own = dict(pipeline.scheduler.config), pipeline.scheduler
    protocol = replace(RED, scheduler="ddim", num_inference_steps=2, seeds=1)
    report = Evaluator(protocol, colour_metrics()[:1])(pipeline, concept(), tiny_images(1))
    assert pipeline.scheduler is own and dict(own.config) == before
    assert report.settings["scheduler"] == "DDIMScheduler"
    assert report.settings["num_inference_steps"] == 2


def test_a_model_of_flow_matching_keeps_its_sampler() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    pipeline: Any = tiny_pipeline()
    with sampled_with(pipeline, "ddim") as granted:
        assert granted and isinstance(pipeline.scheduler, DDIMScheduler)
        assert not pipeline.scheduler.config.clip_sample
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler()
    with sampled_with(pipeline, "ddim") as granted:
        assert not granted and isinstance(pipeline.scheduler, FlowMatchEulerDiscreteScheduler)


def test_the_pocket_world_is_known_by_its_weights() -> None:
    from textual_inversion_ext.pocket import load_pipeline as load_directly

    assert model_name(pocket_pipeline()) == model_name(load_directly()) == "pocket"
    assert model_name(tiny_pipeline()) == ""


# Bad input


def test_a_concept_of_another_model_is_refused_before_anything_is_made(tiny: DiffusionPipeline, tmp_path: Path) -> None:
    wide = LearnedConcept("<tok>", {"clip_l": torch.ones(1, 768)}, {"base_model": "sd"})
    with pytest.raises(EmbeddingFileError, match="another kind of model"):
        Evaluator("quick", colour_metrics(), folder=tmp_path)(tiny, wide, tiny_images(1))
    assert not list(tmp_path.iterdir())


def test_missing_references_are_refused(tiny: DiffusionPipeline) -> None:
    with pytest.raises(DataError, match="there are no references"):
        Evaluator("quick")(tiny, concept(), [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"protocol": "best"}, "protocol is 'best'"),
        ({"metrics": ["beauty"]}, "no metric 'beauty'"),
        ({"baselines": ["luck"]}, "no baseline 'luck'"),
        ({"seeds": 0}, "seeds is 0"),
        ({"first_seed": -1}, "first_seed is -1"),
    ],
)
def test_bad_settings_are_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Evaluator(**arguments)


def test_a_text_with_the_class_word_needs_one(tiny: DiffusionPipeline) -> None:
    with pytest.raises(ConfigError, match="needs the class word"):
        Evaluator(RED, colour_metrics(), text_mode="class", settings=FEW)(tiny, concept(), tiny_images(1))


def test_two_words_need_two_concepts(tiny: DiffusionPipeline) -> None:
    material = Material.of(concept(), tiny_images(1), "cat")
    with pytest.raises(ConfigError, match="2 words in each prompt and 1 were given"):
        Evaluator("multi", colour_metrics(), settings=FEW).evaluate(tiny, material)
    with pytest.raises(ConfigError, match="1 words in each prompt and 2 were given"):
        Evaluator("quick", colour_metrics(), settings=FEW).evaluate(tiny, material, [material])
    with pytest.raises(ConceptError, match="given twice"):
        Evaluator("multi", colour_metrics(), settings=FEW).evaluate(tiny, material, [material])


# On the pocket world


def test_a_pocket_evaluation_uses_pocket_prompts_and_the_best_of_its_captions(tmp_path: Path) -> None:
    word = pocket_word("bear", "<bruno>")
    evaluator = Evaluator("quick", folder=tmp_path, settings=FASTEST, seeds=2)
    report = evaluator(pocket_pipeline(), word, render_concept("bruno"))
    assert report.concept.base_model == "pocket"
    assert report.protocol.prompts[1] == "a photo of {} on the beach"
    assert report.metrics == ("clip_image (pocket)", "clip_text (pocket)", "diversity (pocket)")
    assert report.subjects == (WORD, CLASS_WORD, CAPTION, REAL_PICTURES, SELF_PAIRS)
    assert "bear" in report.phrases[CAPTION]
    assert any("best of" in note for note in report.notes)
    # The word's row is that of "bear": the prompts differ in nothing but the article.
    assert [p.text for p in report.pictures if p.subject == CLASS_WORD][0] == "a photo of a bear"
